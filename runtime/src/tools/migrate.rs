//! `migrate PID NODE|home|balance`: moves a process, and says where it is then; and what else is known of one.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::{Ended, ask, other, wants_help};
use crate::wire::local::{Answer, Moved, Request, SOCKET, Shown};

const USAGE: &str = "\
usage: migrate [--socket PATH] PID NODE|home|balance
       migrate [--socket PATH] --where|--show|--lock|--unlock PID
       migrate [--socket PATH] --list
Moves a process to a node, known by its name, number or address, home again, or where it would be done soonest now.
Root moves any process, a user his own.
  --where PID    only say where the process is
  --show PID     all that is known of it: where, home, goto, nmigs, lock, cantmove
  --lock PID     keep it from being sent to another node; --unlock lifts that
  --list         what is away from this node, and what is here from others
  --json         the answer as JSON
  --socket PATH  the socket of the agent, if not /run/tesela/agent.sock
Exit status: 0 done, 1 not done, 2 wrong usage.";

struct Words {
    socket: PathBuf,
    request: Request,
    json: bool,
    /// The place is wanted, and nothing more.
    place: bool,
}

/// The tool.
pub fn run(words: &[String]) -> Ended {
    if wants_help(words) {
        return Ended::Done(USAGE.to_owned());
    }
    let words = match parse(words) {
        Ok(words) => words,
        Err(problem) => return Ended::Usage(format!("{problem}\n{USAGE}")),
    };
    let answer = match ask(&words.socket, &words.request) {
        Ok(answer) => answer,
        Err(ended) => return ended,
    };
    if words.json {
        return match serde_json::to_string(&answer) {
            Ok(text) => Ended::Done(text),
            Err(error) => Ended::Failed(error.to_string()),
        };
    }
    match answer {
        Answer::At { pid, node, home } => Ended::Done(place(pid, &node, &home)),
        Answer::Shown(shown) if words.place => Ended::Done(place(shown.pid, &shown.place, &shown.home)),
        Answer::Shown(shown) => Ended::Done(told(&shown)),
        Answer::Listed { away, guests } => Ended::Done(table(&away, &guests)),
        answer => other(&answer),
    }
}

fn parse(words: &[String]) -> Result<Words, String> {
    let (mut socket, mut json, mut option) = (PathBuf::from(SOCKET), false, None);
    let mut plain = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--socket" => socket = words.next().ok_or("--socket wants a path")?.into(),
            "--json" => json = true,
            "--where" | "--show" | "--lock" | "--unlock" | "--list" => {
                if let Some(other) = option.replace(word.as_str()) {
                    return Err(format!("{other} and {word} do not go together"));
                }
            }
            option if option.starts_with('-') && option.parse::<i64>().is_err() => {
                return Err(format!("there is no option {option}"));
            }
            _ => plain.push(word),
        }
    }
    let request = match (&plain[..], option) {
        ([process, node], None) => Request::Migrate { pid: pid(process)?, to: (*node).clone() },
        ([_], None) => return Err("where to? A node, home or balance".to_owned()),
        ([process], Some("--where" | "--show")) => Request::Show { pid: pid(process)? },
        ([process], Some(word @ ("--lock" | "--unlock"))) => {
            Request::Lock { pid: pid(process)?, locked: word == "--lock" }
        }
        ([], Some("--list")) => Request::List {},
        ([], Some(word)) => return Err(format!("{word} wants a PID")),
        _ => return Err("a PID and a node are due, or home, or one of the options".to_owned()),
    };
    Ok(Words { socket, request, json, place: option == Some("--where") })
}

fn pid(word: &str) -> Result<i32, String> {
    word.parse()
        .ok()
        .filter(|pid| *pid > 0)
        .ok_or_else(|| format!("`{word}` is no PID: a number from 1 on is due"))
}

fn place(pid: i32, node: &str, home: &str) -> String {
    if node == home {
        format!("{pid}: at home ({home})")
    } else {
        format!("{pid}: on {node}, at home on {home}")
    }
}

fn told(shown: &Shown) -> String {
    let Shown { pid, place, home, goto, nmigs, lock, cantmove } = shown;
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let rows = [
        ("pid", pid.to_string()),
        ("where", place.clone()),
        ("home", home.clone()),
        ("goto", or_none(goto)),
        ("nmigs", nmigs.to_string()),
        ("lock", u8::from(*lock).to_string()),
        ("cantmove", or_none(cantmove)),
    ];
    rows.map(|(name, value)| format!("{name:<9}{value}")).join("\n")
}

fn table(away: &[Moved], guests: &[Moved]) -> String {
    let mut text = String::new();
    let rows = [("away", away), ("guest", guests)];
    let rows = rows.iter().flat_map(|(kind, rows)| rows.iter().map(move |row| (kind, row)));
    for (kind, Moved { pid, node, uid, name, .. }) in rows {
        // A String takes everything.
        let _written = write!(text, "\n{kind:<6} {node:<16} {pid:>8} {uid:>6} {name}");
    }
    if text.is_empty() {
        return "nothing is away, and nothing is here from elsewhere".to_owned();
    }
    format!("{:<6} {:<16} {:>8} {:>6} PROGRAM{text}", "", "NODE", "PID", "UID")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Request, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        parse(&words).map(|words| words.request)
    }

    #[test]
    fn words_are_a_request_or_say_what_is_wrong() {
        assert_eq!(parsed(&["12", "n2"]), Ok(Request::Migrate { pid: 12, to: "n2".into() }));
        assert_eq!(parsed(&["--where", "12"]), Ok(Request::Show { pid: 12 }));
        assert_eq!(parsed(&["--unlock", "12"]), Ok(Request::Lock { pid: 12, locked: false }));
        assert_eq!(parsed(&["--list", "--json"]), Ok(Request::List {}));
        for (words, problem) in [
            (&[][..], "a PID and a node"),
            (&["12"], "where to"),
            (&["x", "n2"], "`x` is no PID"),
            (&["-5", "n2"], "`-5` is no PID"),
            (&["0", "n2"], "`0` is no PID"),
            (&["--jsn", "--list"], "no option --jsn"),
            (&["--lock", "--where", "12"], "--lock and --where do not go together"),
            (&["--list", "12"], "a PID and a node"),
            (&["--where"], "--where wants"),
            (&["12", "n2", "n3"], "a PID and a node"),
        ] {
            let error = parsed(words).unwrap_err();
            assert!(error.contains(problem), "{words:?}: {error}");
        }
    }

    #[test]
    fn places_and_lists_read_well() {
        assert_eq!(place(12, "n1", "n1"), "12: at home (n1)");
        assert_eq!(place(12, "n2", "n1"), "12: on n2, at home on n1");
        let row = Moved { pid: 12, here: 12, node: "n2".into(), uid: 1000, name: "gzip".into() };
        let text = table(std::slice::from_ref(&row), &[]);
        assert_eq!(text.lines().nth(1), Some("away   n2                     12   1000 gzip"));
        assert!(table(&[], &[]).starts_with("nothing"));
        let shown = Shown {
            pid: 12,
            place: "n1".into(),
            home: "n1".into(),
            goto: Some("n2".into()),
            nmigs: 3,
            lock: false,
            cantmove: None,
        };
        assert_eq!(
            told(&shown),
            "pid      12\nwhere    n1\nhome     n1\ngoto     n2\nnmigs    3\nlock     0\ncantmove -"
        );
    }
}
