//! New entries of `nodes` put into the text of a cluster.yaml: one line each, everything else byte for byte
//! as it was.

use std::net::Ipv4Addr;
use std::ops::Range;

use super::model::Cluster;
use super::plan::{Change, Difference, Part, plan};
use super::problem::{Problem, Problems};
use super::tree::{self, Kind, Map, Tree};
use super::{Mac, Uuid, parse};

/// An entry to put into cluster.yaml: a new node, or what refines a node of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Its name.
    pub name: String,
    /// Known by this hardware address.
    pub mac: Option<Mac>,
    /// Known by this UUID.
    pub uuid: Option<Uuid>,
    /// Its address, where it has one of its own.
    pub address: Option<Ipv4Addr>,
    /// Its profile; `None` only where its range gives one.
    pub profile: Option<String>,
}

/// Why nodes were not put in.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InsertError {
    /// The file does not hold as it is; the fault of whoever wrote it.
    #[error("the file does not hold as it is, so nothing was put in:\n{0}")]
    Before(Problems),
    /// The file would not hold with the new nodes.
    #[error("the file would not hold with the new nodes, so nothing was put in:\n{0}")]
    After(Problems),
    /// `nodes` stands in braces, where a line cannot be put in.
    #[error("line {0}: `nodes` stands in braces; write it with one node a line, and try again")]
    Braces(usize),
    /// The text is laid out in a way that this function does not see through.
    #[error("line {0}: the new lines would change more than they add; put them in by hand:\n{1}")]
    Layout(usize, String),
}

/// The text with one line more for each node, at the end of `nodes`.
///
/// The result was parsed: it is the old cluster with those nodes, or with that said of nodes of a range, and
/// nothing else is otherwise.
///
/// # Errors
/// See [`InsertError`]; the text is then to be left as it is.
pub fn insert_nodes(text: &str, nodes: &[NewNode]) -> Result<String, InsertError> {
    let old = parse(text, "cluster.yaml").map_err(InsertError::Before)?;
    if nodes.is_empty() {
        return Ok(text.to_owned());
    }
    let mut problems = Problems::new("cluster.yaml", text);
    let tree = tree::parse(text, &mut problems).ok_or(InsertError::Before(problems))?;
    let place = Place::find(text, &tree)?;
    let lines = place.lines(nodes);
    let (before, behind) = (&text[..place.instead.start], &text[place.instead.end..]);
    let new_text = format!("{before}{}{lines}{behind}", place.before);
    let first = format!("{before}{}", place.before).matches('\n').count() + 1;
    let new_lines = first..first + nodes.len();
    match parse(&new_text, "cluster.yaml") {
        Ok(new) if adds_only(&old, &new, nodes) => Ok(new_text),
        Err(problems) if problems.list.iter().all(|problem| is_of(problem, &new_text, &new_lines)) => {
            Err(InsertError::After(problems))
        }
        _ => Err(InsertError::Layout(place.line, lines)),
    }
}

/// Whether one of these lines has a part in a problem.
fn is_of(problem: &Problem, text: &str, lines: &Range<usize>) -> bool {
    let also = problem.also.as_ref().map(|(span, _)| text[..span.start].matches('\n').count() + 1);
    lines.contains(&problem.line) || also.is_some_and(|line| lines.contains(&line))
}

/// Whether `new` is `old` with these nodes, and nothing else is otherwise.
fn adds_only(old: &Cluster, new: &Cluster, nodes: &[NewNode]) -> bool {
    let plan = plan(old, new);
    let as_asked = |node: &NewNode| {
        new.node(&node.name).is_some_and(|new| {
            let address = new.address.as_ref().map(|address| address.value);
            new.mac.as_ref().map(|mac| mac.value) == node.mac
                && new.uuid.as_ref().map(|uuid| uuid.value) == node.uuid
                && node.address.is_none_or(|wanted| address == Some(wanted))
                && node
                    .profile
                    .iter()
                    .all(|profile| new.choices.iter().map(|choice| &choice.profile).eq([profile]))
        })
    };
    let meant = |part: &Part| {
        let Some(node) = nodes.iter().find(|node| node.name == part.name) else { return false };
        match &part.difference {
            Difference::Added => old.node(&node.name).is_none(),
            Difference::Changed(changes) => {
                let bound = |change: &Change| matches!(change.setting.as_str(), "mac" | "uuid" | "address");
                node.profile.is_some() || changes.iter().all(bound)
            }
            Difference::Removed => false,
        }
    };
    plan.master.is_empty()
        && plan.images.is_empty()
        && plan.profiles.is_empty()
        && plan.pools.is_empty()
        && plan.nodes.len() == nodes.len()
        && plan.nodes.iter().all(meant)
        && nodes.iter().all(as_asked)
}

/// Where the new lines go.
pub(super) struct Place {
    /// The bytes that they take the place of: empty, but for `{}`.
    pub instead: Range<usize>,
    /// What comes before the first of them.
    pub before: String,
    indent: String,
    /// The column, from 0, at which the last node's value begins, if on its own line.
    column: usize,
    newline: &'static str,
    /// The line, from 1, that they come after.
    line: usize,
}

impl Place {
    pub fn find(text: &str, tree: &Tree<'_>) -> Result<Self, InsertError> {
        let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
        let here = |instead: Range<usize>, before: String, line| Place {
            instead,
            before,
            indent: "  ".to_owned(),
            column: 0,
            newline,
            line,
        };
        let break_before = |at: usize| if at == 0 || text[..at].ends_with('\n') { "" } else { newline };
        let Kind::Map(root) = &tree.kind else { return Err(InsertError::Braces(tree.span.line)) };
        let Some(nodes) = root.entries.iter().find(|entry| entry.key == "nodes") else {
            let end = text.len();
            return Ok(here(end..end, format!("{}nodes:{newline}", break_before(end)), text.lines().count()));
        };
        let (key, value, line) = (nodes.key_span, nodes.value.span, nodes.key_span.line);
        match &nodes.value.kind {
            Kind::Null if value == key => {
                let end = line_end(text, key.end);
                Ok(here(end..end, break_before(end).to_owned(), line))
            }
            Kind::Map(map) if !map.flow => Self::after(text, map, newline).ok_or(InsertError::Braces(line)),
            Kind::Map(map) if !map.entries.is_empty() || !is_blank(&text[value.start..value.end]) => {
                Err(InsertError::Braces(line))
            }
            // `{}` and `~` go; what stands behind them stays.
            Kind::Map(_) | Kind::Null => {
                let end = line_end(text, value.end);
                Ok(here(key.end..end, format!(":{}{newline}", text[value.end..end].trim_end()), line))
            }
            Kind::Scalar(_) | Kind::List(_) => Err(InsertError::Braces(line)),
        }
    }

    /// After the last node of a mapping with one node a line.
    fn after(text: &str, map: &Map<'_>, newline: &'static str) -> Option<Self> {
        let last = map.entries.last()?;
        let (key, value) = (last.key_span, last.value.span);
        let start = text[..key.start].rfind('\n').map_or(0, |at| at + 1);
        let indent = &text[start..key.start];
        if !indent.chars().all(|c| c == ' ') {
            return None;
        }
        let content_end = value.end.max(key.end);
        // A block scalar ends at the start of a line, everything else within one.
        let end = if text[..content_end].ends_with('\n') { content_end } else { line_end(text, content_end) };
        let same_line = value.line == key.line && value.start > key.end;
        Some(Place {
            instead: end..end,
            before: if text[..end].ends_with('\n') { "" } else { newline }.to_owned(),
            indent: indent.to_owned(),
            column: if same_line { value.start - key.start } else { 0 },
            newline,
            line: text[..end].matches('\n').count(),
        })
    }

    /// A line for each node.
    fn lines(&self, nodes: &[NewNode]) -> String {
        let entry = |node: &NewNode| {
            let NewNode { name: _, mac, uuid, address, profile } = node;
            let mut settings: Vec<String> = Vec::new();
            settings.extend(mac.map(|mac| format!("mac: {mac}")));
            settings.extend(uuid.map(|uuid| format!("uuid: {uuid}")));
            settings.extend(address.map(|address| format!("address: {address}")));
            settings.extend(profile.as_ref().map(|profile| format!("profile: {}", word(profile))));
            format!("{{{}}}", settings.join(", "))
        };
        let lines: Vec<(&str, String)> = nodes.iter().map(|node| (node.name.as_str(), entry(node))).collect();
        self.lines_of(&lines)
    }

    /// A line for each name and value.
    pub fn lines_of(&self, entries: &[(&str, String)]) -> String {
        let Place { indent, column, newline, .. } = self;
        let line = |(name, value): &(&str, String)| {
            let key = format!("{}:", word(name));
            let pad = column.saturating_sub(key.len()).max(1);
            format!("{indent}{key}{:pad$}{value}{newline}", "")
        };
        entries.iter().map(line).collect()
    }
}

/// A name as YAML takes it for a string.
pub(super) fn word(name: &str) -> String {
    if name == "null" { format!("\"{name}\"") } else { name.to_owned() }
}

/// Whether nothing but blanks stands between the braces.
fn is_blank(braces: &str) -> bool {
    braces.trim_matches(['{', '}']).trim().is_empty()
}

/// Just behind the line break that ends the line of `at`, or the end of the text.
pub(super) fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |end| at + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "cluster: a\nmaster: {interface: eth1, address: 10.0.0.1/24, range: 10.0.0.100-10.0.0.199}\n\
                        images: {base: {from: debian:bookworm}}\nprofiles: {node: {image: base}}\n";

    fn node(name: &str, last: u8) -> NewNode {
        NewNode {
            name: name.to_owned(),
            mac: Some(Mac([2, 0, 0, 0, 0, last])),
            uuid: None,
            address: Some(Ipv4Addr::new(10, 0, 0, last)),
            profile: Some("node".to_owned()),
        }
    }

    /// What becomes of the text behind the head.
    fn put(nodes: &str) -> String {
        let text = format!("{HEAD}{nodes}");
        let new = insert_nodes(&text, &[node("n8", 8), node("n9", 9)])
            .unwrap_or_else(|error| panic!("{nodes:?}: {error}"));
        new.strip_prefix(HEAD).unwrap().to_owned()
    }

    const N8: &str = "n8: {mac: 02:00:00:00:00:08, address: 10.0.0.8, profile: node}";
    const N9: &str = "n9: {mac: 02:00:00:00:00:09, address: 10.0.0.9, profile: node}";

    #[test]
    fn nodes_come_after_the_last_one() {
        let new = put("nodes: # ours\n  m: {profile: node}   # the first\n\n  # what follows\npools: {}\n");
        assert_eq!(
            new,
            format!(
                "nodes: # ours\n  m: {{profile: node}}   # the first\n  {N8}\n  {N9}\n\n  # what follows\npools: {{}}\n"
            )
        );
        let new = put("nodes:\n    m:\n        profile:\n            - node\n    # the end\npools:\n");
        assert_eq!(
            new,
            format!(
                "nodes:\n    m:\n        profile:\n            - node\n    {N8}\n    {N9}\n    # the end\npools:\n"
            )
        );
    }

    #[test]
    fn columns_and_line_ends_are_kept() {
        let new = put("nodes:\r\n  firstslave: {profile: node}\r\n");
        let [n8, n9] = [N8, N9].map(|line| line.replacen(": ", ":         ", 1));
        assert_eq!(new, format!("nodes:\r\n  firstslave: {{profile: node}}\r\n  {n8}\r\n  {n9}\r\n"));
        assert_eq!(
            put("nodes:\n  m: {profile: node}"),
            format!("nodes:\n  m: {{profile: node}}\n  {N8}\n  {N9}\n")
        );
    }

    #[test]
    fn nodes_are_begun_where_there_are_none() {
        for (nodes, kept) in [
            ("", "nodes:\n"),
            ("nodes:", "nodes:\n"),
            ("nodes: {} # none\n", "nodes: # none\n"),
            ("nodes: ~\n", "nodes:\n"),
            ("nodes:   # none\n", "nodes:   # none\n"),
        ] {
            assert_eq!(put(nodes), format!("{kept}  {N8}\n  {N9}\n"), "{nodes:?}");
        }
    }

    #[test]
    fn a_node_of_a_range_is_given_its_machine() {
        let range = "nodes:\n  n[1-8]: {address: 10.0.0.11, profile: node}\n";
        let bound = |name, last| NewNode { address: None, profile: None, ..node(name, last) };
        let text = insert_nodes(&format!("{HEAD}{range}"), &[bound("n8", 8), bound("n3", 3)]).unwrap();
        let lines = "  n8:     {mac: 02:00:00:00:00:08}\n  n3:     {mac: 02:00:00:00:00:03}\n";
        assert_eq!(text, format!("{HEAD}{range}{lines}"));
        let elsewhere = NewNode { address: Some(Ipv4Addr::new(10, 0, 0, 60)), ..bound("n2", 2) };
        let text = insert_nodes(&text, &[elsewhere]).unwrap();
        assert!(text.ends_with("  n2:     {mac: 02:00:00:00:00:02, address: 10.0.0.60}\n"), "{text}");
    }

    #[test]
    fn what_would_not_hold_is_refused() {
        let text = format!("{HEAD}nodes:\n  n[1-8]: {{address: 10.0.0.1, profile: node}}\n");
        assert!(
            matches!(insert_nodes(&text, &[node("n9", 9)]), Err(InsertError::Before(_))),
            "the master's address"
        );
        let text = format!(
            "{HEAD}nodes:\n  n8: {{profile: node}}\n  n[1-7]: {{address: 10.0.0.11, profile: node}}\n"
        );
        assert!(matches!(insert_nodes(&text, &[node("n8", 8)]), Err(InsertError::After(_))), "a name twice");
        assert!(
            matches!(
                insert_nodes(&text, &[NewNode { profile: None, ..node("n9", 9) }]),
                Err(InsertError::After(_))
            ),
            "no profile"
        );
        assert!(
            matches!(insert_nodes(&text, &[node("n2", 13)]), Err(InsertError::After(_))),
            "an address that the range counts up to"
        );
        assert!(
            matches!(insert_nodes(&text, &[node("n9", 12)]), Err(InsertError::After(_))),
            "an address twice"
        );
        assert!(matches!(insert_nodes(&text, &[node("n:9", 9)]), Err(InsertError::After(_))), "no name");
        let text = format!("{HEAD}nodes: {{m: {{profile: node}}}}\n");
        assert_eq!(insert_nodes(&text, &[node("n9", 9)]), Err(InsertError::Braces(5)));
        let text = format!("{HEAD}nodes:\n  m: {{profile: node}}\n...\n");
        assert!(insert_nodes(&text, &[node("n9", 9)]).is_ok());
    }
}
