//! Router advertisements (RFC 4861) for loaders that look for an IPv6 router where there is none.
//!
//! iPXE sets its network card up by DHCP and by IPv6 at once, and goes on when it is done with both. Where no
//! router answers it solicits five times, which takes 17 s: half of a boot. The answer here says what is
//! true: there is no router (a lifetime of zero), and no address to be had by DHCPv6. [`answer`] is the
//! protocol, with no I/O in it; [`serve`] puts a socket around it.
//!
//! Only machines in their loader are answered, and each alone (RFC 4861 section 6.2.6 allows that), so no
//! system that runs hears of it, and a router that the network does have is not contradicted.
//!
//! Limits: the master needs a link-local address; where IPv6 is off on its interface, iPXE waits.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};
use tracing::debug;

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// What every message of neighbour discovery has: a lower one came through a router.
const HOP_LIMIT: u32 = 255;

/// Octets of an answer: no options.
pub const ADVERTISED: usize = 16;

/// The hardware address of who sends this ICMPv6 message, where it is a solicitation that names it.
pub fn solicitor(message: &[u8]) -> Option<[u8; 6]> {
    let [SOLICITATION, 0, _, _, _, _, _, _, options @ ..] = message else { return None };
    let mut rest = options;
    while let [kind, units, ..] = *rest {
        // Options are of 8 octets or a multiple; one of none would never end (RFC 4861 section 4.6).
        let option = rest.get(2..usize::from(units) * 8)?;
        if kind == SOURCE_LINK_LAYER_ADDRESS {
            return option.try_into().ok();
        }
        rest = &rest[2 + option.len()..];
    }
    None
}

/// The answer: no router, no DHCPv6, nothing about hop limits and timers. The kernel puts the checksum in.
pub fn answer() -> [u8; ADVERTISED] {
    let mut advertisement = [0; ADVERTISED];
    advertisement[0] = ADVERTISEMENT;
    advertisement
}

/// The socket on an interface. Needs CAP_NET_RAW.
///
/// # Errors
/// Those of the socket; a kernel without IPv6.
pub fn bind(interface: &str) -> io::Result<tokio::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.join_multicast_v6(&ALL_ROUTERS, nix::net::if_::if_nametoindex(interface)?)?;
    socket.set_unicast_hops_v6(HOP_LIMIT)?;
    socket.set_nonblocking(true)?;
    // Its calls are those of any datagram socket.
    tokio::net::UdpSocket::from_std(UdpSocket::from(socket))
}

/// Answers the machines for which `is_in_loader` holds, until the socket fails.
///
/// # Errors
/// Those of the socket itself; a machine that cannot be reached is only that.
pub async fn serve(socket: tokio::net::UdpSocket, is_in_loader: impl Fn([u8; 6]) -> bool) -> io::Result<()> {
    // The longest option that is looked at stands at the front.
    let mut message = [0; 256];
    loop {
        let (length, from) = socket.recv_from(&mut message).await?;
        let SocketAddr::V6(peer) = from else { continue };
        let Some(mac) = solicitor(&message[..length]) else { continue };
        // From beyond the link nobody can solicit, and who has no address yet cannot be answered alone.
        if peer.ip().is_unicast_link_local()
            && is_in_loader(mac)
            && let Err(error) = socket.send_to(&answer(), from).await
        {
            debug!(%peer, %error, "cannot tell that there is no IPv6 router");
        }
    }
}

/// The entry for fuzzing: an ICMPv6 message. Only a solicitation has a solicitor.
///
/// # Panics
/// Where that does not hold.
pub fn fuzz(data: &[u8]) {
    if let Some(mac) = solicitor(data) {
        assert_eq!(data[..2], [SOLICITATION, 0]);
        assert!(data[8..].windows(6).any(|window| window == mac));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As iPXE sends it.
    const FROM_IPXE: [u8; 16] = [133, 0, 0x12, 0x34, 0, 0, 0, 0, 1, 1, 0x52, 0x54, 0, 0x7e, 0x5e, 1];

    #[test]
    fn a_solicitation_names_who_sends_it() {
        assert_eq!(solicitor(&FROM_IPXE), Some([0x52, 0x54, 0, 0x7e, 0x5e, 1]));
        let behind_another = [&FROM_IPXE[..8], &[14, 2], &[7; 14], &FROM_IPXE[8..]].concat();
        assert_eq!(solicitor(&behind_another), Some([0x52, 0x54, 0, 0x7e, 0x5e, 1]));
    }

    #[test]
    fn what_is_none_names_nobody() {
        let changed = |at: usize, octet: u8| {
            let mut message = FROM_IPXE;
            message[at] = octet;
            message
        };
        assert_eq!(solicitor(&changed(0, ADVERTISEMENT)), None);
        assert_eq!(solicitor(&changed(1, 1)), None);
        assert_eq!(solicitor(&changed(8, 2)), None, "the address of a target");
        assert_eq!(solicitor(&changed(9, 0)), None, "an option without an end");
        assert_eq!(solicitor(&changed(9, 2)), None, "an option beyond the end");
        for length in 0..FROM_IPXE.len() {
            assert_eq!(solicitor(&FROM_IPXE[..length]), None, "{length}");
        }
    }

    #[test]
    fn the_corpus_of_the_fuzzer_holds() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/router_solicitation");
        let files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 4, "the corpus is not there");
        for file in files {
            fuzz(&std::fs::read(file).unwrap());
        }
    }
}
