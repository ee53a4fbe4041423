//! `tesela check`: does a cluster.yaml hold?

use std::path::PathBuf;

use miette::IntoDiagnostic as _;

use super::{Common, Failure, Outcome, file};
use crate::cluster;

/// What to check.
#[derive(clap::Args, Debug)]
pub(crate) struct Check {
    /// The file, unless the one of `--config`.
    file: Option<PathBuf>,
    /// Prints the problems as JSON, to stdout.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(common: &Common, command: &Check) -> Outcome {
    let path = command.file.as_deref().unwrap_or(common.config());
    if command.json {
        let parsed = cluster::parse_bytes(&file::read(path)?, &path.display().to_string());
        let problems = parsed.as_ref().err().map(|problems| &problems.list[..]).unwrap_or_default();
        println!("{}", serde_json::to_string_pretty(problems).into_diagnostic()?);
        return parsed.map(drop).map_err(|_| Failure::DoesNotHold);
    }
    let cluster = file::load(path)?;
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    println!(
        "{} holds: {}, {}, {}, {}",
        path.display(),
        count(cluster.nodes.len(), "node"),
        count(cluster.profiles.len(), "profile"),
        count(cluster.images.len(), "image"),
        count(cluster.pools.len(), "pool"),
    );
    Ok(())
}
