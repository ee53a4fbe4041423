//! What is wrong with a cluster.yaml, told with file, line, column, caret and mend.

use std::fmt::{self, Write as _};
use std::ops::Range;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource};
use serde::Serialize;

/// Problems beyond this many are only counted: no one mends more of them in one go.
const MOST_TOLD: usize = 1000;

/// A stretch of the file, in bytes, and the line (from 1) that it begins on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
    pub line: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The bytes of the file that are meant.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub mend: Option<String>,
    /// Another place that has a part in it, and what part: the first of two duplicates.
    pub also: Option<(Range<usize>, String)>,
}

impl Problem {
    /// Says how to mend it.
    pub(super) fn mend(&mut self, mend: impl Into<String>) -> &mut Self {
        self.mend = Some(mend.into());
        self
    }

    /// Points to another place that has a part in it.
    pub(super) fn also(&mut self, span: Span, part: impl Into<String>) -> &mut Self {
        self.also = Some((span.start..span.end, part.into()));
        self
    }
}

/// All that is wrong with one file, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// The file's name, as the user gave it.
    pub file: String,
    /// Each problem; never empty where parsing failed.
    pub list: Vec<Problem>,
    /// How many more there are than are listed.
    pub untold: usize,
    #[serde(skip)]
    text: String,
}

impl std::error::Error for Problems {}

impl Problems {
    pub(super) fn new(file: &str, text: &str) -> Self {
        Problems { file: file.to_owned(), list: Vec::new(), untold: 0, text: text.to_owned() }
    }

    /// Notes a problem at `span`.
    pub(super) fn add(&mut self, span: Span, message: impl Into<String>) -> &mut Problem {
        if self.list.len() >= MOST_TOLD {
            self.untold += 1;
            self.list.truncate(MOST_TOLD);
        }
        let start = floor(&self.text, span.start);
        let before = &self.text[..start];
        let line_start = before.rfind(['\n', '\r']).map_or(0, |at| at + 1);
        // A caret under the first line of a long value says as much as a frame around all of it.
        let end = floor(&self.text, span.end).max(start);
        let end = self.text[start..end].find(['\n', '\r']).map_or(end, |line_end| start + line_end);
        self.list.push(Problem {
            line: span.line,
            column: before[line_start..].chars().count() + 1,
            span: start..end,
            message: message.into(),
            mend: None,
            also: None,
        });
        self.list.last_mut().expect("one was just pushed")
    }

    /// `true` as long as nothing is wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Puts them in the order of the file, once all are known.
    pub(super) fn in_order(mut self) -> Self {
        self.list.truncate(MOST_TOLD);
        self.list.sort_by_key(|problem| (problem.span.start, problem.span.end));
        self
    }

    /// How many problems there are.
    pub fn count(&self) -> usize {
        self.list.len() + self.untold
    }

    /// As a person at a terminal of `width` columns reads them.
    pub fn graphical(&self, width: usize, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(width);
        let source = NamedSource::new(&self.file, self.text.clone());
        let mut out = String::new();
        for problem in &self.list {
            let told = handler.render_report(&mut out, &Told { problem, source: &source });
            out.push('\n');
            if told.is_err() {
                // A span that miette cannot show is still told in words.
                let _ =
                    writeln!(out, "{}:{}:{}: {}", self.file, problem.line, problem.column, problem.message);
            }
        }
        out + &self.summary()
    }

    fn summary(&self) -> String {
        let s = if self.count() == 1 { "" } else { "s" };
        let listed = if self.untold > 0 {
            format!(", of which the first {MOST_TOLD} are listed")
        } else {
            String::new()
        };
        format!("{} problem{s} in {}{listed}\n", self.count(), self.file)
    }
}

impl fmt::Display for Problems {
    /// As a log or another program reads them: `file:line:column: message`, the line, a caret, the mend.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            let Problem { line, column, span, message, mend, .. } = problem;
            writeln!(f, "{}:{line}:{column}: {message}", self.file)?;
            let start = self.text[..span.start].rfind(['\n', '\r']).map_or(0, |at| at + 1);
            let excerpt = self.text[start..].split(['\n', '\r']).next().unwrap_or_default();
            let pad: String =
                excerpt.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let carets = "^".repeat(self.text[span.clone()].chars().count().max(1));
            writeln!(f, "{line:>5} | {excerpt}\n      | {pad}{carets}")?;
            if let Some((place, part)) = &problem.also {
                let line = self.text[..place.start].matches('\n').count() + 1;
                writeln!(f, "      = {part}: line {line}")?;
            }
            if let Some(mend) = mend {
                writeln!(f, "      = mend: {mend}")?;
            }
        }
        f.write_str(&self.summary())
    }
}

/// A problem as miette sees it, with the text that it is about.
#[derive(Debug)]
struct Told<'a> {
    problem: &'a Problem,
    source: &'a NamedSource<String>,
}

impl std::error::Error for Told<'_> {}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl miette::Diagnostic for Told<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.problem.mend.as_ref().map(|mend| Box::new(mend) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let here = LabeledSpan::new_primary_with_span(None, self.problem.span.clone());
        let also = self
            .problem
            .also
            .iter()
            .map(|(span, part)| LabeledSpan::new_with_span(Some(part.clone()), span.clone()));
        Some(Box::new(std::iter::once(here).chain(also)))
    }
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
