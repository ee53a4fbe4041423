//! What `up` writes down for the commands after it.

use std::fs::{self, File, TryLockError};

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::progress::View;
use super::{Error, Lab};

/// The lab as `up` made it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The machines, in the order of the cluster's nodes; unknown ones behind them.
    pub machines: Vec<Machine>,
}

impl Record {
    /// The record of the lab that is up.
    pub fn read(lab: &Lab) -> Result<Self, Error> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let path = lab.state.join("lab.json");
        if !lab.namespace().exists() || !path.exists() {
            return Err(Error::NotUp);
        }
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&text).map_err(|error| Error::io("read", &path)(error.into()))
    }

    /// Replaces the record.
    pub fn write(&self, lab: &Lab) -> Result<(), Error> {
        let path = lab.state.join("lab.json");
        let text =
            serde_json::to_vec_pretty(self).map_err(|error| Error::io("write", &path)(error.into()))?;
        fs::write(&path, text).map_err(Error::io("write", &path))
    }

    /// The machine of this name.
    pub fn machine_named(&self, name: &str) -> Result<&Machine, Error> {
        self.machines.iter().find(|machine| machine.name == name).ok_or_else(|| Error::UnknownNode {
            name: name.to_owned(),
            known: self.machines.iter().map(|machine| machine.name.clone()).collect(),
        })
    }

    /// The machine of this name, or the one that has become the node of this name since.
    pub fn machine(&self, lab: &Lab, name: &str) -> Result<&Machine, Error> {
        if let Some(found) = self.machines.iter().find(|machine| machine.name == name) {
            return Ok(found);
        }
        let became = View::of(lab)?.mac_of(name);
        let found = self.machines.iter().find(|machine| Some(machine.mac) == became);
        found.map_or_else(|| self.machine_named(name), Ok)
    }
}

/// Held by an `up` or a `down` at work. The kernel lets go of it whatever becomes of its holder.
pub struct Busy(#[expect(dead_code, reason = "held, not read")] File);

impl Busy {
    /// Fails at once if another holds it.
    pub fn take(lab: &Lab) -> Result<Self, Error> {
        fs::create_dir_all(&lab.state).map_err(Error::io("make", &lab.state))?;
        let path = lab.state.join("lock");
        let file = File::create(&path).map_err(Error::io("write", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::AlreadyUp),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
        }
    }
}
