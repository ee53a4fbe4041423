//! How a call is put for the deputy: which memory goes with it, and which comes back.

use tesela_shim::layout::Thread;
use tesela_shim::table::{Arg, Got, Len};
use tesela_shim::wire::{
    GOT_ALL, MAX_MEMORY, MAX_REBASES, MAX_SEGMENTS, Rebase, Reply, Request, SEGMENT_ALWAYS, SEGMENT_IN, SEGMENT_OUT,
    Segment,
};

use crate::channel::{self, CarryError};
use crate::user::{self, Fault};

/// What is shorter is no data for a disk.
const SECTOR: u64 = 512;
const PAGE: u64 = 4096;
/// The most messages of one sendmmsg or recvmmsg: fewer than asked for is an answer that the calls have.
const MESSAGES: u64 = 4;
/// Octets of structures that are put anew for the deputy.
const SCRATCH: usize = 1024;

/// Why a call cannot be put.
pub enum MarshalError {
    /// EFAULT.
    Fault,
    /// It has to be made at home by the process itself.
    TooMuch,
}

impl From<Fault> for MarshalError {
    fn from(Fault: Fault) -> Self {
        Self::Fault
    }
}

#[derive(Clone, Copy)]
enum Source {
    Memory(u64),
    /// An array of `struct iovec` and its number.
    Vectors(u64, u64),
    /// A NULL-terminated array of strings, and its number.
    Strings(u64, u64),
}

/// A `struct msghdr` of the program's, and ours in the scratch.
#[derive(Clone, Copy, Default)]
struct Header {
    program: u64,
    scratch: usize,
    /// The kernel fills it (recvmsg).
    filled: bool,
    /// `msg_len` follows (`struct mmsghdr`).
    counted: bool,
}

/// A call with what its pointers lead to.
pub struct Message {
    /// Its head.
    pub request: Request,
    segments: [Segment; MAX_SEGMENTS],
    sources: [Source; MAX_SEGMENTS],
    rebases: [Rebase; MAX_REBASES],
    scratch: [u8; SCRATCH],
    scratch_used: usize,
    /// `struct msghdr`s that are filled.
    headers: [Header; MESSAGES as usize],
    header_count: usize,
    /// The message's first octet has left.
    started: bool,
}

impl Message {
    /// A call without memory.
    pub fn new(nr: u64, args: [u64; 6], kind: u32) -> Self {
        Self {
            request: Request { nr, args, kind, ..Request::default() },
            segments: [Segment::default(); MAX_SEGMENTS],
            sources: [Source::Memory(0); MAX_SEGMENTS],
            rebases: [Rebase::default(); MAX_REBASES],
            scratch: [0; SCRATCH],
            scratch_used: 0,
            headers: [Header::default(); MESSAGES as usize],
            header_count: 0,
            started: false,
        }
    }

    /// Adds what the arguments point to.
    pub fn describe(&mut self, spec: &[Arg]) -> Result<(), MarshalError> {
        let args = self.request.args;
        for (index, arg) in spec.iter().enumerate().take(6) {
            let at = args[index];
            if at == 0 {
                continue;
            }
            match *arg {
                Arg::Value | Arg::Fd => {}
                Arg::In(len) => self.argument(index, SEGMENT_IN, GOT_ALL, Self::length(len, &args)?)?,
                Arg::Out(len, got) => {
                    let got = match got {
                        Got::All => GOT_ALL,
                        Got::Ret => 1,
                        Got::RetTimes(factor) => u16::try_from(factor).map_err(|_| MarshalError::TooMuch)?,
                    };
                    self.argument(index, SEGMENT_OUT, got, Self::length(len, &args)?)?;
                }
                Arg::InOut(len) => {
                    let flags = SEGMENT_IN | SEGMENT_OUT | SEGMENT_ALWAYS;
                    self.argument(index, flags, GOT_ALL, Self::length(len, &args)?)?;
                }
                Arg::Path => {
                    let length = user::string_length(at, user::LONGEST_STRING)? + 1;
                    self.argument(index, SEGMENT_IN, GOT_ALL, length)?;
                }
                Arg::IovecIn(count) => self.vectors_argument(index, count, SEGMENT_IN)?,
                Arg::IovecOut(count) => self.vectors_argument(index, count, SEGMENT_OUT)?,
                Arg::MsgIn => self.messages_argument(index, 1, 0, SEGMENT_IN)?,
                Arg::MsgOut => self.messages_argument(index, 1, 0, SEGMENT_OUT)?,
                Arg::MmsgIn(count) => self.mmsg_argument(index, count, SEGMENT_IN)?,
                Arg::MmsgOut(count) => self.mmsg_argument(index, count, SEGMENT_OUT)?,
                Arg::Strings => self.strings_argument(index)?,
                Arg::SigsetPair => self.sigset_pair(index)?,
            }
        }
        Ok(())
    }

    fn length(len: Len, args: &[u64; 6]) -> Result<u64, MarshalError> {
        let arg = |index: u8| args[usize::from(index)];
        // The kernel takes the lower half; what is negative is for it to refuse.
        let int = |index: u8| u64::try_from(arg(index) as i32).unwrap_or(0);
        Ok(match len {
            Len::Const(octets) => octets.into(),
            Len::Arg(index) => arg(index),
            Len::ArgTimes(index, size) => int(index) * u64::from(size),
            Len::IntAt(index) => match arg(index) {
                0 => 0,
                at => u64::try_from(user::read::<i32>(at)?).unwrap_or(0),
            },
            Len::Int(index) => int(index),
            Len::ArgPlus(index, more) => arg(index).saturating_add(more.into()),
            Len::BitsOfArg(index) => (arg(index) & 0xffff_ffff).div_ceil(64) * 8,
        })
    }

    fn argument(&mut self, index: usize, flags: u16, got: u16, length: u64) -> Result<(), MarshalError> {
        let source = Source::Memory(self.request.args[index]);
        let offset = self.segment(source, flags, got, length)?;
        self.lead_to(index, offset);
        Ok(())
    }

    fn lead_to(&mut self, index: usize, offset: u64) {
        self.request.args[index] = offset;
        self.request.relative |= 1 << index;
    }

    /// Adds a segment; returns its offset, which is never 0.
    fn segment(&mut self, source: Source, flags: u16, got: u16, length: u64) -> Result<u64, MarshalError> {
        let number = self.request.segments as usize;
        // What is longer than a call may be is cut for data, whose calls may do less than they were asked.
        let room = MAX_MEMORY - 4096 - self.request.memory.min(MAX_MEMORY - 4096);
        if number == MAX_SEGMENTS || length > room {
            return Err(MarshalError::TooMuch);
        }
        let behind = self.request.memory.max(64);
        let like = match source {
            Source::Memory(at) => at,
            Source::Vectors(array, _) => user::read::<u64>(array)?,
            Source::Strings(..) => 0,
        };
        // What goes to a disk past the cache (O_DIRECT) has to be aligned there as it is here.
        let offset = if length < SECTOR { behind.next_multiple_of(16) } else { behind + like.wrapping_sub(behind) % PAGE };
        self.segments[number] = Segment { offset: offset as u32, length: length as u32, flags, got };
        self.sources[number] = source;
        self.request.segments += 1;
        self.request.memory = offset + length.max(1);
        Ok(offset)
    }

    /// A structure that is put anew; returns its offset, and where it is in the scratch.
    fn structure(&mut self, words: &[u64], flags: u16) -> Result<(u64, usize), MarshalError> {
        let (at, length) = (self.scratch_used, words.len() * 8);
        if at + length > SCRATCH {
            return Err(MarshalError::TooMuch);
        }
        for (number, word) in words.iter().enumerate() {
            self.scratch[at + number * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        self.scratch_used += length;
        let source = Source::Memory(&raw const self.scratch[at] as u64);
        Ok((self.segment(source, flags, GOT_ALL, length as u64)?, at))
    }

    fn rebase(&mut self, offset: u64, count: u64) -> Result<(), MarshalError> {
        let number = self.request.rebases as usize;
        let place = self.rebases.get_mut(number).ok_or(MarshalError::TooMuch)?;
        *place = Rebase { offset: offset as u32, count: count as u32 };
        self.request.rebases += 1;
        Ok(())
    }

    /// An array of vectors becomes one of one.
    fn vectors(&mut self, array: u64, count: u64, flags: u16) -> Result<u64, MarshalError> {
        let mut total = 0_u64;
        for number in 0..count.min(1024) {
            let [_, length] = user::read::<[u64; 2]>(array + number * 16)?;
            total = total.saturating_add(length);
        }
        let data = self.segment(Source::Vectors(array, count.min(1024)), flags, 1, total)?;
        let (one, _) = self.structure(&[data, total], SEGMENT_IN)?;
        self.rebase(one, 1)?;
        Ok(one)
    }

    fn vectors_argument(&mut self, index: usize, count: u8, flags: u16) -> Result<(), MarshalError> {
        let count_index = usize::from(count);
        let count = self.request.args[count_index];
        if count == 0 || count > 1024 {
            // The kernel says 0 or EINVAL before it looks at them.
            self.request.args[index] = 0;
            return Ok(());
        }
        let one = self.vectors(self.request.args[index], count, flags)?;
        self.lead_to(index, one);
        self.request.args[count_index] = 1;
        Ok(())
    }

    fn mmsg_argument(&mut self, index: usize, count: u8, flags: u16) -> Result<(), MarshalError> {
        let count_index = usize::from(count);
        let count = self.request.args[count_index].min(MESSAGES);
        self.request.args[count_index] = count;
        self.messages_argument(index, count, 8, flags)
    }

    /// `count` of `struct msghdr`, each with `tail` octets behind it (`struct mmsghdr`).
    fn messages_argument(&mut self, index: usize, count: u64, tail: u64, flags: u16) -> Result<(), MarshalError> {
        let array = self.request.args[index];
        let size = 56 + tail;
        let mut all = [0_u64; MESSAGES as usize * 8];
        let words = (size / 8) as usize;
        for number in 0..count {
            let at = array + number * size;
            let [name, name_length, vectors, vector_count, control, control_length, message_flags] =
                user::read::<[u64; 7]>(at)?;
            let got = if tail == 0 { 1 } else { GOT_ALL };
            let name_length = name_length & 0xffff_ffff;
            let carried = |message: &mut Self, at: u64, length: u64| {
                if at == 0 || length == 0 { Ok(0) } else { message.segment(Source::Memory(at), flags, GOT_ALL, length) }
            };
            let name_at = carried(self, name, name_length)?;
            let control_at = carried(self, control, control_length)?;
            let one = if vector_count == 0 { 0 } else { self.vectors(vectors, vector_count, flags)? };
            if got == GOT_ALL && flags & SEGMENT_OUT != 0 && one != 0 {
                // recvmmsg returns messages, not octets: the data comes back whole.
                let data = self.request.segments as usize - 2;
                self.segments[data].got = GOT_ALL;
            }
            let part = &mut all[number as usize * words..][..words];
            part[..7].copy_from_slice(&[
                name_at,
                name_length,
                one,
                u64::from(one != 0),
                control_at,
                control_length,
                message_flags,
            ]);
        }
        let both = if flags & SEGMENT_OUT != 0 || tail != 0 { SEGMENT_IN | SEGMENT_OUT } else { SEGMENT_IN };
        let (offset, scratch) = self.structure(&all[..count as usize * words], both)?;
        for number in 0..count {
            for field in [0, 16, 32] {
                self.rebase(offset + number * size + field, 1)?;
            }
            self.headers[self.header_count] = Header {
                program: array + number * size,
                scratch: scratch + (number * size) as usize,
                filled: flags & SEGMENT_OUT != 0,
                counted: tail != 0,
            };
            self.header_count += 1;
        }
        self.lead_to(index, offset);
        Ok(())
    }

    fn strings_argument(&mut self, index: usize) -> Result<(), MarshalError> {
        let array = self.request.args[index];
        let (mut count, mut length) = (0_u64, 8_u64);
        loop {
            let at = user::read::<u64>(array + count * 8)?;
            if at == 0 {
                break;
            }
            length += 8 + user::string_length(at, user::LONGEST_STRING)? + 1;
            count += 1;
        }
        let offset = self.segment(Source::Strings(array, count), SEGMENT_IN, GOT_ALL, length)?;
        self.rebase(offset, count)?;
        self.lead_to(index, offset);
        Ok(())
    }

    fn sigset_pair(&mut self, index: usize) -> Result<(), MarshalError> {
        let [at, size] = user::read::<[u64; 2]>(self.request.args[index])?;
        if at == 0 {
            self.request.args[index] = 0;
            return Ok(());
        }
        let mask = self.segment(Source::Memory(at), SEGMENT_IN, GOT_ALL, 8)?;
        let (pair, _) = self.structure(&[mask, size], SEGMENT_IN)?;
        self.rebase(pair, 1)?;
        self.lead_to(index, pair);
        Ok(())
    }

    /// It is the thread's next call, however often it is sent.
    pub fn number(&mut self, thread: &mut Thread) {
        thread.seq += 1;
        self.request.seq = thread.seq;
    }

    /// Sends it. After [`CarryError::Fault`] nothing has been sent.
    pub fn send(&mut self, thread: &mut Thread) -> Result<(), CarryError> {
        self.put(thread)?;
        Ok(channel::flush(thread)?)
    }

    /// The same, but for what fits the record that is sent next. After a fault nothing of that is left.
    pub fn put(&mut self, thread: &mut Thread) -> Result<(), CarryError> {
        self.request.mask = thread.mask;
        self.started = false;
        let sent = self.put_parts(thread);
        match sent {
            // What does not fit one record has begun to leave, and cannot be taken back on this channel.
            Err(CarryError::Fault) if self.started => {
                thread.broken = 1;
                Err(CarryError::Broken)
            }
            Err(CarryError::Fault) => {
                channel::forget(thread);
                Err(CarryError::Fault)
            }
            other => other,
        }
    }

    fn put_parts(&mut self, thread: &mut Thread) -> Result<(), CarryError> {
        let segments = self.request.segments as usize;
        // Faults are found before anything leaves.
        if self.request.memory > 24 * 1024 {
            self.touch(segments)?;
        }
        channel::put(thread, &self.request)?;
        for segment in &self.segments[..segments] {
            channel::put(thread, segment)?;
        }
        for rebase in &self.rebases[..self.request.rebases as usize] {
            channel::put(thread, rebase)?;
        }
        for number in 0..segments {
            let segment = self.segments[number];
            if segment.flags & SEGMENT_IN == 0 {
                continue;
            }
            self.started = self.request.memory > 24 * 1024;
            match self.sources[number] {
                Source::Memory(at) => channel::put_memory(thread, at, segment.length.into())?,
                Source::Vectors(array, count) => gather(thread, array, count, segment.length.into())?,
                Source::Strings(array, count) => {
                    strings(thread, array, count, segment.offset.into(), segment.length.into())?;
                }
            }
        }
        Ok(())
    }

    /// Reads an octet of each page that is going to be carried.
    fn touch(&self, segments: usize) -> Result<(), CarryError> {
        let touch = |at: u64, length: u64| -> Result<(), Fault> {
            let mut page = at;
            while length > 0 && page < at + length {
                user::read::<u8>(page)?;
                page = (page & !4095) + 4096;
            }
            Ok(())
        };
        for number in 0..segments {
            let segment = self.segments[number];
            if segment.flags & SEGMENT_IN == 0 {
                continue;
            }
            let touched = match self.sources[number] {
                Source::Memory(at) => touch(at, segment.length.into()),
                Source::Vectors(array, count) => (0..count).try_for_each(|vector| {
                    let [at, length] = user::read::<[u64; 2]>(array + vector * 16)?;
                    touch(at, length)
                }),
                Source::Strings(..) => Ok(()),
            };
            touched.map_err(|Fault| CarryError::Fault)?;
        }
        Ok(())
    }

    /// Receives the answer, and what comes with it, into the program's memory.
    pub fn receive(&mut self, thread: &mut Thread) -> Result<i64, CarryError> {
        let reply: Reply = channel::get(thread)?;
        if reply.seq != thread.seq {
            thread.broken = 1;
            return Err(CarryError::Broken);
        }
        let mut faulted = false;
        for number in 0..self.request.segments as usize {
            let length = u64::from(self.segments[number].comes_back(reply.value));
            let taken = match self.sources[number] {
                Source::Memory(at) => channel::get_memory(thread, at, length),
                Source::Vectors(array, count) => scatter(thread, array, count, length),
                Source::Strings(..) => Ok(()),
            };
            match taken {
                Ok(()) => {}
                Err(CarryError::Fault) => faulted = true,
                Err(CarryError::Broken) => return Err(CarryError::Broken),
            }
        }
        if reply.value >= 0 && self.fill_headers().is_err() {
            faulted = true;
        }
        if faulted { Err(CarryError::Fault) } else { Ok(reply.value) }
    }

    /// The lengths and flags that the kernel has put into the `struct msghdr`s.
    fn fill_headers(&self) -> Result<(), Fault> {
        for header in &self.headers[..self.header_count] {
            let fill = |field: usize, length: u64| {
                let from = &raw const self.scratch[header.scratch + field] as u64;
                user::copy(header.program + field as u64, from, length)
            };
            if header.filled {
                fill(8, 4)?;
                fill(40, 12)?;
            }
            if header.counted {
                fill(56, 4)?;
            }
        }
        Ok(())
    }
}

fn gather(thread: &mut Thread, array: u64, count: u64, mut total: u64) -> Result<(), CarryError> {
    for number in 0..count {
        let [at, length] = user::read::<[u64; 2]>(array + number * 16).map_err(|Fault| CarryError::Fault)?;
        let part = length.min(total);
        channel::put_memory(thread, at, part)?;
        total -= part;
    }
    pad(thread, total)
}

fn scatter(thread: &mut Thread, array: u64, count: u64, mut total: u64) -> Result<(), CarryError> {
    for number in 0..count {
        let [at, length] = user::read::<[u64; 2]>(array + number * 16).unwrap_or_default();
        let part = length.min(total);
        channel::get_memory(thread, at, part)?;
        total -= part;
    }
    // Another thread has shortened the array meanwhile.
    let mut nowhere = 0_u8;
    while total > 0 {
        channel::get_memory(thread, &raw mut nowhere as u64, 1)?;
        total -= 1;
    }
    Ok(())
}

fn strings(thread: &mut Thread, array: u64, count: u64, offset: u64, mut total: u64) -> Result<(), CarryError> {
    let pointer = |number: u64| user::read::<u64>(array + number * 8).map_err(|Fault| CarryError::Fault);
    let length_of = |at: u64| {
        user::string_length(at, user::LONGEST_STRING).map_err(|Fault| CarryError::Fault)
    };
    let mut place = offset + (count + 1) * 8;
    for number in 0..count {
        channel::put_memory(thread, &raw const place as u64, 8)?;
        place += length_of(pointer(number)?)? + 1;
    }
    let end = 0_u64;
    channel::put_memory(thread, &raw const end as u64, 8)?;
    total -= (count + 1) * 8;
    for number in 0..count {
        let at = pointer(number)?;
        // A string that another thread makes longer meanwhile is cut.
        let part = length_of(at)?.min(total.saturating_sub(1));
        channel::put_memory(thread, at, part)?;
        channel::put_memory(thread, &raw const end as u64, 1.min(total - part))?;
        total -= (part + 1).min(total);
    }
    pad(thread, total)
}

fn pad(thread: &mut Thread, octets: u64) -> Result<(), CarryError> {
    let zero = 0_u8;
    (0..octets).try_for_each(|_| channel::put_memory(thread, &raw const zero as u64, 1))
}
