//! IPv4, UDP and ARP as octets, for what passes by packet sockets: clients without an address, the
//! search for other servers, address probes. The kernel adds and strips the Ethernet header.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::cluster::Mac;

/// A UDP datagram in an IPv4 packet without options, both checksums set (RFC 791, RFC 768).
pub fn udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 28;
    // Payloads here are replies, bounded by an Ethernet frame.
    let length = |octets: usize| u16::try_from(octets).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = Vec::with_capacity(HEADERS + payload.len());
    packet.extend([0x45, 0]);
    packet.extend(length(HEADERS + payload.len()));
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    let header = checksum(0, &packet);
    packet[10..12].copy_from_slice(&header.to_be_bytes());

    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(length(8 + payload.len()));
    packet.extend([0, 0]);
    packet.extend_from_slice(payload);
    // The pseudo header: addresses (octets 12 to 20 of the IP header), protocol, UDP length.
    let udp_length = u32::from(u16::from_be_bytes([packet[24], packet[25]]));
    let pseudo = 17 + udp_length + sum(&packet[12..20]);
    let sum = match checksum(pseudo, &packet[20..]) {
        0 => 0xffff,
        sum => sum,
    };
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Source, destination and payload of an unfragmented UDP datagram. Checksums are not looked at: on
/// virtual links they are not yet filled in.
pub fn parse_udp(packet: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4, &[u8])> {
    let header = packet.get(..20)?;
    let header_length = usize::from(header[0] & 0x0f) * 4;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    if header[0] >> 4 != 4 || header_length < 20 || header[9] != 17 || fragment != 0 {
        return None;
    }
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let udp = packet.get(header_length..)?;
    let ports = udp.get(..8)?;
    let length = usize::from(u16::from_be_bytes([ports[4], ports[5]]));
    let payload = udp.get(8..length)?;
    let from = SocketAddrV4::new(address(12), u16::from_be_bytes([ports[0], ports[1]]));
    let to = SocketAddrV4::new(address(16), u16::from_be_bytes([ports[2], ports[3]]));
    Some((from, to, payload))
}

/// An ARP probe (RFC 5227, 2.1.1): who has `target`, asked by nobody's address.
pub fn arp_probe(sender: Mac, target: Ipv4Addr) -> [u8; 28] {
    let mut packet = [0; 28];
    packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    packet[8..14].copy_from_slice(&sender.0);
    packet[24..].copy_from_slice(&target.octets());
    packet
}

/// A machine seen by its ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Who sent it.
    pub mac: Mac,
    /// The address that it uses, or probes because it is about to.
    pub address: Ipv4Addr,
}

/// Reads an ARP packet for Ethernet and IPv4 (RFC 826, RFC 5227).
pub fn parse_arp(packet: &[u8]) -> Option<Sighting> {
    let packet: &[u8; 28] = packet.get(..28)?.try_into().ok()?;
    if packet[..6] != [0, 1, 8, 0, 6, 4] || packet[6] != 0 || !matches!(packet[7], 1 | 2) {
        return None;
    }
    let address = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    let mac = Mac(packet[8..14].try_into().ok()?);
    let used = match address(14) {
        Ipv4Addr::UNSPECIFIED => address(24),
        sender => sender,
    };
    (!used.is_unspecified()).then_some(Sighting { mac, address: used })
}

fn sum(octets: &[u8]) -> u32 {
    octets
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum()
}

/// RFC 1071.
fn checksum(start: u32, octets: &[u8]) -> u16 {
    let mut total = start + sum(octets);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
    let folded = total as u16;
    !folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_read_as_it_was_written() {
        let from = "192.168.45.1:67".parse().unwrap();
        let to = "192.168.45.11:68".parse().unwrap();
        for payload in [&b""[..], b"odd", b"even"] {
            let packet = udp(from, to, payload);
            assert_eq!(checksum(0, &packet[..20]), 0);
            assert_eq!(checksum(17 + u32::from(packet[25]) + sum(&packet[12..20]), &packet[20..]), 0);
            assert_eq!(parse_udp(&packet), Some((from, to, payload)));
            for end in 0..packet.len() {
                assert_eq!(parse_udp(&packet[..end]), None);
            }
        }
    }

    #[test]
    fn a_probe_shows_the_address_it_is_about() {
        let mac = Mac([2, 0, 0, 0, 0, 7]);
        let address = Ipv4Addr::new(10, 0, 0, 9);
        let mut packet = arp_probe(mac, address);
        assert_eq!(parse_arp(&packet), Some(Sighting { mac, address }));
        packet[14..18].copy_from_slice(&[10, 0, 0, 1]);
        assert_eq!(parse_arp(&packet).map(|s| s.address), Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(parse_arp(&packet[..27]), None);
    }
}
