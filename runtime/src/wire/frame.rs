//! Frames: a 32-bit big-endian length, then as many bytes of JSON.
//!
//! [`Deframer`] is the whole decoder, with no I/O in it; [`read`]/[`write`] and
//! [`FrameReader`]/[`send`] put a blocking and an asynchronous stream around it. None of them takes
//! more memory than two frames, whatever the other side sends.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest message, in bytes, its length not counted.
pub const MAX_FRAME: usize = 64 * 1024;

const HEADER: usize = 4;
/// How much is read from a stream at a time.
const CHUNK: usize = 16 * 1024;

/// What can be wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`]: the other side's fault when reading, ours when writing.
    #[error("a message of {0} bytes, and {MAX_FRAME} is the limit")]
    TooLong(usize),
    /// The bytes are not the message that was due: the other side's fault.
    #[error("not a message of this protocol: {0}")]
    NotAMessage(#[from] serde_json::Error),
    /// The stream ended inside a frame.
    #[error("the connection ended in the middle of a message")]
    Truncated,
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The frame of a message.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - HEADER;
    let header = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
    frame[..HEADER].copy_from_slice(&header.ok_or(FrameError::TooLong(length))?.to_be_bytes());
    Ok(frame)
}

/// Bytes in, messages out.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: Vec<u8>,
}

impl Deframer {
    /// Takes what has arrived. Call [`Deframer::pop`] until it gives `None` before the next bytes: what
    /// is held then stays under a frame.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` while it has not all arrived.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] and [`FrameError::NotAMessage`]; nothing that follows can be trusted
    /// then, and the connection is of no more use.
    pub fn pop<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((header, body)) = self.buffer.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = length(*header)?;
        let Some(body) = body.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(body)?;
        self.buffer.drain(..HEADER + length);
        Ok(Some(message))
    }

    /// Whether the last byte that arrived ended a message.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

fn length(header: [u8; HEADER]) -> Result<usize, FrameError> {
    match usize::try_from(u32::from_be_bytes(header)) {
        Ok(length) if length <= MAX_FRAME => Ok(length),
        Ok(length) => Err(FrameError::TooLong(length)),
        Err(_) => Err(FrameError::TooLong(usize::MAX)),
    }
}

/// Reads one message from a blocking stream.
///
/// # Errors
/// [`FrameError`]; the end of the stream is [`FrameError::Truncated`] wherever it comes.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<T, FrameError> {
    let mut exactly = |buffer: &mut [u8]| match stream.read_exact(buffer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(FrameError::Truncated),
        other => other.map_err(FrameError::Io),
    };
    let mut header = [0; HEADER];
    exactly(&mut header)?;
    let mut body = vec![0; length(header)?];
    exactly(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Writes one message to a blocking stream, and flushes it.
///
/// # Errors
/// [`FrameError::TooLong`] before anything is written, and [`FrameError::Io`].
pub fn write(stream: &mut impl Write, message: &impl Serialize) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?)?;
    Ok(stream.flush()?)
}

/// Writes one message to an asynchronous stream, and flushes it. Not to be cancelled halfway.
///
/// # Errors
/// [`FrameError::TooLong`] before anything is written, and [`FrameError::Io`].
pub async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?).await?;
    Ok(stream.flush().await?)
}

/// Messages of an asynchronous stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    deframer: Deframer,
    chunk: Vec<u8>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader at the start of a message.
    pub fn new(stream: R) -> Self {
        FrameReader { stream, deframer: Deframer::default(), chunk: Vec::with_capacity(CHUNK) }
    }

    /// The next message, or `None` where the stream ends between two. Can be cancelled and called again:
    /// no byte is lost.
    ///
    /// # Errors
    /// [`FrameError`].
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        loop {
            if let Some(message) = self.deframer.pop()? {
                return Ok(Some(message));
            }
            self.chunk.clear();
            if (&mut self.stream).take(CHUNK as u64).read_buf(&mut self.chunk).await? == 0 {
                return if self.deframer.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
            }
            self.deframer.push(&self.chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_however_its_bytes_arrive() {
        let frames = [encode(&vec!["a", "ñ"]).unwrap(), encode(&Vec::<String>::new()).unwrap()].concat();
        for step in [1, 3, frames.len()] {
            let mut deframer = Deframer::default();
            let mut messages: Vec<Vec<String>> = Vec::new();
            for bytes in frames.chunks(step) {
                deframer.push(bytes);
                while let Some(message) = deframer.pop().unwrap() {
                    messages.push(message);
                }
            }
            assert_eq!(messages, [vec!["a".to_owned(), "ñ".to_owned()], vec![]]);
            assert!(deframer.is_empty());
        }
        let mut stream = frames.as_slice();
        assert_eq!(read::<Vec<String>>(&mut stream).unwrap().len(), 2);
        assert!(read::<Vec<String>>(&mut stream).unwrap().is_empty());
        assert!(matches!(read::<Vec<String>>(&mut stream), Err(FrameError::Truncated)));
    }

    #[test]
    fn an_oversize_frame_is_refused_by_its_header_alone() {
        let mut deframer = Deframer::default();
        deframer.push(&0x0001_0001_u32.to_be_bytes());
        assert!(matches!(deframer.pop::<String>(), Err(FrameError::TooLong(0x1_0001))));
        let mut stream = [0xff_u8; 8].as_slice();
        assert!(matches!(read::<String>(&mut stream), Err(FrameError::TooLong(_))));
        assert!(matches!(encode(&"x".repeat(MAX_FRAME)), Err(FrameError::TooLong(_))));
        assert_eq!(encode(&"x".repeat(MAX_FRAME - 2)).unwrap().len(), HEADER + MAX_FRAME);
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        let mut deframer = Deframer::default();
        deframer.push(&[0, 0, 0, 2, b'{', b'{']);
        assert!(matches!(deframer.pop::<String>(), Err(FrameError::NotAMessage(_))));
    }

    #[tokio::test]
    async fn the_end_of_a_stream_counts_only_between_messages() {
        let frame = encode(&"whole").unwrap();
        let mut reader = FrameReader::new(frame.as_slice());
        assert_eq!(reader.next::<String>().await.unwrap().as_deref(), Some("whole"));
        assert!(reader.next::<String>().await.unwrap().is_none());
        let mut reader = FrameReader::new(&frame[..6]);
        assert!(matches!(reader.next::<String>().await, Err(FrameError::Truncated)));
    }
}
