//! The system call that `nix` does not have.

use std::io;

/// Whether the kernel's clock is kept in step, and its error at the most in microseconds (adjtimex(2)).
pub(super) fn clock_state() -> io::Result<(bool, u64)> {
    // SAFETY: `timex` is plain integers, for which zeros are values.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` is a `timex` that lives through the call; with `modes` 0 it is only written to.
    if unsafe { libc::adjtimex(&raw mut state) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let synchronised = state.status & libc::STA_UNSYNC == 0;
    Ok((synchronised, u64::try_from(state.maxerror).unwrap_or(0)))
}
