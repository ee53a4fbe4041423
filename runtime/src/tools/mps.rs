//! `mps`: ps(1) with a column of where each process runs.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use super::{Ended, ask, other, socket_of};
use crate::wire::local::{Answer, Request};

const USAGE: &str = "\
usage: mps [--socket PATH] [WORDS OF ps]
What ps(1) says, with a column NODE behind PID: where the process runs; - at home, here; a guest has < before its home.
Exit status: 0 done, 1 where ps does not do it or the agent does not answer.";

/// The tool.
pub fn run(words: &[String]) -> Ended {
    if words.first().is_some_and(|word| word == "--help") {
        return Ended::Done(USAGE.to_owned());
    }
    let (socket, words) = socket_of(words);
    let nodes = match nodes_of(&socket) {
        Ok(nodes) => nodes,
        Err(ended) => return ended,
    };
    let output = match Command::new("ps").args(words).output() {
        Ok(output) => output,
        Err(error) => return Ended::Failed(format!("ps: {error}")),
    };
    if !output.status.success() {
        return Ended::Failed(String::from_utf8_lossy(&output.stderr).trim_end().to_owned());
    }
    Ended::Done(with_node(&String::from_utf8_lossy(&output.stdout), &nodes))
}

/// The node of each process that is away, by its id; of a guest its home, with a < before it.
pub(super) fn nodes_of(socket: &Path) -> Result<HashMap<i32, String>, Ended> {
    match ask(socket, &Request::List {})? {
        Answer::Listed { away, guests } => {
            let guests = guests.into_iter().map(|moved| (moved.here, format!("<{}", moved.node)));
            Ok(away.into_iter().map(|moved| (moved.pid, moved.node)).chain(guests).collect())
        }
        answer => Err(other(&answer)),
    }
}

/// A table with the column, from the line on whose words one is PID; the column is as wide as it has to be.
fn with_node(text: &str, nodes: &HashMap<i32, String>) -> String {
    let width = nodes.values().map(String::len).chain([4]).max().unwrap_or(4);
    let mut end = None;
    let mut lines = Vec::new();
    for line in text.lines() {
        if end.is_none()
            && let Some(start) = find_word(line, "PID")
        {
            end = Some(start + 3);
            lines.push(inserted(line, start + 3, "NODE", width));
            continue;
        }
        let pid = end.and_then(|end| line.get(..end)?.split_whitespace().last()?.parse::<i32>().ok());
        lines.push(match (pid, end) {
            (Some(pid), Some(end)) => inserted(line, end, nodes.get(&pid).map_or("-", String::as_str), width),
            _ => line.to_owned(),
        });
    }
    lines.join("\n")
}

fn find_word(line: &str, word: &str) -> Option<usize> {
    line.match_indices(word).map(|(start, _)| start).find(|start| {
        let before = line[..*start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        before.is_none_or(char::is_whitespace) && after.is_none_or(char::is_whitespace)
    })
}

fn inserted(line: &str, at: usize, word: &str, width: usize) -> String {
    format!("{} {word:<width$}{}", &line[..at], &line[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_is_behind_the_id() {
        let away = HashMap::from([(46, "n2".to_owned()), (7, "node-12".to_owned())]);
        let said = with_node(
            "    PID TTY          TIME CMD\n     46 pts/0    00:00:01 perl\n    120 pts/0    00:00:00 ps",
            &away,
        );
        assert_eq!(
            said,
            "    PID NODE    TTY          TIME CMD\n     46 n2      pts/0    00:00:01 perl\n    120 -       pts/0    00:00:00 ps"
        );
        // What is before the table and a table without ids stay as they are.
        let said = with_node("top - 10:00:00 up\n\n    PID USER\n      7 demo", &away);
        assert_eq!(said, "top - 10:00:00 up\n\n    PID NODE    USER\n      7 node-12 demo");
        assert_eq!(with_node("  PPID CMD\n     1 sh", &away), "  PPID CMD\n     1 sh");
    }
}
