//! `doctor`: what keeps this node from seeing the others, with the mend.

use std::path::PathBuf;

use super::{Ended, wants_help};
use crate::agent::Config;
use crate::doctor::node;

const USAGE: &str = "\
usage: doctor [--socket PATH] [--config FILE] [--json]
Tests what keeps this node from seeing the others: names, addresses, routes, firewall, clock, kernel, agent, members.
Writes a line for each, and below what is not as it should be the mend. Root sees all of it.
Exit status: 0 nothing is wrong, 1 something is, 2 wrong usage.";

/// The tool.
pub fn run(words: &[String]) -> Ended {
    if wants_help(words) {
        return Ended::Done(USAGE.to_owned());
    }
    let (mut socket, mut config, mut json) = (None, PathBuf::from(Config::PATH), false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match (word.as_str(), words.as_slice().first()) {
            ("--json", _) => json = true,
            ("--socket", Some(path)) => {
                socket = Some(PathBuf::from(path));
                words.next();
            }
            ("--config", Some(path)) => {
                config = path.into();
                words.next();
            }
            _ => return Ended::Usage(format!("`{word}` is not expected, or wants another word\n{USAGE}")),
        }
    }
    let report = node::look(&config, socket.as_deref());
    let text = if json { report.json() } else { report.to_string() };
    if report.is_well() { Ended::Done(text) } else { Ended::Wrong(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(line: &str) -> Ended {
        run(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_few() {
        assert!(matches!(run_with("--jason"), Ended::Usage(text) if text.starts_with("`--jason` is not")));
        assert!(matches!(run_with("--config"), Ended::Usage(_)));
        assert!(matches!(run_with("--help"), Ended::Done(_)));
    }

    #[test]
    fn a_machine_that_is_no_node_hears_that_it_is_none() {
        let nowhere = "--config /nonexistent/teselad.json --socket /nonexistent/agent.sock";
        let Ended::Wrong(text) = run_with(nowhere) else { panic!("something is wrong") };
        assert!(text.contains("\nFAIL  configuration: cannot read /nonexistent/teselad.json"), "{text}");
        let Ended::Wrong(json) = run_with(&format!("{nowhere} --json")) else { panic!("something is wrong") };
        let findings: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
        assert!(findings.iter().any(|it| it["what"] == "agent" && it["verdict"] == "fail"), "{json}");
    }
}
