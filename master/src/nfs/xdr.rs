//! XDR (RFC 4506), bounded: every length is checked against what is there and against the
//! caller's limit before anything is taken, and nothing is copied on the way in.

use bytes::{BufMut, BytesMut};

/// The octets are not what the type says: too few, a length over its limit, an unknown discriminant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call's arguments do not decode (the client's fault)")]
pub struct Garbage;

/// Reads XDR from a slice.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    left: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Reads from the start of `octets`.
    pub fn new(octets: &'a [u8]) -> Self {
        Self { left: octets }
    }

    /// What is not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.left
    }

    /// An unsigned int.
    pub fn u32(&mut self) -> Result<u32, Garbage> {
        let (word, rest) = self.left.split_first_chunk().ok_or(Garbage)?;
        self.left = rest;
        Ok(u32::from_be_bytes(*word))
    }

    /// An unsigned hyper.
    pub fn u64(&mut self) -> Result<u64, Garbage> {
        let (word, rest) = self.left.split_first_chunk().ok_or(Garbage)?;
        self.left = rest;
        Ok(u64::from_be_bytes(*word))
    }

    /// A bool: 0 or 1, nothing else.
    pub fn bool(&mut self) -> Result<bool, Garbage> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Garbage),
        }
    }

    /// Opaque data of a fixed length that is a multiple of four.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Garbage> {
        const { assert!(N.is_multiple_of(4)) };
        let (octets, rest) = self.left.split_first_chunk().ok_or(Garbage)?;
        self.left = rest;
        Ok(*octets)
    }

    /// Opaque data or a string of at most `limit` octets, with its padding.
    pub fn opaque(&mut self, limit: usize) -> Result<&'a [u8], Garbage> {
        let len = usize::try_from(self.u32()?).map_err(|_| Garbage)?;
        if len > limit {
            return Err(Garbage);
        }
        let data = self.left.get(..len).ok_or(Garbage)?;
        self.left = self.left.get(len.next_multiple_of(4)..).ok_or(Garbage)?;
        Ok(data)
    }

    /// A value that may be absent.
    pub fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Garbage>,
    ) -> Result<Option<T>, Garbage> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }
}

/// Writes XDR behind what a buffer holds already.
pub trait Encode: BufMut {
    /// A bool.
    fn put_bool(&mut self, value: bool) {
        self.put_u32(value.into());
    }

    /// Unsigned ints, one after the other.
    fn put_words(&mut self, words: &[u32]) {
        for word in words {
            self.put_u32(*word);
        }
    }

    /// Opaque data or a string, with its padding.
    fn put_opaque(&mut self, data: &[u8]) {
        self.put_u32(length(data.len()));
        self.put_slice(data);
        self.put_slice(padding(data.len()));
    }
}

impl Encode for BytesMut {}

/// The zeros that fill `len` octets up to a multiple of four.
pub fn padding(len: usize) -> &'static [u8] {
    &[0; 3][..len.next_multiple_of(4) - len]
}

/// A length on the wire. Nothing here is ever longer than a record, which is bounded by megabytes.
pub fn length(len: usize) -> u32 {
    u32::try_from(len).expect("a record is bounded far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opaque_is_bounded_by_limit_and_by_what_is_there() {
        assert_eq!(Decoder::new(&[0x7f, 0xff, 0xff, 0xff]).opaque(usize::MAX), Err(Garbage));
        assert_eq!(Decoder::new(&[0, 0, 0, 2, 1, 2, 0, 0]).opaque(1), Err(Garbage));
        assert_eq!(Decoder::new(&[0, 0, 0, 2, 1, 2, 0]).opaque(8), Err(Garbage));
        let mut whole = Decoder::new(&[0, 0, 0, 2, 1, 2, 0, 0, 9]);
        assert_eq!(whole.opaque(2), Ok(&[1, 2][..]));
        assert_eq!(whole.rest(), [9]);
    }

    #[test]
    fn what_is_encoded_decodes() {
        let mut buffer = BytesMut::new();
        buffer.put_bool(true);
        buffer.put_u64(7 << 40);
        buffer.put_opaque(b"hello");
        assert_eq!(buffer.len(), 4 + 8 + 4 + 8);
        let mut decoder = Decoder::new(&buffer);
        assert_eq!(decoder.optional(Decoder::u64), Ok(Some(7 << 40)));
        assert_eq!(decoder.opaque(5), Ok(&b"hello"[..]));
        assert!(decoder.rest().is_empty());
    }
}
