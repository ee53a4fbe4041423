//! The init of a node that is namespaces: it runs what systemd would of ours, and takes up all that ends.

use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

const AGENT: &[&str] = &["/usr/lib/tesela/teselad"];
const SSHD: &[&str] = &["/usr/sbin/sshd", "-D", "-e"];
/// As the agent's unit has it (RestartSec).
const PAUSE: Duration = Duration::from_secs(1);
/// How long sshd may take until it listens, and between two looks.
const SSHD_START: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// Runs the services until SIGTERM; all that is left ends with this process then.
pub fn run() -> io::Result<()> {
    let mut wanted = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        wanted.add(signal);
    }
    wanted.thread_block()?;
    // sshd drops its privileges there.
    std::fs::create_dir_all("/run/sshd")?;
    for stage in ["stage1", "root", "init"] {
        // The master is told for the tables' sake; the node is one without.
        let told = Command::new(AGENT[0]).args(["report", stage]).status()?;
        if !told.success() {
            eprintln!("the master has not heard of the stage {stage}");
        }
    }
    let mut running = Vec::new();
    if Path::new(SSHD[0]).exists() {
        running.push((start(SSHD)?, SSHD));
        await_sshd();
    }
    running.push((start(AGENT)?, AGENT));
    loop {
        if wanted.wait()? != Signal::SIGCHLD {
            return Ok(());
        }
        loop {
            let ended = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(status) => status.pid(),
                Err(Errno::ECHILD) => None,
                Err(error) => return Err(error.into()),
            };
            let Some(ended) = ended else { break };
            if let Some((pid, service)) = running.iter_mut().find(|(pid, _)| *pid == ended) {
                eprintln!("{} has ended, and is started again", service[0]);
                std::thread::sleep(PAUSE);
                *pid = start(service)?;
            }
        }
    }
}

/// A member can be reached by ssh: the agent comes after it, as in its unit.
fn await_sshd() {
    let begun = Instant::now();
    while let Err(error) = TcpStream::connect((Ipv4Addr::LOCALHOST, 22)) {
        if begun.elapsed() > SSHD_START {
            eprintln!("sshd does not listen: {error}");
            return;
        }
        std::thread::sleep(POLL);
    }
}

/// What is started is started again when it ends, as its unit would have it.
fn start(words: &[&str]) -> io::Result<Pid> {
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        // What this one's stdin is, is for it alone: the machine's power switch.
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let child = command.spawn()?;
    Ok(Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?))
}
