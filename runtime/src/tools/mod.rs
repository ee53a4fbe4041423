//! The tools: one program, `tesela-tools`, which is each tool by the name that it is called by.
//!
//! `/usr/bin/migrate` is a link to it; `tesela-tools migrate …` is the same. A tool is a function of its words:
//! it says what the user is told, and how it ends ([`Ended`]).

pub mod doctor;
#[cfg(test)]
mod manuals;
pub mod migrate;
pub mod mosctl;
pub mod mosmon;
pub mod mosrun;
pub mod mps;
pub mod mtop;
mod screen;
pub mod setpe;
pub mod showmap;
pub mod tune;

use std::io;
use std::path::{Path, PathBuf};

use crate::wire::local::{self, Answer, Request};

/// How a tool ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Exit status 0; the text is for the standard output.
    Done(String),
    /// Exit status 1: it was done, and something is wrong. The text is for the standard output.
    Wrong(String),
    /// Exit status 1: it was not done. The text says why.
    Failed(String),
    /// Exit status 2: wrong usage. The text says what.
    Usage(String),
}

impl Ended {
    /// What the user is told.
    fn text(self) -> String {
        let (Self::Done(text) | Self::Wrong(text) | Self::Failed(text) | Self::Usage(text)) = self;
        text
    }
}

/// A tool: its words in, its end out.
pub type Tool = fn(&[String]) -> Ended;

/// All of them, by name.
pub const TOOLS: &[(&str, Tool)] = &[
    ("doctor", doctor::run),
    ("migrate", migrate::run),
    ("mon", mosmon::run),
    ("mosctl", mosctl::run),
    ("mosmon", mosmon::run),
    ("mosrun", mosrun::run),
    ("mps", mps::run),
    ("mtop", mtop::run),
    ("omdiscd", setpe::omdiscd),
    ("setpe", setpe::run),
    ("showmap", showmap::run),
    ("tune", tune::run),
    ("cpujob", mosrun::cpujob),
    ("fastdecay", mosrun::fastdecay),
    ("iojob", mosrun::iojob),
    ("nodecay", mosrun::nodecay),
    ("nomig", mosrun::nomig),
    ("runhome", mosrun::runhome),
    ("runon", mosrun::runon),
    ("slowdecay", mosrun::slowdecay),
];

/// The agent's socket, by `--socket PATH` in front, and the words behind it.
fn socket_of(words: &[String]) -> (PathBuf, &[String]) {
    match words {
        [option, path, rest @ ..] if option == "--socket" => (PathBuf::from(path), rest),
        words => (PathBuf::from(local::SOCKET), words),
    }
}

/// Asks the agent; what it does not do is the tool's end.
fn ask(socket: &Path, request: &Request) -> Result<Answer, Ended> {
    match local::ask(socket, request) {
        Ok(Answer::Failed { reason }) => Err(Ended::Failed(reason)),
        Ok(answer) => Ok(answer),
        Err(error) => Err(Ended::Failed(unreachable_agent(socket, &error))),
    }
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

/// The end where an answer says no more than that it is done, or is to another question.
fn other(answer: &Answer) -> Ended {
    match answer {
        Answer::Done {} => Ended::Done(String::new()),
        answer => Ended::Failed(format!("the agent answers another question: {answer:?}")),
    }
}

fn wants_help(words: &[String]) -> bool {
    words.iter().any(|word| word == "--help" || word == "-h")
}

/// The tool that these words call, `argv[0]` first, with its name and the words that are left to it.
pub fn called(words: &[String]) -> Option<(&'static str, Tool, &[String])> {
    let named = |word: &String| {
        let name = Path::new(word).file_name()?.to_str()?;
        TOOLS.iter().find(|(tool, _)| *tool == name).copied()
    };
    let (first, rest) = words.split_first()?;
    if let Some((name, tool)) = named(first) {
        return Some((name, tool, rest));
    }
    let (second, rest) = rest.split_first()?;
    named(second).map(|(name, tool)| (name, tool, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_called_by_its_name_or_by_the_first_word() {
        let called = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            super::called(&words).map(|(name, _, rest)| (name, rest.len()))
        };
        assert_eq!(called(&["/usr/bin/migrate", "1", "home"]), Some(("migrate", 2)));
        assert_eq!(called(&["tesela-tools", "migrate", "1", "home"]), Some(("migrate", 2)));
        assert_eq!(called(&["tesela-tools", "grate"]), None);
        assert_eq!(called(&["tesela-tools"]), None);
        assert_eq!(called(&[]), None);
        assert!(TOOLS.iter().all(|(name, _)| !name.contains('/')));
    }
}
