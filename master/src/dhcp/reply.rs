//! Replies: the fields and options that each kind of client needs, within the size that it takes.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode, UnknownOption};
use dhcproto::{Encodable, Encoder};

use super::client::{Arch, Client, Kind};
use super::policy::{BootFile, Terms};
use super::pxe;
use super::wire::Request;

/// BOOTP's shortest packet (RFC 951); some ROMs and relays drop anything shorter.
const SHORTEST: usize = 300;
/// Octets of `file`, its NUL apart.
const FILE_FIELD: usize = 127;
/// iPXE's own options, and in it the one that says: wait for no proxyDHCP offer.
const IPXE_ENCAPSULATED: u8 = 175;
const IPXE_NO_PROXYDHCP: u8 = 176;

/// A reply being put together. Options are added in the order of their weight: where the client's limit
/// (option 57) is reached, the later ones stay out.
pub(super) struct Draft<'r> {
    request: &'r Request<'r>,
    /// Our own address: what `siaddr` says beside a URL. iPXE takes no proxyDHCP answer without one.
    server: Ipv4Addr,
    header: Message,
    options: Vec<DhcpOption>,
}

impl<'r> Draft<'r> {
    /// A reply of this type to this request from the server at `server`, known by `server_id`.
    pub fn new(
        request: &'r Request<'r>,
        message: MessageType,
        server: Ipv4Addr,
        server_id: Ipv4Addr,
    ) -> Self {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut header = Message::new_with_id(request.xid, none, none, none, request.giaddr, &request.mac.0);
        let flags = if message == MessageType::Nak && request.is_relayed() {
            // The relay must broadcast it: the client has no address to take it at (RFC 2131, 4.3.2).
            request.flags | 0x8000
        } else {
            request.flags
        };
        header.set_opcode(Opcode::BootReply).set_htype(HType::Eth).set_flags(Flags::new(flags));
        let options = vec![DhcpOption::MessageType(message), DhcpOption::ServerIdentifier(server_id)];
        Self { request, server, header, options }
    }

    /// `ciaddr`.
    pub fn ciaddr(&mut self, address: Ipv4Addr) {
        self.header.set_ciaddr(address);
    }

    /// The address that the client gets, for so long (options 51, 58 and 59).
    pub fn lease(&mut self, address: Ipv4Addr, seconds: u32) {
        self.header.set_yiaddr(address);
        self.options.extend([
            DhcpOption::AddressLeaseTime(seconds),
            DhcpOption::Renewal(seconds / 2),
            DhcpOption::Rebinding(seconds - seconds / 8),
        ]);
    }

    /// Why it was refused (option 56).
    pub fn reason(&mut self, text: &str) {
        self.options.push(DhcpOption::Message(text.to_owned()));
    }

    /// The network options that the client asks for.
    pub fn network(&mut self, terms: &Terms) {
        let network = &terms.network;
        let mut listed = |code: u8, addresses: &[Ipv4Addr], option: fn(Vec<Ipv4Addr>) -> DhcpOption| {
            if !addresses.is_empty() && self.request.asks_for(code) {
                self.options.push(option(addresses.to_vec()));
            }
        };
        listed(3, &network.routers, DhcpOption::Router);
        listed(6, &network.dns, DhcpOption::DomainNameServer);
        listed(42, &network.ntp, DhcpOption::NtpServers);
        // RFC 2132, 3.3: the mask comes before the routers.
        self.options.insert(2, DhcpOption::SubnetMask(network.prefix.netmask()));
        if let Some(name) = terms.hostname.as_deref().filter(|_| self.request.asks_for(12)) {
            self.options.push(DhcpOption::Hostname(name.to_owned()));
        }
        if let Some(domain) = network.domain.as_ref().filter(|_| self.request.asks_for(15)) {
            self.options.push(DhcpOption::DomainName(domain.clone()));
        }
        if self.request.asks_for(28) {
            self.options.push(DhcpOption::BroadcastAddr(network.prefix.broadcast()));
        }
    }

    /// What to load next, in an answer that gives an address as well.
    pub fn boot(&mut self, client: &Client<'_>, boot: Option<&BootFile>) {
        match client.kind {
            Kind::Ipxe => {
                let no_proxy = vec![IPXE_NO_PROXYDHCP, 1, 1];
                self.options.push(unknown(IPXE_ENCAPSULATED, no_proxy));
            }
            Kind::Pxe if boot.is_some() => {
                self.class(b"PXEClient");
                self.options.push(DhcpOption::VendorExtensions(pxe::use_boot_file()));
            }
            Kind::Http if boot.is_some() => self.class(b"HTTPClient"),
            Kind::Pxe | Kind::Http | Kind::Stage1 | Kind::Other => {}
        }
        self.boot_file(boot);
    }

    /// What to load next, offered beside another server's address.
    pub fn proxy_offer(&mut self, client: &Client<'_>, boot: &BootFile) {
        self.proxy_class(client);
        // Many UEFI ROMs drop a proxy's offer that carries option 43 and nothing to discover; without it
        // they ask on port 4011. A BIOS ROM needs it, or it would look for a boot menu.
        if client.kind == Kind::Pxe && client.arch == Some(Arch::Bios) {
            self.options.push(DhcpOption::VendorExtensions(pxe::use_boot_file()));
        }
        self.boot_file(Some(boot));
    }

    /// What to load next, asked for on port 4011.
    pub fn boot_server_answer(&mut self, client: &Client<'_>, boot: &BootFile) {
        self.proxy_class(client);
        if let Some(item) = self.request.option(43).and_then(pxe::boot_item) {
            self.options.push(DhcpOption::VendorExtensions(pxe::boot_item_reply(item)));
        }
        self.boot_file(Some(boot));
    }

    fn proxy_class(&mut self, client: &Client<'_>) {
        self.class(if client.kind == Kind::Http { b"HTTPClient" } else { b"PXEClient" });
    }

    /// Options 60 and 97: a boot ROM looks for its own class, and for its own UUID.
    fn class(&mut self, class: &[u8]) {
        self.options.push(DhcpOption::ClassIdentifier(class.to_vec()));
        if let Some(uuid) = self.request.option(97).filter(|value| value.len() == 17) {
            self.options.push(DhcpOption::ClientMachineIdentifier(uuid.to_vec()));
        }
    }

    fn boot_file(&mut self, boot: Option<&BootFile>) {
        let file = match boot {
            None => return,
            Some(BootFile::Tftp { server, file }) => {
                self.header.set_siaddr(*server);
                if self.request.option(55).is_some() && self.request.asks_for(66) {
                    self.options.push(DhcpOption::TFTPServerName(server.to_string().into_bytes()));
                }
                file
            }
            Some(BootFile::Url(url)) => {
                self.header.set_siaddr(self.server);
                url
            }
        };
        let fits = file.len() <= FILE_FIELD;
        if fits {
            self.header.set_fname(file.as_bytes());
        }
        if !fits || (self.request.option(55).is_some() && self.request.asks_for(67)) {
            self.options.push(DhcpOption::BootfileName(file.clone().into_bytes()));
        }
    }

    /// The datagram. `None` where dhcproto cannot write it, which no reply made here leads to.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        // Echoed whole: the client's identifier (RFC 6842) and the relay's information (RFC 3046), the
        // latter last, where relays look for it.
        if let Some(id) = self.request.option(61) {
            self.options.insert(2, DhcpOption::ClientIdentifier(id.to_vec()));
        }
        let relay = self.request.option(82).filter(|_| self.request.is_relayed());
        let tail = 1 + relay.map_or(0, |value| value.len() + 2 * value.len().div_ceil(255));

        let mut datagram = Vec::with_capacity(600);
        self.header.encode(&mut Encoder::new(&mut datagram)).ok()?;
        // dhcproto's encoder begins at the front of its buffer, so options pass through one of their own.
        let mut encoded = Vec::with_capacity(64);
        for option in &self.options {
            encoded.clear();
            option.encode(&mut Encoder::new(&mut encoded)).ok()?;
            if datagram.len() + encoded.len() + tail <= self.request.longest_reply() {
                datagram.extend_from_slice(&encoded);
            }
        }
        if let Some(value) = relay {
            encoded.clear();
            unknown(82, value.to_vec()).encode(&mut Encoder::new(&mut encoded)).ok()?;
            datagram.extend_from_slice(&encoded);
        }
        datagram.push(u8::from(OptionCode::End));
        if datagram.len() < SHORTEST {
            datagram.resize(SHORTEST, 0);
        }
        Some(datagram)
    }
}

fn unknown(code: u8, value: Vec<u8>) -> DhcpOption {
    DhcpOption::Unknown(UnknownOption::new(OptionCode::Unknown(code), value))
}
