//! The programs that keep a process that is away, `teselad home PID` and `teselad guest`: started, and found again.
//!
//! The kernel is the only register of them: what each is for stands in its arguments and its environment, and
//! whom it keeps is whom it traces (home) or who descends from it (guest). So nothing is forgotten where the
//! agent is started again, and nothing is remembered that is no longer true.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::follow::{Follows, Listener, Origin};
use super::process::Process;
use crate::agent::balancer::Balancer;
use crate::agent::sys;
use crate::migrate::link::Keys;
use crate::migrate::{AGAIN, AGREED, AWAY, AWAY_TOGETHER, FETCHED, SENT, STAYS, USED};

/// The variable that names the node where it runs: several can share a PID namespace.
const HERE: &str = "TESELA_NODE";
/// The variable that names the node at the other end.
const THERE: &str = "TESELA_PEER";
/// Itself, whatever has become of its file.
const PROGRAM: &str = "/proc/self/exe";
const NAME: &str = "teselad";

/// Which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It keeps the deputy of this process, and those of its children.
    Home(i32),
    /// It keeps a guest.
    Guest,
}

/// A side that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Its own process id.
    pub pid: i32,
    /// Which one it is.
    pub kind: Kind,
    /// The node at the other end.
    pub node: String,
}

impl Side {
    /// The side that this process is, if it is one of this node: root's, in the agent's own PID namespace.
    pub fn of(process: &Process, here: &str) -> Option<Self> {
        if !process.is_roots() || process.ids.len() != 1 {
            return None;
        }
        let words = strings(process.pid, "cmdline")?;
        let words: Vec<&[u8]> = words.split(|octet| *octet == 0).collect();
        let kind = match words[..] {
            [name, b"home", pid, ..] if name == NAME.as_bytes() => {
                Kind::Home(std::str::from_utf8(pid).ok()?.parse().ok()?)
            }
            [name, b"guest", ..] if name == NAME.as_bytes() => Kind::Guest,
            _ => return None,
        };
        let environment = strings(process.pid, "environ")?;
        let value = |name: &str| {
            environment.split(|octet| *octet == 0).find_map(|pair| {
                String::from_utf8(pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?.to_vec()).ok()
            })
        };
        (value(HERE)? == here).then_some(Self { pid: process.pid, kind, node: value(THERE)? })
    }

    /// The side that keeps the deputy of this process, if it is away.
    ///
    /// # Errors
    /// Those of /proc.
    pub fn away(process: &Process, here: &str) -> io::Result<Option<Self>> {
        let tracer = if process.tracer == 0 { None } else { Process::look(process.tracer)? };
        Ok(tracer
            .and_then(|tracer| Self::of(&tracer, here))
            .filter(|side| matches!(side.kind, Kind::Home(_))))
    }

    /// The side that keeps this process, if it is a guest's body.
    ///
    /// # Errors
    /// Those of /proc.
    pub fn guest(process: &Process, here: &str) -> io::Result<Option<Self>> {
        let mut parent = process.parent;
        while parent > 1 {
            let Some(above) = Process::look(parent)? else { return Ok(None) };
            if let Some(side) = Self::of(&above, here).filter(|side| side.kind == Kind::Guest) {
                return Ok(Some(side));
            }
            parent = above.parent;
        }
        Ok(None)
    }

    /// Those that run, by their process ids.
    pub fn all(processes: &HashMap<i32, Process>, here: &str) -> HashMap<i32, Self> {
        processes
            .values()
            .filter_map(|process| Self::of(process, here))
            .map(|side| (side.pid, side))
            .collect()
    }
}

/// `None` where it has ended meanwhile.
fn strings(pid: i32, file: &str) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/{file}")).ok()
}

/// What has become of a process that was sent off.
#[derive(Debug)]
pub enum Outcome {
    /// It runs on the other node.
    Away,
    /// It goes on at home, for this reason.
    Stays(String),
}

/// The nodes at both ends of a link.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// This one.
    pub here: &'a str,
    /// The other one.
    pub there: &'a str,
}

/// Sends a process off, and those that share memory with it, to a node over a connection that its agent has accepted.
/// What comes from there by itself `follows`, and the balancer hears what it has taken.
///
/// # Errors
/// The program cannot be started, or not be heard.
pub async fn send_off(
    process: &Process,
    company: &[Process],
    ends: Ends<'_>,
    socket: TcpStream,
    keys: Keys,
    (follows, balancer): (&Arc<Follows>, &Arc<Balancer>),
) -> io::Result<Outcome> {
    let number = process.pid.to_string();
    let rights = |process: &Process| format!("{}={}", process.pid, process.rights());
    let agreed: Vec<String> = std::iter::once(process).chain(company).map(rights).collect();
    let mut command = command(&["home", &number], ends);
    command.env(AGREED, agreed.join(";")).stdout(Stdio::piped());
    let mut child = start(command, socket, keys).await?;
    let side = child.id().and_then(|id| id.try_into().ok()).unwrap_or_default();
    let mut lines = child.stdout.take().map(|out| BufReader::new(out).lines());
    let told = match &mut lines {
        Some(lines) => lines.next_line().await?,
        None => None,
    };
    let origin = Origin { side, mover: process.mover(), node: ends.there.to_owned() };
    watch(
        child,
        Kind::Home(process.pid),
        ends.there,
        hear(lines, follows.listen(origin, told.as_deref() == Some(AWAY_TOGETHER)), Arc::clone(balancer)),
    );
    Ok(match told.as_deref() {
        Some(AWAY | AWAY_TOGETHER) => Outcome::Away,
        Some(line) => Outcome::Stays(line.strip_prefix(STAYS).unwrap_or(line).to_owned()),
        None => Outcome::Stays("the program that should have sent it has ended; the log says more".into()),
    })
}

/// Takes in a process of a node that has asked for it; `user`: it has to be his. What comes back tells the end of the
/// program that keeps it, and whether all was well.
///
/// # Errors
/// The program cannot be started.
pub async fn take_in(
    ends: Ends<'_>,
    user: Option<u32>,
    socket: TcpStream,
    keys: Keys,
) -> io::Result<JoinHandle<bool>> {
    let mut command = command(&["guest"], ends);
    // The C library would have the kernel know an rseq area of its own in what becomes the guest.
    command.env("GLIBC_TUNABLES", "glibc.pthread.rseq=0").stdout(Stdio::null());
    if let Some(uid) = user {
        command.env(AGREED, uid.to_string());
    }
    Ok(watch(start(command, socket, keys).await?, Kind::Guest, ends.there, std::future::ready(())))
}

fn command(words: &[&str], ends: Ends<'_>) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .arg0(NAME)
        .args(words)
        .env_clear()
        .env(HERE, ends.here)
        .env(THERE, ends.there)
        .stdin(Stdio::piped());
    command
}

async fn start(mut command: Command, socket: TcpStream, keys: Keys) -> io::Result<Child> {
    sys::give_as_3(&mut command, socket.into());
    let mut child = command.spawn()?;
    // The command holds the agent's own copy of the socket.
    drop(command);
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&keys.send).await?;
        input.write_all(&keys.receive).await?;
        input.shutdown().await?;
    }
    Ok(child)
}

/// Hears which processes can move again, what their moves have taken and what they use, until nothing more can be said.
async fn hear(lines: Option<Lines<BufReader<ChildStdout>>>, listener: Listener, balancer: Arc<Balancer>) {
    let Some(mut lines) = lines else { return };
    loop {
        match lines.next_line().await {
            Ok(Some(line)) => {
                if let Some((pid, since)) = again(&line) {
                    listener.again(pid, since);
                } else if let Some((octets, took, round_trip)) = sent(&line) {
                    balancer.sent(octets, took, round_trip);
                } else if let Some((pid, all, runs)) = used(&line) {
                    balancer.used_away(pid, all, runs);
                } else if let Some(pid) = line.strip_prefix(FETCHED).and_then(|pid| pid.parse().ok()) {
                    listener.fetched(pid);
                } else {
                    tracing::warn!(line, "is not understood");
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "what could move again is not heard of any more, and runs at home");
                return;
            }
        }
    }
}

fn again(line: &str) -> Option<(i32, Duration)> {
    let (pid, since) = line.strip_prefix(AGAIN)?.split_once(' ')?;
    Some((pid.parse().ok()?, Duration::from_millis(since.parse().ok()?)))
}

fn used(line: &str) -> Option<(i32, Duration, bool)> {
    let (pid, rest) = line.strip_prefix(USED)?.split_once(' ')?;
    let (all, runs) = rest.split_once(' ')?;
    Some((pid.parse().ok()?, Duration::from_micros(all.parse().ok()?), runs == "1"))
}

fn sent(line: &str) -> Option<(u64, Duration, Duration)> {
    let mut numbers = line.strip_prefix(SENT)?.split(' ').map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten();
    Some((next()?, Duration::from_micros(next()?), Duration::from_micros(next()?)))
}

/// Hears what it says, takes up its end, and says whether all was well.
fn watch(
    mut child: Child,
    kind: Kind,
    node: &str,
    heard: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<bool> {
    let node = node.to_owned();
    tokio::spawn(async move {
        heard.await;
        let ended = child.wait().await;
        match &ended {
            Ok(status) if status.success() => tracing::info!(?kind, node, "over"),
            Ok(status) => tracing::warn!(?kind, node, %status, "it has failed"),
            Err(error) => tracing::warn!(?kind, node, %error, "its end cannot be heard of"),
        }
        ended.is_ok_and(|status| status.success())
    })
}

/// Whether a home's side can be told to fetch its process ([`Signal::SIGUSR1`]), or that the guest's side is gone
/// ([`Signal::SIGUSR2`], with the port of ours at which the move began): it has not only just been started.
pub fn takes_signals(side: &Process) -> bool {
    [Signal::SIGUSR1, Signal::SIGUSR2].iter().all(|signal| side.blocked & (1 << (*signal as i32 - 1)) != 0)
}
