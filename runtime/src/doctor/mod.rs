//! What keeps a node from seeing the others, found out: what the openMosix manual tells to look at (10.1, 10.2.7),
//! each with the mend.
//!
//! A check is a function over plain values that says a [`Finding`]; what reads those values of this machine is in
//! [`read`]. [`node`] puts them together for a node; the master does the same for itself, with what it alone knows.

pub mod agent;
pub mod clock;
pub mod firewall;
pub mod hosts;
pub mod kernel;
pub mod members;
pub mod network;
pub mod node;
pub mod read;
mod sys;

use std::fmt;

use serde::Serialize;

/// How it is with what was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Worth knowing: the cluster works with it, or it could not be looked at.
    Warn,
    /// Wrong.
    Fail,
}

/// What one check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it is.
    pub verdict: Verdict,
    /// What was looked at.
    pub what: &'static str,
    /// What was found.
    pub finding: String,
    /// What to do about it; none where nothing is to be done.
    pub mend: Option<String>,
}

impl Finding {
    /// It is as it should be.
    pub fn ok(what: &'static str, finding: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, what, finding: unnumbered(finding.into()), mend: None }
    }

    /// It is worth knowing.
    pub fn warn(what: &'static str, finding: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, what, finding: unnumbered(finding.into()), mend: Some(mend.into()) }
    }

    /// It is wrong.
    pub fn fail(what: &'static str, finding: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, what, finding: unnumbered(finding.into()), mend: Some(mend.into()) }
    }

    /// The same, no worse than a warning.
    #[must_use]
    pub fn at_most_warn(self) -> Self {
        match self.verdict {
            Verdict::Fail => Self { verdict: Verdict::Warn, ..self },
            _ => self,
        }
    }
}

/// All that was found, in the order in which it is to be mended. As text it is a line a check, and below what is not
/// as it should be an indented one with the mend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Report(pub Vec<Finding>);

impl Report {
    /// Whether nothing is wrong.
    pub fn is_well(&self) -> bool {
        self.0.iter().all(|finding| finding.verdict != Verdict::Fail)
    }

    /// As JSON: a list of findings.
    pub fn json(&self) -> String {
        // Of strings alone, which JSON can always write.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Finding { verdict, what, finding, mend }) in self.0.iter().enumerate() {
            let verdict = match verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            let line = if index == 0 { "" } else { "\n" };
            write!(f, "{line}{verdict:4}  {what}: {}", plain(finding))?;
            if let Some(mend) = mend {
                write!(f, "\n      {}", plain(mend))?;
            }
        }
        Ok(())
    }
}

/// Errors of the system without their numbers, which say nothing to whoever reads the words.
fn unnumbered(mut text: String) -> String {
    const NUMBER: &str = " (os error ";
    while let Some(start) = text.find(NUMBER) {
        let Some(length) = text[start..].find(')') else { break };
        text.replace_range(start..=start + length, "");
    }
    text
}

/// Text for a terminal, in one line: what others made up must not steer it.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `n1, n2, n3 and 4 more`.
pub fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    /// So many are named.
    const NAMED: usize = 8;
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match items.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!("{} and {more} more", items[..NAMED].join(", ")),
        _ => items.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_line_a_check_and_the_mend_below() {
        let report = Report(vec![
            Finding::ok("agent", "it answers"),
            Finding::warn("clock", "2 s behind", "see `date`"),
            Finding::fail("route", "none\u{1b}[2J", "add one"),
        ]);
        assert_eq!(
            report.to_string(),
            "ok    agent: it answers\nwarn  clock: 2 s behind\n      see `date`\n\
             FAIL  route: none\u{fffd}[2J\n      add one"
        );
        assert!(!report.is_well() && Report(report.0[..2].to_vec()).is_well());
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((&json[2]["verdict"], &json[0]["mend"]), (&"fail".into(), &serde_json::Value::Null));
    }

    #[test]
    fn errors_have_no_numbers() {
        let error = std::io::Error::from_raw_os_error(libc::ENETUNREACH);
        assert_eq!(Finding::ok("x", format!("n1 ({error}); n2")).finding, "n1 (Network is unreachable); n2");
        assert_eq!(unnumbered("of (os error ".into()), "of (os error ");
    }

    #[test]
    fn a_long_list_is_cut() {
        assert_eq!(list(1..=3), "1, 2, 3");
        assert_eq!(list(1..=10), "1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
    }
}
