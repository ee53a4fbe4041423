//! The network between a process's home and the node where it is fails, and comes back or does not: the process
//! stands still and goes on, every call done once; or it ends on both sides. Needs root, ip(8) and nft(8).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[expect(dead_code, reason = "some of it is for the tests without a network")]
mod common;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::{Away, Cut, How, await_end, ends_within, enter, talks};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
const REMOTE: &str = "10.99.7.2";

/// Two nodes, and the cable between them.
struct Network {
    home: OwnedFd,
    remote: OwnedFd,
}

impl Network {
    fn new() -> Self {
        let made = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
        };
        let [home, remote] = [(); 2].map(|()| std::thread::spawn(made).join().unwrap());
        let network = Self { home, remote };
        let fd = std::os::fd::AsRawFd::as_raw_fd(&network.remote);
        let peer = format!("/proc/{}/fd/{fd}", std::process::id());
        network.at_home(&[
            "ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &peer,
        ]);
        network.at_home(&["ip", "address", "add", "10.99.7.1/24", "dev", "cable"]);
        network.there(&["ip", "address", "add", "10.99.7.2/24", "dev", "cable"]);
        network.there(&["ip", "link", "set", "cable", "up"]);
        network.at_home(&["ip", "link", "set", "cable", "up"]);
        network
    }

    fn at_home(&self, words: &[&str]) {
        run(&self.home, words);
    }

    fn there(&self, words: &[&str]) {
        run(&self.remote, words);
    }

    /// Sends a process over it, with the patience that is said.
    fn send(&self, program: &Child, patience: Option<u32>) -> (Away, Log) {
        let (reads, writes) = std::io::pipe().unwrap();
        let apart = Some((self.home.as_fd(), self.remote.as_fd(), REMOTE));
        let how = How { apart, patience, log: Some(writes.into()), ..How::default() };
        let mut away = Away::send_as(program.id(), how);
        assert!(away.arrived());
        (away, Log::of(reads))
    }
}

fn run(namespace: &OwnedFd, words: &[&str]) {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    enter(&mut command, Some(namespace.as_fd()));
    assert!(command.status().unwrap().success(), "{words:?}");
}

/// What a program says.
struct Log(Receiver<String>);

impl Log {
    fn of(reads: impl std::io::Read + Send + 'static) -> Self {
        let (tell, told) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reads).lines().map_while(Result::ok) {
                eprintln!("{line}");
                let _test_is_over = tell.send(line);
            }
        });
        Self(told)
    }

    fn says(&self, what: &str) {
        while !self.0.recv_timeout(PATIENCE).unwrap().contains(what) {}
    }
}

/// Three threads of it write numbers, a call each, as long as there is the file `on`; meanwhile the first one makes
/// children, whose status it checks, and sends itself signals, which it counts.
const WRITER: &str = "
import os, signal, threading
told = []
signal.signal(signal.SIGUSR1, lambda *_: told.append(1))
out = os.open('out', os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def work(name):
    number = 0
    while os.path.exists('on'):
        number += 1
        os.write(out, b'%s %d\\n' % (name, number))
    results[name] = number
results = {}
threads = [threading.Thread(target=work, args=(name,)) for name in (b'a', b'b')]
for thread in threads:
    thread.start()
print('runs', flush=True)
rounds = 0
while os.path.exists('on'):
    rounds += 1
    signal.signal(signal.SIGUSR2, lambda *_: told.append(2))
    os.kill(os.getpid(), signal.SIGUSR2)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        os.write(out, b'child %d\\n' % rounds)
        os._exit(rounds % 200)
    assert os.waitpid(child, 0) == (child, rounds % 200 << 8)
    short = threading.Thread(target=os.getppid)
    short.start()
    short.join()
for thread in threads:
    thread.join()
assert told == [2] * rounds, (len(told), rounds)
print(results[b'a'], results[b'b'], rounds, flush=True)
";

/// The writer, in a directory of its own.
struct Writer {
    directory: tempfile::TempDir,
    program: Child,
    log: Log,
}

impl Writer {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        File::create(directory.path().join("on")).unwrap();
        let mut program = talks(WRITER, directory.path());
        let log = Log::of(program.stdout.take().unwrap());
        log.says("runs");
        Self { directory, program, log }
    }

    fn out(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("out")).unwrap()
    }

    /// It goes on: as many lines again as it has written, and some.
    fn goes_on(&self) {
        let written = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        written.add_watch(&self.directory.path().join("out"), AddWatchFlags::IN_MODIFY).unwrap();
        let before = self.out().lines().count();
        let deadline = Instant::now() + PATIENCE;
        while self.out().lines().count() < before + 50 {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut ready = [PollFd::new(written.as_fd(), PollFlags::POLLIN)];
            let more = poll(&mut ready, PollTimeout::try_from(left).unwrap()).unwrap();
            assert!(more > 0, "it does not go on");
            written.read_events().unwrap();
        }
    }

    /// It ends, and has written every line once.
    fn ends(mut self) {
        std::fs::remove_file(self.directory.path().join("on")).unwrap();
        let said = self.log.0.recv_timeout(PATIENCE).unwrap();
        let counts: Vec<usize> = said.split(' ').map(|count| count.parse().unwrap()).collect();
        assert!(await_end(&mut self.program, "the writer").success());
        let out = self.out();
        for (name, count) in ["a", "b", "child"].iter().zip(counts) {
            let mut own =
                out.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
            assert!((1..=count).all(|number| own.next() == Some(number)), "{name} has a gap or writes twice");
            assert_eq!(own.next(), None, "{name}");
        }
    }
}

#[test]
fn a_cable_that_is_pulled_and_put_back() {
    let network = Network::new();
    let writer = Writer::start();
    let (away, log) = network.send(&writer.program, None);
    writer.goes_on();
    for _ in 0..2 {
        network.at_home(&["ip", "link", "set", "cable", "down"]);
        let before = writer.out();
        log.says("no connection to the other node");
        let lines = writer.out()[before.len()..].lines().count();
        assert!(lines <= 4, "it stands still: what was on its way has come, {lines} lines");
        network.at_home(&["ip", "link", "set", "cable", "up"]);
        log.says("the other node is there again");
        writer.goes_on();
    }
    let (home, guest) = away.recall();
    assert!(home.success() && guest.success(), "{home} {guest}");
    writer.ends();
}

/// A table of nft(8) in the home's namespace that takes away what it says, while it is there.
fn takes_away(network: &Network, what: &str) {
    network.at_home(&[
        "nft",
        &format!(
            "add table inet t; add chain inet t o {{ type filter hook output priority 0; }}; add rule inet t o {what}; \
             add chain inet t i {{ type filter hook input priority 0; }}; add rule inet t i {what}"
        ),
    ]);
}

fn gives_back(network: &Network) {
    network.at_home(&["nft", "delete table inet t"]);
}

#[test]
fn connections_that_are_reset_are_made_anew() {
    let network = Network::new();
    let writer = Writer::start();
    let (away, log) = network.send(&writer.program, None);
    writer.goes_on();
    // All of them, and new ones are refused for a time.
    takes_away(&network, "meta l4proto tcp reject with tcp reset");
    log.says("no connection to the other node");
    gives_back(&network);
    log.says("the other node is there again");
    writer.goes_on();
    // The threads' channels alone, which are those that are busy; the link stays.
    takes_away(&network, "tcp flags & (syn | psh) == psh numgen random mod 100 == 0 reject with tcp reset");
    for _ in 0..3 {
        writer.goes_on();
    }
    gives_back(&network);
    writer.goes_on();
    let (home, guest) = away.recall();
    assert!(home.success() && guest.success(), "{home} {guest}");
    writer.ends();
}

#[test]
fn a_network_that_stays_away_ends_the_process_on_both_sides() {
    let network = Network::new();
    let mut writer = Writer::start();
    let (mut away, log) = network.send(&writer.program, Some(12));
    network.at_home(&["ip", "link", "set", "cable", "down"]);
    log.says("the process is lost with the node where it was, and ends");
    assert!(away.guest.try_wait().unwrap().is_some(), "its body has ended before: there are never two");
    assert_eq!(await_end(&mut writer.program, "the writer").signal(), Some(libc::SIGPWR));
    log.says("nothing has been heard of the other node for 12 s");
    let (home, guest) = away.recall();
    assert_eq!((home.code(), guest.code()), (Some(1), Some(1)));
}

#[test]
fn a_guest_ends_with_its_home() {
    let network = Network::new();
    let mut writer = Writer::start();
    let (mut away, _log) = network.send(&writer.program, Some(3));
    away.home.kill().unwrap();
    assert_eq!(await_end(&mut away.guest, "the guest").code(), Some(1));
    assert_eq!(await_end(&mut writer.program, "the writer").signal(), Some(libc::SIGKILL));
}

/// Says a line when it is told to, and then opens a file and says what has become of it.
const OPENER: &str = "
import os, sys
print('runs', flush=True)
sys.stdin.readline()
os.close(os.open('held', os.O_RDONLY))
print('opened', flush=True)
";

/// Whoever opens the file waits, and no signal but SIGKILL wakes him, until this is answered (fanotify(7)).
struct Held(OwnedFd);

impl Held {
    fn new(file: &Path) -> Self {
        use std::os::fd::{AsRawFd as _, FromRawFd as _};
        let path = std::ffi::CString::new(file.to_str().unwrap()).unwrap();
        // SAFETY: a descriptor of this call's own, and a string that ends with NUL.
        unsafe {
            let fd = libc::fanotify_init(libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC, 0);
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            let held = Self(OwnedFd::from_raw_fd(fd));
            let marked = libc::fanotify_mark(
                held.0.as_raw_fd(),
                libc::FAN_MARK_ADD,
                libc::FAN_OPEN_PERM,
                -1,
                path.as_ptr(),
            );
            assert_eq!(marked, 0, "{}", std::io::Error::last_os_error());
            held
        }
    }

    /// Waits until somebody opens it: the descriptor by which he is answered.
    fn asked(&self) -> OwnedFd {
        use std::os::fd::FromRawFd as _;
        // struct fanotify_event_metadata: the descriptor is its fifth word of 32 bits.
        let mut event = [0_u8; 24];
        assert_eq!(nix::unistd::read(&self.0, &mut event).unwrap(), event.len());
        let fd = i32::from_ne_bytes([event[16], event[17], event[18], event[19]]);
        // SAFETY: the kernel has just made it for us.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    fn let_go(&self, opened: &OwnedFd) {
        use std::os::fd::AsRawFd as _;
        let answer = [opened.as_raw_fd().to_ne_bytes(), libc::FAN_ALLOW.to_ne_bytes()].concat();
        assert_eq!(nix::unistd::write(&self.0, &answer).unwrap(), answer.len());
    }
}

#[test]
fn a_deputy_that_cannot_be_stopped_holds_up_no_sign_of_life() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("held");
    File::create(&file).unwrap();
    let mut program = talks(OPENER, directory.path());
    let said = Log::of(program.stdout.take().unwrap());
    said.says("runs");
    let network = Network::new();
    let (mut away, _log) = network.send(&program, Some(8));
    let held = Held::new(&file);
    program.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let opened = held.asked();
    // Home has to stop the deputy for this, and cannot.
    nix::sys::signal::kill(common::pid_of(&away.home), nix::sys::signal::Signal::SIGUSR1).unwrap();
    let patience = Duration::from_secs(10);
    assert!(!ends_within(&away.guest, patience), "the body ends without need");
    held.let_go(&opened);
    said.says("opened");
    assert!(await_end(&mut program, "the opener").success());
    assert!(await_end(&mut away.home, "home").success());
    assert!(await_end(&mut away.guest, "the guest").success());
}

/// Makes a child when it is told to, and says what has become of it.
const PARENT: &str = "
import os, sys
print('runs', flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os._exit(7)
    print('ended', os.waitpid(child, 0)[1], flush=True)
";

#[test]
fn a_child_that_cannot_be_connected_ends_alone() {
    let mut program = talks(PARENT, Path::new("/"));
    let said = Log::of(program.stdout.take().unwrap());
    said.says("runs");
    let network = Network::new();
    let (away, _log) = network.send(&program, Some(6));
    let mut input = program.stdin.take().unwrap();
    input.write_all(b"one\n").unwrap();
    said.says(&format!("ended {}", 7 << 8));
    // What is there goes on, and nothing new comes.
    takes_away(&network, "tcp flags & (syn | ack) == syn drop");
    input.write_all(b"two\n").unwrap();
    said.says(&format!("ended {}", libc::SIGKILL));
    gives_back(&network);
    input.write_all(b"three\n").unwrap();
    said.says(&format!("ended {}", 7 << 8));
    drop(input);
    assert!(await_end(&mut program, "the parent").success());
    let (home, guest) = away.recall();
    assert!(home.success() && guest.success(), "{home} {guest}");
}

#[test]
fn a_move_that_loses_its_network_leaves_the_process_at_home() {
    let network = Network::new();
    let writer = Writer::start();
    // No connection but the first one is made.
    takes_away(&network, "tcp flags & (syn | ack) == syn limit rate over 1/day burst 1 packets drop");
    let apart = Some((network.home.as_fd(), network.remote.as_fd(), REMOTE));
    let mut away = Away::send_as(writer.program.id(), How { apart, ..How::default() });
    assert!(!away.arrived());
    writer.goes_on();
    assert_eq!(await_end(&mut away.home, "home").code(), Some(1));
    await_end(&mut away.guest, "the guest");
    writer.ends();
}

/// The other side is lost at the word that lets the body go on: home cannot know whether it has been heard.
#[test]
fn a_process_that_may_have_begun_elsewhere_and_has_not_goes_on_at_home() {
    let writer = Writer::start();
    let how = How { cut: Some(Cut::Resume), patience: Some(3), ..How::default() };
    let mut away = Away::send_as(writer.program.id(), how);
    away.cut.take().unwrap().recv().unwrap();
    away.guest.kill().unwrap();
    assert!(!away.arrived(), "it says why it stays");
    writer.goes_on();
    assert_eq!(await_end(&mut away.home, "home").code(), Some(1));
    writer.ends();
}

/// The body stands ready, and somebody ends it, as the kernel does where memory runs out.
#[test]
fn a_process_whose_body_ends_before_it_could_run_goes_on_at_home() {
    let writer = Writer::start();
    let mut away = Away::send_as(writer.program.id(), How { cut: Some(Cut::Resume), ..How::default() });
    away.cut.take().unwrap().recv().unwrap();
    let [body] = away.bodies()[..] else { panic!("{:?}", away.bodies()) };
    kill(Pid::from_raw(body), Signal::SIGKILL).unwrap();
    assert!(!away.arrived(), "it says why it stays");
    writer.goes_on();
    assert_eq!(await_end(&mut away.home, "home").code(), Some(1));
    writer.ends();
}

/// The connection breaks at the answer to that: the next one brings it.
#[test]
fn a_process_that_has_begun_elsewhere_unheard_is_away() {
    let writer = Writer::start();
    let mut away = Away::send_as(writer.program.id(), How { cut: Some(Cut::Resumed), ..How::default() });
    assert!(away.arrived());
    writer.goes_on();
    let (home, guest) = away.recall();
    assert!(home.success() && guest.success(), "{home} {guest}");
    writer.ends();
}

/// What it does is seen before it is said that it runs: it is away, and what becomes of it comes after that.
#[test]
fn a_process_whose_first_call_makes_it_another_program_was_away() {
    let mut program = Command::new("sh");
    program.args(["-c", "read word; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = program.spawn().unwrap();
    let mut input = program.stdin.take().unwrap();
    let mut away = Away::send_as(program.id(), How { cut: Some(Cut::Answers), ..How::default() });
    away.cut.take().unwrap().recv().unwrap();
    input.write_all(b"go\non\n").unwrap();
    drop(input);
    assert!(away.arrived());
    let mut said = String::new();
    program.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((said.as_str(), await_end(&mut program, "cat").code()), ("on\n", Some(0)));
    let (home, guest) = away.recall();
    assert!(home.success() && guest.success(), "{home} {guest}");
}
