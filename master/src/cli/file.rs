//! Reading a cluster.yaml for a command, and telling all that is wrong with it.

use std::io::{ErrorKind, IsTerminal};
use std::path::Path;

use super::Failure;
use crate::cluster::{self, Cluster, Problems};

/// Columns that a problem is wrapped to on a terminal.
const WIDTH: usize = 100;

/// Reads and validates a cluster.yaml. Where it does not hold, all its problems are printed.
pub(crate) fn load(path: &Path) -> Result<Cluster, Failure> {
    let bytes = read(path)?;
    cluster::parse_bytes(&bytes, &path.display().to_string()).map_err(|problems| {
        tell(&problems);
        Failure::DoesNotHold
    })
}

/// Reads a file, saying which one it is where that fails.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        let why = miette::MietteDiagnostic::new(format!("{} cannot be read: {error}", path.display()));
        let why = match error.kind() {
            ErrorKind::NotFound => why.with_help(
                "`tesela init` writes a first cluster.yaml from this machine's interfaces; --config names another",
            ),
            _ => why,
        };
        Failure::Failed(why.into())
    })
}

/// Prints problems to stderr: framed on a terminal, `file:line:column: …` otherwise.
pub(crate) fn tell(problems: &Problems) {
    let stderr = std::io::stderr();
    if stderr.is_terminal() {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        eprint!("{}", problems.graphical(WIDTH, colour));
    } else {
        eprint!("{problems}");
    }
}
