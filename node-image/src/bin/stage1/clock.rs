//! The clock, set once by SNTP (RFC 4330) before anything looks at a certificate.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_settime};
use tesela_node_image::stage1::sntp;

use crate::console::uptime;

const TRIES: u32 = 3;
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Asks the master for the time and sets the clock; gives by how many seconds it was wrong.
pub fn set_from(master: Ipv4Addr) -> io::Result<f64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((master, sntp::PORT))?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..TRIES {
        match sntp::ask(&socket, uptime().to_be_bytes()) {
            Ok(time) => return set(time),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn set(time: Duration) -> io::Result<f64> {
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    clock_settime(ClockId::CLOCK_REALTIME, time.into())?;
    Ok(time.as_secs_f64() - before.as_secs_f64())
}
