//! Settings of nodes put into the text of a cluster.yaml: into the entry of the node's own, or into a new one that
//! refines the range which it is of. Everything else stays byte for byte as it was.

use std::ops::Range;

use super::insert::{InsertError, Place, line_end, word};
use super::problem::Problems;
use super::tree::{self, Entry, Kind, Map, Tree};

/// What is to be said of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amendment {
    /// Its name.
    pub node: String,
    /// Keys, and values as YAML's flow style has them. A key that the node's own entry has already takes this value
    /// instead; to a list it is added.
    pub settings: Vec<(&'static str, Said)>,
}

/// A value that is to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// In the place of another.
    Value(String),
    /// Each an item more of a list.
    Items(Vec<&'static str>),
}

/// The text with all that said. It is for the caller to parse it again.
///
/// # Errors
/// [`InsertError::Before`] if the text is no YAML, [`InsertError::Braces`] if it takes no further entry.
pub fn amend_nodes(text: &str, amendments: &[Amendment]) -> Result<String, InsertError> {
    let mut problems = Problems::new("cluster.yaml", text);
    let tree = tree::parse(text, &mut problems).ok_or(InsertError::Before(problems))?;
    let nodes = match &tree.kind {
        Kind::Map(root) => root.entries.iter().find(|entry| entry.key == "nodes").map(|entry| &entry.value),
        _ => None,
    };
    let map = nodes.and_then(map_of);
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let mut new_lines = Vec::new();
    for Amendment { node, settings } in amendments.iter().filter(|amendment| !amendment.settings.is_empty()) {
        match map.and_then(|map| map.entries.iter().find(|entry| entry.key == *node)) {
            Some(entry) => edits.extend(amend_entry(text, entry, settings)),
            None => new_lines.push((node.as_str(), flow(settings))),
        }
    }
    match (new_lines.is_empty(), nodes, map) {
        (true, ..) => {}
        (_, Some(nodes), Some(map)) if map.flow => {
            let entries = new_lines.iter().map(|(node, settings)| format!("{}: {settings}, ", word(node)));
            let at = nodes.span.start + 1;
            edits.push((at..at, entries.collect()));
        }
        _ => {
            let place = Place::find(text, &tree)?;
            edits.push((place.instead.clone(), format!("{}{}", place.before, place.lines_of(&new_lines))));
        }
    }
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    let mut out = text.to_owned();
    for (range, new) in edits.into_iter().rev() {
        out.replace_range(range, &new);
    }
    Ok(out)
}

fn map_of<'a, 't>(tree: &'a Tree<'t>) -> Option<&'a Map<'t>> {
    match &tree.kind {
        Kind::Map(map) => Some(map),
        _ => None,
    }
}

fn amend_entry(text: &str, entry: &Entry<'_>, settings: &[(&str, Said)]) -> Vec<(Range<usize>, String)> {
    let Some(map) = map_of(&entry.value) else {
        // Nothing is said of it yet: `n3:` or `n3: ~`.
        let (key, value) = (entry.key_span.end, entry.value.span.end);
        let colon = key + text[key..].find(':').map_or(0, |at| at + 1);
        return vec![(colon..colon.max(value), format!(" {}", flow(settings)))];
    };
    let mut edits = Vec::new();
    let mut missing = Vec::new();
    for (key, said) in settings {
        let known = map.entries.iter().find(|entry| entry.key == *key);
        match (known, said) {
            (None, _) => missing.push((*key, said.clone())),
            (Some(known), Said::Value(value)) => {
                edits.push((known.value.span.start..known.value.span.end, value.clone()));
            }
            (Some(known), Said::Items(items)) => edits.push(match &known.value.kind {
                Kind::List(list) => match list.last() {
                    // With an item a line.
                    Some(last) if !text[known.value.span.start..].starts_with('[') => {
                        let at = line_end(text, last.span.end);
                        let dash = text[..last.span.start].rfind('-').unwrap_or(last.span.start);
                        let start = text[..dash].rfind('\n').map_or(0, |at| at + 1);
                        let line = |item: &&str| format!("{}- {item}\n", &text[start..dash]);
                        (at..at, items.iter().map(line).collect())
                    }
                    _ => {
                        let at = known.value.span.start + 1;
                        let items = items.join(", ");
                        (at..at, if list.is_empty() { items } else { format!("{items}, ") })
                    }
                },
                Kind::Scalar(_) => {
                    let one = known.value.span.start..known.value.span.end;
                    (one.clone(), format!("[{}, {}]", &text[one], items.join(", ")))
                }
                _ => {
                    let colon =
                        known.key_span.end + text[known.key_span.end..].find(':').map_or(0, |at| at + 1);
                    (colon..colon.max(known.value.span.end), format!(" [{}]", items.join(", ")))
                }
            }),
        }
    }
    if missing.is_empty() {
        return edits;
    }
    if map.flow {
        let at = entry.value.span.start + 1;
        let settings: String = pairs(&missing).map(|pair| format!("{pair}, ")).collect();
        edits.push((at..at, settings));
    } else if let Some(first) = map.entries.first() {
        let at = first.key_span.start;
        let start = text[..at].rfind('\n').map_or(0, |at| at + 1);
        let settings: String = pairs(&missing).map(|pair| format!("{pair}\n{}", &text[start..at])).collect();
        edits.push((at..at, settings));
    }
    edits
}

fn pairs(settings: &[(&str, Said)]) -> impl Iterator<Item = String> {
    settings.iter().map(|(key, said)| match said {
        Said::Value(value) => format!("{key}: {value}"),
        Said::Items(items) => format!("{key}: [{}]", items.join(", ")),
    })
}

fn flow(settings: &[(&str, Said)]) -> String {
    format!("{{{}}}", pairs(settings).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amended(nodes: &str) -> String {
        let head = "cluster: a\n";
        let said = Amendment {
            node: "n3".into(),
            settings: vec![
                ("trusted", Said::Value("true".into())),
                ("kernel args", Said::Items(vec!["console=ttyS0", "panic=-1"])),
            ],
        };
        let text = amend_nodes(&format!("{head}{nodes}"), &[said]).unwrap();
        text.strip_prefix(head).unwrap().to_owned()
    }

    #[test]
    fn what_is_said_of_a_node_stands_where_it_is_looked_for() {
        for (before, after) in [
            // Nothing of its own: a line that refines the range.
            (
                "nodes:\n  n[1-4]: {profile: node} # all\npools: {}\n",
                "nodes:\n  n[1-4]: {profile: node} # all\n  n3:     {trusted: true, kernel args: [console=ttyS0, panic=-1]}\npools: {}\n",
            ),
            (
                "nodes: {\"n[1-4]\": {profile: node}}\n",
                "nodes: {n3: {trusted: true, kernel args: [console=ttyS0, panic=-1]}, \"n[1-4]\": {profile: node}}\n",
            ),
            // An entry in braces.
            (
                "nodes:\n  n3: {profile: node}   # third\n",
                "nodes:\n  n3: {trusted: true, kernel args: [console=ttyS0, panic=-1], profile: node}   # third\n",
            ),
            (
                "nodes:\n  n3: {trusted: false, kernel args: [quiet]}\n",
                "nodes:\n  n3: {trusted: true, kernel args: [console=ttyS0, panic=-1, quiet]}\n",
            ),
            (
                "nodes:\n  n3: {kernel args: []}\n",
                "nodes:\n  n3: {trusted: true, kernel args: [console=ttyS0, panic=-1]}\n",
            ),
            // An entry with a key a line.
            (
                "nodes:\n  n3:\n    profile: node\n    trusted: no # yet\n    kernel args:\n      - quiet\n  n4: {profile: node}\n",
                "nodes:\n  n3:\n    profile: node\n    trusted: true # yet\n    kernel args:\n      - quiet\n      - console=ttyS0\n      - panic=-1\n  n4: {profile: node}\n",
            ),
            (
                "nodes:\n  n3:\n    profile: node\n",
                "nodes:\n  n3:\n    trusted: true\n    kernel args: [console=ttyS0, panic=-1]\n    profile: node\n",
            ),
            (
                "nodes:\n  n3: {kernel args: quiet}\n",
                "nodes:\n  n3: {trusted: true, kernel args: [quiet, console=ttyS0, panic=-1]}\n",
            ),
            (
                "nodes:\n  n3:\n    kernel args:\n    trusted: false\n",
                "nodes:\n  n3:\n    kernel args: [console=ttyS0, panic=-1]\n    trusted: true\n",
            ),
            // Nothing said of it, and no nodes.
            ("nodes:\n  n3:\n", "nodes:\n  n3: {trusted: true, kernel args: [console=ttyS0, panic=-1]}\n"),
            ("nodes:\n  n3: ~\n", "nodes:\n  n3: {trusted: true, kernel args: [console=ttyS0, panic=-1]}\n"),
            ("", "nodes:\n  n3: {trusted: true, kernel args: [console=ttyS0, panic=-1]}\n"),
        ] {
            assert_eq!(amended(before), after);
        }
    }
}
