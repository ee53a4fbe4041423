//! The one system call that the standard library has no safe form of.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Reads at most `length` octets at `offset` (pread(2)) into memory that is not cleared first;
/// fewer only at the end of the file.
///
/// # Errors
/// What the system says.
pub fn read_at(file: &File, length: usize, offset: u64) -> io::Result<Vec<u8>> {
    let mut data: Vec<u8> = Vec::with_capacity(length);
    while data.len() < length {
        let Ok(at) = libc::off_t::try_from(offset + data.len() as u64) else { break };
        let wanted = length - data.len();
        let spare = &mut data.spare_capacity_mut()[..wanted];
        // SAFETY: the pointer and length are those of the vector's own spare capacity, which the
        // call only writes to, and the descriptor is open while `file` is borrowed.
        let count = unsafe { libc::pread(file.as_raw_fd(), spare.as_mut_ptr().cast(), spare.len(), at) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        };
        if count == 0 {
            break;
        }
        let filled = data.len() + count;
        // SAFETY: the call has written `count` octets behind those that were there, within capacity.
        unsafe { data.set_len(filled) };
    }
    Ok(data)
}
