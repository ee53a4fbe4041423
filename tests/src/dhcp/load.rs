//! A load of PXE clients behind a relay, as one process that costs less than any server.
//!
//! Each client is a hardware address of its own and makes one four-way exchange (RFC 2131, 3.1), begun when
//! its time has come, however far the server is behind. Nothing is sent twice. As with perfdhcp the relay
//! (`giaddr`) is the client's end of the link, so all replies come to one socket.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::time::ClockId;

/// Octets of replies that may wait: a real client has a socket of its own.
const QUEUE: usize = 32 << 20;
/// Datagrams sent or taken before it turns to the other.
const BATCH: usize = 64;
/// Where BOOTP's fixed fields end and the options begin, the magic cookie behind them.
const OPTIONS_AT: usize = 240;
/// Message types, values of option 53.
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;

/// Who asks whom, and how often.
#[derive(Clone, Debug)]
pub struct Load {
    /// The server.
    pub server: Ipv4Addr,
    /// The relay: an address of the namespace that this runs in.
    pub relay: Ipv4Addr,
    /// Exchanges begun a second.
    pub rate: f64,
    /// How many are begun.
    pub exchanges: u32,
    /// How long the last replies are waited for.
    pub patience: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Result {
    /// Exchanges completed.
    pub done: u32,
    /// From the first DISCOVER to the last.
    pub begun: Duration,
    /// From the first DISCOVER to the last ACK.
    pub time: Duration,
    /// The processor time that all of it took here.
    pub cpu: Duration,
}

/// How far a client is: the reply that it waits for, 0 once it has all.
type Awaited = u8;

/// Runs the load to its end, in the network namespace of the calling thread.
///
/// # Errors
/// Those of the socket, and [`io::ErrorKind::InvalidData`] where an address is given to two clients.
pub fn run(load: &Load) -> io::Result<Result> {
    let socket = UdpSocket::bind((load.relay, 67))?;
    socket.connect((load.server, 67))?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, sockopt::RcvBufForce, &QUEUE)?;
    let mut clients: Vec<Awaited> = Vec::with_capacity(load.exchanges as usize);
    let mut given = HashSet::new();
    let (mut result, mut buffer) = (Result::default(), [0; 1500]);
    let (began, cpu) = (Instant::now(), cpu()?);
    let mut heard = began;
    while result.done < load.exchanges {
        let now = Instant::now();
        let begun = clients.len();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it counts exchanges")]
        let due = ((now - began).as_secs_f64() * load.rate) as usize;
        for number in begun..due.min(load.exchanges as usize).min(begun + BATCH) {
            socket.send(&message(load, number, DISCOVER, None))?;
            clients.push(OFFER);
            heard = now;
            result.begun = now - began;
        }
        if now - heard > load.patience {
            break;
        }
        for _ in 0..BATCH {
            let length = match socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], 1_u8)?;
                    break;
                }
                Err(error) => return Err(error),
            };
            let Some((number, kind, address)) = parse(&buffer[..length]) else { continue };
            match clients.get_mut(number) {
                Some(awaited) if *awaited == kind => *awaited = if kind == OFFER { ACK } else { 0 },
                _ => continue,
            }
            heard = now;
            if kind == OFFER {
                socket.send(&message(load, number, REQUEST, Some(address)))?;
            } else {
                result.done += 1;
                result.time = now - began;
                if !given.insert(address) {
                    let why = format!("{} is given twice", Ipv4Addr::from(address));
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
            }
        }
    }
    result.cpu = self::cpu()? - cpu;
    Ok(result)
}

/// The processor time of this thread.
fn cpu() -> io::Result<Duration> {
    Ok(ClockId::CLOCK_THREAD_CPUTIME_ID.now()?.into())
}

/// A message of client `number`, which takes the address offered.
fn message(load: &Load, number: usize, kind: u8, offered: Option<[u8; 4]>) -> Vec<u8> {
    #[expect(clippy::cast_possible_truncation, reason = "the load counts in u32")]
    let number = (number as u32).to_be_bytes();
    let mut mac = [0, 12, 0, 0, 0, 0];
    mac[2..].copy_from_slice(&number);
    let mut bytes = vec![0; OPTIONS_AT];
    bytes[..4].copy_from_slice(&[1, 1, 6, 1]);
    bytes[4..8].copy_from_slice(&number);
    bytes[24..28].copy_from_slice(&load.relay.octets());
    bytes[28..34].copy_from_slice(&mac);
    bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
    let mut option = |code: u8, value: &[u8]| {
        #[expect(clippy::cast_possible_truncation, reason = "the options below are short")]
        bytes.extend_from_slice(&[code, value.len() as u8]);
        bytes.extend_from_slice(value);
    };
    option(53, &[kind]);
    if let Some(address) = offered {
        option(50, &address);
        option(54, &load.server.octets());
    }
    option(55, &[28, 2, 3, 15, 6, 12]);
    option(60, b"PXEClient:Arch:00007:UNDI:003016");
    option(61, &[1, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]]);
    option(93, &[0, 7]);
    bytes.push(255);
    bytes
}

/// Whose a reply is, its type and `yiaddr`; `None` where it is not one.
fn parse(reply: &[u8]) -> Option<(usize, u8, [u8; 4])> {
    let number = u32::from_be_bytes(reply.get(4..8)?.try_into().ok()?);
    let address = reply.get(16..20)?.try_into().ok()?;
    let mut options = reply.get(OPTIONS_AT..)?;
    while let [code, length, rest @ ..] = options {
        if *code == 53 {
            return Some((number as usize, *rest.first()?, address));
        }
        options = rest.get(usize::from(*length)..)?;
    }
    None
}
