//! `mps` and `mtop`: ps(1) and top(1) with a column of where each process runs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Ended, ask, other};
use crate::wire::local::{Answer, Request, SOCKET};

const USAGE: &str = "\
usage: mps [--socket PATH] [WORDS OF ps]
       mtop [--socket PATH] [WORDS OF top]
What ps(1) says, or top(1) once, with a column NODE behind PID: where the process runs, - where it is at home.
Exit status: that of ps or top; 1 where the agent does not answer.";

/// `mps`.
pub fn run(words: &[String]) -> Ended {
    show(words, "ps", &[])
}

/// `mtop`.
pub fn top(words: &[String]) -> Ended {
    show(words, "top", &["-b", "-n", "1", "-w", "200"])
}

fn show(words: &[String], program: &str, first: &[&str]) -> Ended {
    if words.first().is_some_and(|word| word == "--help") {
        return Ended::Done(USAGE.to_owned());
    }
    let (socket, words) = match words {
        [option, path, rest @ ..] if option == "--socket" => (PathBuf::from(path), rest),
        words => (PathBuf::from(SOCKET), words),
    };
    let away = match away(&socket) {
        Ok(away) => away,
        Err(ended) => return ended,
    };
    let output = match Command::new(program).args(first).args(words).output() {
        Ok(output) => output,
        Err(error) => return Ended::Failed(format!("{program}: {error}")),
    };
    if !output.status.success() {
        return Ended::Failed(String::from_utf8_lossy(&output.stderr).trim_end().to_owned());
    }
    Ended::Done(with_node(&String::from_utf8_lossy(&output.stdout), &away))
}

fn away(socket: &Path) -> Result<HashMap<i32, String>, Ended> {
    match ask(socket, &Request::List {})? {
        Answer::Listed { away, .. } => Ok(away.into_iter().map(|moved| (moved.pid, moved.node)).collect()),
        answer => Err(other(&answer)),
    }
}

/// A table with the column, from the line on whose words one is PID; the column is as wide as it has to be.
fn with_node(text: &str, away: &HashMap<i32, String>) -> String {
    let width = away.values().map(String::len).chain([4]).max().unwrap_or(4);
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
            (Some(pid), Some(end)) => inserted(line, end, away.get(&pid).map_or("-", String::as_str), width),
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
        // What is before the table, as top has it, and a table without ids stay as they are.
        let said = with_node("top - 10:00:00 up\n\n    PID USER\n      7 demo", &away);
        assert_eq!(said, "top - 10:00:00 up\n\n    PID NODE    USER\n      7 node-12 demo");
        assert_eq!(with_node("  PPID CMD\n     1 sh", &away), "  PPID CMD\n     1 sh");
    }
}
