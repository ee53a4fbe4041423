//! What a transfer sends: octets in memory or a file, cut into blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::netascii::Text;
use super::packet::Mode;
use super::sys::Mapped;

/// The content of a file to send; a clone shares it.
#[derive(Clone, Debug)]
pub struct Content(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Memory(Bytes),
    File(Arc<(File, Mapped)>),
}

impl Content {
    /// A regular file, which is mapped, not read: sessions share its pages with the page cache. It should
    /// be replaced by a rename, not written in place; one that shrinks under a transfer fails that transfer.
    ///
    /// Blocks on the disk: call it off the threads of the runtime.
    ///
    /// # Errors
    /// Those of fstat(2) and mmap(2), and `InvalidInput` for what is no regular file.
    pub fn from_file(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if metadata.len() == 0 {
            return Ok(Self(Inner::Memory(Bytes::new())));
        }
        let mapped = Mapped::new(&file)?;
        Ok(Self(Inner::File(Arc::new((file, mapped)))))
    }

    /// Octets.
    pub fn len(&self) -> u64 {
        (match &self.0 {
            Inner::Memory(bytes) => bytes.len(),
            Inner::File(file) => file.1.len(),
        }) as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads at an offset; 0 at the end.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            Inner::Memory(bytes) => {
                let rest =
                    usize::try_from(offset).ok().and_then(|from| bytes.get(from..)).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
            Inner::File(file) => file.0.read_at(buffer, offset),
        }
    }

    /// A part to hand to a system call.
    fn part(&self, from: usize, to: usize) -> &[u8] {
        match &self.0 {
            Inner::Memory(bytes) => &bytes[from..to],
            Inner::File(file) => file.1.for_system_call(from..to),
        }
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self(Inner::Memory(bytes))
    }
}

/// A content cut into blocks as the mode wants it.
#[derive(Debug)]
pub struct Source {
    content: Content,
    text: Option<Text>,
    size: u64,
}

impl Source {
    /// Prepares a content; netascii reads it once, to know its size as sent.
    ///
    /// # Errors
    /// Those of reading it, and `FileTooLarge` for a netascii file that is too big to be text.
    pub fn new(content: Content, mode: Mode) -> io::Result<Self> {
        let (size, text) = match mode {
            Mode::Octet => (content.len(), None),
            Mode::Netascii => (Text::size(&content)?, Some(Text::default())),
        };
        Ok(Self { content, text, size })
    }

    /// Octets as sent: what `tsize` tells.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The octets of `count` consecutive blocks from `first` (1 upwards) to hand to a system call: fewer
    /// than `count` whole blocks only at the end. A netascii block must lie at most a window before the
    /// furthest one asked for so far, and at most one behind it.
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn blocks<'a>(
        &'a mut self,
        first: u64,
        count: usize,
        block_size: u16,
        scratch: &'a mut Vec<u8>,
    ) -> io::Result<&'a [u8]> {
        if let Some(text) = &mut self.text {
            scratch.clear();
            for block in (first..).take(count) {
                text.block(&self.content, block, block_size.into(), scratch)?;
            }
            return Ok(scratch);
        }
        let block_size = u64::from(block_size);
        let at =
            |block: u64| usize::try_from(((block - 1) * block_size).min(self.size)).map_err(io::Error::other);
        Ok(self.content.part(at(first)?, at(first + count as u64)?))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(mut source: Source, block_size: u16) -> Vec<u8> {
        let mut scratch = Vec::new();
        let mut sent = Vec::new();
        for block in 1.. {
            let octets = source.blocks(block, 1, block_size, &mut scratch).unwrap();
            sent.extend(octets);
            if octets.len() < block_size.into() {
                break;
            }
        }
        assert_eq!(sent.len() as u64, source.size());
        sent
    }

    #[test]
    fn memory_and_file_give_the_same_blocks() {
        let octets: Vec<u8> = (0..5000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&octets).unwrap();
        let file = Content::from_file(file).unwrap();
        let memory = Content::from(Bytes::from(octets.clone()));
        for content in [file, memory] {
            assert_eq!(all(Source::new(content.clone(), Mode::Octet).unwrap(), 512), octets);
            assert_eq!(all(Source::new(content, Mode::Octet).unwrap(), 1000), octets);
        }
    }

    #[test]
    fn an_empty_file_is_one_empty_block() {
        let content = Content::from_file(tempfile::tempfile().unwrap()).unwrap();
        assert!(content.is_empty());
        assert_eq!(all(Source::new(content, Mode::Octet).unwrap(), 512), b"");
    }

    #[test]
    fn a_directory_is_no_content() {
        assert!(Content::from_file(File::open("/").unwrap()).is_err());
    }

    #[test]
    fn netascii_of_a_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one\ntwo\r\n\n").unwrap();
        let content = Content::from_file(file).unwrap();
        let source = Source::new(content, Mode::Netascii).unwrap();
        assert_eq!(all(source, 8), b"one\r\ntwo\r\0\r\n\r\n");
    }
}
