//! Looks for other DHCP servers on a network, as a client that boots by PXE would see them.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use dhcproto::v4::borrowed;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::server::Nic;
use super::{frame, sys};
use crate::cluster::Mac;

/// A server that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FoundServer {
    /// Its server identifier (option 54), or the address that it answered from.
    pub address: Ipv4Addr,
    /// Whether it offers an address; else it is a proxyDHCP server.
    pub gives_addresses: bool,
}

/// The search could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ScoutError {
    /// The interface is not there.
    #[error("there is no network interface `{0}`")]
    NoInterface(String),
    /// A system call failed.
    #[error(
        "other DHCP servers cannot be looked for on {interface}: {source}; packet sockets need CAP_NET_RAW"
    )]
    Socket {
        /// Where.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Broadcasts DHCPDISCOVER twice on this interface, which needs no address for it, and returns who
/// answered within `patience` (2 s does for real networks). Takes no lease. Blocks.
///
/// # Errors
/// No such interface, or no right to packet sockets (CAP_NET_RAW).
pub fn find_servers(interface: &str, patience: Duration) -> Result<Vec<FoundServer>, ScoutError> {
    let nic = Nic::find(interface)
        .map_err(|source| ScoutError::Socket { interface: interface.to_owned(), source: source.into() })?
        .ok_or_else(|| ScoutError::NoInterface(interface.to_owned()))?;
    search(&nic, patience).map_err(|source| ScoutError::Socket { interface: interface.to_owned(), source })
}

fn search(nic: &Nic, patience: Duration) -> io::Result<Vec<FoundServer>> {
    let socket = sys::packet_socket(nic.index, Some(sys::ETHERTYPE_IP))?;
    let mut xid = [0; 4];
    getrandom::fill(&mut xid).map_err(|error| io::Error::other(error.to_string()))?;
    let everyone = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
    let nobody = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
    let packet = frame::udp(nobody, everyone, &discover(nic.mac, xid));

    let start = Instant::now();
    let mut sends = [Duration::ZERO, patience / 2].into_iter().peekable();
    let mut found = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        let elapsed = start.elapsed();
        if elapsed >= patience {
            break;
        }
        if sends.next_if(|at| *at <= elapsed).is_some()
            && sys::send_packets(socket.as_fd(), nic.index, sys::ETHERTYPE_IP, &[([0xff; 6], &packet)]) > 0
        {
            return Err(io::Error::new(
                io::ErrorKind::NetworkDown,
                "the interface takes no packets: is it up?",
            ));
        }
        let wait = sends.peek().map_or(patience, |at| *at).saturating_sub(elapsed);
        let timeout = PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout)?;
        while let Some((length, _)) = sys::receive_packet(socket.as_fd(), &mut buffer)? {
            found.extend(offer(&buffer[..length], nic.mac, xid));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// A DISCOVER to be answered by broadcast, that proxyDHCP servers answer too.
fn discover(mac: Mac, xid: [u8; 4]) -> Vec<u8> {
    let mut message = vec![0; 236];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[4..8].copy_from_slice(&xid);
    message[10] = 0x80;
    message[28..34].copy_from_slice(&mac.0);
    message.extend([99, 130, 83, 99, 53, 1, 1, 55, 4, 1, 3, 54, 67, 93, 2, 0, 7, 94, 3, 1, 3, 16]);
    let class = b"PXEClient:Arch:00007:UNDI:003016";
    message.extend([60, 32]);
    message.extend(class);
    message.push(255);
    message.resize(300, 0);
    message
}

/// Reads an IP packet as an answer to our DISCOVER.
pub(super) fn offer(packet: &[u8], mac: Mac, xid: [u8; 4]) -> Option<FoundServer> {
    let (from, to, payload) = frame::parse_udp(packet)?;
    let message = borrowed::Message::new(payload).ok()?;
    if to.port() != 68 || payload[0] != 2 || payload[4..8] != xid || payload[28..34] != mac.0 {
        return None;
    }
    let id = message.opts().find(|option| u8::from(option.code()) == 54);
    let id = id.and_then(|option| <[u8; 4]>::try_from(option.data()).ok()).map(Ipv4Addr::from);
    Some(FoundServer {
        address: id.unwrap_or(*from.ip()),
        gives_addresses: !message.yiaddr().is_unspecified(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::wire::Request;

    #[test]
    fn only_answers_to_our_own_question_count() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let question = discover(mac, [1, 2, 3, 4]);
        assert!(Request::parse(&question).is_ok());
        let mut answer = question;
        answer[0] = 2;
        let port = |port| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), port);
        let wanted = FoundServer { address: Ipv4Addr::new(10, 0, 0, 1), gives_addresses: false };
        assert_eq!(offer(&frame::udp(port(67), port(68), &answer), mac, [1, 2, 3, 4]), Some(wanted));
        assert_eq!(offer(&frame::udp(port(67), port(68), &answer), mac, [1, 2, 3, 5]), None);
        assert_eq!(offer(&frame::udp(port(67), port(67), &answer), mac, [1, 2, 3, 4]), None);
        assert_eq!(offer(&frame::udp(port(67), port(68), b"short"), mac, [1, 2, 3, 4]), None);
    }
}
