//! The netascii mode: text with its line ends converted (RFC 764 as RFC 1350 uses it).
//!
//! LF becomes CR LF and CR becomes CR NUL, so an octet may become two, and the place of a block in the
//! file depends on all before it. The starts of the blocks that may be asked for again are remembered;
//! the blocks themselves are converted anew.

use std::collections::VecDeque;
use std::io;

use super::content::Content;

/// The greatest file sent as text: it has to be read once beforehand.
const LARGEST: u64 = 64 << 20;
/// Starts remembered: over twice the largest window.
const MARKS: usize = 160;

/// Where a block starts.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    /// Octets of the file before it.
    offset: u64,
    /// The second half of a pair, where the block before ended inside it.
    pending: Option<u8>,
}

/// The conversion of one content.
#[derive(Debug)]
pub struct Text {
    /// The block that `marks` begins with.
    first: u64,
    marks: VecDeque<Mark>,
}

impl Default for Text {
    fn default() -> Self {
        Self { first: 1, marks: VecDeque::from([Mark::default()]) }
    }
}

impl Text {
    /// Octets of the converted content.
    pub fn size(content: &Content) -> io::Result<u64> {
        if content.len() > LARGEST {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too big for netascii; ask for octet"));
        }
        let mut buffer = [0; 16 << 10];
        let mut offset = 0;
        let mut pairs = 0;
        loop {
            let count = content.read_at(offset, &mut buffer)?;
            if count == 0 {
                return Ok(offset + pairs);
            }
            offset += count as u64;
            pairs += buffer[..count].iter().filter(|octet| matches!(octet, b'\n' | b'\r')).count() as u64;
        }
    }

    /// Appends one converted block; the last one is shorter.
    pub fn block(&mut self, content: &Content, block: u64, size: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let index = block.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let mark = index.and_then(|index| self.marks.get(index).copied());
        let (Some(index), Some(mut mark)) = (index, mark) else {
            return Err(io::Error::other("a block outside the window"));
        };
        let end = out.len() + size;
        out.extend(mark.pending.take());
        let mut buffer = [0; 2048];
        'fill: while out.len() < end {
            let wanted = (end - out.len()).min(buffer.len());
            let count = content.read_at(mark.offset, &mut buffer[..wanted])?;
            if count == 0 {
                break;
            }
            for octet in &buffer[..count] {
                if out.len() == end {
                    break 'fill;
                }
                mark.offset += 1;
                let (head, tail) = match octet {
                    b'\n' => (b'\r', Some(b'\n')),
                    b'\r' => (b'\r', Some(0)),
                    other => (*other, None),
                };
                out.push(head);
                if out.len() < end {
                    out.extend(tail);
                } else {
                    mark.pending = tail;
                }
            }
        }
        if index + 1 == self.marks.len() {
            self.marks.push_back(mark);
            if self.marks.len() > MARKS {
                self.marks.pop_front();
                self.first += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn convert(text: &[u8]) -> Vec<u8> {
        text.iter()
            .flat_map(|octet| match octet {
                b'\n' => vec![b'\r', b'\n'],
                b'\r' => vec![b'\r', 0],
                other => vec![*other],
            })
            .collect()
    }

    proptest! {
        #[test]
        fn blocks_join_to_the_converted_text(
            text in prop::collection::vec(prop::sample::select(b"ab\r\n".to_vec()), 0..400),
            size in 1_usize..40,
        ) {
            let content = Content::from(Bytes::from(text.clone()));
            let expected = convert(&text);
            prop_assert_eq!(Text::size(&content).unwrap(), expected.len() as u64);
            let mut converter = Text::default();
            for (block, wanted) in (1..).zip(expected.chunks(size)) {
                let mut out = Vec::new();
                converter.block(&content, block, size, &mut out).unwrap();
                prop_assert_eq!(&out, wanted);
                // And once more, as after a loss.
                let again = block.saturating_sub(20).max(1);
                out.clear();
                converter.block(&content, again, size, &mut out).unwrap();
                let from = usize::try_from(again - 1).unwrap() * size;
                prop_assert_eq!(&out, &expected[from..(from + size).min(expected.len())]);
            }
        }
    }

    #[test]
    fn only_what_is_near_can_be_asked_for() {
        let mut text = Text::default();
        assert!(text.block(&Content::from(Bytes::new()), 7, 512, &mut Vec::new()).is_err());
        assert!(text.block(&Content::from(Bytes::new()), 0, 512, &mut Vec::new()).is_err());
    }
}
