//! What the agent has to know of a process before it moves it, from proc(5).

use std::collections::HashMap;
use std::fs;
use std::io;

use super::MoveError;
use crate::migrate::look;

/// A process, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id here.
    pub pid: i32,
    /// Its parent's id here; 0: none that can be seen.
    pub parent: i32,
    /// Who traces it; 0: nobody.
    pub tracer: i32,
    /// Real, effective, saved and file system user id.
    pub uids: [u32; 4],
    /// Its ids in each PID namespace from ours down to its own.
    pub ids: Vec<i32>,
    /// The name of its program.
    pub name: String,
    /// It has capabilities.
    capable: bool,
    /// It has no memory of its own: a kernel thread, or it has ended.
    bodiless: bool,
    /// Signals that its main thread has blocked.
    pub blocked: u64,
}

impl Process {
    /// Looks at a process; `None` where there is none of this id. The id of a thread is its process's.
    ///
    /// # Errors
    /// Those of /proc.
    pub fn look(pid: i32) -> io::Result<Option<Self>> {
        match look::text(format!("/proc/{pid}/status")) {
            Ok(text) => Self::parse(&text).map(Some).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("/proc/{pid}/status has not what it should"),
                )
            }),
            // ESRCH: it has just ended.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn parse(status: &str) -> Option<Self> {
        let lines: HashMap<&str, &str> = status
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key, value.trim()))
            .collect();
        let number = |key| lines.get(key)?.parse::<i32>().ok();
        let mask = |key| u64::from_str_radix(lines.get(key)?, 16).ok();
        let uids: Vec<u32> =
            lines.get("Uid")?.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Self {
            pid: number("Tgid")?,
            parent: number("PPid")?,
            tracer: number("TracerPid")?,
            uids: uids.try_into().ok()?,
            ids: lines.get("NSpid")?.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect(),
            name: (*lines.get("Name")?).to_owned(),
            capable: mask("CapPrm")? != 0,
            bodiless: !lines.contains_key("VmSize"),
            blocked: mask("SigBlk")?,
        })
    }

    /// All processes that can be seen.
    ///
    /// # Errors
    /// Those of /proc.
    pub fn all() -> io::Result<HashMap<i32, Self>> {
        let mut all = HashMap::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Some(process) = Self::look(pid)? {
                all.insert(pid, process);
            }
        }
        Ok(all)
    }

    /// Where it runs, whoever is there can do what only root can here.
    pub fn privileged(&self) -> bool {
        self.capable || self.uids.contains(&0)
    }

    /// Who may move what it becomes: its user, or root, where only root could move it.
    pub fn mover(&self) -> u32 {
        if self.privileged() { 0 } else { self.uids[1] }
    }

    /// As [`look::Status::rights`] has it.
    pub fn rights(&self) -> String {
        format!("{:?} {}", self.uids, self.capable)
    }

    /// It runs, and is no thread of the kernel's.
    pub fn has_memory(&self) -> bool {
        !self.bodiless
    }

    /// It is root's, by all its ids.
    pub fn is_roots(&self) -> bool {
        self.uids == [0; 4]
    }

    /// Whether it is a process that can move at all, and one that this user may move.
    ///
    /// # Errors
    /// [`MoveError::NotYours`], [`MoveError::Never`].
    pub fn may_be_moved_by(&self, uid: u32) -> Result<(), MoveError> {
        let pid = self.pid;
        if uid != 0 && (self.uids != [uid; 4] || self.capable) {
            return Err(MoveError::NotYours { pid });
        }
        self.never().map_or(Ok(()), |why| Err(MoveError::Never { pid, why }))
    }

    /// Why it is none that can move at all.
    pub fn never(&self) -> Option<&'static str> {
        match self.pid {
            _ if self.bodiless => Some("it is a thread of the kernel, or has ended"),
            1 => Some("it is the first process of this node"),
            pid if pid.unsigned_abs() == std::process::id() => Some("it is the agent"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_may_move_only_what_is_wholly_his() {
        let own = Process::look(std::process::id().cast_signed()).unwrap().unwrap();
        let of = |uids, capable| Process { pid: 77, uids, capable, ..own.clone() };
        let mine = of([1000; 4], false);
        assert!(mine.may_be_moved_by(1000).is_ok() && mine.may_be_moved_by(0).is_ok() && !mine.privileged());
        for (other, privileged) in [
            (of([1001; 4], false), false),
            // A setuid program, and one with capabilities.
            (of([1000, 0, 0, 0], false), true),
            (of([1000; 4], true), true),
        ] {
            assert!(matches!(other.may_be_moved_by(1000), Err(MoveError::NotYours { pid: 77 })), "{other:?}");
            assert!(other.may_be_moved_by(0).is_ok());
            assert_eq!(other.privileged(), privileged);
        }
    }

    #[test]
    fn rights_are_as_the_engine_reads_them() {
        let own = Process::look(std::process::id().cast_signed()).unwrap().unwrap();
        assert_eq!(look::Status::of(nix::unistd::Pid::this()).unwrap().rights().unwrap(), own.rights());
    }

    #[test]
    fn some_never_move() {
        let first = Process::look(1).unwrap().unwrap();
        assert!(matches!(first.may_be_moved_by(0), Err(MoveError::Never { pid: 1, .. })));
        let kernel = Process { bodiless: true, pid: 2, ..first };
        assert!(matches!(kernel.may_be_moved_by(0), Err(MoveError::Never { pid: 2, .. })));
        assert_eq!(Process::look(i32::MAX).unwrap(), None);
    }
}
