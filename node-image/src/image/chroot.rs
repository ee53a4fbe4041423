//! Programs that a build runs.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{BuildError, Progress};
use crate::rooted::Rooted;

/// How many of a program's last lines an error tells.
const TOLD: usize = 15;

/// Runs a program; its lines go to `progress`, and the last of them into the error.
pub fn run(
    command: &mut Command,
    what: &str,
    missing: (&'static str, &'static str),
    progress: &mut dyn FnMut(Progress),
) -> Result<(), BuildError> {
    let failed = |status: String, output| BuildError::Program { what: what.to_owned(), status, output };
    let (reader, writer) = std::io::pipe().map_err(|error| failed(error.to_string(), Vec::new()))?;
    let output = writer.try_clone().map_err(|error| failed(error.to_string(), Vec::new()))?;
    command.stdin(Stdio::null()).stdout(output).stderr(writer);
    let child = command.spawn();
    // The command holds the writing ends, and the lines would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => BuildError::Missing { program: missing.0, package: missing.1 },
        _ => failed(error.to_string(), Vec::new()),
    })?;
    let mut last = Vec::new();
    let mut lines = BufReader::new(reader);
    let mut line = Vec::new();
    // A line that is no text is shown as well as it can be.
    while lines.read_until(b'\n', &mut line).unwrap_or(0) > 0 {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if text.is_empty() {
            continue;
        }
        if last.len() == TOLD {
            last.remove(0);
        }
        last.push(text.clone());
        progress(Progress::Detail(text));
    }
    let status = child.wait().map_err(|error| failed(error.to_string(), Vec::new()))?;
    if status.success() { Ok(()) } else { Err(failed(status.to_string(), last)) }
}

/// What [`apart`] needs: a program and its package.
pub const APART: (&str, &str) = ("setpriv", "util-linux");

/// A program in mount and process namespaces of its own, which all end with this process: whatever it
/// mounts in a tree is gone with it, so that removing a tree that a killed build left never leads out of it.
pub fn apart(program: &str) -> Command {
    let mut command = Command::new(APART.0);
    command.args(["--pdeathsig", "KILL"]);
    command.args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", program]);
    command
}

/// Installs Debian packages in a tree that has apt, those that are not there yet.
///
/// No service is started (policy-rc.d), no initramfs of Debian's own is made, and the master's name
/// servers serve for as long as it takes. The tree's own programs run as root, in mount and process
/// namespaces of their own.
pub fn install(
    root: &Rooted,
    packages: &[String],
    progress: &mut dyn FnMut(Progress),
) -> Result<(), BuildError> {
    let absent: Vec<&String> = packages.iter().filter(|package| !installed(root, package)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    if !root.exists("usr/bin/apt-get") {
        return Err(BuildError::Source {
            from: root.path().display().to_string(),
            problem: format!("`packages:` needs an image with apt-get, and {absent:?} are to be installed"),
        });
    }
    let file = |name: &'static str| move |error| BuildError::File { path: name.into(), error };
    const POLICY: &str = "usr/sbin/policy-rc.d";
    root.write(POLICY, b"#!/bin/sh\nexit 101\n", 0o755).map_err(file(POLICY))?;
    if root.exists("etc/initramfs-tools") {
        const INITRAMFS: &str = "etc/initramfs-tools/update-initramfs.conf";
        root.write(INITRAMFS, b"update_initramfs=no\nbackup_initramfs=no\n", 0o644)
            .map_err(file(INITRAMFS))?;
    }
    const RESOLVER: &str = "etc/resolv.conf";
    let kept = root.place(RESOLVER).map_err(file(RESOLVER))?;
    let aside = root.place("etc/.resolv.conf.kept").map_err(file(RESOLVER))?;
    let had_resolver = std::fs::rename(&*kept, &*aside).is_ok();
    let own = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    root.write(RESOLVER, &own, 0o644).map_err(file(RESOLVER))?;
    let result = apt(root.path(), &["update"], progress).and_then(|()| {
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(absent.iter().map(|package| package.as_str()));
        apt(root.path(), &arguments, progress)
    });
    root.remove(POLICY).map_err(file(POLICY))?;
    root.remove(RESOLVER).map_err(file(RESOLVER))?;
    if had_resolver {
        std::fs::rename(&*aside, &*kept).map_err(file(RESOLVER))?;
    }
    result
}

fn apt(root: &Path, arguments: &[&str], progress: &mut dyn FnMut(Progress)) -> Result<(), BuildError> {
    // $0 is the root. /dev is the master's: a tree from an archive has none of its own.
    const SCRIPT: &str = "mount --rbind /dev \"$0/dev\" && mount -t proc proc \"$0/proc\" && \
                          exec chroot \"$0\" /usr/bin/env DEBIAN_FRONTEND=noninteractive INITRD=No LC_ALL=C.UTF-8 \
                          PATH=/usr/sbin:/usr/bin:/sbin:/bin apt-get -o Dpkg::Options::=--force-confold \
                          -o Dpkg::Use-Pty=0 -q \"$@\"";
    let mut command = apart("sh");
    command.args(["-c", SCRIPT]).arg(root).args(arguments);
    let what = format!("apt-get {} in the image", arguments.join(" "));
    run(&mut command, &what, APART, progress)
}

/// Whether dpkg's database has the package as installed.
fn installed(root: &Rooted, package: &str) -> bool {
    let Ok(status) = root.read_to_string("var/lib/dpkg/status") else { return false };
    status.split("\n\n").any(|entry| {
        let mut lines = entry.lines();
        lines.any(|line| line.strip_prefix("Package: ") == Some(package))
            && entry.lines().any(|line| line == "Status: install ok installed")
    })
}
