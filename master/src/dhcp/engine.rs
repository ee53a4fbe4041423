//! The server's half of RFC 2131, without I/O.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use dhcproto::v4;

use super::client::Client;
use super::lease::{Change, Lease, LeaseState, Seconds};
use super::observe::{Counters, Exchange, Outcome, Silence, count};
use super::policy::{Decision, Policy, Terms};
use super::proxy;
use super::reply::Draft;
use super::server::{Config, Mode};
use super::table::{Entry, Hold, Table};
use super::wire::{Malformed, MessageType, Request};
use crate::cluster::Mac;

/// Seconds that an offer stands: longer than the slowest ROM takes to collect offers.
const OFFER_STANDS: Seconds = 60;
/// UDP port of relays and servers.
const SERVER_PORT: u16 = 67;

/// Which of the two ports a datagram came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// 67: DHCP.
    Dhcp,
    /// 4011: the PXE boot server.
    BootServer,
}

/// How a datagram came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// From where.
    pub source: SocketAddrV4,
    /// To which port.
    pub port: Port,
    /// When.
    pub now: Seconds,
}

/// Where a reply goes (RFC 2131, 4.1). All but [`Destination::Raw`] leave through a UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To a client that has no address yet, so answers no ARP: the frame is addressed to `mac` and the
    /// datagram to `address`, port 68.
    Raw {
        /// Hardware address.
        mac: Mac,
        /// The address that the reply gives.
        address: Ipv4Addr,
    },
    /// 255.255.255.255, port 68.
    Broadcast,
    /// To a relay, to a client at its own address, or back to the source.
    Unicast(SocketAddrV4),
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// UDP payload.
    pub bytes: Vec<u8>,
    /// Where to.
    pub to: Destination,
}

/// What comes of a datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What to send, if anything.
    pub reply: Option<Reply>,
    /// What must be durable before it is sent.
    pub changes: Vec<Change>,
}

/// The server of one network. One writer: whoever holds it by `&mut`.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    table: Table,
    counters: Arc<Counters>,
}

/// One request with all that is known of it.
struct Case<'a> {
    request: &'a Request<'a>,
    client: &'a Client<'a>,
    terms: &'a Terms,
    /// The policy knows the machine: we may say no to it.
    known: bool,
    now: Seconds,
}

impl Engine {
    /// An engine with the leases of the store.
    pub fn new(config: Config, leases: Vec<Lease>) -> Self {
        let table = Table::new(config.range, leases);
        Self { config, table, counters: Arc::default() }
    }

    /// What it counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Works by another configuration from now on. Leases stay.
    pub fn reconfigure(&mut self, config: Config) {
        self.table.set_range(config.range);
        self.config = config;
    }

    /// Answers a datagram.
    ///
    /// # Errors
    /// [`Malformed`]: it is no DHCP request. Nothing changed.
    pub fn handle(
        &mut self,
        policy: &dyn Policy,
        received: Received,
        datagram: &[u8],
    ) -> Result<Answer, Malformed> {
        count(&self.counters.received);
        let request = Request::parse(datagram).inspect_err(|error| {
            count(if *error == Malformed::Bootp { &self.counters.bootp } else { &self.counters.malformed });
        })?;
        count(match request.message {
            MessageType::Discover => &self.counters.discover,
            MessageType::Request => &self.counters.request,
            MessageType::Decline => &self.counters.decline,
            MessageType::Release => &self.counters.release,
            MessageType::Inform => &self.counters.inform,
        });
        if received.port == Port::BootServer {
            count(&self.counters.boot_server);
        }
        let client = Client::of(&request);
        let (outcome, answer) = self.answer(policy, received, &request, &client);
        match outcome {
            Outcome::Offered(_) | Outcome::BootOffered => count(&self.counters.offer),
            Outcome::Acknowledged(_) | Outcome::Informed(_) | Outcome::BootAcknowledged(_) => {
                count(&self.counters.ack)
            }
            Outcome::Refused(_) => count(&self.counters.nak),
            Outcome::Silent(_) => count(&self.counters.silent),
            Outcome::Declined(_) | Outcome::Released(_) => {}
        }
        policy.observe(&Exchange { client: &client, message: request.message, outcome });
        Ok(answer)
    }

    fn answer(
        &mut self,
        policy: &dyn Policy,
        received: Received,
        request: &Request<'_>,
        client: &Client<'_>,
    ) -> (Outcome, Answer) {
        let (terms, known) = match policy.decide(client) {
            Decision::Known(terms) => (terms, true),
            Decision::Unknown(terms) if client.kind.is_boot() => (terms, false),
            Decision::Unknown(_) => return silent(Silence::Stranger),
            Decision::Ignore => return silent(Silence::Ignored),
        };
        if let Some(arch) = client.unbootable() {
            return silent(Silence::Architecture(arch));
        }
        if received.port == Port::BootServer || self.config.mode == Mode::Proxy {
            return proxy::answer(self.config.address, received, request, client, &terms);
        }
        let case = Case { request, client, terms: &terms, known, now: received.now };
        match request.message {
            MessageType::Discover => self.discover(policy, &case),
            MessageType::Request => self.request(policy, &case),
            MessageType::Decline => self.decline(&case),
            MessageType::Release => self.release(&case),
            MessageType::Inform => self.inform(&case, received.source),
        }
    }

    fn discover(&mut self, policy: &dyn Policy, case: &Case<'_>) -> (Outcome, Answer) {
        if !self.gives_addresses_to(case) {
            return silent(Silence::OtherNetwork);
        }
        let Some(address) = self.choose(policy, case) else { return silent(Silence::NoAddress) };
        let current =
            self.table.entry(address).filter(|entry| entry.mac == case.client.mac && entry.until > case.now);
        // A machine that starts again keeps the lease that it has; the offer changes nothing of it.
        if !current.is_some_and(|entry| entry.hold == Hold::Stored(LeaseState::Bound)) {
            self.table.put(address, entry(case, Hold::Offered, case.now + OFFER_STANDS));
        }
        (Outcome::Offered(address), self.grant(case, v4::MessageType::Offer, address, Vec::new()))
    }

    /// The address for a client that looks for one.
    fn choose(&mut self, policy: &dyn Policy, case: &Case<'_>) -> Option<Ipv4Addr> {
        let (mac, now) = (case.client.mac, case.now);
        if let Some(own) = case.terms.address
            && self.table.is_free_for(own, mac, case.client.uuid, true, now)
        {
            return Some(own);
        }
        let usable = |address: &Ipv4Addr| self.is_dynamic(policy, *address);
        if let Some(had) = self.table.of_machine(mac, now).filter(usable) {
            return Some(had);
        }
        let asked = case.request.requested().filter(usable);
        if let Some(asked) = asked.filter(|asked| self.table.is_free_for(*asked, mac, None, false, now)) {
            return Some(asked);
        }
        let free = self
            .table
            .take_free(now, |address| self.config.is_never_given(address) || policy.is_reserved(address))?;
        if !free.probed {
            count(&self.counters.unprobed);
        }
        Some(free.address)
    }

    fn request(&mut self, policy: &dyn Policy, case: &Case<'_>) -> (Outcome, Answer) {
        let request = case.request;
        match (request.server_id(), request.requested(), request.ciaddr.is_unspecified()) {
            (Some(server), _, _) if server != self.server_id(request) => {
                self.table.withdraw_offer(case.client.mac, case.now);
                silent(Silence::OtherServer)
            }
            (Some(_), Some(address), true) => self.selecting(policy, case, address),
            (None, Some(address), true) => self.init_reboot(policy, case, address),
            // RENEWING and REBINDING; some clients name the server in them as well.
            (_, _, false) => self.extending(policy, case, request.ciaddr),
            (_, None, true) => silent(Silence::Inconsistent),
        }
    }

    /// RFC 2131, 4.3.2, SELECTING: the client takes our offer.
    fn selecting(&mut self, policy: &dyn Policy, case: &Case<'_>, address: Ipv4Addr) -> (Outcome, Answer) {
        if self.gives_addresses_to(case)
            && (self.may_have(case, address) || self.can_claim(policy, case, address))
        {
            return self.bind(case, address);
        }
        self.refuse(case, address, "the offer of this address has run out")
    }

    /// INIT-REBOOT: the client remembers an address.
    fn init_reboot(&mut self, policy: &dyn Policy, case: &Case<'_>, address: Ipv4Addr) -> (Outcome, Answer) {
        let has_record =
            case.terms.address.is_some() || self.table.of_machine(case.client.mac, case.now).is_some();
        if !self.gives_addresses_to(case) {
            return silent(Silence::OtherNetwork);
        }
        if !case.terms.network.prefix.contains(&address) {
            return if case.known || has_record {
                self.refuse(case, address, "this address is of another network")
            } else {
                silent(Silence::OtherNetwork)
            };
        }
        // Here the cluster's word counts before the lease: a machine that starts gets its new address.
        let own = case.terms.address.map_or_else(|| self.is_dynamic(policy, address), |own| own == address);
        if own && self.may_have(case, address) {
            return self.bind(case, address);
        }
        if has_record {
            self.refuse(case, address, "this machine has another address")
        } else {
            silent(Silence::NoRecord)
        }
    }

    /// RENEWING and REBINDING: the client uses the address. It goes on with it even where the cluster now
    /// says another one, until it starts again: its root hangs on that address.
    fn extending(&mut self, policy: &dyn Policy, case: &Case<'_>, address: Ipv4Addr) -> (Outcome, Answer) {
        if !case.terms.network.prefix.contains(&address) {
            return if case.known && self.gives_addresses_to(case) {
                self.refuse(case, address, "this address is of another network")
            } else {
                silent(Silence::OtherNetwork)
            };
        }
        if self.may_have(case, address) || self.can_claim(policy, case, address) {
            return self.bind(case, address);
        }
        match self.table.entry(address) {
            Some(entry) if entry.until > case.now => {
                self.refuse(case, address, "another machine has this address")
            }
            _ => silent(Silence::NoRecord),
        }
    }

    fn decline(&mut self, case: &Case<'_>) -> (Outcome, Answer) {
        let Some(address) = case.request.requested() else { return silent(Silence::Inconsistent) };
        if case.request.server_id().is_some_and(|server| server != self.server_id(case.request)) {
            return silent(Silence::OtherServer);
        }
        // Only the holder can decline, or one client could use up the whole range.
        if !self.table.is_held_by(address, case.client.mac, case.now) {
            return silent(Silence::NoRecord);
        }
        count(&self.counters.conflicts);
        let until = case.now + Seconds::from(self.config.set_aside_seconds);
        let change = self.store(case, address, LeaseState::Declined, until);
        (Outcome::Declined(address), Answer { reply: None, changes: vec![change] })
    }

    fn release(&mut self, case: &Case<'_>) -> (Outcome, Answer) {
        let address = case.request.ciaddr;
        if case.request.server_id().is_some_and(|server| server != self.server_id(case.request)) {
            return silent(Silence::OtherServer);
        }
        if !self.table.is_held_by(address, case.client.mac, case.now) {
            return silent(Silence::NoRecord);
        }
        let change = self.store(case, address, LeaseState::Released, case.now);
        (Outcome::Released(address), Answer { reply: None, changes: vec![change] })
    }

    /// RFC 2131, 4.3.5: no lease, no `yiaddr`, and only to an address that really asks.
    fn inform(&mut self, case: &Case<'_>, source: SocketAddrV4) -> (Outcome, Answer) {
        let request = case.request;
        let address = if request.ciaddr.is_unspecified() { *source.ip() } else { request.ciaddr };
        if !case.terms.network.prefix.contains(&address) || !(request.is_relayed() || address == *source.ip())
        {
            return silent(Silence::OtherNetwork);
        }
        let mut draft = self.draft(request, v4::MessageType::Ack);
        draft.ciaddr(request.ciaddr);
        draft.boot(case.client, case.terms.boot.as_ref());
        draft.network(case.terms);
        let to = Destination::Unicast(SocketAddrV4::new(address, 68));
        let reply = draft.finish().map(|bytes| Reply { bytes, to });
        (Outcome::Informed(address), Answer { reply, changes: Vec::new() })
    }

    /// A machine that we did not give it to uses the address (seen by ARP).
    pub fn conflict(&mut self, address: Ipv4Addr, holder: Mac, now: Seconds) -> bool {
        let until = now + Seconds::from(self.config.set_aside_seconds);
        let news = self.config.mode == Mode::Authoritative
            && !self.config.is_never_given(address)
            && self.table.conflict(address, holder, now, until);
        if news {
            count(&self.counters.conflicts);
        }
        news
    }

    /// The next address of the range to probe by ARP, while fewer than the wanted number are ready.
    pub fn next_to_probe(&mut self, policy: &dyn Policy, now: Seconds) -> Option<Ipv4Addr> {
        if self.config.mode == Mode::Proxy || self.table.probed_or_probing() >= self.config.probed_ahead {
            return None;
        }
        self.table
            .next_to_probe(now, |address| self.config.is_never_given(address) || policy.is_reserved(address))
    }

    /// Nobody answered the probes of this address.
    pub fn probe_done(&mut self, address: Ipv4Addr) {
        self.table.probe_done(address);
    }

    /// Whether the client is on the network that its terms are for. Without a relay it is on ours.
    fn gives_addresses_to(&self, case: &Case<'_>) -> bool {
        let chosen = case
            .request
            .relay_suboption(5)
            .and_then(|value| <[u8; 4]>::try_from(value).ok())
            .map(Ipv4Addr::from);
        let place = if case.request.is_relayed() {
            chosen.unwrap_or(case.request.giaddr)
        } else {
            self.config.address
        };
        case.terms.network.prefix.contains(&place)
    }

    /// Whether the client may have this address by the cluster's word or by its lease or offer.
    fn may_have(&self, case: &Case<'_>, address: Ipv4Addr) -> bool {
        let (mac, now) = (case.client.mac, case.now);
        let own = case.terms.address == Some(address)
            && self.table.is_free_for(address, mac, case.client.uuid, true, now);
        own || self.table.is_held_by(address, mac, now)
    }

    /// Whether an address of the range that the client holds without a record (the store was lost, or we
    /// restarted between offer and request) can become its own.
    fn can_claim(&self, policy: &dyn Policy, case: &Case<'_>, address: Ipv4Addr) -> bool {
        self.is_dynamic(policy, address)
            && self.table.is_free_for(address, case.client.mac, None, false, case.now)
    }

    fn is_dynamic(&self, policy: &dyn Policy, address: Ipv4Addr) -> bool {
        self.table.in_range(address) && !self.config.is_never_given(address) && !policy.is_reserved(address)
    }

    fn bind(&mut self, case: &Case<'_>, address: Ipv4Addr) -> (Outcome, Answer) {
        let until = case.now + Seconds::from(case.terms.lease_seconds);
        let left = self.table.leave_old(case.client.mac, address, case.now);
        let mut changes = vec![self.store(case, address, LeaseState::Bound, until)];
        changes.extend(left.map(Change::Forget));
        (Outcome::Acknowledged(address), self.grant(case, v4::MessageType::Ack, address, changes))
    }

    fn store(&mut self, case: &Case<'_>, address: Ipv4Addr, state: LeaseState, expires: Seconds) -> Change {
        self.table.put(address, entry(case, Hold::Stored(state), expires));
        Change::Put(Lease {
            address,
            mac: case.client.mac,
            uuid: case.client.uuid,
            state,
            expires,
            hostname: case.client.hostname.map(str::to_owned),
        })
    }

    fn grant(
        &self,
        case: &Case<'_>,
        message: v4::MessageType,
        address: Ipv4Addr,
        changes: Vec<Change>,
    ) -> Answer {
        let request = case.request;
        let mut draft = self.draft(request, message);
        if message == v4::MessageType::Ack {
            draft.ciaddr(request.ciaddr);
        }
        draft.lease(address, case.terms.lease_seconds);
        draft.boot(case.client, case.terms.boot.as_ref());
        draft.network(case.terms);
        let to = if request.is_relayed() {
            to_relay(request)
        } else if !request.ciaddr.is_unspecified() {
            Destination::Unicast(SocketAddrV4::new(request.ciaddr, 68))
        } else if request.wants_broadcast() {
            Destination::Broadcast
        } else {
            Destination::Raw { mac: case.client.mac, address }
        };
        Answer { reply: draft.finish().map(|bytes| Reply { bytes, to }), changes }
    }

    fn refuse(&self, case: &Case<'_>, address: Ipv4Addr, reason: &str) -> (Outcome, Answer) {
        let request = case.request;
        let mut draft = self.draft(request, v4::MessageType::Nak);
        draft.reason(reason);
        let to = if request.is_relayed() { to_relay(request) } else { Destination::Broadcast };
        let reply = draft.finish().map(|bytes| Reply { bytes, to });
        (Outcome::Refused(address), Answer { reply, changes: Vec::new() })
    }

    fn draft<'r>(&self, request: &'r Request<'r>, message: v4::MessageType) -> Draft<'r> {
        Draft::new(request, message, self.config.address, self.server_id(request))
    }

    /// Our server identifier; the one that the relay wants to be known by, where it says so (RFC 5107).
    fn server_id(&self, request: &Request<'_>) -> Ipv4Addr {
        let overridden = request.relay_suboption(11).and_then(|value| <[u8; 4]>::try_from(value).ok());
        overridden.map_or(self.config.address, Ipv4Addr::from)
    }
}

fn entry(case: &Case<'_>, hold: Hold, until: Seconds) -> Entry {
    Entry { mac: case.client.mac, uuid: case.client.uuid, hold, until }
}

fn to_relay(request: &Request<'_>) -> Destination {
    Destination::Unicast(SocketAddrV4::new(request.giaddr, SERVER_PORT))
}

pub(super) fn silent(why: Silence) -> (Outcome, Answer) {
    (Outcome::Silent(why), Answer::default())
}
