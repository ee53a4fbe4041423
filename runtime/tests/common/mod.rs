//! A process sent from one side to another and called home, both on this host.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is away: its two sides.
pub struct Away {
    home: Child,
    output: BufReader<ChildStdout>,
    pub guest: Child,
}

impl Away {
    /// Asks for process `pid` to move. The sides know each other if `strangers` is false.
    pub fn send(pid: u32, strangers: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let theirs = listener.accept().unwrap().0;
        let (mut home_keys, mut guest_keys) = ([7; 64], [7; 64]);
        home_keys[..32].fill(8);
        guest_keys[32..].fill(if strangers { 9 } else { 8 });
        let guest = side(&["guest"], &theirs, &guest_keys, Stdio::inherit());
        let mut home = side(&["home", &pid.to_string()], &ours, &home_keys, Stdio::piped());
        let output = BufReader::new(home.stdout.take().unwrap());
        Self { home, output, guest }
    }

    /// Waits until it runs there; `false` where it did not leave.
    pub fn arrived(&mut self) -> bool {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line == "away\n"
    }

    /// Calls it home, unless it has come or ended meanwhile.
    pub fn recall(mut self) -> (ExitStatus, ExitStatus) {
        // ESRCH: it has.
        let _gone = kill(pid_of(&self.home), Signal::SIGUSR1);
        (await_end(&mut self.home, "the home's side"), await_end(&mut self.guest, "the remote side"))
    }
}

fn side(words: &[&str], stream: &TcpStream, keys: &[u8], output: Stdio) -> Child {
    let fd = stream.as_raw_fd();
    let mut command = Command::new(env!("CARGO_BIN_EXE_teselad"));
    command.args(words).stdin(Stdio::piped()).stdout(output).env("GLIBC_TUNABLES", "glibc.pthread.rseq=0");
    // SAFETY: dup2 alone, between fork and exec.
    unsafe {
        command.pre_exec(move || match libc::dup2(fd, 3) {
            3 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
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

/// A program as the tests run it: its output goes to a file, as a pipe would hold it up.
pub fn start(script: &str, output: &Path) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(File::create(output).unwrap());
    command.current_dir(output.parent().unwrap()).spawn().unwrap()
}
