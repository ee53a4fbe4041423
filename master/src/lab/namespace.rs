//! A private network: a named namespace with a bridge, and a tap for each virtual machine.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Error;
use crate::cluster::Mac;

/// Where `ip netns` keeps the names.
const FOLDER: &str = "/run/netns";
/// How long processes get to end by themselves before they are killed.
const GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// A network namespace as `ip netns` names it. The value is only the name; it may not exist.
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// All those whose names begin like this.
    pub fn all(prefix: &str) -> Result<Vec<Self>, Error> {
        let folder = Path::new(FOLDER);
        let entries = match fs::read_dir(folder) {
            // Nobody has named one since this machine was started.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io("read", folder))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter(|name| name.starts_with(prefix)).map(|name| Self { name }).collect())
    }

    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Makes it, with a bridge `bridge` that has `address`, and the taps as its ports.
    pub fn create(&self, bridge: &str, address: Ipv4Net, taps: &[String]) -> Result<(), Error> {
        ip(&["netns", "add", &self.name], "")?;
        // Snooping would drop multicast until a querier spoke, which a bridge alone has none of.
        let mut batch = format!(
            "link set lo up\n\
             link add {bridge} type bridge mcast_snooping 0\n\
             addr add {address} broadcast + dev {bridge}\n\
             link set {bridge} up\n"
        );
        for tap in taps {
            batch += &format!("tuntap add dev {tap} mode tap\nlink set {tap} master {bridge} up\n");
        }
        ip(&["-n", &self.name, "-batch", "-"], &batch)
    }

    /// Makes it as the place of one host: its `eth0` has `address` and leads to the port `port` of `bridge` in
    /// `other`.
    pub fn create_behind(
        &self,
        other: &Self,
        (bridge, port): (&str, &str),
        mac: Option<Mac>,
        address: Ipv4Net,
    ) -> Result<(), Error> {
        ip(&["netns", "add", &self.name], "")?;
        let mac = mac.map(|mac| format!("address {mac}")).unwrap_or_default();
        let end = format!(
            "link set lo up\n\
             link add eth0 {mac} type veth peer name {port} netns {}\n\
             addr add {address} broadcast + dev eth0\n\
             link set eth0 up\n",
            other.name
        );
        ip(&["-n", &self.name, "-batch", "-"], &end)?;
        ip(&["-n", &other.name, "-batch", "-"], &format!("link set {port} master {bridge} up\n"))
    }

    /// Sends what has no nearer way to this router.
    pub fn route_by(&self, router: Ipv4Addr) -> Result<(), Error> {
        ip(&["-n", &self.name, "route", "add", "default", "via", &router.to_string()], "")
    }

    /// A command that runs `program` inside, in a session of its own so that no terminal's end reaches it.
    pub fn detached(&self, program: &std::ffi::OsStr) -> Command {
        let mut command = Command::new("setsid");
        // Not the leader of a process group yet, `setsid` execs without a fork: the child's pid is the program's.
        command.arg("nsenter").arg(self.net_argument()).arg("--").arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// A command that runs `program` inside, on the caller's terminal.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(self.net_argument()).arg("--").arg(program);
        command
    }

    fn net_argument(&self) -> String {
        format!("--net={}", self.path().display())
    }

    /// Every process that lives in it: one that was killed as long as a thread of it is there, which the disk
    /// may hold up, and with it all that the process had open.
    pub fn processes(&self) -> Result<Vec<Pid>, Error> {
        let Ok(own) = fs::metadata(self.path()) else { return Ok(Vec::new()) };
        let proc = PathBuf::from("/proc");
        let entries = fs::read_dir(&proc).map_err(Error::io("read", &proc))?;
        // A process that ends while we look is not there; so the errors of one entry say nothing.
        let is_in_it = |of: &Path| {
            let net = fs::metadata(of.join("ns/net")).ok()?;
            Some((net.dev(), net.ino()) == (own.dev(), own.ino()))
        };
        let lives_in_it = |process: &Path| {
            let threads = || fs::read_dir(process.join("task")).into_iter().flatten().flatten();
            is_in_it(process)
                .unwrap_or_else(|| threads().any(|thread| is_in_it(&thread.path()) == Some(true)))
        };
        Ok(entries
            .flatten()
            .filter_map(|entry| Some((entry.path(), entry.file_name().to_str()?.parse().ok()?)))
            .filter(|(path, _)| lives_in_it(path))
            .map(|(_, pid)| Pid::from_raw(pid))
            .collect())
    }

    /// Ends every process in it and removes it; `true` if there was anything.
    pub fn remove(&self) -> Result<bool, Error> {
        if !self.exists() {
            return Ok(false);
        }
        self.end_all(Signal::SIGTERM)?;
        ip(&["netns", "delete", &self.name], "")?;
        Ok(true)
    }

    /// Ends every process in it.
    pub fn end_all(&self, signal: Signal) -> Result<(), Error> {
        self.end_those(signal, |_| true)
    }

    /// Ends the processes in it that run `program`.
    pub fn end(&self, program: &str, signal: Signal) -> Result<(), Error> {
        self.end_those(signal, |pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == program)
        })
    }

    fn end_those(&self, mut signal: Signal, which: impl Fn(Pid) -> bool) -> Result<(), Error> {
        let asked = Instant::now();
        let mut told = HashSet::new();
        loop {
            let mut left = self.processes()?;
            left.retain(|pid| which(*pid));
            if left.is_empty() && !told.iter().any(|pid| is_ending(*pid)) {
                return Ok(());
            }
            told.extend(left.iter().copied());
            if asked.elapsed() > GRACE {
                signal = Signal::SIGKILL;
            }
            for pid in left {
                // ESRCH: it ended meanwhile, which is what is wanted.
                let _ended = kill(pid, signal);
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Whether a process that was told to end has not done so yet. It has left its namespaces before its last sockets are
/// closed.
fn is_ending(pid: Pid) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // proc_pid_stat(5): a zombie, or dead.
        stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
    })
}

fn ip(arguments: &[&str], batch: &str) -> Result<(), Error> {
    let program = PathBuf::from("ip");
    let mut child = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io("run", &program))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(batch.as_bytes()).map_err(Error::io("write to", &program))?;
    }
    let output = child.wait_with_output().map_err(Error::io("wait for", &program))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: format!("ip {}", arguments.join(" ")),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
