//! `migrate PID NODE|home`: moves a process, and says where it is then.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use super::Ended;
use crate::wire::local::{self, Answer, Moved, Request, SOCKET};

const USAGE: &str = "\
usage: migrate [--socket PATH] PID NODE|home
       migrate [--socket PATH] --where PID
       migrate [--socket PATH] --list [--json]
Moves a process to a node, known by its name, number or address, or home again.
Root moves any process, a user his own.
  --where PID    only say where the process is
  --list         what is away from this node, and what is here from others
  --json         the list as JSON
  --socket PATH  the socket of the agent, if not /run/tesela/agent.sock
Exit status: 0 done, 1 not done, 2 wrong usage.";

struct Words {
    socket: PathBuf,
    request: Request,
    json: bool,
}

/// The tool.
pub fn run(words: &[String]) -> Ended {
    if words.iter().any(|word| word == "--help" || word == "-h") {
        return Ended::Done(USAGE.to_owned());
    }
    let words = match parse(words) {
        Ok(words) => words,
        Err(problem) => return Ended::Usage(format!("{problem}\n{USAGE}")),
    };
    match local::ask(&words.socket, &words.request) {
        Ok(Answer::Failed { reason }) => Ended::Failed(reason),
        Ok(answer) if words.json => match serde_json::to_string(&answer) {
            Ok(text) => Ended::Done(text),
            Err(error) => Ended::Failed(error.to_string()),
        },
        Ok(Answer::At { pid, node, home }) => Ended::Done(place(pid, &node, &home)),
        Ok(Answer::Listed { away, guests }) => Ended::Done(table(&away, &guests)),
        Err(error) => Ended::Failed(unreachable_agent(&words.socket, &error)),
    }
}

fn parse(words: &[String]) -> Result<Words, String> {
    let (mut socket, mut json, mut list, mut ask_where) = (PathBuf::from(SOCKET), false, false, None);
    let mut plain = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--socket" => socket = words.next().ok_or("--socket wants a path")?.into(),
            "--where" => ask_where = Some(pid(words.next().ok_or("--where wants a PID")?)?),
            "--list" => list = true,
            "--json" => json = true,
            option if option.starts_with('-') && option.parse::<i64>().is_err() => {
                return Err(format!("there is no option {option}"));
            }
            _ => plain.push(word),
        }
    }
    let request = match (&plain[..], ask_where, list) {
        ([process, node], None, false) => Request::Migrate { pid: pid(process)?, to: (*node).clone() },
        ([], Some(pid), false) => Request::Where { pid },
        ([], None, true) => Request::List {},
        ([_], None, false) => return Err("where to? A node, or home".to_owned()),
        _ => return Err("a PID and a node are due, or home, or one of --where and --list".to_owned()),
    };
    if json && request != (Request::List {}) {
        return Err("--json goes with --list".to_owned());
    }
    Ok(Words { socket, request, json })
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

fn table(away: &[Moved], guests: &[Moved]) -> String {
    let mut text = String::new();
    let rows = [("away", away), ("guest", guests)];
    let rows = rows.iter().flat_map(|(kind, rows)| rows.iter().map(move |row| (kind, row)));
    for (kind, Moved { pid, node, uid, name }) in rows {
        // A String takes everything.
        let _written = write!(text, "\n{kind:<6} {node:<16} {pid:>8} {uid:>6} {name}");
    }
    if text.is_empty() {
        return "nothing is away, and nothing is here from elsewhere".to_owned();
    }
    format!("{:<6} {:<16} {:>8} {:>6} PROGRAM{text}", "", "NODE", "PID", "UID")
}

fn unreachable_agent(socket: &Path, error: &io::Error) -> String {
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!(
                "no agent listens at {socket} ({error}): is this a node, and does teselad run? See `systemctl status teselad`"
            )
        }
        _ => format!("the agent at {socket}: {error}"),
    }
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
        assert_eq!(parsed(&["--where", "12"]), Ok(Request::Where { pid: 12 }));
        assert_eq!(parsed(&["--list", "--json"]), Ok(Request::List {}));
        for (words, problem) in [
            (&[][..], "a PID and a node"),
            (&["12"], "where to"),
            (&["x", "n2"], "`x` is no PID"),
            (&["-5", "n2"], "`-5` is no PID"),
            (&["0", "n2"], "`0` is no PID"),
            (&["--jsn", "--list"], "no option --jsn"),
            (&["12", "n2", "--json"], "--json goes with --list"),
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
        let row = Moved { pid: 12, node: "n2".into(), uid: 1000, name: "gzip".into() };
        let text = table(std::slice::from_ref(&row), &[]);
        assert_eq!(text.lines().nth(1), Some("away   n2                     12   1000 gzip"));
        assert!(table(&[], &[]).starts_with("nothing"));
    }
}
