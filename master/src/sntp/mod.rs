//! An SNTP server (RFC 5905, server mode; RFC 4330): nodes set their clocks by the master's.
//!
//! [`answer`] is the protocol, with no I/O in it; [`serve`] puts a UDP socket around it. The master tells
//! its own clock as it is: where the kernel says that something keeps it in step (adjtimex(2) without
//! `STA_UNSYNC`), as stratum 3 with the error bound that the kernel knows; otherwise as stratum 10, the
//! usual one of an undisciplined local clock, since nodes that agree with their master are better off
//! than nodes that agree with nobody.
//!
//! An answer is as long as the shortest request (48 bytes), so the port is of no use to amplify anything;
//! extension fields and MACs of a request are not looked at. What is no client's request (mode 3, version
//! 1 to 4) is dropped.

mod clock;
mod sys;

use std::io;

use tokio::net::UdpSocket;
use tracing::debug;

pub use clock::{Clock, NtpTime};

/// Length of the header, and of an answer (RFC 5905, figure 8).
pub const PACKET: usize = 48;

const MODE_CLIENT: u8 = 3;
const MODE_SERVER: u8 = 4;
/// Stratum of a clock that something keeps in step. Of what is not known; one or two is the usual truth.
const STRATUM_SYNCHRONISED: u8 = 3;
const STRATUM_LOCAL: u8 = 10;

/// The answer to a datagram that came at `received`, or `None` where none is due.
///
/// `clock`: what is known of the clock that told `received`. Its transmit timestamp is to be put in last
/// of all with [`stamp`].
pub fn answer(request: &[u8], received: NtpTime, clock: &Clock) -> Option<[u8; PACKET]> {
    let (header, _) = request.split_first_chunk::<PACKET>()?;
    let (version, mode) = ((header[0] >> 3) & 7, header[0] & 7);
    // Version 1 had no mode field; its few clients that are left send 0 there, and get no answer.
    if !(1..=4).contains(&version) || mode != MODE_CLIENT {
        return None;
    }
    let mut reply = [0; PACKET];
    // Leap indicator 0: a leap second is for the kernel to step or smear.
    reply[0] = version << 3 | MODE_SERVER;
    reply[1] = if clock.synchronised { STRATUM_SYNCHRONISED } else { STRATUM_LOCAL };
    reply[2] = header[2];
    reply[3] = clock.precision.to_be_bytes()[0];
    reply[8..12].copy_from_slice(&clock.root_dispersion().to_be_bytes());
    // Reference id: of a local clock 127.127.1.0, as ntpd's driver of that name has it.
    reply[12..16].copy_from_slice(&[127, 127, 1, 0]);
    reply[16..24].copy_from_slice(&received.to_be_bytes());
    reply[24..32].copy_from_slice(&header[40..48]);
    reply[32..40].copy_from_slice(&received.to_be_bytes());
    stamp(&mut reply, received);
    Some(reply)
}

/// Puts in when the answer leaves.
pub fn stamp(reply: &mut [u8; PACKET], now: NtpTime) {
    reply[40..].copy_from_slice(&now.to_be_bytes());
}

/// Answers on `socket` until it fails.
///
/// # Errors
/// Those of the socket itself; a client that cannot be reached is only that.
pub async fn serve(socket: UdpSocket) -> io::Result<()> {
    let mut request = [0; 512];
    loop {
        let (length, client) = match socket.recv_from(&mut request).await {
            Ok(received) => received,
            // What an ICMP message tells of an earlier answer (udp(7)) comes here as an error.
            Err(error) if is_about_a_client(&error) => continue,
            Err(error) => return Err(error),
        };
        let received = NtpTime::now();
        if let Some(mut reply) = answer(&request[..length], received, &Clock::of_the_kernel()) {
            stamp(&mut reply, NtpTime::now());
            if let Err(error) = socket.send_to(&reply, client).await {
                debug!(%client, %error, "cannot answer");
            }
        }
    }
}

fn is_about_a_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
    )
}

/// The entry for fuzzing: a datagram. An answer is due only to a client's request, and gives its
/// transmit timestamp back.
///
/// # Panics
/// Where that does not hold.
pub fn fuzz(data: &[u8]) {
    let clock =
        Clock { synchronised: data.len().is_multiple_of(2), precision: -20, error_microseconds: u64::MAX };
    if let Some(reply) = answer(data, NtpTime::now(), &clock) {
        assert_eq!(data[0] & 7, MODE_CLIENT);
        assert_eq!((reply[0] & 7, reply[0] & 0x38), (MODE_SERVER, data[0] & 0x38));
        assert_eq!(reply[24..32], data[40..48]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_holds() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/sntp_packet");
        let files: Vec<_> = std::fs::read_dir(corpus).unwrap().collect();
        assert!(!files.is_empty());
        for file in files {
            fuzz(&std::fs::read(file.unwrap().path()).unwrap());
        }
    }

    const NOW: NtpTime = NtpTime { seconds: 0xee00_0000, fraction: 0x8000_0000 };
    const CLOCK: Clock = Clock { synchronised: true, precision: -20, error_microseconds: 1_500_000 };

    fn request(first: u8) -> [u8; PACKET] {
        let mut request = [0; PACKET];
        request[0] = first;
        request[2] = 6;
        request[40..].copy_from_slice(b"original");
        request
    }

    #[test]
    fn a_request_is_answered_as_rfc_5905_has_it() {
        // Leap indicator 3, version 4, mode 3, as most clients send it.
        let reply = answer(&request(0xe3), NOW, &CLOCK).unwrap();
        assert_eq!(reply[..4], [0x24, 3, 6, 0xec]);
        assert_eq!(reply[8..12], [0, 1, 0x80, 0], "1.5 s in 16.16");
        assert_eq!(&reply[24..32], b"original");
        assert_eq!(reply[32..40], [0xee, 0, 0, 0, 0x80, 0, 0, 0]);
        let local = Clock { synchronised: false, ..CLOCK };
        assert_eq!(answer(&request(0x1b), NOW, &local).unwrap()[..2], [0x1c, 10]);
        let mut long = request(0x23).to_vec();
        long.extend([0; 20]);
        assert!(answer(&long, NOW, &CLOCK).is_some());
    }

    #[test]
    fn what_is_no_request_is_dropped() {
        assert_eq!(answer(&[], NOW, &CLOCK), None);
        assert_eq!(answer(&request(0x23)[..47], NOW, &CLOCK), None);
        for first in [0x03, 0x2b, 0x24, 0x20, 0x25, 0x26, 0x21] {
            assert_eq!(answer(&request(first), NOW, &CLOCK), None, "{first:#x}");
        }
    }

    #[tokio::test]
    async fn a_server_tells_this_machines_time() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let task = tokio::spawn(serve(server));
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(b"junk", address).await.unwrap();
        client.send_to(&request(0x23), address).await.unwrap();
        let mut reply = [0; 64];
        let (length, _) = client.recv_from(&mut reply).await.unwrap();
        assert_eq!(length, PACKET);
        let told = u32::from_be_bytes(reply[40..44].try_into().unwrap());
        assert!(NtpTime::now().seconds - told <= 1);
        task.abort();
    }
}
