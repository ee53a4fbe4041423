//! A connection between the two sides of a process that is away: messages in sealed records.
//!
//! A message is postcard (a length as 32 bits, then as many octets), cut into records of
//! [`tesela_shim::seal`]. Each side has a key of its own for each connection.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tesela_shim::seal::{Direction, HEADER, KEY, MAX_CONTENT, TAG, sealed_length};

/// The longest message: an image of a process with many threads and mappings is a few hundred KiB.
const MAX_MESSAGE: usize = 64 << 20;

/// The keys of a connection, as one side has them.
#[derive(Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Keys {
    /// With which this side sends.
    pub send: [u8; KEY],
    /// With which it receives.
    pub receive: [u8; KEY],
}

impl Keys {
    /// New ones.
    ///
    /// # Errors
    /// Those of getrandom(2).
    pub fn random() -> io::Result<Self> {
        let mut keys = Self { send: [0; KEY], receive: [0; KEY] };
        getrandom::fill(&mut keys.send).map_err(io::Error::other)?;
        getrandom::fill(&mut keys.receive).map_err(io::Error::other)?;
        Ok(keys)
    }

    /// As the other side has them.
    pub fn turned(self) -> Self {
        Self { send: self.receive, receive: self.send }
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection failed or was closed.
    #[error("the connection to the other node ended: {0}")]
    Io(#[from] io::Error),
    /// What came is not from the other agent, or not what it has sent.
    #[error("what came over the connection is not the other node's")]
    NotAuthentic,
    /// A message that this program does not know: another version is at the other end.
    #[error("a message that this version does not understand: {0}")]
    NotAMessage(#[from] postcard::Error),
}

/// The half that sends.
#[derive(Debug)]
pub struct Sender {
    stream: TcpStream,
    direction: Sealer,
    record: Vec<u8>,
}

/// The half that receives.
#[derive(Debug)]
pub struct Receiver {
    stream: TcpStream,
    direction: Sealer,
    record: Vec<u8>,
}

struct Sealer(Direction);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

/// Both halves of a connection.
///
/// # Errors
/// Those of the socket.
pub fn split(stream: TcpStream, keys: Keys) -> io::Result<(Sender, Receiver)> {
    stream.set_nodelay(true)?;
    let other = stream.try_clone()?;
    let record = vec![0; HEADER + MAX_CONTENT + TAG];
    Ok((
        Sender { stream: other, direction: Sealer(Direction::new(keys.send)), record: record.clone() },
        Receiver { stream, direction: Sealer(Direction::new(keys.receive)), record },
    ))
}

impl Sender {
    /// Sends octets as they are, in as many records as it takes.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn put(&mut self, octets: &[u8]) -> Result<(), LinkError> {
        for part in octets.chunks(MAX_CONTENT) {
            self.record[HEADER..HEADER + part.len()].copy_from_slice(part);
            let length = self.direction.0.seal(&mut self.record, part.len());
            self.stream.write_all(&self.record[..length])?;
        }
        Ok(())
    }

    /// Neither side says anything more.
    pub fn hang_up(&self) {
        super::lasting::hang_up(&self.stream);
    }

    /// Sends a message.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn send(&mut self, message: &impl Serialize) -> Result<(), LinkError> {
        let mut octets = postcard::to_extend(message, vec![0; 4])?;
        let length = u32::try_from(octets.len() - 4).map_err(|_| LinkError::NotAuthentic)?;
        octets[..4].copy_from_slice(&length.to_le_bytes());
        self.put(&octets)
    }
}

impl Receiver {
    /// The content of the next record.
    ///
    /// # Errors
    /// Those of the connection, or what comes is not authentic.
    pub fn record(&mut self) -> Result<&mut [u8], LinkError> {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header)?;
        let length = sealed_length(header).ok_or(LinkError::NotAuthentic)?;
        let sealed = &mut self.record[..length];
        self.stream.read_exact(sealed)?;
        self.direction.0.open(sealed).map_err(|_| LinkError::NotAuthentic)
    }

    /// The next message. It blocks until one has come whole.
    ///
    /// # Errors
    /// Those of the connection; what comes is not authentic, or not known.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<T, LinkError> {
        self.receive_while(|| {})
    }

    /// The same; `comes` is told of each part.
    ///
    /// # Errors
    /// As [`Receiver::receive`].
    pub fn receive_while<T: DeserializeOwned>(&mut self, mut comes: impl FnMut()) -> Result<T, LinkError> {
        let first = self.record()?;
        comes();
        let (length, rest) = first.split_first_chunk::<4>().ok_or(LinkError::NotAuthentic)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE {
            return Err(LinkError::NotAuthentic);
        }
        let mut octets = rest.to_vec();
        while octets.len() < length {
            octets.extend_from_slice(self.record()?);
            comes();
        }
        Ok(postcard::from_bytes(&octets)?)
    }
}

impl Receiver {
    /// How long it waits for what has not come; `None`: for ever.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn set_timeout(&self, timeout: Option<std::time::Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_pass_and_what_is_forged_does_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let other = listener.accept().unwrap().0;
        let keys = Keys::random().unwrap();
        let mut raw = one.try_clone().unwrap();
        let (mut sender, _) = split(one, keys).unwrap();
        let (_, mut receiver) = split(other, keys.turned()).unwrap();
        for size in [0, 1, 100_000] {
            let message = vec![7_u8; size];
            sender.send(&message).unwrap();
            assert_eq!(receiver.receive::<Vec<u8>>().unwrap(), message);
        }
        raw.write_all(&[20, 0, 0, 0]).unwrap();
        raw.write_all(&[1; 20]).unwrap();
        assert!(matches!(receiver.receive::<u8>(), Err(LinkError::NotAuthentic)));
    }
}
