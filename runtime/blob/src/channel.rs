//! A thread's channel: sealed records over its socket, seen as a stream of octets each way.
//!
//! The two ends take turns, so nothing arrives before it is asked for. A channel that breaks stays
//! broken, until the agent has another one: with another connection and other keys ([`open`]).

use tesela_shim::layout::{IN_AT, OUT_AT, Thread};
use tesela_shim::seal::{self, Direction, HEADER, KEY, MAX_CONTENT, TAG};
use tesela_shim::wire::Plain;

use crate::sys::{self, nr};
use crate::user;

/// The channel is of no more use.
#[derive(Debug)]
pub struct Broken;

const IN_ROOM: usize = HEADER + MAX_CONTENT + TAG;
const MSG_NOSIGNAL: u64 = 0x4000;

fn out_record(thread: &mut Thread) -> &'static mut [u8] {
    let at = core::ptr::from_mut(thread) as u64 + OUT_AT;
    // SAFETY: the OUT record is this thread's alone, and nothing else refers to it.
    unsafe { core::slice::from_raw_parts_mut(at as *mut u8, HEADER + MAX_CONTENT + TAG) }
}

fn in_record(thread: &mut Thread) -> &'static mut [u8] {
    let at = core::ptr::from_mut(thread) as u64 + IN_AT;
    // SAFETY: the IN record is this thread's alone, and nothing else refers to it.
    unsafe { core::slice::from_raw_parts_mut(at as *mut u8, IN_ROOM) }
}

/// Sends a value.
pub fn put<T: Plain>(thread: &mut Thread, value: &T) -> Result<(), Broken> {
    let octets = tesela_shim::wire::octets(value);
    // Our own memory does not fault.
    put_memory(thread, octets.as_ptr() as u64, octets.len() as u64).map_err(|_| Broken)
}

/// Why memory was not carried.
#[derive(Debug)]
pub enum CarryError {
    /// The program's address leads nowhere.
    Fault,
    /// The channel is broken.
    Broken,
}

impl From<Broken> for CarryError {
    fn from(Broken: Broken) -> Self {
        Self::Broken
    }
}

/// Sends `length` octets of memory, which may be the program's.
pub fn put_memory(thread: &mut Thread, mut from: u64, mut length: u64) -> Result<(), CarryError> {
    while length > 0 {
        if thread.out as usize == MAX_CONTENT {
            flush(thread)?;
        }
        let room = (MAX_CONTENT - thread.out as usize) as u64;
        let part = length.min(room);
        let to = &raw mut out_record(thread)[HEADER + thread.out as usize] as u64;
        user::copy(to, from, part).map_err(|_| CarryError::Fault)?;
        thread.out += part as u32;
        from += part;
        length -= part;
    }
    Ok(())
}

/// Sends what was put.
pub fn flush(thread: &mut Thread) -> Result<(), Broken> {
    let record = out_record(thread);
    let length = thread.send.seal(record, thread.out as usize);
    thread.out = 0;
    let mut sent = 0;
    while sent < length {
        let at = record[sent..].as_ptr() as u64;
        // SAFETY: the record is ours.
        let got = unsafe {
            sys::call(nr::SENDTO, [thread.fd as u64, at, (length - sent) as u64, MSG_NOSIGNAL, 0, 0])
        };
        match got {
            1.. => sent += got as usize,
            sys::EINTR => {}
            _ => return broken(thread),
        }
    }
    Ok(())
}

/// Forgets what was put and not sent: only where nothing of the message has left.
pub fn forget(thread: &mut Thread) {
    thread.out = 0;
}

/// A channel on which nothing has been said yet.
pub fn open(thread: &mut Thread, send: [u8; KEY], receive: [u8; KEY]) {
    (thread.send, thread.receive) = (Direction::new(send), Direction::new(receive));
    (thread.in_from, thread.in_to, thread.plain_from, thread.plain_to, thread.out) = (0, 0, 0, 0, 0);
}

fn broken<T>(thread: &mut Thread) -> Result<T, Broken> {
    thread.broken = 1;
    Err(Broken)
}

/// Receives a value.
pub fn get<T: Plain>(thread: &mut Thread) -> Result<T, Broken> {
    let mut value = T::default();
    let octets = tesela_shim::wire::octets_mut(&mut value);
    get_memory(thread, octets.as_mut_ptr() as u64, octets.len() as u64).map_err(|_| Broken)?;
    Ok(value)
}

/// Receives `length` octets into memory, which may be the program's. After a fault the rest is passed over,
/// so that the stream stays in step.
pub fn get_memory(thread: &mut Thread, mut to: u64, mut length: u64) -> Result<(), CarryError> {
    let mut faulted = false;
    while length > 0 {
        if thread.plain_from == thread.plain_to {
            next_record(thread)?;
        }
        let part = length.min(u64::from(thread.plain_to - thread.plain_from));
        let from = &raw const in_record(thread)[thread.plain_from as usize] as u64;
        faulted = faulted || user::copy(to, from, part).is_err();
        thread.plain_from += part as u32;
        to += part;
        length -= part;
    }
    if faulted { Err(CarryError::Fault) } else { Ok(()) }
}

/// Receives as many octets, and has no use for them.
pub fn pass_over(thread: &mut Thread, mut length: u64) -> Result<(), Broken> {
    while length > 0 {
        if thread.plain_from == thread.plain_to {
            next_record(thread)?;
        }
        let part = length.min(u64::from(thread.plain_to - thread.plain_from));
        thread.plain_from += part as u32;
        length -= part;
    }
    Ok(())
}

fn next_record(thread: &mut Thread) -> Result<(), Broken> {
    let buffer = in_record(thread);
    // What has arrived beyond the last record comes to the front.
    let (from, to) = (thread.in_from as usize, thread.in_to as usize);
    buffer.copy_within(from..to, 0);
    (thread.in_from, thread.in_to) = (0, (to - from) as u32);
    let have = fill(thread, HEADER)?;
    let Some(length) = seal::sealed_length([buffer[0], buffer[1], buffer[2], buffer[3]]) else {
        return broken(thread);
    };
    if have < HEADER + length {
        fill(thread, HEADER + length)?;
    }
    let Ok(content) = thread.receive.open(&mut buffer[HEADER..HEADER + length]) else {
        return broken(thread);
    };
    thread.plain_from = HEADER as u32;
    thread.plain_to = (HEADER + content.len()) as u32;
    thread.in_from = (HEADER + length) as u32;
    Ok(())
}

/// Receives until there are `wanted` octets.
fn fill(thread: &mut Thread, wanted: usize) -> Result<usize, Broken> {
    while (thread.in_to as usize) < wanted {
        let buffer = in_record(thread);
        let room = &mut buffer[thread.in_to as usize..];
        // SAFETY: the record is ours.
        let got = unsafe {
            sys::call(nr::RECVFROM, [thread.fd as u64, room.as_mut_ptr() as u64, room.len() as u64, 0, 0, 0])
        };
        match got {
            1.. => thread.in_to += got as u32,
            sys::EINTR => {}
            _ => return broken(thread),
        }
    }
    Ok(thread.in_to as usize)
}
