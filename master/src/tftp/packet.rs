//! The wire format: RFC 1350 packets and RFC 2347 options, as octets.
//!
//! Parsing borrows from the datagram and allocates nothing; what is returned is what was *said*, not
//! what is granted (see [`super::options`]).

use std::fmt;

use super::options::Requested;

/// Octets before the data in a DATA packet: opcode and block number.
pub const DATA_HEADER: usize = 4;

const RRQ: u16 = 1;
const WRQ: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// How the octets of the file are to be sent (RFC 1350, section 1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// As they are.
    Octet,
    /// As lines of text that end in CR LF (RFC 764).
    Netascii,
}

/// The code of an ERROR packet (RFC 1350, appendix; 8 is RFC 2347's).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are those of the RFC")]
#[repr(u16)]
pub enum ErrorCode {
    NotDefined = 0,
    FileNotFound = 1,
    AccessViolation = 2,
    DiskFull = 3,
    IllegalOperation = 4,
    UnknownTransferId = 5,
    FileExists = 6,
    NoSuchUser = 7,
    OptionRefused = 8,
}

/// A read or write request: the first packet of a transfer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// WRQ rather than RRQ.
    pub write: bool,
    /// The file name as sent; see [`super::path::normalise`].
    pub path: &'a [u8],
    /// The mode.
    pub mode: Mode,
    /// The options that we know; the others are passed over, as RFC 2347 wants.
    pub options: Requested,
}

/// A packet that a client may send to a transfer's port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FromClient<'a> {
    /// All blocks up to this one, modulo 2¹⁶, have arrived.
    Ack(u16),
    /// The client gives up.
    Error {
        /// The code as sent: clients also send codes that no RFC knows.
        code: u16,
        /// The message as sent, without its NUL.
        message: &'a [u8],
    },
}

/// Why a datagram is not a packet that we take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// Fewer octets than the smallest packet of that kind.
    #[error("the packet is cut short")]
    Short,
    /// An opcode that has no business here.
    #[error("opcode {0} is not expected here")]
    Opcode(u16),
    /// A string without its NUL.
    #[error("a string does not end")]
    Unterminated,
    /// A mode that is neither octet nor netascii: `mail` is obsolete.
    #[error("the mode is neither octet nor netascii")]
    Mode,
}

impl<'a> Request<'a> {
    /// Reads a datagram that came to the server's port.
    ///
    /// # Errors
    /// What makes it no request.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let (opcode, mut rest) = opcode(datagram)?;
        if opcode != RRQ && opcode != WRQ {
            return Err(Malformed::Opcode(opcode));
        }
        let path = string(&mut rest)?;
        let mode = match string(&mut rest)? {
            mode if mode.eq_ignore_ascii_case(b"octet") => Mode::Octet,
            mode if mode.eq_ignore_ascii_case(b"netascii") => Mode::Netascii,
            _ => return Err(Malformed::Mode),
        };
        let mut options = Requested::default();
        // Some ROMs pad the packet behind the last string, and some leave out the last NUL: what does
        // not parse as a pair ends the options, and costs nothing but itself.
        while let (Ok(name), Ok(value)) = (string(&mut rest), string(&mut rest)) {
            options.note(name, value);
        }
        Ok(Self { write: opcode == WRQ, path, mode, options })
    }
}

impl<'a> FromClient<'a> {
    /// Reads a datagram that came to the port of a read transfer.
    ///
    /// # Errors
    /// What makes it neither ACK nor ERROR.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let (opcode, rest) = opcode(datagram)?;
        let (number, mut rest) = rest.split_first_chunk().ok_or(Malformed::Short)?;
        let number = u16::from_be_bytes(*number);
        match opcode {
            ACK => Ok(Self::Ack(number)),
            // A missing NUL is forgiven: an ERROR must end the transfer in any case.
            ERROR => Ok(Self::Error { code: number, message: string(&mut rest).unwrap_or(rest) }),
            other => Err(Malformed::Opcode(other)),
        }
    }
}

/// The first four octets of DATA for a block: its number goes modulo 2¹⁶, so 65535 is followed by 0.
pub fn data_header(block: u64) -> [u8; DATA_HEADER] {
    let [.., high, low] = block.to_be_bytes();
    let [zero, data] = DATA.to_be_bytes();
    [zero, data, high, low]
}

/// An ERROR packet.
pub fn error(code: ErrorCode, message: &str) -> Vec<u8> {
    let mut packet = Vec::with_capacity(5 + message.len());
    packet.extend(ERROR.to_be_bytes());
    packet.extend((code as u16).to_be_bytes());
    packet.extend(message.bytes().filter(|octet| *octet != 0));
    packet.push(0);
    packet
}

/// An OACK packet of these options (RFC 2347).
pub fn option_ack<'n>(options: impl IntoIterator<Item = (&'n str, u64)>) -> Vec<u8> {
    let mut packet = OACK.to_be_bytes().to_vec();
    for (name, value) in options {
        packet.extend(name.bytes());
        packet.push(0);
        packet.extend(value.to_string().bytes());
        packet.push(0);
    }
    packet
}

fn opcode(datagram: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    let (opcode, rest) = datagram.split_first_chunk().ok_or(Malformed::Short)?;
    Ok((u16::from_be_bytes(*opcode), rest))
}

/// Takes a string up to its NUL off the front.
fn string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let end = rest.iter().position(|octet| *octet == 0).ok_or(Malformed::Unterminated)?;
    let (text, after) = rest.split_at(end);
    *rest = &after[1..];
    Ok(text)
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Octet => "octet",
            Self::Netascii => "netascii",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_a_real_rom() {
        // Intel UNDI, PXE-2.1: the probe for the size of the file.
        let request = Request::parse(b"\0\x01pxelinux.0\0octet\0tsize\x000\0").unwrap();
        assert_eq!(request.path, b"pxelinux.0");
        assert_eq!((request.write, request.mode), (false, Mode::Octet));
        assert_eq!(request.options, Requested { tsize: true, ..Requested::default() });
    }

    #[test]
    fn options_in_any_case_order_and_with_rubbish_behind() {
        let request =
            Request::parse(b"\0\x01a\0NetASCII\0WindowSize\x0016\0foo\0bar\0BLKSIZE\x001024\0timeout")
                .unwrap();
        assert_eq!(request.mode, Mode::Netascii);
        assert_eq!(request.options.windowsize, Some(16));
        assert_eq!(request.options.blksize, Some(1024));
        assert_eq!(request.options.timeout, None);
    }

    #[test]
    fn what_is_no_request() {
        assert_eq!(Request::parse(b""), Err(Malformed::Short));
        assert_eq!(Request::parse(b"\0\x04\0\0"), Err(Malformed::Opcode(4)));
        assert_eq!(Request::parse(b"\0\x01name"), Err(Malformed::Unterminated));
        assert_eq!(Request::parse(b"\0\x01name\0octet"), Err(Malformed::Unterminated));
        assert_eq!(Request::parse(b"\0\x01name\0mail\0"), Err(Malformed::Mode));
    }

    #[test]
    fn what_a_client_answers() {
        assert_eq!(FromClient::parse(b"\0\x04\x01\x02"), Ok(FromClient::Ack(258)));
        let error = FromClient::Error { code: 8, message: b"User aborted" };
        assert_eq!(FromClient::parse(b"\0\x05\0\x08User aborted\0"), Ok(error.clone()));
        assert_eq!(FromClient::parse(b"\0\x05\0\x08User aborted"), Ok(error));
        assert_eq!(FromClient::parse(b"\0\x04\x01"), Err(Malformed::Short));
        assert_eq!(FromClient::parse(b"\0\x03\0\x01data"), Err(Malformed::Opcode(3)));
    }

    #[test]
    fn block_numbers_roll_over_to_zero() {
        assert_eq!(data_header(1), [0, 3, 0, 1]);
        assert_eq!(data_header(65535), [0, 3, 0xff, 0xff]);
        assert_eq!(data_header(65536), [0, 3, 0, 0]);
    }

    #[test]
    fn what_we_say() {
        assert_eq!(error(ErrorCode::FileNotFound, "no"), b"\0\x05\0\x01no\0");
        assert_eq!(option_ack([("blksize", 1468), ("tsize", 0)]), b"\0\x06blksize\x001468\0tsize\x000\0");
    }
}
