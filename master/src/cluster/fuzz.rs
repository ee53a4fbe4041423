//! What the fuzzer does with a file, and `make test` with the fuzzer's corpus.

use super::{InsertError, Mac, NewNode, NodeSet, insert_nodes, parse, parse_bytes, plan, show};

/// Reads bytes as a cluster.yaml, and does with what holds all that is done with one.
///
/// # Panics
/// On a mistake in this module.
pub fn cluster_yaml(data: &[u8]) {
    let cluster = match parse_bytes(data, "cluster.yaml") {
        Ok(cluster) => cluster,
        Err(problems) => {
            assert!(problems.count() > 0, "refused without a reason");
            assert!(problems.list.iter().all(|problem| problem.line > 0 && problem.column > 0));
            assert!(!problems.to_string().is_empty() && !problems.graphical(80, false).is_empty());
            return;
        }
    };
    assert!(plan(&cluster, &cluster).is_empty());
    for node in cluster.nodes.iter().take(100) {
        assert!(!show(node).to_string().is_empty());
    }
    let names: NodeSet = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    assert!(names.names().is_empty() || names.to_string().parse() == Ok(names));

    let text = std::str::from_utf8(data).expect("it was parsed");
    let Some(profile) = cluster.profiles.keys().next() else { return };
    let node = NewNode {
        name: "brand-new".to_owned(),
        mac: Some(Mac([2, 0xfe, 0xdc, 0xba, 0x98, 0x76])),
        uuid: None,
        address: None,
        profile: Some(profile.clone()),
    };
    match insert_nodes(text, &[node]) {
        Ok(new) => check_inserted(text, &new),
        Err(InsertError::Before(problems)) => panic!("it held before:\n{problems}"),
        Err(InsertError::After(_) | InsertError::Braces(_) | InsertError::Layout(..)) => {}
    }
}

/// Every line but the one of `nodes` is there as it was, in its order.
fn check_inserted(old: &str, new: &str) {
    assert!(parse(new, "cluster.yaml").is_ok_and(|cluster| cluster.node("brand-new").is_some()));
    let mut lines = new.split('\n').map(|line| line.trim_end_matches('\r'));
    for line in old.split('\n').map(|line| line.trim_end_matches('\r')) {
        let kept = line.contains("nodes") || line.trim().is_empty() || lines.any(|new| new == line);
        // A multi-line `{}` or a key split from its `:` goes with the line of `nodes`.
        assert!(
            kept || line.trim_start().starts_with([':', '{', '}', '~', '?', 'n', '"', '\'']),
            "lost: {line:?}\n{new}"
        );
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_of_the_fuzzer_holds() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/cluster_yaml");
        let mut count = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            super::cluster_yaml(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 10, "the corpus is not there");
    }
}
