//! The power switch of a machine: of a virtual one by QEMU's machine protocol (QMP).

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

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

/// Works the power switch of `node`.
pub fn power(lab: &Lab, node: &str, power: Power) -> Result<(), Error> {
    let record = Record::read(lab)?;
    let machine = record.machine(lab, node)?;
    match (&machine.hardware, power) {
        (Hardware::Vm(_), Power::Off) => qmp(lab, &machine.name, "quit"),
        (Hardware::Vm(_), Power::Reset) => qmp(lab, &machine.name, "system_reset"),
        (_, Power::On) if is_on(lab, machine) => Err(Error::PoweredOn { name: node.to_owned() }),
        (_, Power::On) => machine.start(lab).map(|_child| ()),
        (Hardware::Namespace(_), _) if !is_on(lab, machine) => {
            Err(Error::PoweredOff { name: node.to_owned() })
        }
        (Hardware::Namespace(_), Power::Off | Power::Reset) => {
            lab.node_namespace(&machine.name).end_all(Signal::SIGKILL)?;
            if power == Power::Reset { machine.start(lab).map(|_child| ()) } else { Ok(()) }
        }
    }
}

/// Whether the machine is on.
pub fn is_on(lab: &Lab, machine: &Machine) -> bool {
    match &machine.hardware {
        Hardware::Vm(_) => UnixStream::connect(lab.machine_dir(&machine.name).join("qmp.sock")).is_ok(),
        Hardware::Namespace(_) => {
            lab.node_namespace(&machine.name).processes().is_ok_and(|processes| !processes.is_empty())
        }
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
