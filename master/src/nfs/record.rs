//! Record marking (RFC 5531, section 11): calls out of the octets of a TCP connection.
//!
//! No I/O: the connection reads into [`RecordReader::space`] and takes whole records from
//! [`RecordReader::take`]. Memory is reserved only for the fragment that has begun, never beyond
//! the bound on a record, and a record of one fragment (all that Linux sends) is never copied.

use bytes::{Buf, Bytes, BytesMut};

/// The most a record may hold: a WRITE of [`super::args::MAX_IO`] octets with its header.
pub const MAX_RECORD: usize = super::args::MAX_IO + 4096;

/// The most fragments a record may come in; zero-length ones would otherwise never end.
const MAX_FRAGMENTS: usize = 1024;

/// What a read asks for where no long record has begun: many small calls at once.
const READ_AHEAD: usize = 32 * 1024;

/// Why a connection has to be closed: its stream can no longer be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A record over the bound.
    #[error("a record of {0} octets or more, over the bound of {MAX_RECORD} (the client's fault)")]
    TooLong(usize),
    /// A record in too many pieces.
    #[error("a record in more than {MAX_FRAGMENTS} fragments (the client's fault)")]
    TooManyFragments,
}

/// Cuts a stream into records.
#[derive(Debug, Default)]
pub struct RecordReader {
    buffer: BytesMut,
    /// The fragments so far of a record that comes in several.
    pieces: BytesMut,
    fragments: usize,
}

/// A fragment's header: how long it is, and whether it is the last of its record.
struct Mark {
    len: usize,
    last: bool,
}

impl RecordReader {
    /// Where to put the next octets of the stream; there is always room.
    pub fn space(&mut self) -> &mut BytesMut {
        // The bound was checked by `take`, which has to be asked before more is read.
        let wanted = self.mark().map_or(0, |mark| 4 + mark.len.min(MAX_RECORD));
        let missing = wanted.saturating_sub(self.buffer.len());
        if self.buffer.capacity() - self.buffer.len() < missing.max(4096) {
            self.buffer.reserve(missing.max(READ_AHEAD));
        }
        &mut self.buffer
    }

    /// Whether a record has begun that is not whole yet.
    pub fn is_within_record(&self) -> bool {
        !self.buffer.is_empty() || self.fragments > 0
    }

    /// Whether a whole fragment is here, which [`RecordReader::take`] takes.
    pub fn has_whole(&self) -> bool {
        self.mark().is_some_and(|mark| self.buffer.len() - 4 >= mark.len)
    }

    /// How many octets the record takes that is now being read, as far as it has said.
    pub fn begun(&self) -> usize {
        self.pieces.len() + self.mark().map_or(0, |mark| mark.len)
    }

    /// Gives the memory back; for a connection that is idle between two records.
    pub fn release(&mut self) {
        if !self.is_within_record() {
            *self = Self::default();
        }
    }

    /// The next whole record, `None` until more octets have come.
    pub fn take(&mut self) -> Result<Option<Bytes>, RecordError> {
        while let Some(mark) = self.mark() {
            let len = self.pieces.len() + mark.len;
            if len > MAX_RECORD {
                return Err(RecordError::TooLong(len));
            }
            if self.fragments == MAX_FRAGMENTS {
                return Err(RecordError::TooManyFragments);
            }
            if self.buffer.len() < 4 + mark.len {
                return Ok(None);
            }
            self.buffer.advance(4);
            let fragment = self.buffer.split_to(mark.len);
            if mark.last && self.fragments == 0 {
                return Ok(Some(fragment.freeze()));
            }
            self.pieces.extend_from_slice(&fragment);
            self.fragments += 1;
            if mark.last {
                self.fragments = 0;
                return Ok(Some(std::mem::take(&mut self.pieces).freeze()));
            }
        }
        Ok(None)
    }

    fn mark(&self) -> Option<Mark> {
        let word = u32::from_be_bytes(*self.buffer.first_chunk()?);
        Some(Mark { len: (word & !LAST) as usize, last: word & LAST != 0 })
    }
}

/// The bit that marks the last fragment of a record.
pub const LAST: u32 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(last: bool, data: &[u8]) -> Vec<u8> {
        let mark = u32::try_from(data.len()).unwrap() | if last { LAST } else { 0 };
        [&mark.to_be_bytes()[..], data].concat()
    }

    fn feed(reader: &mut RecordReader, octets: &[u8]) -> Result<Option<Bytes>, RecordError> {
        reader.space().extend_from_slice(octets);
        reader.take()
    }

    #[test]
    fn records_come_out_however_the_octets_came_in() {
        let stream = [
            fragment(true, b"one"),
            fragment(false, b"tw"),
            fragment(false, b""),
            fragment(true, b"o"),
            fragment(true, b""),
        ]
        .concat();
        for step in 1..=stream.len() {
            let mut reader = RecordReader::default();
            let mut records = Vec::new();
            for part in stream.chunks(step) {
                reader.space().extend_from_slice(part);
                while let Some(record) = reader.take().unwrap() {
                    records.push(record);
                }
            }
            assert_eq!(records, [&b"one"[..], b"two", b""], "in steps of {step}");
            assert!(!reader.is_within_record());
        }
    }

    #[test]
    fn four_octets_cost_no_memory() {
        let mut reader = RecordReader::default();
        assert!(matches!(feed(&mut reader, &[0x7f, 0xff, 0xff, 0xff]), Err(RecordError::TooLong(_))));
        assert!(reader.space().capacity() <= MAX_RECORD + READ_AHEAD + 4);
    }

    #[test]
    fn a_record_is_bounded_over_its_fragments() {
        let mut reader = RecordReader::default();
        let half = fragment(false, &vec![0; MAX_RECORD / 2 + 1]);
        assert_eq!(feed(&mut reader, &half), Ok(None));
        assert!(matches!(feed(&mut reader, &half[..4]), Err(RecordError::TooLong(_))));

        let mut reader = RecordReader::default();
        let empty = fragment(false, b"").repeat(MAX_FRAGMENTS + 1);
        assert_eq!(feed(&mut reader, &empty), Err(RecordError::TooManyFragments));
    }

    #[test]
    fn release_keeps_what_has_begun() {
        let mut reader = RecordReader::default();
        let whole = fragment(true, b"abcd");
        assert_eq!(feed(&mut reader, &whole[..5]), Ok(None));
        reader.release();
        assert_eq!(reader.begun(), 4);
        assert!(!reader.has_whole());
        assert_eq!(feed(&mut reader, &whole[5..]).unwrap().unwrap(), &b"abcd"[..]);
    }
}
