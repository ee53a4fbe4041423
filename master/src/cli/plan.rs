//! `tesela plan`: what would change, node by node, and which nodes must reboot for it.

use std::path::PathBuf;

use miette::IntoDiagnostic as _;

use super::{Common, Outcome, file};
use crate::cluster;

/// What to compare.
#[derive(clap::Args, Debug)]
pub(crate) struct Plan {
    /// The file, unless the one of `--config`.
    file: Option<PathBuf>,
    /// Compares with this file, not with what was applied last.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(common: &Common, command: &Plan) -> Outcome {
    let new = file::load(command.file.as_ref().unwrap_or(&common.config))?;
    let applied = common.state.join("applied.yaml");
    let old = match &command.against {
        Some(path) => file::load(path)?,
        None if applied.try_exists().into_diagnostic()? => file::load(&applied)?,
        None if command.json => {
            println!("null");
            return Ok(());
        }
        None => {
            println!("Nothing was applied yet: `tesela apply` begins with {} nodes.", new.nodes.len());
            return Ok(());
        }
    };
    let plan = cluster::plan(&old, &new);
    if command.json {
        println!("{}", serde_json::to_string_pretty(&plan).into_diagnostic()?);
    } else {
        print!("{plan}");
    }
    Ok(())
}
