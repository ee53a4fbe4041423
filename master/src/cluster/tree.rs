//! A YAML document as a tree in which every node knows its place in the file.
//!
//! serde stops at the first thing that does not fit; a file with ten mistakes is to be told all ten
//! in one run. So the parser's events make this tree, and [`super::read`] reads wire types from it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use serde_saphyr::granit_parser::{ErrorKind, Event, Marker, Parser, Span as YamlSpan, StructureStyle};

use super::problem::{Problems, Span};

/// A larger file is refused before it is parsed: 100,000 nodes fit several times.
pub(super) const MAX_BYTES: usize = 32 << 20;

/// Nodes of the tree with aliases followed, so that a few lines of aliases cannot stand for billions.
const MAX_NODES: usize = 4_000_000;

/// One value, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Tree<'t> {
    /// The value itself, up to its last character; its key where nothing is written; the alias where
    /// one stands for it.
    pub span: Span,
    /// The key that it belongs to, where there is one.
    pub under: Span,
    pub kind: Kind<'t>,
}

/// What a value is; collections are shared, so that an alias costs nothing.
#[derive(Clone, Debug)]
pub(super) enum Kind<'t> {
    /// Nothing, `~` or `null`.
    Null,
    Scalar(Cow<'t, str>),
    List(Rc<[Tree<'t>]>),
    Map(Rc<Map<'t>>),
}

/// A mapping, in the order of the file.
#[derive(Debug)]
pub(super) struct Map<'t> {
    pub entries: Vec<Entry<'t>>,
    /// `{…}`, not one key a line.
    pub flow: bool,
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct Entry<'t> {
    pub key: Cow<'t, str>,
    pub key_span: Span,
    pub value: Tree<'t>,
}

impl Kind<'_> {
    /// What to call it in a message.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Kind::Null => "nothing",
            Kind::Scalar(_) => "a single value",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}

/// Parses one document; `None` with at least one problem noted where it is no YAML.
pub(super) fn parse<'t>(text: &'t str, problems: &mut Problems) -> Option<Tree<'t>> {
    if text.len() > MAX_BYTES {
        problems.add(
            Span { line: 1, ..Span::default() },
            format!("the file is larger than {} MiB", MAX_BYTES >> 20),
        );
        return None;
    }
    let mut options = serde_saphyr::granit_parser::options! {};
    options.set_emit_comments(false);
    let mut builder = Builder { stack: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None };
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => builder.event(event, Place::of(span), problems)?,
            Err(error) => {
                let place = place(*error.marker());
                problems.add(place, format!("this is no YAML: {}", error.info())).mend(mend(error.kind()));
                return None;
            }
        }
    }
    if builder.root.is_none() {
        let start = Span { line: 1, ..Span::default() };
        problems
            .add(start, "the file is empty")
            .mend("`tesela init` writes a first one from this machine's interfaces");
    }
    builder.root
}

/// What whoever wrote it can do about a text that is no YAML.
fn mend(error: &ErrorKind) -> &'static str {
    use ErrorKind as E;
    match error {
        E::TabNotAllowed | E::TabInBlockIndentation | E::TabInIndentation | E::TabAtBlockScalarStart => {
            "indent with spaces: YAML takes no tabs there"
        }
        E::UnclosedQuotedScalar
        | E::InvalidTrailingSingleQuotedScalar
        | E::InvalidTrailingDoubleQuotedScalar
        | E::InvalidQuotedScalarIndent
        | E::DocumentIndicatorInQuotedScalar => {
            "let the text end with the quote that it begins with, and nothing follow it"
        }
        E::UnknownQuotedScalarEscape | E::InvalidQuotedScalarHexEscape => {
            "write `\\\\` for a backslash, or put the text in single quotes"
        }
        E::UnexpectedEofFlowSequence
        | E::UnexpectedEofFlowMapping
        | E::UnexpectedEofImplicitFlowMapping
        | E::ExpectedFlowMappingSeparator
        | E::ExpectedFlowSequenceSeparator
        | E::MisplacedFlowCollectionEnd
        | E::MismatchedFlowCollectionEnd { .. }
        | E::UnclosedFlowCollection { .. }
        | E::InvalidFlowScalarIndent
        | E::BlockEntryInFlowCollection => {
            "close each `{` with `}` and each `[` with `]`, and put commas between what stands in them"
        }
        E::SimpleKeyExpected
        | E::InvalidSimpleKey
        | E::MappingKeyNotAllowed
        | E::MappingValueNotAllowed
        | E::InvalidMappingValueWhitespace
        | E::InvalidColonPlacement => {
            "write one `key: value` a line, with a space behind the colon; a value with a colon goes in quotes"
        }
        E::InvalidIndentation
        | E::ExpectedBlockMappingKey
        | E::ExpectedBlockSequenceEntry
        | E::BlockSequenceEntryNotAllowed
        | E::InvalidBlockScalarIndent
        | E::UnexpectedEofBlockMapping
        | E::UnexpectedEofBlockSequence => "let the keys of one mapping begin in the same column",
        E::UnknownAnchor | E::MissingAnchorOrAliasName | E::UnexpectedCharacter { .. } => {
            "put a value that begins with a sign of YAML's own (`*`, `&`, `!`, `%`, `@`, a backtick) in quotes"
        }
        _ => {
            "look at this line and the one above: a colon, a quote, a comma or a bracket is missing or one too many"
        }
    }
}

/// Where an event begins and ends.
#[derive(Clone, Copy)]
struct Place(Span);

impl Place {
    fn of(span: YamlSpan) -> Self {
        Place(Span { end: offset(span.end), ..place(span.start) })
    }
}

fn place(marker: Marker) -> Span {
    Span { start: offset(marker), end: offset(marker), line: marker.line() }
}

fn offset(marker: Marker) -> usize {
    // Always there for text that lies in memory.
    marker.byte_offset().unwrap_or(marker.index())
}

struct Builder<'t> {
    stack: Vec<Open<'t>>,
    /// What each anchor stands for, with the number of nodes in it.
    anchors: HashMap<usize, (Tree<'t>, usize)>,
    nodes: usize,
    root: Option<Tree<'t>>,
}

/// A collection whose end has not come yet.
struct Open<'t> {
    span: Span,
    anchor: usize,
    nodes_before: usize,
    content: Content<'t>,
}

enum Content<'t> {
    List(Vec<Tree<'t>>),
    Map { entries: Vec<Entry<'t>>, flow: bool, key: Option<Tree<'t>> },
}

impl<'t> Builder<'t> {
    /// `None` where there is no point in going on.
    fn event(&mut self, event: Event<'t>, Place(span): Place, problems: &mut Problems) -> Option<()> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                problems.add(span, "a second document begins here").mend(
                    "a cluster is one document: remove the `---`, or put the rest into a file of its own",
                );
                return None;
            }
            Event::Scalar(text, style, anchor, tag) => {
                if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
                    problems
                        .add(span, format!("the tag `{}` has no meaning here", tag.original()))
                        .mend("remove it");
                }
                let plain = style == serde_saphyr::granit_parser::ScalarStyle::Plain;
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let kind = if null { Kind::Null } else { Kind::Scalar(text) };
                self.close(Tree { span, under: span, kind }, anchor, self.nodes, problems)?;
            }
            Event::SequenceStart(_, anchor, _) => self.open(span, anchor, Content::List(Vec::new())),
            Event::MappingStart(style, anchor, _) => {
                let flow = style == StructureStyle::Flow;
                self.open(span, anchor, Content::Map { entries: Vec::new(), flow, key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let open = self.stack.pop()?;
                // Without a bracket the parser sees the end of a collection where the next thing begins.
                let bracket = (span.end > span.start).then_some(span.end);
                let (kind, last) = match open.content {
                    Content::List(items) => {
                        let last = items.last().map(|item| item.span.end);
                        (Kind::List(items.into()), last)
                    }
                    Content::Map { entries, flow, .. } => {
                        let last = entries.last().map(|entry| entry.value.span.end.max(entry.key_span.end));
                        (Kind::Map(Rc::new(Map { entries, flow })), last)
                    }
                };
                let span = Span { end: bracket.or(last).unwrap_or(open.span.end), ..open.span };
                self.close(Tree { span, under: span, kind }, open.anchor, open.nodes_before, problems)?;
            }
            Event::Alias(anchor) => {
                let Some((mut tree, weight)) = self.anchors.get(&anchor).cloned() else {
                    problems.add(span, "an alias stands inside of what it stands for");
                    return None;
                };
                self.nodes += weight;
                tree.span = span;
                self.close(tree, 0, self.nodes, problems)?;
            }
            _ => {}
        }
        Some(())
    }

    fn open(&mut self, span: Span, anchor: usize, content: Content<'t>) {
        self.stack.push(Open { span, anchor, nodes_before: self.nodes, content });
    }

    /// Hands a whole value to the collection that it stands in.
    fn close(
        &mut self,
        mut tree: Tree<'t>,
        anchor: usize,
        nodes_before: usize,
        problems: &mut Problems,
    ) -> Option<()> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            problems.add(tree.span, format!("the file comes to more than {MAX_NODES} values"));
            return None;
        }
        if anchor > 0 {
            self.anchors.insert(anchor, (tree.clone(), self.nodes - nodes_before));
        }
        match self.stack.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(tree),
            Some(Content::List(items)) => items.push(tree),
            Some(Content::Map { entries, key, .. }) => match key.take() {
                None => *key = Some(tree),
                Some(Tree { kind: Kind::Scalar(name), span, .. }) => {
                    if matches!(tree.kind, Kind::Null) && tree.span.start == tree.span.end {
                        tree.span = span;
                    }
                    tree.under = span;
                    entries.push(Entry { key: name, key_span: span, value: tree });
                }
                Some(key) => {
                    problems.add(key.span, format!("a key must be a word, and this is {}", key.kind.what()));
                }
            },
        }
        Some(())
    }
}
