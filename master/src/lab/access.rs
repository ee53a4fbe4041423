//! Commands and shells on a node: ssh from inside the lab's namespace, with the master's own key.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, ExitStatus};

use super::power::is_on;
use super::progress::{View, stage_of};
use super::record::Record;
use super::{Error, Lab};
use crate::inventory::{NodeState, Stage};
use crate::keys;

/// The ordinary account of every lab node.
pub const USER: &str = "demo";

/// What ssh ends with when it did not reach the node, and a command may end with by itself.
const SSH_FAILED: i32 = 255;

/// Runs a command on a node as root, or as `user`, on this process's standard streams.
///
/// The command's own exit status is passed on. A node that was not reached is an error, and so told
/// apart from a command that ends with ssh's 255.
pub fn exec(lab: &Lab, node: &str, user: Option<&str>, words: &[OsString]) -> Result<ExitStatus, Error> {
    let command = words.iter().map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ");
    let command = match user {
        None | Some("root") => command,
        // The account is made by whoever comes first: the image may be one that knows nothing of labs.
        Some(user) => {
            let made = if user == USER {
                format!(
                    "id -u {user} >/dev/null 2>&1 || useradd -m -s /bin/bash {user} >/dev/null || exit 1; "
                )
            } else {
                String::new()
            };
            format!("{made}exec runuser -l {} -c {}", quoted(user), quoted(&command))
        }
    };
    run(lab, node, &[command.into()])
}

/// A shell on a node, on the caller's terminal; or whatever `words` say to ssh after the host.
pub fn ssh(lab: &Lab, node: &str, words: &[OsString]) -> Result<ExitStatus, Error> {
    run(lab, node, words)
}

fn run(lab: &Lab, node: &str, words: &[OsString]) -> Result<ExitStatus, Error> {
    let record = Record::read(lab)?;
    let machine = record.machine(lab, node)?;
    if !is_on(lab, machine) {
        return Err(Error::PoweredOff { name: node.to_owned() });
    }
    let reached = lab.machine_dir(&machine.name).join(format!("reached.{}", std::process::id()));
    let view = View::of(lab)?;
    let seen = view.node_of(machine);
    if let Some(NodeState { stage: stage @ (Stage::Silent | Stage::Down), .. }) =
        seen.and_then(|seen| seen.state.as_ref())
    {
        eprintln!(
            "{node} is {stage}, which is to say that its agent is not heard; it is tried all the same …"
        );
    }
    let stage = stage_of(seen).to_string();
    let Some((name, address)) = seen.and_then(|seen| Some((&seen.name, seen.address?))) else {
        return Err(Error::NoAddress { name: node.to_owned(), stage });
    };
    let status = ssh_command(lab, name, address, &reached)
        .args(words)
        .status()
        .map_err(Error::io("run", Path::new("nsenter")))?;
    let was_reached = match fs::remove_file(&reached) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(Error::io("remove", &reached)(error)),
    };
    if status.code() == Some(SSH_FAILED) && !was_reached {
        return Err(Error::NotReached { name: node.to_owned(), stage });
    }
    Ok(status)
}

/// ssh without a question; it leaves the file `reached` once it is connected and let in.
fn ssh_command(lab: &Lab, node: &str, address: Ipv4Addr, reached: &Path) -> Command {
    let mut ssh = lab.namespace().command("ssh");
    ssh.args(["-o", "ConnectTimeout=60", "-o", "PermitLocalCommand=yes", "-o"])
        .arg(format!("LocalCommand=: > {}", quoted(&reached.display().to_string())))
        .args(keys::client_arguments(&lab.master_state().join("keys"), node, address, "root"));
    ssh
}

/// A word that a POSIX shell reads as itself.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_a_quoted_word_as_it_is() {
        for word in ["", "a b", "$HOME `id` \"x\" \\", "it's", "''", "a\nb", "ñ"] {
            let said =
                Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(word))).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), word);
        }
    }
}
