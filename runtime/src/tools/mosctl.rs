//! `mosctl VERB`: what root asks of a node as a whole. The verbs are openMosix's.

use std::path::PathBuf;

use super::{Ended, ask, other, wants_help};
use crate::wire::local::{Answer, Change, Request, SOCKET};

const USAGE: &str = "\
usage: mosctl [--socket PATH] bring|expel|block|noblock
  bring    fetch home all processes of this node
  expel    send home all guests of this node, and block
  block    let no guests in, until this node boots again
  noblock  let them in
Exit status: 0 done, 1 not done, 2 wrong usage.";

/// The tool.
pub fn run(words: &[String]) -> Ended {
    if wants_help(words) {
        return Ended::Done(USAGE.to_owned());
    }
    let (socket, verb) = match words {
        [verb] => (PathBuf::from(SOCKET), verb),
        [option, path, verb] if option == "--socket" => (path.into(), verb),
        _ => return Ended::Usage(format!("one verb is due\n{USAGE}")),
    };
    let request = match verb.as_str() {
        "bring" => Request::Bring {},
        "expel" => Request::Expel {},
        "block" | "noblock" => Request::Set(Change { block: Some(verb == "block"), ..Change::default() }),
        _ => return Ended::Usage(format!("there is no verb {verb}\n{USAGE}")),
    };
    match ask(&socket, &request) {
        Ok(Answer::Moved { count: 1 }) => Ended::Done("1 process came home".to_owned()),
        Ok(Answer::Moved { count }) => Ended::Done(format!("{count} processes came home")),
        Ok(Answer::Settings(_)) => Ended::Done(String::new()),
        Ok(answer) => other(&answer),
        Err(ended) => ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_is_due_and_an_agent() {
        let run = |words: &[&str]| run(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        for (words, problem) in [
            (&[][..], "one verb is due"),
            (&["exple"], "there is no verb exple"),
            (&["--socket", "x"], "one verb"),
        ] {
            assert!(matches!(run(words), Ended::Usage(text) if text.starts_with(problem)), "{words:?}");
        }
        let ended = run(&["--socket", "/nonexistent", "bring"]);
        assert!(matches!(ended, Ended::Failed(text) if text.starts_with("no agent listens at /nonexistent")));
    }
}
