//! A body before it is one: a fresh process that makes room for the region, and enters the blob.

use std::io;
use std::os::fd::OwnedFd;

use tesela_shim::layout::{self, PROCESS_AT, REGION, SLOT};

use super::init::{self, Wanted};
use crate::migrate::blob::Blob;
use crate::migrate::sys;

/// What the agent's program and a body say to each other before the blob takes over, an octet each.
pub mod word {
    /// The region is mapped and has the code: put there what else belongs there.
    pub const ROOM: u8 = b'r';
    /// A channel comes with this message.
    pub const CHANNEL: u8 = b'c';
    /// What is shared comes with this message.
    pub const SHARED: u8 = b's';
    /// All is there: go on.
    pub const GO: u8 = b'g';
}

/// Octets that are mapped for the plan, behind the region: enough for some 200,000 mappings. The vDSO goes aside behind it.
pub const PLAN: u64 = 8 << 20;

/// The first descriptor of a thread's channel in a body; the control socket is the one before. What is shared
/// follows.
pub const FIRST_FD: i32 = 100;

/// Goes through it; returns only where it failed.
pub fn begin(wanted: Wanted, control: OwnedFd) -> io::Result<std::convert::Infallible> {
    let Wanted { base, .. } = wanted;
    // SAFETY: the agent has chosen a place that is free at home, and FIXED_NOREPLACE finds out here.
    unsafe { sys::map_fixed(base, REGION + PLAN)? };
    sys::keep_as(&control, FIRST_FD - 1)?;
    let blob = Blob::at(base).map_err(io::Error::other)?;
    // SAFETY: the region is mapped, and nobody else knows of it yet.
    unsafe { std::ptr::copy_nonoverlapping(blob.memory.as_ptr(), base as *mut u8, blob.memory.len()) };
    for (start, end) in &blob.code {
        // SAFETY: it has just been written.
        unsafe { sys::make_code(*start, end - start)? };
    }
    nix::unistd::write(&control, &[word::ROOM])?;
    let (mut slot, mut end) = (0, FIRST_FD);
    loop {
        let mut message = [0];
        match init::receive(&control, &mut message)? {
            (1, Some(shared)) if message[0] == word::SHARED => {
                sys::keep_as(&shared, end)?;
                end += 1;
            }
            (1, Some(channel)) if message[0] == word::CHANNEL => {
                let kept = end;
                end += 1;
                sys::keep_as(&channel, kept)?;
                let at = layout::slot(base, slot) + core::mem::offset_of!(layout::Thread, fd) as u64;
                // SAFETY: the region is mapped, and the agent has finished writing.
                unsafe { (at as *mut i32).write(kept) };
                slot += 1;
            }
            (1, None) if message[0] == word::GO => break,
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    let control_at =
        layout::slot(base, 0) + PROCESS_AT + core::mem::offset_of!(layout::Process, control) as u64;
    // SAFETY: as above.
    unsafe { (control_at as *mut i32).write(FIRST_FD - 1) };
    drop(control);
    sys::close_others(FIRST_FD - 1, end)?;
    let first = layout::slot(base, 0);
    // SAFETY: the blob's entry, on the first slot's own stack. It does not return.
    unsafe { sys::enter(blob.entry, first + SLOT - 64, layout::ENTER_RESTORE, first) }
}
