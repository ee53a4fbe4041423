//! The portmapper (RFC 1833): where NFS and MOUNT are, for clients that are not told the port.
//!
//! Version 2 (NULL, GETPORT, DUMP) and of versions 3 and 4 NULL and GETADDR. Nothing can be
//! registered: SET, UNSET and CALLIT are not there, the last being how portmappers get abused.

use super::mount;
use super::rpc::Denial;
use super::xdr::{Decoder, Encode, Garbage};
use bytes::{BufMut, BytesMut};
use std::net::{IpAddr, SocketAddr};

/// The portmapper's program number.
pub const PROGRAM: u32 = 100_000;
/// Its lowest and highest version here.
pub const VERSIONS: (u32, u32) = (2, 4);

const TCP: u32 = 6;
const UDP: u32 = 17;

/// What there is: program, version, protocol and port.
fn programs(nfs_port: u16) -> [(u32, u32, u32, u16); 4] {
    [
        (super::PROGRAM, super::VERSION, TCP, nfs_port),
        (mount::PROGRAM, mount::VERSION, TCP, nfs_port),
        (PROGRAM, 2, TCP, PORT),
        (PROGRAM, 2, UDP, PORT),
    ]
}

/// The port of the portmapper itself.
pub const PORT: u16 = 111;

/// Carries out a call and encodes its results behind what `out` holds; `nfs` is where NFS and MOUNT
/// are served, as the caller reaches it.
pub fn execute(
    nfs: SocketAddr,
    version: u32,
    procedure: u32,
    arguments: &[u8],
    out: &mut BytesMut,
) -> Result<(), Denial> {
    let garbage = |_: Garbage| Denial::GarbageArguments;
    let from = &mut Decoder::new(arguments);
    match (version, procedure) {
        (_, 0) => {}
        (2, 3) => {
            let (program, _version, protocol) =
                (from.u32().map_err(garbage)?, from.u32().map_err(garbage)?, from.u32().map_err(garbage)?);
            out.put_u32(port(nfs.port(), program, protocol).into());
        }
        (2, 4) => {
            for (program, version, protocol, port) in programs(nfs.port()) {
                out.put_bool(true);
                out.put_words(&[program, version, protocol, port.into()]);
            }
            out.put_bool(false);
        }
        (3 | 4, 3) => {
            let program = from.u32().map_err(garbage)?;
            from.u32().map_err(garbage)?;
            let protocol = match from.opaque(16).map_err(garbage)? {
                b"tcp" if nfs.is_ipv4() => TCP,
                b"tcp6" if nfs.is_ipv6() => TCP,
                b"udp" if nfs.is_ipv4() => UDP,
                b"udp6" if nfs.is_ipv6() => UDP,
                _ => 0,
            };
            let address = match port(nfs.port(), program, protocol) {
                0 => String::new(),
                port => universal(nfs.ip(), port),
            };
            out.put_opaque(address.as_bytes());
        }
        _ => return Err(Denial::NoProcedure),
    }
    Ok(())
}

/// The port of a program over a protocol; 0 if it is not there.
fn port(nfs_port: u16, program: u32, protocol: u32) -> u16 {
    programs(nfs_port)
        .into_iter()
        .find(|known| (known.0, known.2) == (program, protocol))
        .map_or(0, |(.., port)| port)
}

/// The universal address (RFC 5665, section 5.2.3): the port's two octets behind the host's.
fn universal(address: IpAddr, port: u16) -> String {
    let [high, low] = port.to_be_bytes();
    format!("{address}.{high}.{low}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(version: u32, procedure: u32, arguments: &[u32]) -> Result<BytesMut, Denial> {
        let (mut octets, mut out) = (BytesMut::new(), BytesMut::new());
        octets.put_words(arguments);
        let nfs = SocketAddr::from(([192, 0, 2, 1], 2049));
        execute(nfs, version, procedure, &octets, &mut out).map(|()| out)
    }

    #[test]
    fn the_port_of_nfs_and_mount_is_told() {
        for program in [crate::nfs::PROGRAM, mount::PROGRAM] {
            assert_eq!(ask(2, 3, &[program, 3, TCP, 0]).unwrap()[..], 2049u32.to_be_bytes());
            assert_eq!(ask(2, 3, &[program, 3, UDP, 0]).unwrap()[..], [0; 4], "not over UDP");
        }
        assert_eq!(ask(2, 3, &[100_021, 4, TCP, 0]).unwrap()[..], [0; 4], "no lock manager");
    }

    #[test]
    fn universal_addresses_are_told() {
        let arguments = [crate::nfs::PROGRAM, 3, 3, u32::from_be_bytes(*b"tcp\0"), 0, 0];
        let mut expected = BytesMut::new();
        expected.put_opaque(b"192.0.2.1.8.1");
        assert_eq!(ask(4, 3, &arguments).unwrap(), expected);
    }

    #[test]
    fn what_there_is_is_listed_and_nothing_can_be_registered() {
        let list = ask(2, 4, &[]).unwrap();
        assert_eq!(list.len(), 4 * 20 + 4);
        assert_eq!(
            list[..20],
            *[[0, 0, 0, 1], [0, 1, 0x86, 0xa3], [0, 0, 0, 3], [0, 0, 0, 6], [0, 0, 8, 1]].as_flattened()
        );
        for procedure in [1, 2, 5] {
            assert_eq!(ask(2, procedure, &[]), Err(Denial::NoProcedure));
        }
    }
}
