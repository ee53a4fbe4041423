//! Transparent migration: a process runs on another node, and stays what it was to everyone at home.
//!
//! Two programs of the agent's work on it, one on each side of a [`link`]: [`home`] and [`guest`]. What they
//! put into the process itself is the [`blob`] (see `runtime/blob`).
//!
//! ```text
//!        home                                    remote node
//! ┌──────────────────┐   forwarded calls   ┌──────────────────────┐
//! │ deputy: P itself │◀───────────────────▶│ body: P's memory and │
//! │ resident loop    │  a connection a     │ registers, the shim  │
//! └───────▲──────────┘  thread             └──────────▲───────────┘
//!         │ ptrace: signals, children, exec           │ its place: namespaces with nothing in them
//! ┌───────┴──────────┐    link, pages      ┌──────────┴───────────┐
//! │ Home             │◀───────────────────▶│ Guest                │
//! └──────────────────┘                     └──────────────────────┘
//! ```

mod bell;
pub mod blob;
pub mod digests;
pub mod equal;
pub mod filter;
pub mod freeze;
pub mod group;
pub mod guest;
pub mod home;
pub mod image;
pub mod known;
mod lasting;
pub mod link;
pub mod look;
pub mod pages;
mod processor;
pub mod restart;
pub mod shared;
mod sys;
pub mod tracee;
pub mod xstate;

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::net::TcpStream;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use tesela_shim::seal::KEY;

pub use freeze::FreezeError;

/// Why one side of a process that is away has ended.
#[derive(Debug, thiserror::Error)]
pub enum SideError {
    /// The agent has not handed over what it must.
    #[error("this is for the agent to run: {0}")]
    Agent(#[from] io::Error),
    /// At home.
    #[error(transparent)]
    Home(#[from] home::HomeError),
    /// On the remote node.
    #[error(transparent)]
    Guest(#[from] guest::GuestError),
}

/// How long home waits for a sign of a body before it gives it up, unless [`PATIENCE`] says otherwise.
pub const HOME_PATIENCE: Duration = Duration::from_secs(60);
/// Environment of both sides: another number of seconds, the same for both.
pub const PATIENCE: &str = "TESELA_PATIENCE";

fn patience() -> Duration {
    let told = std::env::var(PATIENCE).ok().and_then(|seconds| seconds.parse().ok());
    told.map_or(HOME_PATIENCE, Duration::from_secs)
}

/// The line that [`home_side`] writes to its standard output once the process runs on the other node.
pub const AWAY: &str = "away";
/// That line where they share memory, and come home only together.
pub const AWAY_TOGETHER: &str = "away together";
/// The beginning of that line where it stays at home; the reason follows.
pub const STAYS: &str = "stays: ";
/// The beginning of a later line: a process runs at home and can move again, for it has become another program
/// (execve(2)), or was made away and had a call to make at home. Its id follows, and since when, in milliseconds of
/// [`since_boot`].
pub const AGAIN: &str = "again: ";
/// The beginning of a later line, too: all of a process's memory is on the other node. Octets that were sent follow, how
/// long that took, and the fastest way there and back that the connection has seen, both in microseconds.
pub const SENT: &str = "sent: ";
/// The beginning of a later line, too: what a process that is away uses of the processors there. Its id follows, how many
/// microseconds since it came, and 1 if it runs now or could, or 0.
pub const USED: &str = "used: ";
/// The beginning of a later line, too: the wish is over that one process come home ([`fetch_signal`]): it is there, has
/// ended, or stays away. Its id follows.
pub const FETCHED: &str = "fetched: ";

/// By this signal, with a process's id (sigqueue(3)), the agent has that one come home. Unlike others it is kept for each
/// time that it is sent.
pub fn fetch_signal() -> i32 {
    libc::SIGRTMIN()
}

/// Other processes with which a process shares memory, so that they move with it.
///
/// # Errors
/// Why it would not leave, as far as can be told before it is stopped; by openMosix's name where it had one.
pub fn company(pid: Pid) -> Result<BTreeSet<i32>, FreezeError> {
    group::company(pid)
}

/// Looking for those who write a file can bring on a signal, SIGIO, which this program is to ignore.
///
/// # Errors
/// Those of signal(2).
pub fn ignore_leases() -> io::Result<()> {
    sys::ignore_leases()
}

/// Gives this program and all that it starts its turn before what it moves: a node that is short of processors is the one
/// whose processes have to leave.
///
/// # Errors
/// Those of setpriority(2): EACCES.
pub fn go_first() -> io::Result<()> {
    const NICE: i32 = -10;
    sys::set_nice(nix::unistd::gettid(), NICE)
}

/// The time since the kernel's start, by which it says when a process was started.
///
/// # Errors
/// Those of `clock_gettime(2)`.
pub fn since_boot() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}

/// Tells the agent what has become of the move. It may be gone (EPIPE), or not listen (EAGAIN): it does without, and
/// nothing here waits for it.
fn tell(line: &str) {
    // Not by `io::Stdout`, which would say later what it cannot now.
    if let Err(error) = nix::unistd::write(io::stdout(), format!("{line}\n").as_bytes()) {
        tracing::debug!(%error, line, "the agent does not hear it");
    }
}

/// Environment of the two sides: what the nodes have agreed about. For `teselad home` the ids of the processes
/// that go, each with its [`look::Status::rights`], as `ID=RIGHTS;ID=RIGHTS`; for `teselad guest` the user, where it is one without any rights of root's.
pub const AGREED: &str = "TESELA_AGREED";

/// Sends a process off and keeps its deputy: `teselad home PID`. Writes [`AWAY`] (or [`AWAY_TOGETHER`]) or [`STAYS`], and
/// after the former a line [`AGAIN`] for each process that can move again, [`SENT`] for each whose memory is there,
/// [`USED`] every second for each that is away, and [`FETCHED`] for each that was wanted home by itself.
///
/// # Errors
/// [`SideError`].
pub fn home_side(pid: i32) -> Result<(), SideError> {
    // Not even a wish that comes at once ends this program.
    home::block_signals().map_err(io::Error::from)?;
    fcntl(io::stdout(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
    let (stream, keys) = handed_over()?;
    let agreed = std::env::var(AGREED).ok().map(|text| agreed(&text)).transpose()?;
    let home = home::Home::send_off(Pid::from_raw(pid), agreed.as_ref(), stream, keys).inspect_err(stays)?;
    let ran = home.run();
    if let Err(error @ home::HomeError::Stays(_)) = &ran {
        stays(error);
    }
    ran?;
    Ok(())
}

fn stays(error: &home::HomeError) {
    tell(&format!("{STAYS}{}", error.to_string().replace('\n', "; ")));
}

fn agreed(text: &str) -> io::Result<group::Agreed> {
    let entry = |entry: &str| {
        let (pid, rights) = entry.split_once('=')?;
        Some((pid.parse().ok()?, rights.to_owned()))
    };
    let entries = text.split(';').map(|text| entry(text).ok_or_else(|| format!("{AGREED} has `{text}'")));
    entries.collect::<Result<_, _>>().map_err(io::Error::other)
}

/// Takes a process in: `teselad guest`.
///
/// # Errors
/// [`SideError`].
pub fn guest_side() -> Result<(), SideError> {
    let (stream, keys) = handed_over()?;
    let agreed = std::env::var(AGREED).ok().and_then(|uid| uid.parse().ok());
    Ok(guest::Guest::serve(stream, keys, agreed)?)
}

/// The connection is descriptor 3, its keys come by the standard input.
fn handed_over() -> io::Result<(TcpStream, link::Keys)> {
    // Each thread of each process has a connection.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut keys = link::Keys { send: [0; KEY], receive: [0; KEY] };
    io::stdin().read_exact(&mut keys.send)?;
    io::stdin().read_exact(&mut keys.receive)?;
    Ok((sys::inherited_socket(3)?, keys))
}
