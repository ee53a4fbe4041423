//! `tesela plan`: what would change, node by node, and which nodes must reboot for it.

use std::path::PathBuf;

use miette::IntoDiagnostic as _;

use super::{Common, Failure, Outcome, file};
use crate::cluster::{self, Cluster};
use crate::web::client;
use crate::web::views::InForce;

/// What to compare.
#[derive(clap::Args, Debug)]
pub(crate) struct Plan {
    /// The file, unless the one of `--config`, or else the one that the master reads.
    file: Option<PathBuf>,
    /// Compares with this file, not with what was applied last.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(common: &Common, command: &Plan) -> Outcome {
    let Before { cluster, config, remarks } = before(common, command)?;
    let new = file::load(command.file.as_deref().unwrap_or(&config))?;
    let Some(old) = cluster else {
        if command.json {
            println!("null");
        } else {
            println!("Nothing was applied yet: `tesela apply` begins with {} nodes.", new.nodes.len());
        }
        return Ok(());
    };
    let plan = cluster::plan(&old, &new);
    if command.json {
        return super::print_json(&plan);
    }
    print!("{plan}");
    if !remarks.is_empty() {
        println!("\nAs it is now:");
        remarks.iter().for_each(|remark| println!("  {}", remark.replace('\n', "\n  ")));
    }
    Ok(())
}

/// What is in force.
struct Before {
    /// `None`: nothing is yet.
    cluster: Option<Cluster>,
    /// The file that takes its place, if none is said.
    config: PathBuf,
    /// What else is to be known.
    remarks: Vec<String>,
}

/// What is in force: as the running master has it, or as the state directory keeps it where that alone is given, or
/// where no master runs.
fn before(common: &Common, command: &Plan) -> Result<Before, Failure> {
    let of_file = |cluster| Before { cluster, config: common.config().to_owned(), remarks: Vec::new() };
    if let Some(path) = &command.against {
        return Ok(of_file(Some(file::load(path)?)));
    }
    if common.state.is_none() || common.socket.is_some() {
        match client::get(common.socket(), "/v1/in-force") {
            Ok(InForce { text, config, remarks, .. }) => {
                let cluster = cluster::parse(&text, "what is in force").map_err(|problems| {
                    file::tell(&problems);
                    Failure::DoesNotHold
                })?;
                let config = common.config.clone().unwrap_or(config);
                return Ok(Before { cluster: Some(cluster), config, remarks });
            }
            Err(client::Error::Connect { .. } | client::Error::NotAllowed(_)) if common.socket.is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let applied = common.state().join("applied.yaml");
    Ok(of_file(applied.try_exists().into_diagnostic()?.then(|| file::load(&applied)).transpose()?))
}
