//! What the server tells about its work.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::client::{Arch, Client};
use super::wire::MessageType;

/// One request and what came of it.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// Who asked.
    pub client: &'a Client<'a>,
    /// What it sent.
    pub message: MessageType,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An address was offered.
    Offered(Ipv4Addr),
    /// An address was given: the ACK leaves as soon as the lease is durable.
    Acknowledged(Ipv4Addr),
    /// A DHCPINFORM was answered.
    Informed(Ipv4Addr),
    /// The boot file was offered (proxyDHCP, port 67).
    BootOffered,
    /// The boot file was given (proxyDHCP, port 4011 or 67) to this address.
    BootAcknowledged(Ipv4Addr),
    /// The client was told that it cannot have this address.
    Refused(Ipv4Addr),
    /// The client says that the address is used by someone else; it is set aside.
    Declined(Ipv4Addr),
    /// The client gave the address back.
    Released(Ipv4Addr),
    /// No answer.
    Silent(Silence),
}

/// Why a request was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The policy says so.
    Ignored,
    /// Neither a boot client nor a known machine.
    Stranger,
    /// There is no loader for this firmware.
    Architecture(Arch),
    /// The client means another server.
    OtherServer,
    /// The client's network is not one that we give addresses on.
    OtherNetwork,
    /// We know nothing of what it asks about, and a server that does may be there.
    NoRecord,
    /// The dynamic range is used up, or there is none.
    NoAddress,
    /// Another server gives the addresses here.
    Proxy,
    /// Nothing to boot for it.
    NothingToBoot,
    /// The message contradicts itself (RFC 2131, table 5).
    Inconsistent,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ignored => f.write_str("cluster.yaml says to ignore it"),
            Self::Stranger => f.write_str("it is not known and does not boot from the network"),
            Self::Architecture(arch) => {
                write!(f, "there is no loader for its firmware ({arch}); 64-bit UEFI or BIOS is needed")
            }
            Self::OtherServer => f.write_str("it chose another server"),
            Self::OtherNetwork => f.write_str("it is on another network"),
            Self::NoRecord => f.write_str("nothing is known of that address"),
            Self::NoAddress => f.write_str("no address is free; widen `range:`"),
            Self::Proxy => f.write_str("another server gives the addresses"),
            Self::NothingToBoot => f.write_str("there is nothing for it to boot"),
            Self::Inconsistent => f.write_str("the message contradicts itself"),
        }
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counts since the start. They only grow.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: AtomicU64,)+ }

        impl Counters {
            /// Name and value of each.
            pub fn snapshot(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.load(Ordering::Relaxed)),)+].into_iter()
            }
        }
    };
}
counters! {
    /// Datagrams received.
    received,
    /// Datagrams that were no DHCP request.
    malformed,
    /// BOOTP requests, not answered.
    bootp,
    /// DHCPDISCOVER received.
    discover,
    /// DHCPREQUEST received.
    request,
    /// DHCPDECLINE received.
    decline,
    /// DHCPRELEASE received.
    release,
    /// DHCPINFORM received.
    inform,
    /// DHCPOFFER sent, those of proxyDHCP among them.
    offer,
    /// DHCPACK sent, those of proxyDHCP among them.
    ack,
    /// DHCPNAK sent.
    nak,
    /// Requests to port 4011, where a ROM asks a proxyDHCP server for its boot file.
    boot_server,
    /// Requests not answered.
    silent,
    /// Offers of an address that no ARP probe had checked.
    unprobed,
    /// Addresses found in use by someone else.
    conflicts,
    /// Replies that the network did not take.
    send_errors,
    /// Replies held back because their lease could not be made durable.
    store_errors,
}

/// One more.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
