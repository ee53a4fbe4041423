//! When what was started is ready, by events: its own word, the port that it opens, the file that it writes.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;

/// How long a program may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a service, with `directory/log` as its standard error, and waits for its word by sd_notify(3) that it
/// is ready.
///
/// # Panics
/// It ends before, or does not say so in a minute.
pub fn start_service(command: &mut Command, directory: &Path) -> Child {
    let (notify, log) = (directory.join("notify"), directory.join("log"));
    let told = UnixDatagram::bind(&notify).unwrap();
    let errors = File::options().append(true).create(true).open(&log).unwrap();
    command.env("NOTIFY_SOCKET", &notify).stdout(Stdio::piped()).stderr(errors);
    let mut process = command.spawn().unwrap();
    // It has the other end of this pipe until it ends.
    let output = process.stdout.take().unwrap();
    let [spoke, _] = either([told.as_fd(), output.as_fd()], Instant::now() + PATIENCE);
    let mut word = [0; 64];
    let length = if spoke { told.recv(&mut word).unwrap() } else { 0 };
    fs::remove_file(&notify).unwrap();
    if !word[..length].starts_with(b"READY=1") {
        // It may have ended by itself.
        let _ended = process.kill().and_then(|()| process.wait());
        panic!("no word from {command:?}\n{}", fs::read_to_string(log).unwrap());
    }
    process.stdout = Some(output);
    process
}

/// A port of this machine, which a program opens: bind(2) is all for UDP, listen(2) for TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// UDP.
    Udp(u16),
    /// TCP.
    Tcp(u16),
}

/// Tells when a program that says nothing has opened its ports: strace(1) sees it do so, and lets go of it.
#[derive(Debug)]
pub struct PortWatch {
    _directory: TempDir,
    path: PathBuf,
    calls: File,
}

impl PortWatch {
    /// For one program.
    #[expect(clippy::new_without_default, reason = "it makes something outside of this process")]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("calls");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let calls = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        Self { _directory: directory, path, calls }
    }

    /// What to start in place of this command, with standard streams that are still to be set.
    pub fn watched(&self, command: &Command) -> Command {
        let mut watched = Command::new("strace");
        // The tracer is a grandchild (-D): the program itself is the child that is started. And it can be ended (-I).
        watched
            .args(["-D", "-I", "2", "-f", "-qq", "-e", "trace=bind,listen", "-e", "signal=none", "-o"])
            .arg(&self.path);
        watched.arg(command.get_program()).args(command.get_args());
        watched.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        watched
    }

    /// Waits until `program` has opened all these ports, and runs untraced.
    ///
    /// # Panics
    /// It ends before, or does not do so in a minute.
    pub fn wait(mut self, ports: &[Port], program: &Child) {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Seen::default();
        while !ports.iter().all(|port| seen.open.contains(port)) {
            let Some(text) = self.more(deadline) else {
                panic!("{ports:?}: not opened, but {:?}", seen.open)
            };
            seen.take(&text);
        }
        let pid = program.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap().trim();
        kill(Pid::from_raw(tracer.parse().unwrap()), Signal::SIGTERM).unwrap();
        // It lets go of the program, and ends.
        while self.more(deadline).is_some() {}
    }

    /// What the tracer says next; `None` where it has ended, or nothing comes.
    fn more(&mut self, deadline: Instant) -> Option<String> {
        let [came] = either([self.calls.as_fd()], deadline);
        let mut text = vec![0; 4096];
        let length = if came { self.calls.read(&mut text).unwrap() } else { 0 };
        text.truncate(length);
        (length > 0).then(|| String::from_utf8_lossy(&text).into_owned())
    }
}

/// The calls of strace(1) so far.
#[derive(Default)]
struct Seen {
    rest: String,
    /// The port that each descriptor is bound to.
    bound: HashMap<String, u16>,
    open: Vec<Port>,
}

impl Seen {
    fn take(&mut self, text: &str) {
        self.rest.push_str(text);
        while let Some((line, rest)) = self.rest.split_once('\n') {
            let (line, rest) = (line.to_owned(), rest.to_owned());
            self.call(&line);
            self.rest = rest;
        }
    }

    /// `17 bind(4, {sa_family=AF_INET, sin_port=htons(69), …}, 16) = 0`, `17 listen(4, 128) = 0`
    fn call(&mut self, line: &str) {
        let fd = |call: &str| line.split_once(call)?.1.split_once(',').map(|(fd, _)| fd.to_owned());
        if !line.ends_with("= 0") {
            return;
        }
        let port = || line.split_once("htons(")?.1.split_once(')')?.0.parse().ok();
        if let (Some(fd), Some(port)) = (fd("bind("), port()) {
            self.open.push(Port::Udp(port));
            self.bound.insert(fd, port);
        } else if let Some(port) = fd("listen(").and_then(|fd| self.bound.get(&fd)) {
            self.open.push(Port::Tcp(*port));
        }
    }
}

/// Waits until `is` holds, looking again whenever something in the directory is made or written.
///
/// # Panics
/// It does not in `limit`.
pub fn until_files(directory: &Path, what: &str, limit: Duration, mut is: impl FnMut() -> bool) {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
    inotify.add_watch(directory, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MODIFY).unwrap();
    let deadline = Instant::now() + limit;
    while !is() {
        let [changed] = either([inotify.as_fd()], deadline);
        assert!(changed, "{what}: not within {limit:?}");
        inotify.read_events().unwrap();
    }
}

/// Which of these have something to be read, or have ended; none where the deadline came first.
fn either<const N: usize>(fds: [std::os::fd::BorrowedFd<'_>; N], deadline: Instant) -> [bool; N] {
    let mut ready = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let left = deadline.saturating_duration_since(Instant::now());
    poll(&mut ready, PollTimeout::try_from(left).unwrap()).unwrap();
    ready.map(|one| one.any() == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_seen_in_what_strace_says() {
        let mut seen = Seen::default();
        seen.take(
            "7 bind(3, {sa_family=AF_NETLINK, nl_pid=0, nl_groups=00000000}, 12) = 0\n7 bind(4, {sa_fam",
        );
        assert_eq!(seen.open, []);
        seen.take("ily=AF_INET, sin_port=htons(69), sin_addr=inet_addr(\"1.2.3.4\")}, 16) = 0\n");
        assert_eq!(seen.open, [Port::Udp(69)]);
        seen.take("8 bind(5, {sa_family=AF_INET6, sin6_port=htons(2049), sin6_flowinfo=htonl(0)}, 28) = 0\n");
        seen.take("8 bind(6, {sa_family=AF_INET, sin_port=htons(111)}, 16) = -1 EADDRINUSE (in use)\n");
        assert_eq!(seen.open[1..], [Port::Udp(2049)]);
        seen.take("9 listen(5, 1024) = 0\n");
        assert_eq!(seen.open[2..], [Port::Tcp(2049)]);
    }
}
