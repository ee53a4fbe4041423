//! The one unsafe call of this module: a file mapped into memory.

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::{Advice, Mmap, MmapOptions};

/// A file mapped to be sent.
///
/// Its octets are only lent out to be handed to the kernel: should the file shrink meanwhile, `sendmsg`
/// fails with EFAULT, where reading them here would end the process with SIGBUS.
#[derive(Debug)]
pub struct Mapped {
    map: Mmap,
}

impl Mapped {
    /// Maps a whole file that is not empty, and has the kernel read ahead.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is private to this type, whose octets go to system calls only (see above), and
        // no reference of Rust's to them is read through, so a change of the file from outside is no
        // data race in this process.
        let map = unsafe { MmapOptions::new().map(file)? };
        // Only a hint: without it the pages come on demand.
        map.advise(Advice::Sequential).and_then(|()| map.advise(Advice::WillNeed))?;
        Ok(Self { map })
    }

    /// Octets of the file when it was mapped.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// A part, for a system call and nothing else.
    pub fn for_system_call(&self, range: Range<usize>) -> &[u8] {
        &self.map[range]
    }
}
