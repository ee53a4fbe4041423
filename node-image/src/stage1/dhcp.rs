//! A DHCP client for one interface (RFC 2131), without I/O: packets and time in, packets and a lease out.
//!
//! It asks for broadcast answers, for the interface has no address yet; it sends no client identifier
//! (option 61), so that the server knows the node by its hardware address, as it does when the firmware
//! asks. The vendor class is `tesela`; the machine's UUID goes into option 97 (RFC 4578). An offer
//! without an address is a proxyDHCP server's, and passed over.
//!
//! Limits: no DHCPDECLINE (the kernel has no address to probe from that early), no option overload
//! (options 52), no classless routes (option 121).

use std::net::Ipv4Addr;
use std::time::Duration;

use super::cmdline::Mac;

/// UDP port of the server.
pub const SERVER_PORT: u16 = 67;
/// UDP port of the client.
pub const CLIENT_PORT: u16 = 68;
/// A lease time that never ends (RFC 2131, section 3.3).
pub const INFINITE: u32 = u32::MAX;

const MAGIC: [u8; 4] = [99, 130, 83, 99];
const OPTIONS: usize = 240;
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
/// An offer is asked for this often before the client starts again.
const REQUESTS: u32 = 4;

/// What the server gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Octets of the network's mask that are set, 0 to 32.
    pub prefix: u8,
    /// Default gateways, the preferred one first.
    pub routers: Vec<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// DNS domain.
    pub domain: Option<String>,
    /// MTU of the interface in octets.
    pub mtu: Option<u16>,
    /// Who gave it (option 54).
    pub server: Ipv4Addr,
    /// Seconds that it holds; [`INFINITE`] for ever.
    pub seconds: u32,
}

/// What became of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The client moved on: call [`Client::poll`].
    Progress,
    /// The address is ours.
    Bound(Lease),
    /// The server took its offer back; the client starts again.
    Refused(String),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    Selecting,
    Requesting {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
    /// Holds an address, and asks its server (or after half of the rest, any server) to keep it.
    Renewing {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
}

/// The client.
#[derive(Debug)]
pub struct Client {
    mac: Mac,
    uuid: Option<[u8; 16]>,
    xid: u32,
    state: State,
    started: Duration,
    due: Duration,
    tries: u32,
}

impl Client {
    /// A client that starts at `now` (any monotonic clock). `xid` is random.
    pub fn new(mac: Mac, uuid: Option<[u8; 16]>, xid: u32, now: Duration) -> Self {
        Self { mac, uuid, xid, state: State::Selecting, started: now, due: now, tries: 0 }
    }

    /// A client that renews a lease.
    pub fn renew(mac: Mac, uuid: Option<[u8; 16]>, lease: &Lease, xid: u32, now: Duration) -> Self {
        let state = State::Renewing { address: lease.address, server: lease.server };
        Self { mac, uuid, xid, state, started: now, due: now, tries: 0 }
    }

    /// When [`Client::poll`] has something to send next.
    pub fn due(&self) -> Duration {
        self.due
    }

    /// The packet to send now, if any is due: to the broadcast address, but to the server while renewing.
    pub fn poll(&mut self, now: Duration) -> Option<Vec<u8>> {
        if now < self.due {
            return None;
        }
        if matches!(self.state, State::Requesting { .. }) && self.tries >= REQUESTS {
            self.restart(now);
        }
        // 1, 2, 4, 8, 8 … seconds, with a part that differs between machines switched on together.
        let jitter = u64::from(self.xid.rotate_left(self.tries) % 256);
        self.due = now + Duration::from_millis((1000 << self.tries.min(3)) + jitter);
        self.tries += 1;
        Some(self.packet(now))
    }

    /// Takes a packet that arrived.
    pub fn receive(&mut self, packet: &[u8], now: Duration) -> Option<Event> {
        let reply = Reply::parse(packet)?;
        if reply.xid != self.xid || reply.mac != self.mac {
            return None;
        }
        match (&self.state, reply.kind) {
            (State::Selecting, OFFER) if is_a_hosts(reply.address) => {
                self.state = State::Requesting { address: reply.address, server: reply.lease.server };
                (self.due, self.tries) = (now, 0);
                Some(Event::Progress)
            }
            (State::Requesting { address, server }, ACK)
                if reply.lease.server == *server && reply.address == *address =>
            {
                Some(Event::Bound(reply.lease))
            }
            (State::Requesting { server, .. }, NAK) if reply.lease.server == *server => {
                self.restart(now);
                // A server that refuses at once would be asked at once again, for ever.
                self.due = now + Duration::from_secs(1);
                Some(Event::Refused(reply.message))
            }
            (State::Renewing { address, .. }, ACK) if reply.address == *address => {
                Some(Event::Bound(reply.lease))
            }
            (State::Renewing { .. }, NAK) => Some(Event::Refused(reply.message)),
            _ => None,
        }
    }

    fn restart(&mut self, now: Duration) {
        self.state = State::Selecting;
        self.xid = self.xid.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.due, self.tries) = (now, 0);
    }

    fn packet(&self, now: Duration) -> Vec<u8> {
        let mut packet = vec![0; OPTIONS];
        packet[..4].copy_from_slice(&[1, 1, 6, 0]);
        packet[4..8].copy_from_slice(&self.xid.to_be_bytes());
        let seconds = u16::try_from((now.saturating_sub(self.started)).as_secs()).unwrap_or(u16::MAX);
        packet[8..10].copy_from_slice(&seconds.to_be_bytes());
        packet[28..34].copy_from_slice(&self.mac.0);
        packet[236..].copy_from_slice(&MAGIC);
        let mut option = |code: u8, value: &[u8]| {
            packet.push(code);
            packet.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
            packet.extend_from_slice(value);
        };
        match &self.state {
            State::Selecting => option(53, &[DISCOVER]),
            State::Requesting { address, server } => {
                option(53, &[REQUEST]);
                option(50, &address.octets());
                option(54, &server.octets());
            }
            State::Renewing { .. } => option(53, &[REQUEST]),
        }
        option(57, &1500_u16.to_be_bytes());
        option(60, b"tesela");
        option(55, &[1, 3, 6, 15, 26, 51, 54]);
        if let Some(uuid) = &self.uuid {
            let mut value = [0; 17];
            value[1..].copy_from_slice(uuid);
            option(97, &value);
        }
        packet.push(255);
        if let State::Renewing { address, .. } = &self.state {
            packet[12..16].copy_from_slice(&address.octets());
        } else {
            packet[10] = 0x80;
        }
        // Relays and servers of old drop what is shorter than a BOOTP packet.
        packet.resize(packet.len().max(300), 0);
        packet
    }
}

struct Reply {
    xid: u32,
    mac: Mac,
    kind: u8,
    address: Ipv4Addr,
    message: String,
    lease: Lease,
}

impl Reply {
    /// Reads an answer; `None` for what is none. A broken option costs only what follows it.
    fn parse(packet: &[u8]) -> Option<Self> {
        let (header, options) = packet.split_at_checked(OPTIONS)?;
        if header[..3] != [2, 1, 6] || header[236..] != MAGIC {
            return None;
        }
        let address = |octets: &[u8]| Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets.get(..4)?).ok()?));
        let addresses = |octets: &[u8]| octets.chunks_exact(4).filter_map(address).collect::<Vec<_>>();
        let your = address(&header[16..20])?;
        let mut reply = Self {
            xid: u32::from_be_bytes(header[4..8].try_into().ok()?),
            mac: Mac(header[28..34].try_into().ok()?),
            kind: 0,
            address: your,
            message: String::new(),
            lease: Lease {
                address: your,
                prefix: classful_prefix(your),
                routers: Vec::new(),
                dns: Vec::new(),
                domain: None,
                mtu: None,
                server: address(&header[20..24])?,
                seconds: INFINITE,
            },
        };
        for (code, value) in Options(options) {
            match (code, value.len()) {
                (1, 4) => reply.lease.prefix = prefix_of(address(value)?),
                (3, _) => reply.lease.routers = addresses(value),
                (6, _) => reply.lease.dns = addresses(value),
                (15, 1..) => reply.lease.domain = domain(value),
                (26, 2) => {
                    reply.lease.mtu = Some(u16::from_be_bytes([value[0], value[1]])).filter(|&mtu| mtu >= 576)
                }
                (51, 4) => reply.lease.seconds = u32::from_be_bytes(value.try_into().ok()?),
                (53, 1) => reply.kind = value[0],
                (54, 4) => reply.lease.server = address(value)?,
                (56, _) => reply.message = String::from_utf8_lossy(value).replace(char::is_control, " "),
                _ => {}
            }
        }
        Some(reply)
    }
}

/// Whether a machine can have this address.
fn is_a_hosts(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast())
}

/// The mask where the server sends none (RFC 791's classes).
fn classful_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

fn prefix_of(mask: Ipv4Addr) -> u8 {
    u8::try_from(mask.to_bits().leading_ones()).unwrap_or(32)
}

/// A domain that can stand in resolv.conf; else none.
fn domain(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim_end_matches('\0');
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    (!text.is_empty() && text.chars().all(fine)).then(|| text.to_owned())
}

struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match *self.0 {
                [] | [255, ..] => return None,
                [0, ref rest @ ..] => self.0 = rest,
                [code, ref rest @ ..] => {
                    let (&length, rest) = rest.split_first()?;
                    let (value, rest) = rest.split_at_checked(usize::from(length))?;
                    self.0 = rest;
                    return Some((code, value));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 1, 2, 3]);
    const SERVER: [u8; 4] = [192, 168, 45, 1];

    fn answer(request: &[u8], kind: u8, your: [u8; 4], options: &[u8]) -> Vec<u8> {
        let mut packet = request[..OPTIONS].to_vec();
        packet[0] = 2;
        packet[16..20].copy_from_slice(&your);
        packet.extend([53, 1, kind, 54, 4]);
        packet.extend(SERVER);
        packet.extend(options);
        packet.push(255);
        packet
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_address_in_four_packets() {
        let mut client = Client::new(MAC, Some([7; 16]), 99, seconds(5));
        let discover = client.poll(seconds(5)).unwrap();
        assert_eq!(discover.len(), 300);
        assert_eq!(discover[10], 0x80, "asks for broadcast");
        assert!(discover.windows(8).any(|window| window == b"\x3c\x06tesela"));
        assert!(client.poll(seconds(5)).is_none(), "not due again");
        let proxy = answer(&discover, OFFER, [0; 4], &[60, 3, b'P', b'X', b'E']);
        assert_eq!(client.receive(&proxy, seconds(5)), None);
        let offer = answer(&discover, OFFER, [192, 168, 45, 11], &[]);
        assert_eq!(client.receive(&offer, seconds(5)), Some(Event::Progress));
        let request = client.poll(seconds(5)).unwrap();
        assert!(request.windows(6).any(|window| window == [50, 4, 192, 168, 45, 11]));
        let options =
            [1, 4, 255, 255, 254, 0, 3, 4, 192, 168, 45, 1, 26, 2, 5, 220, 51, 4, 255, 255, 255, 255];
        let ack = answer(&request, ACK, [192, 168, 45, 11], &options);
        let Some(Event::Bound(lease)) = client.receive(&ack, seconds(5)) else { panic!("not bound") };
        assert_eq!((lease.prefix, lease.mtu, lease.seconds), (23, Some(1500), INFINITE));
        assert_eq!(lease.routers, [Ipv4Addr::from(SERVER)]);
    }

    #[test]
    fn asks_again_and_starts_over_when_a_request_stays_unanswered() {
        let mut client = Client::new(MAC, None, 1, seconds(0));
        let discover = client.poll(seconds(0)).unwrap();
        assert!(client.due() > seconds(0) && client.due() < seconds(2));
        client.receive(&answer(&discover, OFFER, [10, 0, 0, 9], &[]), seconds(0));
        let mut kinds = Vec::new();
        for now in (0..100).step_by(10) {
            kinds.extend(client.poll(seconds(now)).map(|packet| packet[242]));
        }
        assert_eq!(kinds[..6], [REQUEST, REQUEST, REQUEST, REQUEST, DISCOVER, DISCOVER]);
    }

    #[test]
    fn a_nak_starts_over_later() {
        let mut client = Client::new(MAC, None, 1, seconds(0));
        let discover = client.poll(seconds(0)).unwrap();
        client.receive(&answer(&discover, OFFER, [10, 0, 0, 9], &[]), seconds(0));
        let request = client.poll(seconds(0)).unwrap();
        let nak = answer(&request, NAK, [0; 4], b"\x38\x06taken\x07");
        assert_eq!(client.receive(&nak, seconds(0)), Some(Event::Refused("taken ".into())));
        assert!(client.poll(seconds(0)).is_none());
        assert_eq!(client.poll(seconds(1)).unwrap()[242], DISCOVER);
    }

    #[test]
    fn a_renewal_asks_from_its_address() {
        let mut client = Client::new(MAC, None, 1, seconds(0));
        let discover = client.poll(seconds(0)).unwrap();
        client.receive(&answer(&discover, OFFER, [10, 0, 0, 9], &[]), seconds(0));
        let request = client.poll(seconds(0)).unwrap();
        let Some(Event::Bound(lease)) =
            client.receive(&answer(&request, ACK, [10, 0, 0, 9], &[]), seconds(0))
        else {
            panic!("not bound")
        };
        let mut client = Client::renew(MAC, None, &lease, 2, seconds(100));
        let request = client.poll(seconds(100)).unwrap();
        assert_eq!((&request[12..16], request[10]), (&[10, 0, 0, 9][..], 0));
        let ack = answer(&request, ACK, [10, 0, 0, 9], &[]);
        assert!(matches!(client.receive(&ack, seconds(100)), Some(Event::Bound(_))));
    }

    #[test]
    fn an_address_that_none_can_have_or_nobody_offered_is_passed_over() {
        let mut client = Client::new(MAC, None, 1, seconds(0));
        let discover = client.poll(seconds(0)).unwrap();
        for your in [[0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
            assert_eq!(client.receive(&answer(&discover, OFFER, your, &[]), seconds(0)), None);
        }
        client.receive(&answer(&discover, OFFER, [10, 0, 0, 9], &[]), seconds(0));
        let request = client.poll(seconds(0)).unwrap();
        for your in [[0; 4], [10, 0, 0, 10]] {
            assert_eq!(client.receive(&answer(&request, ACK, your, &[]), seconds(0)), None);
        }
    }

    #[test]
    fn what_is_no_answer_is_passed_over() {
        let mut client = Client::new(MAC, None, 1, seconds(0));
        let discover = client.poll(seconds(0)).unwrap();
        let offer = answer(&discover, OFFER, [10, 0, 0, 9], &[12, 200, 1]);
        for length in 0..OPTIONS {
            assert_eq!(client.receive(&offer[..length], seconds(0)), None);
        }
        let mut other = offer.clone();
        other[33] ^= 1;
        assert_eq!(client.receive(&other, seconds(0)), None);
        assert_eq!(
            client.receive(&offer, seconds(0)),
            Some(Event::Progress),
            "a cut option costs only itself"
        );
    }
}
