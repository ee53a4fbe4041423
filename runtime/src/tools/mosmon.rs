//! `mosmon`, also as `mon`: the monitor of mosmon(1), a bar for each node.

mod chart;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::mosctl::settings;
use super::screen::{Picture as _, show, text};
use super::{Ended, ask, other};
use crate::discovery::NodeId;
use crate::wire::local::{Answer, Request, SOCKET};
use view::{Figure, Numbers, Seen, View};

const USAGE: &str = "\
usage: mosmon [--socket PATH] [-l|-L|-s|-m|-r|-u] [-w|-v|-V|-a] [-d] [-t] [+N]
              [--once]
A bar for each node, anew each second. The letters are keys as well:
  -l  load: 1 is one process that computes on a standard processor
  -L  the same on a logarithmic scale
  -s  speed of a processor: a standard one has 10000; above, how many there are
  -m  memory in MB: a bar of what is used, + for what processes can still have
  -r  raw memory in MB: a bar of what anything is in, + for what nothing is in
  -u  how much of the processors is in use, in percent
  -w, -v, -V, -a  numbers are wide, vertical, vertical and tight, or as they fit
  -d  dead nodes, too
  -t  how many nodes and processors there are
  +N  from node N on; arrows, PageUp, PageDown, Home and End move that
  -h  this text
  q   the end
  --once  one picture as text, as where the output is no terminal
Exit status: 0 done, 1 not done, 2 wrong usage.";

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Columns and rows of a picture that is text, unless its nodes take more.
const PAGE: (u16, u16) = (80, 24);

/// The tool.
pub fn run(words: &[String]) -> Ended {
    let words = match parse(words) {
        Ok(Some(words)) => words,
        Ok(None) => return Ended::Done(USAGE.to_owned()),
        Err(problem) => return Ended::Usage(format!("{problem}\n{USAGE}")),
    };
    let Words { socket, mut view, once } = words;
    // That there is no agent is better said on the terminal as it was.
    let seen = match look(&socket) {
        Ok(seen) => seen,
        Err(ended) => return ended,
    };
    if once || !io::stdout().is_terminal() {
        // Nothing ends by news.
        let _flow = view.take(Ok(seen));
        let (width, height) = PAGE;
        return Ended::Done(text(&view, view.width(width), height));
    }
    match show(&mut view, EVERY, move || look(&socket).map_err(Ended::text)) {
        Ok(()) => Ended::Done(String::new()),
        Err(error) => Ended::Failed(format!("the terminal: {error}")),
    }
}

fn look(socket: &Path) -> Result<Seen, Ended> {
    let yard = settings(socket)?.yard;
    let (own, mut nodes, gone) = match ask(socket, &Request::Nodes {})? {
        Answer::Nodes { own, nodes, gone } => (own, nodes, gone),
        answer => return Err(other(&answer)),
    };
    nodes.extend(gone);
    nodes.sort_unstable_by_key(|node| (node.id, node.address));
    Ok(Seen { own, yard, nodes })
}

struct Words {
    socket: PathBuf,
    view: View,
    once: bool,
}

/// None: help is wanted.
fn parse(words: &[String]) -> Result<Option<Words>, String> {
    let mut parsed = Words { socket: SOCKET.into(), view: View::default(), once: false };
    let (mut figure, mut numbers) = (None, None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--socket" => parsed.socket = words.next().ok_or("--socket wants a path")?.into(),
            "--once" => parsed.once = true,
            "-h" | "-H" | "--help" => return Ok(None),
            _ => {
                if let Some(first) = word.strip_prefix('+') {
                    let id: NodeId =
                        first.parse().map_err(|_| format!("`{first}` is no number of a node"))?;
                    parsed.view.first = Some(id);
                    continue;
                }
                let letters = word.strip_prefix('-').filter(|letters| !letters.is_empty());
                for letter in letters.ok_or_else(|| format!("`{word}` is not expected"))?.chars() {
                    let two = if let Some(new) = Figure::of(letter) {
                        figure
                            .replace(new)
                            .is_some_and(|old| old != new)
                            .then_some("-l, -L, -s, -m, -r and -u")
                    } else if let Some(new) = Numbers::of(letter) {
                        numbers.replace(new).is_some_and(|old| old != new).then_some("-w, -v, -V and -a")
                    } else {
                        match letter {
                            'd' => parsed.view.dead = true,
                            't' => parsed.view.total = true,
                            _ => return Err(format!("there is no option {word}")),
                        }
                        None
                    };
                    if let Some(those) = two {
                        return Err(format!("of {those} one can be given"));
                    }
                }
            }
        }
    }
    parsed.view.figure = figure.unwrap_or_default();
    parsed.view.numbers = numbers.unwrap_or_default();
    Ok(Some(parsed))
}

#[cfg(test)]
mod words {
    use super::*;

    fn parsed(line: &str) -> Result<Option<Words>, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_openmosixs() {
        let of = |line: &str| parsed(line).unwrap().unwrap();
        let view = of("").view;
        assert_eq!((view.figure, view.numbers, view.dead, view.total), Default::default());
        let view = of("-V -m -d -t +12").view;
        assert_eq!(
            (view.figure, view.numbers, view.first),
            (Figure::Memory, Numbers::Tight, Some(NodeId(12)))
        );
        assert!(view.dead && view.total);
        assert_eq!(of("-vL +0x0adc").view.first, Some(NodeId(2780)), "letters may be together");
        assert!(of("--once --socket /x").once);
        assert!(parsed("-t -H").unwrap().is_none());
        for (line, problem) in [
            ("-x", "there is no option -x"),
            ("-s -m", "of -l, -L, -s"),
            ("-wv", "of -w, -v"),
            ("12", "`12` is not expected"),
            ("-", "`-` is not expected"),
            ("+x", "`x` is no number"),
            ("--socket", "--socket wants"),
        ] {
            assert!(parsed(line).err().unwrap().contains(problem), "{line}");
        }
    }

    #[test]
    fn an_agent_is_due() {
        let words = ["--socket", "/nonexistent"].map(str::to_owned);
        assert!(
            matches!(run(&words), Ended::Failed(text) if text.starts_with("no agent listens at /nonexistent"))
        );
    }
}
