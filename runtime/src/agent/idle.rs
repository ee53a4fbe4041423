//! Since when nobody has used this machine: no key, no mouse, no word on a terminal.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What tells of users.
#[derive(Debug)]
pub struct Idle {
    /// Keyboards and mice, which are read for nothing but that there is something to read (evdev).
    inputs: HashMap<PathBuf, File>,
    /// When each terminal was last read from, as the kernel has it.
    terminals: HashMap<PathBuf, i64>,
    last: Instant,
}

impl Idle {
    /// Nobody has been there since now.
    pub fn new() -> Self {
        let mut idle = Self { inputs: HashMap::new(), terminals: HashMap::new(), last: Instant::now() };
        idle.look();
        idle.last = Instant::now();
        idle
    }

    /// For how long nobody has used the machine.
    pub fn time(&mut self) -> Duration {
        if self.look() {
            self.last = Instant::now();
        }
        self.last.elapsed()
    }

    /// Whether somebody has since the last look.
    fn look(&mut self) -> bool {
        let inputs = below(Path::new("/dev/input"), "event");
        self.inputs.retain(|path, _| inputs.contains(path));
        for path in inputs {
            if !self.inputs.contains_key(&path)
                && let Ok(file) = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path)
            {
                self.inputs.insert(path, file);
            }
        }
        let mut used = false;
        let mut events = [0; 4096];
        for file in self.inputs.values() {
            let mut file = file;
            while matches!(file.read(&mut events), Ok(1..)) {
                used = true;
            }
        }
        let terminals = [below(Path::new("/dev/pts"), ""), below(Path::new("/dev"), "tty")].concat();
        self.terminals.retain(|path, _| terminals.contains(path));
        for path in terminals {
            let Ok(read) = fs::metadata(&path).map(|it| it.atime()) else { continue };
            // Whoever opens one has come.
            used |= self.terminals.insert(path, read) != Some(read);
        }
        used
    }
}

/// What is in a directory by such a name; nothing where it is not there.
fn below(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let named =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)));
    named.map(|entry| entry.path()).collect()
}
