//! Records: what travels between two ends that share a pair of keys, encrypted and in order.
//!
//! A record is a 32-bit little-endian length and as many octets of ChaCha20-Poly1305 (RFC 8439), the tag
//! last. Each direction has a key of its own, and the nonce counts its records, so a record that is
//! missing, repeated, out of place or made up does not open. The length is authenticated with it.

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};

/// Octets of a key.
pub const KEY: usize = 32;
/// Octets of the length before a record.
pub const HEADER: usize = 4;
/// Octets that sealing adds behind the content.
pub const TAG: usize = 16;
/// The longest content of a record.
pub const MAX_CONTENT: usize = 32 * 1024;

/// One direction's key, and how many records it has sealed or opened.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Direction {
    key: [u8; KEY],
    count: u64,
}

/// The record did not open: the other side has another key, or it is not the next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAuthentic;

impl Direction {
    /// A direction on which nothing has been sent yet. A key is used for one direction once.
    pub const fn new(key: [u8; KEY]) -> Self {
        Self { key, count: 0 }
    }

    /// Nothing has been sealed or opened yet.
    pub const fn is_unused(&self) -> bool {
        self.count == 0
    }

    fn next_nonce(&mut self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.count.to_le_bytes());
        // A direction would need 2^64 records to come round.
        self.count += 1;
        nonce
    }

    /// Makes a record of `HEADER` free octets, `length` octets of content, and `TAG` free octets; returns
    /// the record's octets.
    ///
    /// # Panics
    /// If `record` is shorter than that.
    pub fn seal(&mut self, record: &mut [u8], length: usize) -> usize {
        let sealed = u32::try_from(length + TAG).unwrap_or(u32::MAX).to_le_bytes();
        let nonce = self.next_nonce();
        let (header, rest) = record.split_at_mut(HEADER);
        header.copy_from_slice(&sealed);
        let (content, rest) = rest.split_at_mut(length);
        let cipher = ChaCha20Poly1305::new(&self.key.into());
        if let Ok(tag) = cipher.encrypt_inout_detached(&nonce.into(), &sealed, content.into()) {
            rest[..TAG].copy_from_slice(&tag);
        }
        HEADER + length + TAG
    }

    /// Opens a sealed content (without its header) in place; what is before the tag is the content then.
    ///
    /// # Errors
    /// [`NotAuthentic`]; nothing that follows can be trusted then.
    pub fn open<'a>(&mut self, sealed: &'a mut [u8]) -> Result<&'a mut [u8], NotAuthentic> {
        let length = u32::try_from(sealed.len()).map_err(|_| NotAuthentic)?.to_le_bytes();
        let at = sealed.len().checked_sub(TAG).ok_or(NotAuthentic)?;
        let (content, tag) = sealed.split_at_mut(at);
        let tag: [u8; TAG] = (&*tag).try_into().map_err(|_| NotAuthentic)?;
        let nonce = self.next_nonce();
        let cipher = ChaCha20Poly1305::new(&self.key.into());
        cipher
            .decrypt_inout_detached(&nonce.into(), &length, (&mut *content).into(), &tag.into())
            .map_err(|_| NotAuthentic)?;
        Ok(content)
    }
}

/// The length of the sealed content that follows this header; `None` where no record can be so long.
pub fn sealed_length(header: [u8; HEADER]) -> Option<usize> {
    let length = usize::try_from(u32::from_le_bytes(header)).ok()?;
    (TAG..=MAX_CONTENT + TAG).contains(&length).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(direction: &mut Direction, content: &[u8]) -> Vec<u8> {
        let mut record = vec![0; HEADER + content.len() + TAG];
        record[HEADER..HEADER + content.len()].copy_from_slice(content);
        let length = direction.seal(&mut record, content.len());
        assert_eq!(length, record.len());
        record
    }

    #[test]
    fn records_open_once_in_order_and_unchanged() {
        let (mut one, mut other) = (Direction::new([7; KEY]), Direction::new([7; KEY]));
        for content in [&b"first"[..], b"", b"third"] {
            let mut record = sealed(&mut one, content);
            let length = sealed_length(record[..HEADER].try_into().unwrap()).unwrap();
            assert_eq!(length, record.len() - HEADER);
            assert_eq!(other.open(&mut record[HEADER..]).unwrap(), content);
        }
        let again = sealed(&mut one, b"again");
        other.open(&mut again.clone()[HEADER..]).unwrap();
        assert!(other.open(&mut again.clone()[HEADER..]).is_err(), "a replay");
        let mut changed = sealed(&mut one, b"fourth");
        sealed(&mut one, b"lost");
        changed[HEADER] ^= 1;
        assert!(other.open(&mut changed[HEADER..]).is_err());
        assert!(
            Direction::new([8; KEY])
                .open(&mut sealed(&mut Direction::new([7; KEY]), b"x")[HEADER..])
                .is_err()
        );
        assert!(other.open(&mut [0; TAG - 1]).is_err());
    }

    #[test]
    fn a_length_that_no_record_has_is_refused() {
        let max = u32::try_from(MAX_CONTENT + TAG).unwrap();
        assert_eq!(sealed_length(max.to_le_bytes()), Some(MAX_CONTENT + TAG));
        for length in [0, 15, max + 1, u32::MAX] {
            assert_eq!(sealed_length(length.to_le_bytes()), None);
        }
    }
}
