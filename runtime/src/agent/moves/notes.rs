//! What the agent keeps of a process of this node: how often it was sent off, and whether it is locked.
//!
//! A file a process, below the directory of keys, which is in memory: it is there for the agent that is started
//! next, and gone with the node's power. A process that has another's id is known by when it was started.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

use crate::migrate::look;
use crate::wire::local::Hint;

/// Of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// When the process was started, in ticks since the kernel was (proc_pid_stat(5), 22).
    started: u64,
    /// How often it was sent to another node.
    pub nmigs: u64,
    /// It may not be sent to another node.
    pub locked: bool,
    /// What it is like, as it or its user has said.
    #[serde(default)]
    pub hints: Hints,
}

/// What a process is said to be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// `Some(true)`: it computes; `Some(false)`: it does input and output.
    pub cpu: Option<bool>,
    /// How its statistics fade.
    pub fading: Fading,
    /// Its statistics count from here on, in ticks since the kernel's start.
    pub cleared: u64,
}

/// How old statistics of a process fade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fading {
    /// Slowly, as of most.
    #[default]
    Slow,
    /// Fast.
    Fast,
    /// Not at all.
    None,
}

impl Hints {
    /// Takes over what is said of it, `now` in ticks since the kernel's start.
    pub fn take(&mut self, hint: Hint, now: u64) {
        match hint {
            Hint::Cpujob => self.cpu = Some(true),
            Hint::Iojob => self.cpu = Some(false),
            Hint::Slow => self.fading = Fading::Slow,
            Hint::Fast => self.fading = Fading::Fast,
            Hint::None => self.fading = Fading::None,
            Hint::Clear => *self = Self { cleared: now, ..Self::default() },
        }
    }
}

/// All of them.
#[derive(Debug)]
pub struct Notes(PathBuf);

impl Notes {
    /// Those in this directory of keys.
    pub fn below(keys: &Path) -> Self {
        Self(keys.join("processes"))
    }

    /// The note of a process; an empty one where there is none.
    ///
    /// # Errors
    /// Those of reading it; the process has ended.
    pub fn of(&self, pid: i32) -> io::Result<Note> {
        let fresh = Note { started: started(pid)?, ..Note::default() };
        Ok(self.own(pid, fresh.started)?.unwrap_or(fresh))
    }

    fn own(&self, pid: i32, started: u64) -> io::Result<Option<Note>> {
        match fs::read(self.0.join(pid.to_string())) {
            Ok(text) => {
                let note: Note = serde_json::from_slice(&text)?;
                Ok(Some(note).filter(|note| note.started == started))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is said of a process, of it or else of the nearest from which it descends. One of which nothing can be read is
    /// as one of which nothing was said.
    pub fn inherited(&self, pid: i32) -> Note {
        let mut at = pid;
        while at > 1 {
            let Ok(started) = started(at) else { break };
            if let Ok(Some(note)) = self.own(at, started) {
                return note;
            }
            let Some(parent) = look::parent(at) else { break };
            at = parent;
        }
        Note::default()
    }

    /// Changes the note of a process, and forgets those of processes that have ended.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn change(&self, pid: i32, change: impl FnOnce(&mut Note)) -> io::Result<()> {
        let started_at = started(pid)?;
        let mut note = match self.own(pid, started_at)? {
            Some(note) => note,
            // From now on it has one of its own, which begins with what was said of its parents.
            None => Note { started: started_at, nmigs: 0, ..self.inherited(pid) },
        };
        change(&mut note);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let ended = |name: &str| name.parse().is_ok_and(|pid| started(pid).is_err());
            if entry.file_name().to_str().is_some_and(ended) {
                fs::remove_file(entry.path())?;
            }
        }
        let path = self.0.join(pid.to_string());
        let new = self.0.join(format!("{pid}.new"));
        fs::write(&new, serde_json::to_vec(&note)?)?;
        fs::rename(new, path)
    }
}

/// When a process was started, in ticks since the kernel was.
pub fn started(pid: i32) -> io::Result<u64> {
    let stat = look::text(format!("/proc/{pid}/stat"))?;
    // The second field, the program's name in brackets, can have brackets and blanks in it.
    let rest = stat.rsplit_once(')').map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split_ascii_whitespace().nth(19)?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {stat}")))
}

/// So many ticks.
pub fn ticks(count: u64) -> io::Result<Duration> {
    Ok(Duration::from_millis(count.saturating_mul(1000) / a_second()?))
}

/// A length of time in ticks.
pub fn in_ticks(time: Duration) -> io::Result<u64> {
    let ticks = time.as_millis() * u128::from(a_second()?) / 1000;
    Ok(u64::try_from(ticks).unwrap_or(u64::MAX))
}

fn a_second() -> io::Result<u64> {
    // 100 on every Linux of today.
    Ok(sysconf(SysconfVar::CLK_TCK)?.and_then(|ticks| ticks.try_into().ok()).unwrap_or(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_of_one_process_and_goes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let notes = Notes::below(directory.path());
        let own = std::process::id().cast_signed();
        assert_eq!((notes.of(own).unwrap().nmigs, notes.of(own).unwrap().locked), (0, false));
        notes.change(own, |note| note.nmigs += 2).unwrap();
        notes.change(own, |note| note.locked = true).unwrap();
        assert_eq!((notes.of(own).unwrap().nmigs, notes.of(own).unwrap().locked), (2, true));
        // Another process with this id, and one that has ended.
        let path = |pid: i32| directory.path().join("processes").join(pid.to_string());
        fs::write(path(1), r#"{"started": 18446744073709551615, "nmigs": 9, "locked": true}"#).unwrap();
        fs::write(path(i32::MAX), r#"{"started": 7, "nmigs": 9, "locked": true}"#).unwrap();
        assert_eq!(notes.of(1).unwrap().nmigs, 0);
        assert!(notes.of(i32::MAX).is_err());
        // Said of this one, it holds for what it starts, until something is said of that.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id().cast_signed();
        assert!(notes.inherited(pid).locked && !notes.of(pid).unwrap().locked);
        notes.change(pid, |note| note.nmigs += 1).unwrap();
        assert_eq!((notes.of(pid).unwrap().nmigs, notes.of(pid).unwrap().locked), (1, true));
        notes.change(pid, |note| note.locked = false).unwrap();
        assert!(!notes.inherited(pid).locked);
        child.kill().and_then(|()| child.wait()).unwrap();
        notes.change(own, |note| note.locked = false).unwrap();
        assert!(!path(i32::MAX).exists() && path(1).exists());
    }
}
