//! A virtual machine's serial console on the caller's terminal.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::machine::{self, Hardware};
use super::record::Record;
use super::{Error, Lab};

/// Ctrl-], as telnet and virsh have it.
const ESCAPE: u8 = 0x1d;

/// Attaches to the console of `node` until the escape key, the end of the input, or the machine's end.
pub fn attach(lab: &Lab, node: &str) -> Result<(), Error> {
    let record = Record::read(lab)?;
    let machine = record.machine(lab, node)?;
    if let Hardware::Namespace(..) = machine.hardware {
        return Err(Error::NoConsole { name: node.to_owned(), log: machine::log(lab, &machine.name) });
    }
    let directory = lab.machine_dir(&machine.name);
    let path = directory.join("console.sock");
    let console = UnixStream::connect(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Error::PoweredOff { name: node.to_owned() },
        _ => Error::io("connect to", &path)(error),
    })?;
    eprintln!(
        "Console of {node}: Ctrl-] leaves it. What it said before is in {}.",
        directory.join("console.log").display()
    );
    let raw = Raw::enter().map_err(Error::io("set up", "the terminal".as_ref()))?;
    let copied = copy(console);
    drop(raw);
    eprintln!();
    copied.map_err(Error::io("talk to", &path))
}

fn copy(mut console: UnixStream) -> io::Result<()> {
    // Not std's own, which reads ahead: what it holds back `poll` knows nothing of.
    let mut keyboard = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut screen = io::stdout().lock();
    let mut buffer = [0; 4096];
    loop {
        let mut ready = [
            PollFd::new(keyboard.as_fd(), PollFlags::POLLIN),
            PollFd::new(console.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut ready, PollTimeout::NONE)?;
        let [typed, said] = ready.map(|fd| fd.any().unwrap_or(false));
        if said {
            let length = console.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            screen.write_all(&buffer[..length])?;
            screen.flush()?;
        }
        if typed {
            let length = keyboard.read(&mut buffer)?;
            let before = buffer[..length].split(|byte| *byte == ESCAPE).next().unwrap_or_default();
            console.write_all(before)?;
            if length == 0 || before.len() < length {
                return Ok(());
            }
        }
    }
}

/// The terminal in raw mode, given back as it was.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self(None));
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0
            && let Err(error) = tcsetattr(io::stdin(), SetArg::TCSANOW, before)
        {
            eprintln!("the terminal could not be set back ({error}): type `reset`");
        }
    }
}
