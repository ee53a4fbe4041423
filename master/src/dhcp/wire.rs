//! The guard in front of dhcproto: what a datagram must be before anyone reads its fields.
//!
//! dhcproto's borrowed message indexes by `hlen` without a check, accepts any magic, lets one broken
//! option hide the ones after it, and neither joins repeats that are not adjacent (RFC 3396) nor looks
//! into `file` and `sname` (option 52). All that happens here; everything after this works on
//! [`Request`], whose fields hold.

use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::{self, DhcpOption, DhcpOptionIterator};

use crate::cluster::Mac;

/// Where the options begin: BOOTP's fixed fields and the magic cookie.
const OPTIONS_AT: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Longest option value that is kept after joining its parts; no option of a boot client comes near.
const LONGEST_OPTION: usize = 1024;

/// Why a datagram is not a DHCP request that can be answered. Always the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than BOOTP's fixed fields and the magic cookie.
    #[error("{0} octets are too few for a DHCP message (at least 240)")]
    Short(usize),
    /// `op` is not BOOTREQUEST.
    #[error("op {0} is not a request (1)")]
    NotARequest(u8),
    /// Not Ethernet with six octets, or no usable address in `chaddr`.
    #[error("hardware type {htype} with {hlen} octets, or its address, is not that of an Ethernet host")]
    Hardware {
        /// `htype` of the message.
        htype: u8,
        /// `hlen` of the message.
        hlen: u8,
    },
    /// The options do not begin with the magic cookie: not DHCP.
    #[error("the magic cookie of DHCP is missing")]
    Magic,
    /// No option 53: a BOOTP client.
    #[error("a BOOTP request, without a DHCP message type")]
    Bootp,
    /// A message type that no client sends to a server, or a broken option 53.
    #[error("message type {0} is not one that a server answers")]
    MessageType(u8),
}

/// The messages that a client sends (RFC 2131, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// Looks for servers.
    Discover,
    /// Takes an offer, checks an old address, or extends a lease.
    Request,
    /// The address is in use by someone else.
    Decline,
    /// The address is given back.
    Release,
    /// Has an address, wants the rest.
    Inform,
}

/// A validated request.
#[derive(Debug)]
pub struct Request<'a> {
    /// Option 53.
    pub message: MessageType,
    /// `chaddr`: Ethernet, not zero, not a group address.
    pub mac: Mac,
    /// Transaction id.
    pub xid: u32,
    /// `flags`, as received.
    pub flags: u16,
    /// The address that the client says it has.
    pub ciaddr: Ipv4Addr,
    /// The relay's address, 0.0.0.0 without one.
    pub giaddr: Ipv4Addr,
    options: Options<'a>,
}

impl<'a> Request<'a> {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`Malformed`] where nothing can be answered. A broken option is left out and costs nothing else.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let message = match borrowed::Message::new(datagram) {
            Ok(message) if datagram.len() >= OPTIONS_AT => message,
            _ => return Err(Malformed::Short(datagram.len())),
        };
        if datagram[0] != 1 {
            return Err(Malformed::NotARequest(datagram[0]));
        }
        let (htype, hlen) = (datagram[1], datagram[2]);
        // Only now is `chaddr()` safe to call: it slices by hlen.
        let mac = (htype == 1 && hlen == 6)
            .then(|| <[u8; 6]>::try_from(message.chaddr()).ok())
            .flatten()
            .filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6])
            .map(Mac)
            .ok_or(Malformed::Hardware { htype, hlen })?;
        if datagram[OPTIONS_AT - 4..OPTIONS_AT] != MAGIC {
            return Err(Malformed::Magic);
        }
        let options = Options::read(datagram);
        let message_type = match options.get(53).ok_or(Malformed::Bootp)? {
            [1] => MessageType::Discover,
            [3] => MessageType::Request,
            [4] => MessageType::Decline,
            [7] => MessageType::Release,
            [8] => MessageType::Inform,
            other => return Err(Malformed::MessageType(other.first().copied().unwrap_or(0))),
        };
        Ok(Self {
            message: message_type,
            mac,
            xid: message.xid(),
            flags: u16::from_be_bytes([datagram[10], datagram[11]]),
            ciaddr: message.ciaddr(),
            giaddr: message.giaddr(),
            options,
        })
    }

    /// The value of an option, its parts joined; `None` where it is absent, or broken on the wire.
    pub fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.get(code)
    }

    /// An option that holds one address.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = self.option(code)?.try_into().ok()?;
        Some(octets.into())
    }

    /// Option 50, the address that the client asks for.
    pub fn requested(&self) -> Option<Ipv4Addr> {
        self.address(50)
    }

    /// Option 54, the server that the client means.
    pub fn server_id(&self) -> Option<Ipv4Addr> {
        self.address(54)
    }

    /// Whether the reply must be broadcast: the client cannot yet take a unicast datagram.
    pub fn wants_broadcast(&self) -> bool {
        self.flags & 0x8000 != 0
    }

    /// Whether a relay passed it on.
    pub fn is_relayed(&self) -> bool {
        !self.giaddr.is_unspecified()
    }

    /// Whether the client asks for this option. One that sends no option 55 gets the usual ones.
    pub fn asks_for(&self, code: u8) -> bool {
        self.option(55).is_none_or(|list| list.contains(&code))
    }

    /// Option 57: the longest DHCP message (UDP payload) that the client takes, in octets. At least 548
    /// (576 with IP and UDP headers, RFC 2132 9.10), at most what an Ethernet frame carries.
    pub fn longest_reply(&self) -> usize {
        const HEADERS: u16 = 28;
        let datagram =
            self.option(57).and_then(|value| value.try_into().ok()).map_or(576, u16::from_be_bytes);
        usize::from(datagram.clamp(576, 1500) - HEADERS)
    }

    /// A sub-option of the relay agent's option 82 (RFC 3046).
    pub fn relay_suboption(&self, code: u8) -> Option<&[u8]> {
        suboption(self.option(82)?, code)
    }
}

/// Finds a sub-option in a code, length, value list without padding (options 82, 175).
pub fn suboption(mut list: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [code, len, rest @ ..] = list {
        let value = rest.get(..usize::from(*len))?;
        if *code == wanted {
            return Some(value);
        }
        list = &rest[value.len()..];
    }
    None
}

/// The options of one message, by code.
#[derive(Debug)]
struct Options<'a> {
    parts: Vec<DhcpOption<'a>>,
    /// Values joined from parts that lay apart (RFC 3396), by code.
    joined: Vec<(u8, Vec<u8>)>,
    /// Where a code's value is: 0 absent, else 1 + its index in `parts`.
    place: [u16; 256],
}

impl<'a> Options<'a> {
    /// The options field, then `file`, then `sname` where option 52 says that they hold options.
    fn read(datagram: &'a [u8]) -> Self {
        let mut options = Self { parts: Vec::with_capacity(16), joined: Vec::new(), place: [0; 256] };
        options.add(&datagram[OPTIONS_AT..]);
        let overload = match options.get(52) {
            Some([bits]) => *bits,
            _ => 0,
        };
        if overload & 1 != 0 {
            options.add(&datagram[108..236]);
        }
        if overload & 2 != 0 {
            options.add(&datagram[44..108]);
        }
        options
    }

    fn add(&mut self, field: &'a [u8]) {
        for option in DhcpOptionIterator::new(field) {
            let code = u8::from(option.code());
            if option.len() > LONGEST_OPTION {
                continue;
            }
            if self.place[usize::from(code)] != 0 {
                self.join(code, option.data());
                continue;
            }
            self.parts.push(option);
            // A datagram holds under 2^15 options, so the count fits.
            self.place[usize::from(code)] = u16::try_from(self.parts.len()).unwrap_or(0);
        }
    }

    fn join(&mut self, code: u8, more: &[u8]) {
        let known = self.joined.iter().position(|(joined, _)| *joined == code);
        let index = known.unwrap_or_else(|| {
            let first = self.get(code).unwrap_or_default().to_vec();
            self.joined.push((code, first));
            self.joined.len() - 1
        });
        let value = &mut self.joined[index].1;
        if value.len() + more.len() <= LONGEST_OPTION {
            value.extend_from_slice(more);
        }
    }

    fn get(&self, code: u8) -> Option<&[u8]> {
        let place = usize::from(self.place[usize::from(code)]).checked_sub(1)?;
        let joined = self.joined.iter().find(|(joined, _)| *joined == code);
        Some(joined.map_or_else(|| self.parts[place].data(), |(_, value)| value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 236];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        bytes.extend(MAGIC);
        bytes.extend(options);
        bytes
    }

    #[test]
    fn what_is_no_request_is_told_apart() {
        let good = message(&[53, 1, 1, 255]);
        assert_eq!(Request::parse(&good).map(|r| r.message), Ok(MessageType::Discover));
        assert_eq!(Request::parse(&good[..239]).err(), Some(Malformed::Short(239)));
        for (at, value, wanted) in [
            (0, 2, Malformed::NotARequest(2)),
            (1, 32, Malformed::Hardware { htype: 32, hlen: 6 }),
            (2, 255, Malformed::Hardware { htype: 1, hlen: 255 }),
            (28, 1, Malformed::Hardware { htype: 1, hlen: 6 }),
            (239, 0, Malformed::Magic),
            (242, 5, Malformed::MessageType(5)),
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert_eq!(Request::parse(&bytes).err(), Some(wanted));
        }
        assert_eq!(Request::parse(&message(&[255])).err(), Some(Malformed::Bootp));
    }

    #[test]
    fn a_broken_option_costs_only_itself() {
        let bytes =
            message(&[53, 1, 1, 12, 2, 0xff, 0xfe, 50, 3, 1, 2, 3, 60, 3, b'a', b'b', b'c', 61, 200, 1]);
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.requested(), None);
        assert_eq!(request.option(60), Some(&b"abc"[..]));
        assert_eq!(request.option(61), None);
    }

    #[test]
    fn repeats_are_joined_wherever_they_lie() {
        let mut bytes = message(&[60, 2, b'P', b'X', 53, 1, 1, 52, 1, 3, 60, 1, b'E', 255]);
        bytes[108..113].copy_from_slice(&[60, 2, b'C', b'l', 255]);
        bytes[44..50].copy_from_slice(&[60, 2, b'i', b'e', 0, 255]);
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.option(60), Some(&b"PXEClie"[..]));
    }

    #[test]
    fn the_size_limit_is_bounded_both_ways() {
        for (value, wanted) in [([0, 0], 548), ([0xff, 0xff], 1472), ([4, 236], 1232)] {
            let bytes = message(&[53, 1, 1, 57, 2, value[0], value[1], 255]);
            assert_eq!(Request::parse(&bytes).unwrap().longest_reply(), wanted);
        }
    }
}
