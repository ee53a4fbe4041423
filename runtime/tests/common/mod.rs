//! A process sent from one side to another and called home, both on this host.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is away: its two sides.
pub struct Away {
    pub home: Child,
    output: BufReader<ChildStdout>,
    pub guest: Child,
    /// Tells when the word comes that is not to arrive.
    pub cut: Option<Receiver<()>>,
}

/// Where the two sides are, and how they are.
#[derive(Default)]
pub struct How<'a> {
    /// The sides do not know each other.
    pub strangers: bool,
    /// Network namespaces of home and of the remote node, and the latter's address; else both are here.
    pub apart: Option<(BorrowedFd<'a>, BorrowedFd<'a>, &'a str)>,
    /// How long home waits for a sign of the body, in seconds.
    pub patience: Option<u32>,
    /// What home says goes here.
    pub log: Option<Stdio>,
    /// A file, and another one that the remote node has in its place.
    pub other: Option<(&'a Path, &'a Path)>,
    /// What home finds in /proc/meminfo.
    pub memory: Option<&'a Path>,
    /// The first connection breaks here.
    pub cut: Option<Cut>,
}

/// A word on the link that does not arrive any more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Home's, that the body go on; nothing more is passed on then.
    Resume,
    /// The answer to it; the connection is closed then.
    Resumed,
    /// The answer to it, and all that comes behind it.
    Answers,
}

impl Away {
    /// Asks for process `pid` to move. The sides know each other if `strangers` is false.
    pub fn send(pid: u32, strangers: bool) -> Self {
        Self::send_as(pid, How { strangers, ..How::default() })
    }

    /// The same, with more to say.
    pub fn send_as(pid: u32, how: How<'_>) -> Self {
        let address = how.apart.map_or("127.0.0.1", |(_, _, address)| address);
        let [home_at, guest_at] = [how.apart.map(|(home, ..)| home), how.apart.map(|(_, remote, _)| remote)];
        let listener = in_namespace(guest_at, || TcpListener::bind((address, 0)).unwrap());
        let port = listener.local_addr().unwrap();
        let ours = in_namespace(home_at, || TcpStream::connect(port).unwrap());
        let mut theirs = listener.accept().unwrap().0;
        let cut = how.cut.map(|cut| {
            let guests = TcpStream::connect(port).unwrap();
            let told = pass_on(&theirs, &listener.accept().unwrap().0, cut);
            theirs = guests;
            told
        });
        let (mut home_keys, mut guest_keys) = ([7; 64], [7; 64]);
        home_keys[..32].fill(8);
        guest_keys[32..].fill(if how.strangers { 9 } else { 8 });
        let patience = how.patience.map(|seconds| seconds.to_string());
        let mut guest = side(&["guest"], &theirs, guest_at);
        let mut home = side(&["home", &pid.to_string()], &ours, home_at);
        if let Some((place, other)) = how.other {
            cover(&mut guest, place, other);
        }
        if let Some(memory) = how.memory {
            cover(&mut home, Path::new("/proc/meminfo"), memory);
        }
        if let Some(patience) = patience {
            guest.env("TESELA_PATIENCE", &patience);
            home.env("TESELA_PATIENCE", &patience);
        }
        if let Some(log) = how.log {
            home.stderr(log);
        }
        let guest = begin(guest, &guest_keys);
        home.stdout(Stdio::piped());
        let mut home = begin(home, &home_keys);
        let output = BufReader::new(home.stdout.take().unwrap());
        Self { home, output, guest, cut }
    }

    /// Waits until it runs there; `false` where it did not leave.
    pub fn arrived(&mut self) -> bool {
        ["away", "away together"].contains(&self.says().as_str())
    }

    /// What home says next.
    pub fn says(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Processes on the remote side: what the first one of their place has made, which is the guest's child.
    pub fn bodies(&self) -> Vec<i32> {
        let guest = i32::try_from(self.guest.id()).unwrap();
        let parent = |pid: i32| stat(pid)?.1[1].parse::<i32>().ok();
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| parent(*pid).and_then(parent) == Some(guest)).collect()
    }

    /// Calls it home, unless it has come or ended meanwhile.
    pub fn recall(mut self) -> (ExitStatus, ExitStatus) {
        // ESRCH: it has.
        let _gone = kill(pid_of(&self.home), Signal::SIGUSR1);
        (await_end(&mut self.home, "the home's side"), await_end(&mut self.guest, "the remote side"))
    }
}

/// A process's name, and what follows it in /proc/PID/stat (proc(5)).
pub fn stat(pid: i32) -> Option<(String, Vec<String>)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = text.split_once('(')?.1.rsplit_once(") ")?;
    Some((name.to_owned(), rest.split_ascii_whitespace().map(str::to_owned).collect()))
}

/// Passes on what home and the remote side say on a connection, up to this word, and tells when that comes.
fn pass_on(home: &TcpStream, remote: &TcpStream, cut: Cut) -> Receiver<()> {
    /// Octets of a record that holds a message of one octet (`Built`, `Resume`, `Resumed`), and nothing else does.
    const SHORT: u32 = 4 + 3 + 16;
    let (tell, told) = channel();
    let ways = [
        (home, remote, (cut == Cut::Resume).then_some(1)),
        (remote, home, (cut != Cut::Resume).then_some(2)),
    ];
    for (from, to, last) in ways {
        let (mut from, mut to, tell) = (from.try_clone().unwrap(), to.try_clone().unwrap(), tell.clone());
        std::thread::spawn(move || {
            let (mut record, mut short) = (vec![0; 4], 0);
            while from.read_exact(&mut record[..4]).is_ok() {
                let length = u32::from_le_bytes(record[..4].try_into().unwrap());
                record.resize(4 + length as usize, 0);
                short += u32::from(length == SHORT);
                if from.read_exact(&mut record[4..]).is_err() {
                    break;
                }
                if last == Some(short) {
                    tell.send(()).unwrap();
                    if cut == Cut::Resumed {
                        break;
                    }
                    return;
                }
                if to.write_all(&record).is_err() {
                    break;
                }
            }
            for stream in [from, to] {
                // It may be closed already.
                let _closed = stream.shutdown(std::net::Shutdown::Both);
            }
        });
    }
    told
}

fn side(words: &[&str], stream: &TcpStream, namespace: Option<BorrowedFd<'_>>) -> Command {
    let fd = stream.as_raw_fd();
    let mut command = Command::new(env!("CARGO_BIN_EXE_teselad"));
    command.args(words).stdin(Stdio::piped()).env("GLIBC_TUNABLES", "glibc.pthread.rseq=0");
    enter(&mut command, namespace);
    // SAFETY: dup2 alone, between fork and exec.
    unsafe {
        command.pre_exec(move || match libc::dup2(fd, 3) {
            3 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    command
}

/// A program is started where another file is in a file's place.
fn cover(command: &mut Command, place: &Path, other: &Path) {
    let [place, other] = [place, other].map(|path| std::ffi::CString::new(path.to_str().unwrap()).unwrap());
    // SAFETY: system calls alone, between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let none = std::ptr::null();
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let done = libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, c"/".as_ptr(), none, private, none.cast()) == 0
                && libc::mount(other.as_ptr(), place.as_ptr(), none, libc::MS_BIND, none.cast()) == 0;
            if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}

/// A program is started in a network namespace; `None`: in that of the test.
pub fn enter(command: &mut Command, namespace: Option<BorrowedFd<'_>>) {
    let Some(namespace) = namespace.map(|namespace| namespace.as_raw_fd()) else { return };
    // SAFETY: setns alone, between fork and exec.
    unsafe {
        command.pre_exec(move || match libc::setns(namespace, libc::CLONE_NEWNET) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// Does something in a network namespace.
fn in_namespace<T: Send>(namespace: Option<BorrowedFd<'_>>, work: impl FnOnce() -> T + Send) -> T {
    let Some(namespace) = namespace else { return work() };
    let work = move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

fn begin(mut command: Command, keys: &[u8]) -> Child {
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(keys).unwrap();
    child
}

/// Its id.
pub fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

/// Waits until a program has ended.
pub fn await_end(child: &mut Child, what: &str) -> ExitStatus {
    // Its end may have been taken up already.
    let ended = child.try_wait().unwrap().is_some() || ends_within(child, PATIENCE);
    assert!(ended, "{what} does not end");
    child.wait().unwrap()
}

/// Waits for a program's end, at most for so long; says whether it has come.
pub fn ends_within(child: &Child, time: Duration) -> bool {
    // SAFETY: numbers go in, and what comes out is a descriptor of this call's own.
    let end = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid_of(child).as_raw(), 0);
        OwnedFd::from_raw_fd(i32::try_from(fd).unwrap())
    };
    let mut ready = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
    poll(&mut ready, PollTimeout::try_from(time).unwrap()).unwrap() > 0
}

/// A Python program that is talked with: what it hears and says comes by pipes.
pub fn talks(program: &str, directory: &Path) -> Child {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", program]).current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// A program as the tests run it: its output goes to a file, as a pipe would hold it up.
pub fn start(script: &str, output: &Path) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(File::create(output).unwrap());
    command.current_dir(output.parent().unwrap()).spawn().unwrap()
}
