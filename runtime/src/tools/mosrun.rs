//! `mosrun` and its short forms: a command that is told from the beginning where it runs, and what it is like.
//!
//! The tool says so of itself, to the agent, and then becomes the command (execve(2)): what is said of a process stays
//! with it and with what it starts. One that is to run elsewhere goes there before, so that it is heard where it cannot.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use super::mosctl::{find, nodes};
use super::{Ended, ask, other, socket_of};
use crate::discovery::NodeId;
use crate::wire::local::{Answer, Hint, Node, Request};

const USAGE: &str = "\
usage: mosrun [-h|-ID|-jID1-ID2[,ID...]] [-F] [-l|-L|-k] [-c|-i|-n|-s|-f] [-z] COMMAND [ARGUMENTS]
       runhome|nomig|cpujob|iojob|nodecay|slowdecay|fastdecay COMMAND [ARGUMENTS]
       runon NODE COMMAND [ARGUMENTS]
Runs a command, and says of it and all that it starts:
  -h          it runs at home
  -ID         it runs on this node, by its number
  -jLIST      it runs on that of these nodes which has least to do: -j1-4,7
  -F          it runs at home where that node is not there, or takes none
  -L, -l, -k  it stays there, or need not, or as it is for who calls; -L with -h, -ID, -j, and without any of the next
  -c, -i      it computes, or does input and output
  -n, -s, -f  its statistics do not fade, or slowly, or fast
  -z          the first of the arguments is the name by which the command is called
  --socket P  the socket of the agent, before all others
Exit status: the command's; 1 if it does not run, 2 wrong usage.";

/// Where a command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Where {
    Anywhere,
    Home,
    On(String),
    OneOf(Vec<(NodeId, NodeId)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    place: Where,
    forgiving: bool,
    lock: Option<bool>,
    hint: Option<Hint>,
    named: bool,
    command: Vec<String>,
}

/// The tool.
pub fn run(words: &[String]) -> Ended {
    begin(words, parse)
}

/// `runon NODE COMMAND`.
pub fn runon(words: &[String]) -> Ended {
    begin(words, |words| match words {
        [node, command @ ..] => {
            Ok(Run { place: Where::On(node.clone()), lock: Some(true), ..Run::of(command) })
        }
        [] => Err("a node is due, and a command".to_owned()),
    })
}

/// `runhome COMMAND`.
pub fn runhome(words: &[String]) -> Ended {
    begin(words, |words| Ok(Run { place: Where::Home, lock: Some(true), ..Run::of(words) }))
}

/// `nomig COMMAND`.
pub fn nomig(words: &[String]) -> Ended {
    runhome(words)
}

/// `cpujob COMMAND`.
pub fn cpujob(words: &[String]) -> Ended {
    hinted(words, Hint::Cpujob)
}

/// `iojob COMMAND`.
pub fn iojob(words: &[String]) -> Ended {
    hinted(words, Hint::Iojob)
}

/// `nodecay COMMAND`.
pub fn nodecay(words: &[String]) -> Ended {
    hinted(words, Hint::None)
}

/// `slowdecay COMMAND`.
pub fn slowdecay(words: &[String]) -> Ended {
    hinted(words, Hint::Slow)
}

/// `fastdecay COMMAND`.
pub fn fastdecay(words: &[String]) -> Ended {
    hinted(words, Hint::Fast)
}

fn hinted(words: &[String], hint: Hint) -> Ended {
    begin(words, |words| Ok(Run { hint: Some(hint), lock: Some(false), ..Run::of(words) }))
}

fn begin(words: &[String], parse: impl Fn(&[String]) -> Result<Run, String>) -> Ended {
    if words.first().is_some_and(|word| word == "--help") {
        return Ended::Done(USAGE.to_owned());
    }
    let (socket, words) = socket_of(words);
    let run = match parse(words) {
        Ok(run) if run.command.is_empty() => return Ended::Usage(format!("a command is due\n{USAGE}")),
        Ok(run) => run,
        Err(problem) => return Ended::Usage(format!("{problem}\n{USAGE}")),
    };
    match run.prepare(&socket) {
        Ok(()) => Ended::Failed(format!("{}: {}", run.command[0], run.become_it())),
        Err(ended) => ended,
    }
}

impl Run {
    fn of(command: &[String]) -> Self {
        let command = command.to_vec();
        Self { place: Where::Anywhere, forgiving: false, lock: None, hint: None, named: false, command }
    }

    /// Says of this process what is to be said, and takes it where it is to run.
    fn prepare(&self, socket: &Path) -> Result<(), Ended> {
        let pid = std::process::id().cast_signed();
        let said = |request: Request| match ask(socket, &request)? {
            Answer::Done {} | Answer::At { .. } => Ok(()),
            answer => Err(other(&answer)),
        };
        if let Some(hint) = self.hint {
            said(Request::Hint { pid, hint })?;
        }
        let to = match &self.place {
            Where::Anywhere | Where::Home => None,
            Where::On(word) => Some(Ok(word.clone())),
            Where::OneOf(ranges) => Some(least(socket, ranges)),
        };
        if let Some(to) = to {
            // Who calls may be locked.
            said(Request::Lock { pid, locked: false })?;
            match to.and_then(|to| said(Request::Migrate { pid, to })) {
                Err(Ended::Failed(why)) if self.forgiving => eprintln!("mosrun: it runs at home, for {why}"),
                done => done?,
            }
        }
        self.lock.map_or(Ok(()), |locked| said(Request::Lock { pid, locked }))
    }

    /// Returns only where it could not.
    fn become_it(&self) -> io::Error {
        let (program, arguments) = self.command.split_at(1);
        let mut command = Command::new(&program[0]);
        match arguments {
            [name, rest @ ..] if self.named => command.arg0(name).args(rest),
            arguments => command.args(arguments),
        };
        command.exec()
    }
}

/// Of these nodes the one that is there and has least to do.
fn least(socket: &Path, ranges: &[(NodeId, NodeId)]) -> Result<String, Ended> {
    let (own, nodes) = nodes(socket)?;
    let chosen = |node: &&Node| ranges.iter().any(|(first, last)| (*first..=*last).contains(&node.id));
    let load = |node: &&Node| node.load.map_or(u32::MAX, |load| load.load);
    let node = nodes.iter().filter(chosen).min_by_key(load);
    // The same words as for one that is not there.
    let node = node.map_or_else(|| find(own, &nodes, Some(&ranges_of(ranges))), Ok)?;
    Ok(node.address.to_string())
}

fn ranges_of(ranges: &[(NodeId, NodeId)]) -> String {
    ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect::<Vec<_>>().join(",")
}

fn parse(words: &[String]) -> Result<Run, String> {
    let mut run = Run::of(&[]);
    let mut kept = false;
    let mut words = words.iter();
    let mut place = None;
    for word in words.by_ref() {
        let Some(option) = word.strip_prefix('-') else {
            run.command.push(word.clone());
            break;
        };
        let new = match option {
            "h" => Some(Where::Home),
            "F" => {
                run.forgiving = true;
                None
            }
            "z" => {
                run.named = true;
                None
            }
            "l" | "L" => {
                run.lock = Some(option == "L");
                None
            }
            "k" => {
                kept = true;
                None
            }
            "c" => hint(&mut run, Hint::Cpujob)?,
            "i" => hint(&mut run, Hint::Iojob)?,
            "n" => hint(&mut run, Hint::None)?,
            "s" => hint(&mut run, Hint::Slow)?,
            "f" => hint(&mut run, Hint::Fast)?,
            _ => match option.strip_prefix('j') {
                Some(list) => Some(Where::OneOf(ranges(list)?)),
                None => {
                    option.parse::<NodeId>().map_err(|_| format!("there is no option {word}"))?;
                    Some(Where::On(option.to_owned()))
                }
            },
        };
        if let Some(new) = new
            && place.replace(new).is_some()
        {
            return Err("of -h, -ID and -j one can be given".to_owned());
        }
    }
    run.command.extend(words.cloned());
    if kept && run.lock.is_some() {
        return Err("of -l, -L and -k one can be given".to_owned());
    }
    if run.lock.is_none() && !kept {
        run.lock = Some(place.is_some() || run.hint.is_none());
    }
    run.place = place.unwrap_or(Where::Anywhere);
    Ok(run)
}

fn hint(run: &mut Run, hint: Hint) -> Result<Option<Where>, String> {
    match run.hint.replace(hint) {
        None => Ok(None),
        Some(_) => Err("of -c, -i, -n, -s and -f one can be given".to_owned()),
    }
}

fn ranges(list: &str) -> Result<Vec<(NodeId, NodeId)>, String> {
    let id = |word: &str| word.parse::<NodeId>().map_err(|_| format!("`{word}` is no number of a node"));
    list.split(',')
        .map(|part| match part.split_once('-') {
            Some((first, last)) => Ok((id(first)?, id(last)?)),
            None => id(part).map(|id| (id, id)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Run, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_openmosixs() {
        let of = |line: &str| parsed(line).unwrap();
        assert_eq!(
            of("gzip -9 x"),
            Run { lock: Some(true), ..Run::of(&["gzip", "-9", "x"].map(str::to_owned)) }
        );
        let on = of("-0x0adc -l make -j4");
        assert_eq!((on.place, on.lock), (Where::On("0x0adc".into()), Some(false)));
        assert_eq!(on.command, ["make", "-j4"], "what follows the command is its own");
        assert_eq!(of("-h x").lock, Some(true));
        assert_eq!((of("-c x").lock, of("-c x").hint), (Some(false), Some(Hint::Cpujob)));
        assert_eq!((of("-c -k x").lock, of("-k x").lock), (None, None));
        let one_of = of("-j1-4,7 -F x");
        assert_eq!(one_of.place, Where::OneOf(vec![(NodeId(1), NodeId(4)), (NodeId(7), NodeId(7))]));
        assert!(one_of.forgiving && !of("x").forgiving);
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (line, problem) in [
            ("-x y", "there is no option -x"),
            ("-h -5 y", "of -h, -ID and -j"),
            ("-l -k y", "of -l, -L and -k"),
            ("-c -i y", "of -c, -i"),
            ("-j1-x y", "`x` is no number"),
        ] {
            assert!(parsed(line).unwrap_err().contains(problem), "{line}");
        }
        assert!(
            matches!(run(&["-h".to_owned()]), Ended::Usage(text) if text.starts_with("a command is due"))
        );
        assert!(matches!(runon(&[]), Ended::Usage(text) if text.starts_with("a node is due")));
    }
}
