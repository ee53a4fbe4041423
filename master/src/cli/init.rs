//! `tesela init`: a first cluster.yaml from this machine's interfaces.

use std::io::Write as _;
use std::time::Duration;

use miette::{IntoDiagnostic as _, WrapErr as _, miette};

use super::{Common, Outcome};
use crate::{cluster, dhcp, interfaces};

/// How long another DHCP server has to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where to.
#[derive(clap::Args, Debug)]
pub(crate) struct Init {
    /// Prints it, and writes nothing.
    #[arg(long)]
    stdout: bool,
}

pub(crate) fn run(common: &Common, command: &Init) -> Outcome {
    let mut interfaces = interfaces::list().into_diagnostic()?;
    let chosen = cluster::choose(&interfaces).map(|interface| interface.name.clone());
    for interface in interfaces.iter_mut().filter(|interface| chosen.as_ref() == Some(&interface.name)) {
        interface.dhcp_server = match dhcp::find_servers(&interface.name, PATIENCE) {
            Ok(found) => found.iter().find(|server| server.gives_addresses).map(|server| server.address),
            Err(error) => {
                eprintln!("warning: {error}; `dhcp: authoritative` is a guess");
                None
            }
        };
    }
    let host = interfaces::host_name().into_diagnostic()?;
    let text = cluster::init(&host, &interfaces).map_err(|error| miette!("{error}"))?;
    if command.stdout {
        print!("{text}");
        return Ok(());
    }
    let path = common.config();
    // On a fresh machine there is no /etc/tesela yet.
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let written = folder
        .and_then(|()| std::fs::File::create_new(path))
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.into_diagnostic().wrap_err_with(|| {
        format!("{} cannot be written; `tesela init --stdout` prints what it would be", path.display())
    })?;
    println!(
        "{} is written. Look it over, then: tesela check, tesela image build, tesela serve",
        path.display()
    );
    Ok(())
}
