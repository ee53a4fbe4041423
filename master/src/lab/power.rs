//! The power switch of a machine: of a virtual one by QEMU's machine protocol (QMP).

use std::fs::{File, TryLockError};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::sys::signal::Signal;

use super::machine::{Hardware, Machine};
use super::record::Record;
use super::{Error, Lab};

/// What to do with the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Power {
    /// Power it on.
    On,
    /// Cut its power, with no warning to what runs on it.
    Off,
    /// Press its reset button.
    Reset,
}

/// How long a machine may take to end when it is told to, and between two looks.
const OFF_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Works the power switch of `node`.
pub fn power(lab: &Lab, node: &str, power: Power) -> Result<(), Error> {
    let record = Record::read(lab)?;
    let machine = record.machine(lab, node)?;
    match (&machine.hardware, power) {
        (Hardware::Vm(_), Power::Off) => {
            qmp(lab, &machine.name, "quit")?;
            Switch::await_off(&lab.machine_dir(&machine.name))
        }
        (Hardware::Vm(_), Power::Reset) => qmp(lab, &machine.name, "system_reset"),
        (_, Power::On) => machine.start(lab).map(drop).map_err(|error| match error {
            // By the name that it was called.
            Error::PoweredOn { .. } => Error::PoweredOn { name: node.to_owned() },
            other => other,
        }),
        (Hardware::Namespace(..), _) if !is_on(lab, machine) => {
            Err(Error::PoweredOff { name: node.to_owned() })
        }
        (Hardware::Namespace(..), Power::Off | Power::Reset) => {
            lab.node_namespace(&machine.name).end_all(Signal::SIGKILL)?;
            if power == Power::Reset { machine.start(lab).map(|_child| ()) } else { Ok(()) }
        }
    }
}

/// Whether the machine is on.
pub fn is_on(lab: &Lab, machine: &Machine) -> bool {
    Switch::is_on(&lab.machine_dir(&machine.name))
}

/// The power switch of a machine: a lock that its process holds, as its stdin, from before it starts. The kernel
/// lets go of it whatever becomes of the machine, so of two that switch it on one does.
pub struct Switch(File);

impl Switch {
    /// Switches on; the machine of this directory is whatever gets this as its stdin.
    pub fn take(directory: &Path, machine: &str) -> Result<Self, Error> {
        let path = Self::path(directory);
        File::options().create(true).append(true).open(&path).map_err(Error::io("write", &path))?;
        // For reading only: there is nothing in it that a machine could change.
        let file = File::open(&path).map_err(Error::io("read", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::PoweredOn { name: machine.to_owned() }),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
        }
    }

    fn is_on(directory: &Path) -> bool {
        let Ok(file) = File::open(Self::path(directory)) else { return false };
        match file.try_lock() {
            // Not only closed: a child that is being made at this moment has it open, too.
            Ok(()) => file.unlock().is_err(),
            Err(error) => matches!(error, TryLockError::WouldBlock),
        }
    }

    /// Returns once a machine that was told to end has ended.
    fn await_off(directory: &Path) -> Result<(), Error> {
        let told = Instant::now();
        while Self::is_on(directory) {
            if told.elapsed() > OFF_PATIENCE {
                return Err(Error::io("wait for", &Self::path(directory))(ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn path(directory: &Path) -> PathBuf {
        directory.join("on")
    }
}

impl From<Switch> for Stdio {
    fn from(switch: Switch) -> Self {
        switch.0.into()
    }
}

fn qmp(lab: &Lab, machine: &str, command: &str) -> Result<(), Error> {
    let path = lab.machine_dir(machine).join("qmp.sock");
    let mut stream = UnixStream::connect(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Error::PoweredOff { name: machine.to_owned() },
        _ => Error::io("connect to", &path)(error),
    })?;
    let talk = || -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut answers = BufReader::new(stream.try_clone()?).lines();
        for request in ["qmp_capabilities", command] {
            writeln!(stream, "{{\"execute\": \"{request}\"}}")?;
        }
        // The greeting and events come between the answers, of which there is one a request.
        let mut left = 2;
        while left > 0 {
            match answers.next().transpose()? {
                Some(line) if line.contains("\"return\"") => left -= 1,
                Some(line) if line.contains("\"error\"") => return Err(std::io::Error::other(line)),
                Some(_) => {}
                None if command == "quit" => break,
                None => return Err(ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(())
    };
    let mut talk = talk;
    talk().map_err(Error::io("talk to", &path))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_machine_that_is_on_is_not_started_again_until_it_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        assert!(!Switch::is_on(directory));
        let on = Switch::take(directory, "n2").unwrap();
        // It ends when it is killed: nobody reads what it says.
        let mut machine = Command::new("yes").stdin(on).stdout(Stdio::piped()).spawn().unwrap();
        assert!(Switch::is_on(directory));
        let again = Switch::take(directory, "n2");
        assert!(matches!(again, Err(Error::PoweredOn { name }) if name == "n2"));
        machine.kill().unwrap();
        machine.wait().unwrap();
        Switch::await_off(directory).unwrap();
        // A child that another test is making has whatever is open here, until it executes its program.
        let off = Instant::now();
        while let Err(error) = Switch::take(directory, "n2") {
            assert!(off.elapsed() < OFF_PATIENCE, "{error}");
        }
    }
}
