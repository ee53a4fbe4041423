//! Wake-on-LAN: the magic packet at which a machine's network card switches it on.
//!
//! Six octets of ones and sixteen times the hardware address (AMD, Magic Packet Technology, 1995), here as the payload of
//! a UDP datagram to all on the nodes' network, port 9 (discard).

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};

use crate::cluster::Mac;

const PORT: u16 = 9;

/// Sends it, from this address of ours by this interface.
///
/// # Errors
/// Those of the socket: the interface or its address is not there.
pub fn wake(interface: &str, own: Ipv4Addr, mac: Mac) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddrV4::new(own, 0).into())?;
    socket.set_broadcast(true)?;
    socket.send_to(&magic(mac), &SocketAddrV4::new(Ipv4Addr::BROADCAST, PORT).into())?;
    Ok(())
}

fn magic(mac: Mac) -> Vec<u8> {
    [&[0xff; 6], mac.0.repeat(16).as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_magic_packet_says_the_address_sixteen_times() {
        let packet = magic(Mac([2, 0, 0, 0, 0, 7]));
        assert_eq!(
            (packet.len(), &packet[..12]),
            (102, &[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7][..])
        );
        assert!(packet[6..].chunks(6).all(|part| part == [2, 0, 0, 0, 0, 7]));
    }
}
