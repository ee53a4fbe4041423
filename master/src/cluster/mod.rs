//! cluster.yaml: parse, validate, resolve. Pure: no clock, no I/O, no other module of the master.
//!
//! [`parse`] goes in three steps, each of which notes what is wrong and goes on: text to a tree that
//! knows its places (`tree`), tree to wire types (`wire`, read by `read` from the words in `values`),
//! wire types to a [`Cluster`] with references followed, profiles merged, ranges expanded, and each
//! value with its [`Origin`] (`resolve`, `settings`, `nodes`). So one run tells all of a file's mistakes.

mod amend;
pub mod fuzz;
mod ids;
mod init;
mod insert;
mod model;
mod names;
mod nodes;
mod plan;
mod problem;
mod read;
mod resolve;
mod schema;
mod settings;
mod show;
#[cfg(test)]
mod tests;
mod tree;
mod values;
mod wire;

pub use amend::{Amendment, Said, amend_nodes};
pub use ids::{Mac, Uuid};
pub use init::{InitError, Interface, choose, init};
pub use insert::{InsertError, NewNode, insert_nodes};
pub use model::*;
pub use names::{MAX_NAMES, NameError, NamePattern, NodeSet, is_label};
pub use plan::{Change, Difference, Part, Plan, plan};
pub use problem::{Problem, Problems};
pub use schema::schema;
pub use show::{Effect, Row, Shown, ShownChoice, show};

/// Parses, validates and resolves a cluster.yaml; `file` is what problems call it.
///
/// # Errors
/// Everything that is wrong with the file, in its order. It is the fault of whoever wrote it.
pub fn parse(text: &str, file: &str) -> Result<Cluster, Problems> {
    let mut problems = Problems::new(file, text);
    let wire = tree::parse(text, &mut problems).and_then(|tree| read::read_mapping(&tree, &mut problems));
    let cluster = wire.and_then(|wire| resolve::cluster(&wire, &mut problems));
    match cluster {
        Some(cluster) if problems.is_empty() => Ok(cluster),
        _ => Err(problems.in_order()),
    }
}

/// Like [`parse`], of a file's bytes, which must be UTF-8.
///
/// # Errors
/// As [`parse`].
pub fn parse_bytes(bytes: &[u8], file: &str) -> Result<Cluster, Problems> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text, file),
        Err(error) => {
            let good = error.valid_up_to();
            let line = bytes[..good].iter().filter(|byte| **byte == b'\n').count() + 1;
            let mut problems = Problems::new(file, &String::from_utf8_lossy(bytes));
            let span = problem::Span { start: good, end: good + '\u{fffd}'.len_utf8(), line };
            problems.add(span, "these bytes are no text").mend("save the file as UTF-8");
            Err(problems)
        }
    }
}
