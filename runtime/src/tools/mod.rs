//! The tools: one program, `tesela-tools`, which is each tool by the name that it is called by.
//!
//! `/usr/bin/migrate` is a link to it; `tesela-tools migrate …` is the same. A tool is a function of its words:
//! it says what the user is told, and how it ends ([`Ended`]).

pub mod migrate;

use std::path::Path;

/// How a tool ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Exit status 0; the text is for the standard output.
    Done(String),
    /// Exit status 1: it was not done. The text says why.
    Failed(String),
    /// Exit status 2: wrong usage. The text says what.
    Usage(String),
}

/// A tool: its words in, its end out.
pub type Tool = fn(&[String]) -> Ended;

/// All of them, by name.
pub const TOOLS: &[(&str, Tool)] = &[("migrate", migrate::run)];

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
