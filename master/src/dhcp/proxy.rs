//! proxyDHCP (PXE specification 2.1, 2.2.3): another server gives the addresses, we say what to boot.

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcproto::v4;

use super::client::{Client, Kind};
use super::engine::{Answer, Destination, Port, Received, Reply, silent};
use super::observe::{Outcome, Silence};
use super::policy::Terms;
use super::reply::Draft;
use super::wire::{MessageType, Request};

/// Answers on port 67 in proxy mode, and on port 4011 in either mode.
pub(super) fn answer(
    server: Ipv4Addr,
    received: Received,
    request: &Request<'_>,
    client: &Client<'_>,
    terms: &Terms,
) -> (Outcome, Answer) {
    if !matches!(client.kind, Kind::Pxe | Kind::Http | Kind::Ipxe) {
        return silent(Silence::Proxy);
    }
    let Some(boot) = &terms.boot else { return silent(Silence::NothingToBoot) };
    match (received.port, request.message) {
        (Port::Dhcp, MessageType::Discover) => {
            let mut draft = Draft::new(request, v4::MessageType::Offer, server, server);
            draft.proxy_offer(client, boot);
            // No address is given, so there is none to send the offer to.
            let to = if request.is_relayed() {
                Destination::Unicast(SocketAddrV4::new(request.giaddr, 67))
            } else {
                Destination::Broadcast
            };
            (Outcome::BootOffered, reply(draft, to))
        }
        // On 67 only what names us: the rest is between the client and the server of its address.
        (Port::Dhcp, MessageType::Request) if request.server_id() != Some(server) => {
            silent(Silence::OtherServer)
        }
        (Port::BootServer, MessageType::Request | MessageType::Inform)
        | (Port::Dhcp, MessageType::Request) => {
            if request.server_id().is_some_and(|id| id != server) {
                return silent(Silence::OtherServer);
            }
            let mut draft = Draft::new(request, v4::MessageType::Ack, server, server);
            draft.ciaddr(request.ciaddr);
            draft.boot_server_answer(client, boot);
            let address =
                if request.ciaddr.is_unspecified() { *received.source.ip() } else { request.ciaddr };
            let to = if request.is_relayed() {
                Destination::Unicast(SocketAddrV4::new(request.giaddr, 67))
            } else if received.source.ip().is_unspecified() {
                Destination::Broadcast
            } else {
                // Back to the port that it asked from: 68 or 4011 (PXE specification, 2.2.3).
                Destination::Unicast(received.source)
            };
            (Outcome::BootAcknowledged(address), reply(draft, to))
        }
        _ => silent(Silence::Proxy),
    }
}

fn reply(draft: Draft<'_>, to: Destination) -> Answer {
    Answer { reply: draft.finish().map(|bytes| Reply { bytes, to }), changes: Vec::new() }
}
