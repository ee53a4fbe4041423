//! An SNTP client (RFC 4330): what stage1 sets the clock by, and `doctor` looks at it by.

use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// RFC 5905.
pub const PORT: u16 = 123;
/// Octets of a packet without extensions.
pub const PACKET: usize = 48;
/// Seconds from 1900 to 1970.
const NTP_TO_UNIX: u64 = 2_208_988_800;

/// The server has no time to give (stratum 0, a kiss of death).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the master's clock is not set")]
pub struct NotSet;

/// A request. What stands in its Transmit Timestamp comes back as Originate Timestamp, and so tells its
/// answer from others.
pub fn request(mark: [u8; 8]) -> [u8; PACKET] {
    let mut request = [0; PACKET];
    // Version 4, mode 3 (client).
    request[0] = 0x23;
    request[40..].copy_from_slice(&mark);
    request
}

/// The time since 1970 that an answer to the request with this mark gives; `None` for what is no answer
/// to it.
pub fn answer(packet: &[u8], mark: [u8; 8]) -> Option<Result<Duration, NotSet>> {
    let packet: &[u8; PACKET] = packet.first_chunk()?;
    if packet[24..32] != mark || packet[0] & 7 != 4 {
        return None;
    }
    if packet[1] == 0 {
        return Some(Err(NotSet));
    }
    let field = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let seconds = u64::from(field(40));
    // The era that begins in 2036 (RFC 4330, section 3).
    let seconds = if seconds < NTP_TO_UNIX { seconds + (1 << 32) } else { seconds };
    let nanos = (u64::from(field(44)) * 1_000_000_000) >> 32;
    Some(Ok(Duration::from_secs(seconds - NTP_TO_UNIX) + Duration::from_nanos(nanos)))
}

/// Asks the server to which this socket is connected for the time since 1970, as it is when this returns.
///
/// # Errors
/// Those of the socket, its time limit among them; [`NotSet`].
pub fn ask(socket: &UdpSocket, mark: [u8; 8]) -> io::Result<Duration> {
    let sent = Instant::now();
    socket.send(&request(mark))?;
    let mut reply = [0; PACKET];
    loop {
        let length = socket.recv(&mut reply)?;
        if let Some(answer) = self::answer(&reply[..length], mark) {
            return answer.map(|time| time + sent.elapsed() / 2).map_err(io::Error::other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_by_its_mark_and_the_eras_follow_each_other() {
        let mark = *b"the mark";
        let mut packet = request(*b"whatever");
        (packet[0], packet[1]) = (0x24, 1);
        packet[24..32].copy_from_slice(&mark);
        packet[40..48].copy_from_slice(&[0x83, 0xaa, 0x7e, 0x81, 0x80, 0, 0, 0]);
        assert_eq!(answer(&packet, mark), Some(Ok(Duration::from_millis(1500))));
        packet[40..48].copy_from_slice(&[0; 8]);
        assert_eq!(answer(&packet, mark), Some(Ok(Duration::from_secs((1 << 32) - NTP_TO_UNIX))));
        assert_eq!(answer(&packet, *b"no mark "), None);
        assert_eq!(answer(&packet[..47], mark), None);
        packet[1] = 0;
        assert_eq!(answer(&packet, mark), Some(Err(NotSet)));
        packet[0] = 0x23;
        assert_eq!(answer(&packet, mark), None, "a client's");
    }
}
