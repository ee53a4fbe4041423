//! Options: what a client asked for, and what it is granted.
//!
//! RFC 2347 (the mechanism), 2348 (`blksize`), 2349 (`tsize`, `timeout`) and 7440 (`windowsize`).

use std::time::Duration;

use super::packet;

/// The block size where none is agreed (RFC 1350).
pub const DEFAULT_BLOCK_SIZE: u16 = 512;

/// The options of a request that are well-formed: a value out of its RFC's bounds counts as not sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Requested {
    /// Octets in a block, 8 to 65464.
    pub blksize: Option<u16>,
    /// The client wants to know the size of the file.
    pub tsize: bool,
    /// Seconds between retransmissions, 1 to 255.
    pub timeout: Option<u8>,
    /// Blocks in a window, 1 to 65535.
    pub windowsize: Option<u16>,
}

/// The bounds within which options are granted.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Octets in a block: what fits the path MTU.
    pub block_size: u16,
    /// Blocks in a window.
    pub window: u16,
}

/// What holds for a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Octets in each block but the last.
    pub block_size: u16,
    /// Blocks sent before an ACK is waited for.
    pub window: u16,
    /// The agreed time between retransmissions.
    pub timeout: Option<Duration>,
}

impl Requested {
    /// Takes note of one option as sent; an unknown or ill-formed one is passed over.
    pub(super) fn note(&mut self, name: &[u8], value: &[u8]) {
        let value = std::str::from_utf8(value).unwrap_or_default();
        if name.eq_ignore_ascii_case(b"blksize") {
            self.blksize = value.parse().ok().filter(|size| (8..=65464).contains(size));
        } else if name.eq_ignore_ascii_case(b"tsize") {
            self.tsize = true;
        } else if name.eq_ignore_ascii_case(b"timeout") {
            self.timeout = value.parse().ok().filter(|seconds| *seconds > 0);
        } else if name.eq_ignore_ascii_case(b"windowsize") {
            self.windowsize = value.parse().ok().filter(|blocks| *blocks > 0);
        }
    }

    /// The terms of a transfer of `size` octets, and the OACK that offers them; no OACK where the client
    /// asked for nothing that we know, and so expects the first block.
    pub fn negotiate(&self, bounds: Bounds, size: u64) -> (Terms, Option<Box<[u8]>>) {
        let block_size = self.blksize.map(|size| size.min(bounds.block_size));
        let window = self.windowsize.map(|blocks| blocks.min(bounds.window));
        let terms = Terms {
            block_size: block_size.unwrap_or(DEFAULT_BLOCK_SIZE),
            window: window.unwrap_or(1),
            timeout: self.timeout.map(|seconds| Duration::from_secs(seconds.into())),
        };
        let granted = [
            ("blksize", block_size.map(u64::from)),
            ("tsize", self.tsize.then_some(size)),
            ("timeout", self.timeout.map(u64::from)),
            ("windowsize", window.map(u64::from)),
        ];
        let mut granted = granted.into_iter().filter_map(|(name, value)| Some((name, value?))).peekable();
        let offer = granted.peek().is_some().then(|| packet::option_ack(granted).into());
        (terms, offer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { block_size: 1468, window: 64 };

    #[test]
    fn nothing_asked_nothing_offered() {
        let (terms, offer) = Requested::default().negotiate(BOUNDS, 9);
        assert_eq!(terms, Terms { block_size: 512, window: 1, timeout: None });
        assert_eq!(offer, None);
    }

    #[test]
    fn what_is_asked_is_granted_within_bounds() {
        let mut asked = Requested::default();
        asked.note(b"blksize", b"65464");
        asked.note(b"TSIZE", b"0");
        asked.note(b"timeout", b"3");
        asked.note(b"windowsize", b"65535");
        let (terms, offer) = asked.negotiate(BOUNDS, 5_000_000_000);
        assert_eq!(terms, Terms { block_size: 1468, window: 64, timeout: Some(Duration::from_secs(3)) });
        let offer = offer.unwrap();
        assert_eq!(*offer, *b"\0\x06blksize\x001468\0tsize\x005000000000\0timeout\x003\0windowsize\x0064\0");
    }

    #[test]
    fn ill_formed_values_count_as_not_sent() {
        let mut asked = Requested::default();
        for (name, value) in [("blksize", "7"), ("blksize", "65465"), ("timeout", "0"), ("timeout", "256")] {
            asked.note(name.as_bytes(), value.as_bytes());
        }
        asked.note(b"windowsize", b"0");
        asked.note(b"windowsize", b"\xff");
        asked.note(b"multicast", b"");
        assert_eq!(asked, Requested::default());
    }
}
