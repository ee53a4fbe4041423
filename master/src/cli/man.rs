//! `tesela man DIR`: the manual pages, of this program as clap knows it, and those that nodes have.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use miette::{IntoDiagnostic as _, WrapErr as _};

use super::{Cli, Outcome};
use crate::boot::manuals;

/// Where to.
#[derive(clap::Args, Debug)]
pub(crate) struct Man {
    /// A directory of manual pages, as /usr/local/share/man; it is made if it is not there.
    directory: PathBuf,
}

pub(crate) fn run(command: &Man) -> Outcome {
    write(&command.directory).into_diagnostic().wrap_err_with(|| {
        format!("the manual pages cannot be written below {}", command.directory.display())
    })?;
    Ok(())
}

fn write(directory: &Path) -> io::Result<()> {
    for (path, content) in manuals() {
        let path = directory.join(path);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, content)?;
    }
    // `tesela.1`, and one for each of its commands: `tesela-node-list.1`.
    let first = directory.join("man1");
    fs::create_dir_all(&first)?;
    clap_mangen::generate_to(Cli::command(), first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_each_command() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        for page in ["man1/tesela.1", "man1/tesela-node-list.1", "man1/mosctl.1", "man8/teselad.8"] {
            assert!(fs::read_to_string(directory.path().join(page)).unwrap().contains(".SH NAME"), "{page}");
        }
    }
}
