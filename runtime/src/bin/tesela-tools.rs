//! The tools of a node in one program: see the library's module `tools`.
//!
//! Exit status 0, 1 (failed), 2 (wrong usage).

use std::io::Write;
use std::process::ExitCode;

use tesela_runtime::tools::{self, Ended};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let Some((name, tool, rest)) = tools::called(&words) else {
        let names: Vec<&str> = tools::TOOLS.iter().map(|(name, _)| *name).collect();
        return told(
            std::io::stderr(),
            &format!("usage: tesela-tools TOOL …, where TOOL is one of: {}", names.join(" ")),
            2,
        );
    };
    match tool(rest) {
        Ended::Done(text) if text.is_empty() => ExitCode::SUCCESS,
        Ended::Done(text) => told(std::io::stdout(), &text, 0),
        Ended::Wrong(text) => told(std::io::stdout(), &text, 1),
        Ended::Failed(reason) => told(std::io::stderr(), &format!("{name}: {reason}"), 1),
        Ended::Usage(problem) => told(std::io::stderr(), &format!("{name}: {problem}"), 2),
    }
}

fn told(mut to: impl Write, text: &str, status: u8) -> ExitCode {
    match writeln!(to, "{text}").and_then(|()| to.flush()) {
        Ok(()) => ExitCode::from(status),
        // Nobody hears it; that it was done stays true, but whoever wanted to know has not been told.
        Err(_) => ExitCode::from(status.max(1)),
    }
}
