//! Names of nodes: `n[1-40]`, on the command line and in cluster.yaml.

use std::fmt;
use std::str::FromStr;

/// More names than this in one set are a slip of the hand.
pub const MAX_NAMES: usize = 100_000;

/// A name with ranges of numbers in brackets: `n[1-16]`, `n[01-16]`, `r[1-4]n[1-3,7]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    text: String,
    parts: Vec<Part>,
    count: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Numbers(Vec<Run>),
}

/// `first-last`, each padded with zeros to `width` digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u32,
    last: u32,
    width: usize,
}

/// Why something is no name of nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A bracket without its other half, or one in another.
    #[error("`{0}` has a bracket without its other half; write a range as n[1-16]")]
    Bracket(String),
    /// What stands in the brackets is no range.
    #[error("`{1}` in `{0}` is no range; write it as n[1-16], n[01-16] or n[1-3,7]")]
    Range(String, String),
    /// The range ends before it begins.
    #[error("the range `{1}` in `{0}` ends before it begins")]
    Backwards(String, String),
    /// Far too many.
    #[error("`{0}` stands for more than {MAX_NAMES} names")]
    TooMany(String),
    /// Not something that a host can be called (RFC 1123).
    #[error(
        "`{0}` cannot be a host name; write lower-case letters, digits and `-` inside, at most 63 of them"
    )]
    Label(String),
    /// Nothing at all.
    #[error("a name is missing")]
    Empty,
}

impl FromStr for NamePattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let bracket = || NameError::Bracket(text.to_owned());
        let mut parts = Vec::new();
        let mut count = 1usize;
        let mut rest = text;
        while let Some(open) = rest.find(['[', ']']) {
            let (before, after) = rest.split_at(open);
            let inside = after.strip_prefix('[').ok_or_else(bracket)?;
            let close = inside.find(['[', ']']).ok_or_else(bracket)?;
            rest = inside[close..].strip_prefix(']').ok_or_else(bracket)?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let runs =
                inside[..close].split(',').map(|run| Run::parse(run, text)).collect::<Result<Vec<_>, _>>()?;
            let numbers = runs.iter().fold(0usize, |sum, run| sum.saturating_add(run.count()));
            count = count.saturating_mul(numbers);
            parts.push(Part::Numbers(runs));
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if count > MAX_NAMES {
            return Err(NameError::TooMany(text.to_owned()));
        }
        let pattern = NamePattern { text: text.to_owned(), parts, count };
        let all_hold = pattern.names().all(|name| is_label(&name));
        if all_hold { Ok(pattern) } else { Err(NameError::Label(text.to_owned())) }
    }
}

impl Run {
    fn parse(run: &str, whole: &str) -> Result<Self, NameError> {
        let malformed = || NameError::Range(whole.to_owned(), run.to_owned());
        let number = |digits: &str| match digits.bytes().all(|b| b.is_ascii_digit()) {
            true => digits.parse::<u32>().map_err(|_| malformed()),
            false => Err(malformed()),
        };
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        // `01-16` pads to two digits; `1-16` does not pad.
        let width = if first.len() > 1 && first.starts_with('0') { first.len() } else { 0 };
        let (first, last) = (number(first)?, number(last)?);
        if last < first {
            return Err(NameError::Backwards(whole.to_owned(), run.to_owned()));
        }
        Ok(Run { first, last, width })
    }

    fn count(self) -> usize {
        (self.last - self.first) as usize + 1
    }
}

impl NamePattern {
    /// How many names it stands for.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether it has a range: one name in brackets is a range too.
    pub fn is_range(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Numbers(_)))
    }

    /// Every name, counting up, the last range first.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.count).map(|index| self.name(index))
    }

    fn name(&self, mut index: usize) -> String {
        let mut pieces = Vec::with_capacity(self.parts.len());
        for part in self.parts.iter().rev() {
            match part {
                Part::Text(text) => pieces.push(text.clone()),
                Part::Numbers(runs) => {
                    let numbers: usize = runs.iter().map(|run| run.count()).sum();
                    pieces.push(nth(runs, index % numbers));
                    index /= numbers;
                }
            }
        }
        pieces.reverse();
        pieces.concat()
    }
}

/// The number at this place in runs that are counted through one after the other.
fn nth(runs: &[Run], mut index: usize) -> String {
    for run in runs {
        if index < run.count() {
            return format!("{:0width$}", run.first as usize + index, width = run.width);
        }
        index -= run.count();
    }
    String::new()
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether this is a DNS label as a host may have it (RFC 1123 2.1), in lower case.
pub fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Nodes named on the command line: `n[1-40],m3`, in that order, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSet {
    names: Vec<String>,
}

impl NodeSet {
    /// The names.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

impl FromStr for NodeSet {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut names = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let mut depth = 0usize;
        let patterns = text.split(|c| {
            match c {
                '[' => depth += 1,
                ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && (c == ',' || c == ' ')
        });
        for pattern in patterns.filter(|pattern| !pattern.is_empty()) {
            names.extend(pattern.parse::<NamePattern>()?.names().filter(|name| seen.insert(name.clone())));
            if names.len() > MAX_NAMES {
                return Err(NameError::TooMany(text.to_owned()));
            }
        }
        if names.is_empty() {
            return Err(NameError::Empty);
        }
        Ok(NodeSet { names })
    }
}

impl<S: Into<String>> FromIterator<S> for NodeSet {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        NodeSet { names: names.into_iter().map(Into::into).collect() }
    }
}

impl fmt::Display for NodeSet {
    /// Folded back: neighbours that count up become a range. What is printed reads back as the same set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = self.names.iter().peekable();
        let mut comma = "";
        while let Some(name) = names.next() {
            f.write_str(comma)?;
            comma = ",";
            let Some((stem, first)) = numbered(name) else {
                f.write_str(name)?;
                continue;
            };
            let mut runs = vec![(first, first)];
            while let Some((_, number)) =
                names.peek().and_then(|next| numbered(next)).filter(|(next, _)| *next == stem)
            {
                let (_, last) = runs[runs.len() - 1];
                if follows(last, number) {
                    let end = runs.len() - 1;
                    runs[end].1 = number;
                } else {
                    runs.push((number, number));
                }
                names.next();
            }
            if let [(first, last)] = runs[..]
                && first == last
            {
                f.write_str(name)?;
                continue;
            }
            let runs: Vec<String> = runs
                .iter()
                .map(
                    |(first, last)| {
                        if first == last { (*first).to_owned() } else { format!("{first}-{last}") }
                    },
                )
                .collect();
            write!(f, "{stem}[{}]", runs.join(","))?;
        }
        Ok(())
    }
}

/// A name split before its last digits.
fn numbered(name: &str) -> Option<(&str, &str)> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &name[stem.len()..];
    (!digits.is_empty() && digits.len() < 10).then_some((stem, digits))
}

/// Whether `next` is one more than `last`, written alike: 9 then 10, 09 then 10, but not 09 then 010.
fn follows(last: &str, next: &str) -> bool {
    let padded = last.len() > 1 && last.starts_with('0');
    let (Ok(a), Ok(b)) = (last.parse::<u32>(), next.parse::<u32>()) else { return false };
    b == a + 1 && (next.len() == last.len() || (!padded && !next.starts_with('0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(pattern: &str) -> Vec<String> {
        pattern.parse::<NamePattern>().unwrap().names().collect()
    }

    #[test]
    fn a_range_counts_up() {
        assert_eq!(names("n[1-3]"), ["n1", "n2", "n3"]);
        assert_eq!(names("n[08-10]x"), ["n08x", "n09x", "n10x"]);
        assert_eq!(names("r[1-2]n[1,5-6]"), ["r1n1", "r1n5", "r1n6", "r2n1", "r2n5", "r2n6"]);
        assert_eq!(names("firstslave"), ["firstslave"]);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in [
            "n[1-",
            "n1-3]",
            "n[[1-3]]",
            "n[]",
            "n[3-1]",
            "n[a-b]",
            "n[1--3]",
            "n[1-4294967295]",
            "n[+1]",
            "",
        ] {
            assert!(text.parse::<NamePattern>().is_err(), "{text}");
        }
        for text in ["N1", "-n", "n_1", "n1.x", "n[1-3]-", &"n".repeat(64)] {
            assert_eq!(text.parse::<NamePattern>(), Err(NameError::Label(text.to_owned())));
        }
    }

    #[test]
    fn a_set_folds_back() {
        for (text, folded) in [
            ("n[1-40],m3", "n[1-40],m3"),
            ("n1,n2,n3,n7", "n[1-3,7]"),
            ("n[01-12]", "n[01-12]"),
            ("n9,n10,n1", "n[9-10,1]"),
            ("n09,n10,n010", "n[09-10,010]"),
            ("a b, c", "a,b,c"),
            ("n1,n1", "n1"),
        ] {
            assert_eq!(text.parse::<NodeSet>().unwrap().to_string(), folded);
        }
    }

    proptest! {
        #[test]
        fn folding_loses_nothing(names in prop::collection::vec("[ab]{1,2}[0-9]{0,3}", 1..30)) {
            let set: NodeSet = names.join(",").parse().unwrap();
            prop_assert_eq!(set.to_string().parse::<NodeSet>().unwrap(), set);
        }
    }
}
