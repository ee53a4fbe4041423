//! Replies on their way out: framed, in order, written with one vectored write, READ data not copied.

use super::record::LAST;
use super::xdr::{length, padding};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::IoSlice;

/// Data from this size on goes out from where it lies; what is smaller is cheaper to copy.
const COPIED: usize = 2048;

/// A reply with its record mark, and the data that belongs behind it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Record mark, headers and results.
    pub head: Bytes,
    /// The data of a READ, without its padding.
    pub data: Bytes,
}

/// Replies that wait to be written, as one stream of octets.
#[derive(Debug, Default)]
pub struct Output {
    /// Octets in their order, before `tail`.
    ready: VecDeque<Bytes>,
    /// Octets of `ready` that are not written.
    queued: usize,
    /// Octets written since the connection began.
    written: u64,
    /// Small replies are written straight in here.
    tail: BytesMut,
}

/// Writes a message behind what `out` holds, with its record mark; what `write` returns is data that will
/// follow it, and is counted.
pub fn frame(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut) -> Option<Bytes>) -> Bytes {
    let start = out.len();
    out.put_u32(0);
    let data = write(out).unwrap_or_default();
    let len = out.len() - start - 4 + data.len().next_multiple_of(4);
    out[start..start + 4].copy_from_slice(&(length(len) | LAST).to_be_bytes());
    data
}

impl Output {
    /// Appends a reply that `write` writes; says where it lies for the moment.
    pub fn message(&mut self, write: impl FnOnce(&mut BytesMut) -> Option<Bytes>) -> &[u8] {
        if self.tail.capacity() - self.tail.len() < 1024 {
            self.tail.reserve(16 * 1024);
        }
        let start = self.tail.len();
        let data = frame(&mut self.tail, write);
        if data.is_empty() {
            return &self.tail[start..];
        }
        self.append(data);
        &[]
    }

    /// Appends a reply that was made elsewhere.
    pub fn push(&mut self, reply: Reply) {
        self.append(reply.head);
        self.append(reply.data);
    }

    /// Octets that wait.
    pub fn len(&self) -> usize {
        self.queued + self.tail.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where in the stream the first octet lies that is not written.
    pub fn start(&self) -> u64 {
        self.written
    }

    /// Where in the stream the next reply will begin.
    pub fn end(&self) -> u64 {
        self.written + self.len() as u64
    }

    /// Gives memory back if nothing waits.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Self { written: self.written, ..Self::default() };
        }
    }

    /// The next octets to write, in as many pieces as `slices` has room for; says how many there are.
    pub fn slices<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize {
        self.seal();
        self.ready.iter().zip(slices).map(|(piece, slice)| *slice = IoSlice::new(piece)).count()
    }

    /// So many octets were written.
    pub fn advance(&mut self, mut written: usize) {
        self.queued -= written;
        self.written += written as u64;
        while let Some(first) = self.ready.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.ready.pop_front();
        }
    }

    fn append(&mut self, data: Bytes) {
        let pad = padding(data.len());
        if data.len() < COPIED {
            self.tail.extend_from_slice(&data);
        } else {
            self.seal();
            self.queued += data.len();
            self.ready.push_back(data);
        }
        self.tail.extend_from_slice(pad);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.queued += self.tail.len();
            self.ready.push_back(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(output: &mut Output, step: usize) -> Vec<u8> {
        let mut octets = Vec::new();
        while !output.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2];
            let count = output.slices(&mut slices);
            let all: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            let written = step.min(all.len());
            octets.extend_from_slice(&all[..written]);
            output.advance(written);
        }
        octets
    }

    #[test]
    fn the_stream_is_the_same_however_it_is_written() {
        let long = Bytes::from(vec![7; COPIED + 1]);
        let expected = [
            &[0x80, 0, 0, 4, 1, 2, 3, 4][..],
            &(0x8000_0000 + u32::try_from(4 + COPIED + 4).unwrap()).to_be_bytes(),
            &[5; 4],
            &long,
            &[0; 3],
            &[0x80, 0, 0, 8, 6, 6, 6, 6, 9, 0, 0, 0],
        ]
        .concat();
        for step in [1, 3, 1000, usize::MAX] {
            let mut output = Output::default();
            assert_eq!(
                output.message(|out| {
                    out.put_slice(&[1, 2, 3, 4]);
                    None
                }),
                [0x80, 0, 0, 4, 1, 2, 3, 4]
            );
            output.message(|out| {
                out.put_slice(&[5; 4]);
                Some(long.clone())
            });
            let mut head = BytesMut::new();
            let data = frame(&mut head, |out| {
                out.put_slice(&[6; 4]);
                Some(Bytes::from_static(&[9]))
            });
            output.push(Reply { head: head.freeze(), data });
            assert_eq!(output.len(), expected.len());
            assert_eq!(drain(&mut output, step), expected, "in steps of {step}");
        }
    }
}
