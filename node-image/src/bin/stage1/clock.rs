//! The clock, set once by SNTP (RFC 4330) before anything looks at a certificate.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::console::uptime;
use nix::time::{ClockId, clock_settime};

/// Seconds from 1900 to 1970.
const NTP_TO_UNIX: u64 = 2_208_988_800;
const TRIES: u32 = 3;
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Asks the master for the time and sets the clock; gives by how many seconds it was wrong.
pub fn set_from(master: Ipv4Addr) -> io::Result<f64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((master, 123))?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..TRIES {
        match ask(&socket) {
            Ok(time) => return set(time),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn ask(socket: &UdpSocket) -> io::Result<Duration> {
    let mut request = [0; 48];
    // Version 4, mode 3 (client).
    request[0] = 0x23;
    // What stands in Transmit Timestamp comes back as Originate Timestamp, and so tells the answer.
    request[40..].copy_from_slice(&uptime().to_be_bytes());
    let sent = std::time::Instant::now();
    socket.send(&request)?;
    let mut reply = [0; 48];
    loop {
        if socket.recv(&mut reply)? == 48 && reply[24..32] == request[40..] && reply[0] & 7 == 4 {
            break;
        }
    }
    // Stratum 0 is a kiss of death: the server has no time to give.
    if reply[1] == 0 {
        return Err(io::Error::other("the master's clock is not set"));
    }
    let field = |at: usize| u32::from_be_bytes([reply[at], reply[at + 1], reply[at + 2], reply[at + 3]]);
    let seconds = u64::from(field(40));
    // The era that begins in 2036 (RFC 4330, section 3).
    let seconds = if seconds < NTP_TO_UNIX { seconds + (1 << 32) } else { seconds };
    let nanos = (u64::from(field(44)) * 1_000_000_000) >> 32;
    let transit = sent.elapsed() / 2;
    Ok(Duration::from_secs(seconds - NTP_TO_UNIX) + Duration::from_nanos(nanos) + transit)
}

fn set(time: Duration) -> io::Result<f64> {
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    clock_settime(ClockId::CLOCK_REALTIME, time.into())?;
    Ok(time.as_secs_f64() - before.as_secs_f64())
}
