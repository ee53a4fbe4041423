//! Which accelerator QEMU gets, found by a trial: `/dev/kvm` can be there and hang every guest.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Error;

/// The payload: iPXE as a kernel. A few bytes of our own at the reset vector run where a whole guest
/// hangs, for they never leave the first instructions; iPXE goes through the BIOS, the kernel's loader,
/// real and protected mode and back before it says its name.
const PAYLOAD: &str = "/usr/lib/ipxe/ipxe.lkrn";
const MARK: &str = "iPXE initialising";
/// A machine with a working KVM says it in a fifth of a second.
const DEADLINE: Duration = Duration::from_secs(4);
const POLL: Duration = Duration::from_millis(20);

/// How QEMU runs a guest's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// By the processor itself.
    Kvm,
    /// By translation, in software.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// KVM if a guest gets somewhere with it, else translation. `directory` takes the trial's output.
pub fn choose(directory: &Path) -> Result<Accelerator, Error> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Accelerator::Tcg);
    }
    let serial = directory.join("kvm-trial.log");
    let qemu = Path::new(super::machine::QEMU);
    let mut child = Command::new(qemu)
        .args(["-accel", "kvm", "-machine", "pc,graphics=off", "-m", "64", "-nodefaults", "-no-reboot"])
        .args(["-display", "none", "-kernel", PAYLOAD, "-serial"])
        .arg(format!("file:{}", serial.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Error::io("run", qemu))?;
    let started = Instant::now();
    let works = loop {
        if fs::read(&serial).is_ok_and(|said| String::from_utf8_lossy(&said).contains(MARK)) {
            break true;
        }
        let ended = child.try_wait().map_err(Error::io("wait for", qemu))?.is_some();
        if ended || started.elapsed() > DEADLINE {
            break false;
        }
        std::thread::sleep(POLL);
    };
    child.kill().map_err(Error::io("end", qemu))?;
    child.wait().map_err(Error::io("wait for", qemu))?;
    Ok(if works { Accelerator::Kvm } else { Accelerator::Tcg })
}
