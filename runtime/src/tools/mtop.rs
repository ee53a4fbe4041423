//! `mtop`: top(1) with a column of where each process runs.

mod processes;
mod view;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::Ended;
use super::screen::show;
use crate::wire::local::SOCKET;
use processes::Processes;
use view::View;

const USAGE: &str = "\
usage: mtop [--socket PATH] [-d SECONDS] [-b [-n TIMES]]
The processes of this node, anew every 2 seconds, those first that use most of a processor. NODE is where a process
runs: - at home, here; a guest has < before its home. What a process uses on another node is not seen here.
  -d SECONDS  between two looks
  -b          as text, so many TIMES or without end; once where the output is no terminal and there is no -b
Keys: P by processor, M by memory, arrows to scroll, q to end.
Exit status: 0 done, 1 not done, 2 wrong usage.";

#[derive(Debug)]
struct Words {
    socket: PathBuf,
    every: Duration,
    batch: bool,
    times: Option<u32>,
}

/// The tool.
pub fn run(words: &[String]) -> Ended {
    let words = match parse(words) {
        Ok(Some(words)) => words,
        Ok(None) => return Ended::Done(USAGE.to_owned()),
        Err(problem) => return Ended::Usage(format!("{problem}\n{USAGE}")),
    };
    let mut processes = Processes::new();
    if words.batch {
        return batch(&mut processes, &words);
    }
    let table = match processes.look(&words.socket) {
        Ok(table) => table,
        Err(ended) => return ended,
    };
    if !io::stdout().is_terminal() {
        return Ended::Done(View::of(table).text());
    }
    let socket = words.socket;
    let (mut view, mut first) = (View::default(), Some(table));
    let look = move || first.take().map_or_else(|| processes.look(&socket).map_err(Ended::text), Ok);
    match show(&mut view, words.every, look) {
        Ok(()) => Ended::Done(String::new()),
        Err(error) => Ended::Failed(format!("the terminal: {error}")),
    }
}

fn batch(processes: &mut Processes, words: &Words) -> Ended {
    let mut times = words.times;
    loop {
        let text = match processes.look(&words.socket) {
            Ok(table) => View::of(table).text(),
            Err(ended) => return ended,
        };
        times = times.map(|times| times - 1);
        if times == Some(0) {
            return Ended::Done(text);
        }
        let mut out = io::stdout().lock();
        if let Err(error) = writeln!(out, "{text}\n").and_then(|()| out.flush()) {
            return Ended::Failed(format!("the standard output: {error}"));
        }
        drop(out);
        thread::sleep(words.every);
    }
}

/// None: help is wanted.
fn parse(words: &[String]) -> Result<Option<Words>, String> {
    let mut parsed =
        Words { socket: SOCKET.into(), every: Duration::from_secs(2), batch: false, times: None };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--socket" {
            parsed.socket = words.next().ok_or("--socket wants a path")?.into();
            continue;
        }
        if word == "-h" || word == "--help" {
            return Ok(None);
        }
        let letters = word.strip_prefix('-').filter(|letters| !letters.is_empty());
        let mut letters = letters.ok_or_else(|| format!("`{word}` is not expected"))?;
        // As top has it: letters may be together, and a value next to its letter.
        while let Some(letter) = letters.chars().next() {
            letters = &letters[letter.len_utf8()..];
            if letter == 'b' {
                parsed.batch = true;
                continue;
            }
            if letter != 'd' && letter != 'n' {
                return Err(format!("there is no option {word}"));
            }
            let value = Some(letters).filter(|value| !value.is_empty());
            let value = value.or_else(|| words.next().map(String::as_str));
            let value = value.ok_or_else(|| format!("-{letter} wants a number"))?;
            letters = "";
            if letter == 'd' {
                let seconds = value.parse().ok().filter(|seconds| *seconds >= 0.1);
                let every = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                parsed.every =
                    every.ok_or_else(|| format!("`{value}` is no number of seconds from 0.1 on"))?;
            } else {
                let times = value.parse().ok().filter(|times| *times > 0);
                parsed.times = Some(times.ok_or_else(|| format!("`{value}` is no number from 1 on"))?);
            }
        }
    }
    if parsed.times.is_some() && !parsed.batch {
        return Err("-n goes with -b".to_owned());
    }
    Ok(Some(parsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_tops() {
        let parsed = |line: &str| parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let of = |line: &str| parsed(line).unwrap().unwrap();
        assert_eq!(of("-b -n 1").times, Some(1));
        assert_eq!((of("-bn3 -d.5").times, of("-bn3 -d.5").every), (Some(3), Duration::from_millis(500)));
        assert_eq!((of("").batch, of("").every), (false, Duration::from_secs(2)));
        assert!(parsed("-b --help").unwrap().is_none());
        for (line, problem) in [
            ("-x", "there is no option -x"),
            ("-n 3", "-n goes with -b"),
            ("-bn 0", "`0` is no number from 1"),
            ("-d 0", "`0` is no number of seconds"),
            ("-d 1e99", "`1e99` is no number of seconds"),
            ("-d", "-d wants a number"),
            ("top", "`top` is not expected"),
        ] {
            assert!(parsed(line).unwrap_err().contains(problem), "{line}");
        }
    }

    #[test]
    fn an_agent_is_due() {
        let words = ["--socket", "/nonexistent", "-b"].map(str::to_owned);
        assert!(
            matches!(run(&words), Ended::Failed(text) if text.starts_with("no agent listens at /nonexistent"))
        );
    }
}
