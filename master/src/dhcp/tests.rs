//! The engine's states one by one, and all of them in any order.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::engine::Port;
use super::fuzz::Harness;
use super::server::Mode;
use crate::cluster::Mac;

const PXE_UEFI: (u8, &[u8]) = (60, b"PXEClient:Arch:00007:UNDI:003016");
const PXE_BIOS: (u8, &[u8]) = (60, b"PXEClient:Arch:00000:UNDI:002001");
const HTTP: (u8, &[u8]) = (60, b"HTTPClient:Arch:00016:UNDI:003001");
const IPXE: (u8, &[u8]) = (77, b"iPXE");
pub(super) const US: [u8; 4] = [10, 0, 0, 1];

/// A request: message type, last octet of the hardware address, `ciaddr`, options.
pub(super) fn message(kind: u8, mac: u8, ciaddr: u8, options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[4..8].copy_from_slice(&[9, 8, 7, mac]);
    if ciaddr != 0 {
        bytes[12..16].copy_from_slice(&[10, 0, 0, ciaddr]);
    }
    bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, mac]);
    bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
    for (code, value) in [(53, &[kind][..])].iter().chain(options) {
        bytes.extend([*code, u8::try_from(value.len()).unwrap()]);
        bytes.extend(*value);
    }
    bytes.push(255);
    bytes
}

/// What a test looks at in a reply.
#[derive(Debug)]
struct Seen {
    kind: u8,
    yiaddr: u8,
    bytes: Vec<u8>,
}

impl Seen {
    fn option(&self, wanted: u8) -> Option<&[u8]> {
        let mut rest = &self.bytes[240..];
        while let [code, more @ ..] = rest {
            if matches!(code, 0 | 255) {
                return None;
            }
            let value = &more[1..][..usize::from(more[0])];
            if *code == wanted {
                return Some(value);
            }
            rest = &more[1 + value.len()..];
        }
        None
    }

    fn file(&self) -> &str {
        std::str::from_utf8(&self.bytes[108..236]).unwrap().trim_end_matches('\0')
    }
}

fn send(harness: &mut Harness, datagram: &[u8]) -> Option<Seen> {
    send_to(harness, Port::Dhcp, datagram)
}

fn send_to(harness: &mut Harness, port: Port, datagram: &[u8]) -> Option<Seen> {
    let bytes = harness.feed(port, datagram).unwrap()?;
    Some(Seen { kind: bytes[242], yiaddr: bytes[19], bytes })
}

pub(super) const OFFER: u8 = 2;
pub(super) const ACK: u8 = 5;
const NAK: u8 = 6;

fn brief(seen: Option<Seen>) -> Option<(u8, u8)> {
    seen.map(|seen| (seen.kind, seen.yiaddr))
}

pub(super) fn at(last: u8) -> [u8; 4] {
    [10, 0, 0, last]
}

/// DISCOVER and REQUEST; the address.
fn four_way(harness: &mut Harness, mac: u8, options: &[(u8, &[u8])]) -> u8 {
    let offer = send(harness, &message(1, mac, 0, options)).unwrap();
    assert_eq!(offer.kind, OFFER);
    let address = at(offer.yiaddr);
    let mut options: Vec<_> = options.iter().copied().filter(|(code, _)| *code != 50).collect();
    options.extend([(50, &address[..]), (54, &US)]);
    assert_eq!(brief(send(harness, &message(3, mac, 0, &options))), Some((ACK, offer.yiaddr)));
    offer.yiaddr
}

#[test]
fn one_machine_has_one_address_whatever_program_asks() {
    let mut harness = Harness::new(Mode::Authoritative);
    for mac in [0, 2, 9] {
        let first = four_way(&mut harness, mac, &[PXE_UEFI, (61, &[0; 17])]);
        assert_eq!(four_way(&mut harness, mac, &[IPXE, (61, &[1, 2, 0, 0, 0, 0, mac])]), first);
        harness.restart();
        assert_eq!(four_way(&mut harness, mac, &[(60, b"tesela")]), first);
    }
    assert_eq!(four_way(&mut harness, 0, &[]), 50, "its own address");
}

#[test]
fn strangers_and_the_ignored_get_no_answer() {
    let mut harness = Harness::new(Mode::Authoritative);
    assert!(send(&mut harness, &message(1, 9, 0, &[])).is_none());
    assert!(send(&mut harness, &message(1, 4, 0, &[PXE_BIOS])).is_none());
    assert!(send(&mut harness, &message(1, 2, 0, &[])).is_some());
    for arch in [[0, 6], [0, 15], [0, 11]] {
        assert!(send(&mut harness, &message(1, 2, 0, &[PXE_BIOS, (93, &arch)])).is_none(), "{arch:?}");
    }
}

#[test]
fn each_kind_of_client_gets_what_it_needs() {
    let mut harness = Harness::new(Mode::Authoritative);
    let uuid = [0_u8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    let offer = send(&mut harness, &message(1, 2, 0, &[PXE_BIOS, (97, &uuid), (61, b"id")])).unwrap();
    assert_eq!((offer.file(), &offer.bytes[20..24]), ("loader", &US[..]));
    assert_eq!(offer.option(60), Some(&b"PXEClient"[..]));
    assert_eq!(offer.option(43), Some(&[6, 1, 8, 255][..]));
    assert_eq!((offer.option(97), offer.option(61)), (Some(&uuid[..]), Some(&b"id"[..])));
    assert_eq!(offer.option(54), Some(&US[..]));
    assert_eq!(offer.option(51), Some(&[0, 0, 2, 88][..]));

    let offer = send(&mut harness, &message(1, 2, 0, &[HTTP, (57, &[5, 220])])).unwrap();
    assert_eq!(offer.option(60), Some(&b"HTTPClient"[..]));
    assert_eq!(offer.file(), "", "a long URL goes into option 67");
    assert!(offer.option(67).is_some_and(|url| url.starts_with(b"http://10.0.0.1/long/")));

    let offer = send(&mut harness, &message(1, 2, 0, &[PXE_BIOS, IPXE, (93, &[0, 0])])).unwrap();
    assert_eq!(offer.file(), "http://10.0.0.1/boot.ipxe");
    assert_eq!((offer.option(175), offer.option(60)), (Some(&[176, 1, 1][..]), None));
}

#[test]
fn a_reply_is_no_longer_than_the_client_takes() {
    let mut harness = Harness::new(Mode::Authoritative);
    let small = send(&mut harness, &message(1, 2, 0, &[])).unwrap();
    assert!(small.bytes.len() <= 548 && small.option(6).is_none(), "80 name servers do not fit");
    assert!(small.option(3).is_some());
    let big = send(&mut harness, &message(1, 2, 0, &[(57, &[5, 220])])).unwrap();
    assert!(big.option(6).is_some());
}

#[test]
fn requests_for_another_server_are_its_own() {
    let mut harness = Harness::new(Mode::Authoritative);
    let offer = send(&mut harness, &message(1, 2, 0, &[])).unwrap();
    let request = message(3, 2, 0, &[(50, &at(offer.yiaddr)), (54, &[10, 0, 0, 2])]);
    assert!(send(&mut harness, &request).is_none());
    // The offer is free again.
    assert_eq!(
        brief(send(&mut harness, &message(1, 3, 0, &[(50, &at(offer.yiaddr))]))),
        Some((OFFER, offer.yiaddr))
    );
}

#[test]
fn an_offer_survives_a_restart() {
    let mut harness = Harness::new(Mode::Authoritative);
    let offer = send(&mut harness, &message(1, 2, 0, &[])).unwrap();
    harness.restart();
    let request = message(3, 2, 0, &[(50, &at(offer.yiaddr)), (54, &US)]);
    assert_eq!(brief(send(&mut harness, &request)), Some((ACK, offer.yiaddr)));
    // And where another machine has got the address, it is refused.
    assert_eq!(
        brief(send(&mut harness, &message(3, 3, 0, &[(50, &at(offer.yiaddr)), (54, &US)]))),
        Some((NAK, 0))
    );
}

#[test]
fn init_reboot_confirms_refuses_or_stays_silent() {
    let mut harness = Harness::new(Mode::Authoritative);
    let init_reboot = |mac, address: [u8; 4]| message(3, mac, 0, &[(50, &address)]);
    assert_eq!(brief(send(&mut harness, &init_reboot(0, at(50)))), Some((ACK, 50)));
    assert_eq!(brief(send(&mut harness, &init_reboot(0, at(11)))), Some((NAK, 0)), "it has another");
    assert_eq!(brief(send(&mut harness, &init_reboot(2, [192, 168, 1, 5]))), Some((NAK, 0)), "wrong network");
    assert!(send(&mut harness, &init_reboot(2, at(11))).is_none(), "nothing is known of it");
    let address = four_way(&mut harness, 2, &[]);
    assert_eq!(brief(send(&mut harness, &init_reboot(2, at(address)))), Some((ACK, address)));
    assert_eq!(brief(send(&mut harness, &init_reboot(2, at(address + 1)))), Some((NAK, 0)));
    assert!(send(&mut harness, &init_reboot(9, [192, 168, 1, 5])).is_none(), "a stranger");
}

#[test]
fn a_lease_is_extended_and_a_lost_record_made_anew() {
    let mut harness = Harness::new(Mode::Authoritative);
    let address = four_way(&mut harness, 2, &[]);
    harness.wait(300);
    assert_eq!(brief(send(&mut harness, &message(3, 2, address, &[]))), Some((ACK, address)));
    // Nobody has asked for it since it ran out: still its own.
    harness.wait(10_000);
    assert_eq!(brief(send(&mut harness, &message(3, 2, address, &[]))), Some((ACK, address)));
    assert_eq!(brief(send(&mut harness, &message(3, 3, address, &[]))), Some((NAK, 0)), "another's");
    let mut emptied = Harness::new(Mode::Authoritative);
    emptied.sighting(at(address).into(), Mac([2, 0, 0, 0, 0, 2]));
    assert_eq!(brief(send(&mut emptied, &message(3, 2, address, &[]))), Some((ACK, address)));
}

#[test]
fn a_declined_address_is_set_aside_and_only_its_holder_can_decline() {
    let mut harness = Harness::new(Mode::Authoritative);
    let address = four_way(&mut harness, 2, &[]);
    let decline = |mac| message(4, mac, 0, &[(50, &at(address)), (54, &US)]);
    assert!(send(&mut harness, &decline(3)).is_none());
    assert_eq!(four_way(&mut harness, 2, &[]), address, "another's decline does nothing");
    assert!(send(&mut harness, &decline(2)).is_none());
    harness.restart();
    assert_ne!(four_way(&mut harness, 2, &[]), address);
    assert_ne!(four_way(&mut harness, 3, &[(50, &at(address))]), address);
    harness.wait(601);
    assert_eq!(
        brief(send(&mut harness, &message(1, 5, 0, &[PXE_BIOS, (50, &at(address))]))),
        Some((OFFER, address))
    );
}

#[test]
fn a_known_machine_whose_address_is_taken_gets_another_one_meanwhile() {
    let mut harness = Harness::new(Mode::Authoritative);
    harness.sighting(at(12).into(), Mac([2, 9, 9, 9, 9, 9]));
    assert_eq!(four_way(&mut harness, 1, &[PXE_BIOS]), 10);
    harness.wait(601);
    assert_eq!(four_way(&mut harness, 1, &[PXE_BIOS]), 12);
}

#[test]
fn a_released_address_stays_with_its_machine_until_it_is_needed() {
    let mut harness = Harness::new(Mode::Authoritative);
    let address = four_way(&mut harness, 2, &[]);
    assert!(send(&mut harness, &message(7, 3, address, &[(54, &US)])).is_none(), "not its own");
    assert!(send(&mut harness, &message(7, 2, address, &[(54, &US)])).is_none());
    assert_ne!(four_way(&mut harness, 3, &[]), address, "others are free");
    assert_eq!(four_way(&mut harness, 2, &[]), address);
}

#[test]
fn the_range_ends_and_the_oldest_lease_is_reused() {
    let mut harness = Harness::new(Mode::Authoritative);
    harness.probe();
    // 10.0.0.12 is reserved, so there are five.
    let given: Vec<u8> = (10..15).map(|mac| four_way(&mut harness, mac, &[PXE_BIOS])).collect();
    assert_eq!(given, [10, 11, 13, 14, 15]);
    assert!(send(&mut harness, &message(1, 20, 0, &[PXE_BIOS])).is_none());
    harness.wait(300);
    assert_eq!(four_way(&mut harness, 10, &[PXE_BIOS]), 10);
    harness.wait(301);
    assert_eq!(four_way(&mut harness, 20, &[PXE_BIOS]), 11);
    harness.probe();
    assert_eq!(four_way(&mut harness, 21, &[PXE_BIOS]), 13);
}

#[test]
fn inform_is_answered_without_a_lease() {
    let mut harness = Harness::new(Mode::Authoritative);
    let answer = send(&mut harness, &message(8, 2, 12, &[])).unwrap();
    assert_eq!((answer.kind, answer.yiaddr, answer.option(51)), (ACK, 0, None));
    assert!(answer.option(1).is_some());
    assert!(send(&mut harness, &message(8, 2, 13, &[])).is_none(), "not the address that it came from");
}

#[test]
fn a_relayed_request_is_answered_through_its_relay() {
    let mut harness = Harness::new(Mode::Authoritative);
    let relayed = |mut bytes: Vec<u8>, last| {
        bytes[24..28].copy_from_slice(&[10, 0, last, 2]);
        bytes
    };
    let information = [1, 2, b'p', b'1', 2, 1, b'r'];
    let discover = message(1, 2, 0, &[(82, &information)]);
    let offer = send(&mut harness, &relayed(discover.clone(), 0)).unwrap();
    assert_eq!(offer.option(82), Some(&information[..]));
    assert_eq!(offer.bytes[24..28], [10, 0, 0, 2]);
    assert!(send(&mut harness, &relayed(discover, 1)).is_none(), "a network that we do not serve");
    let nak = send(&mut harness, &relayed(message(3, 0, 0, &[(50, &at(11))]), 0)).unwrap();
    assert_eq!((nak.kind, nak.bytes[10] & 0x80), (NAK, 0x80), "the relay is to broadcast it");
    let overridden = [11, 4, 10, 0, 0, 2];
    let offer = send(&mut harness, &relayed(message(1, 2, 0, &[(82, &overridden)]), 0)).unwrap();
    assert_eq!(offer.option(54), Some(&[10, 0, 0, 2][..]), "RFC 5107");
}

#[test]
fn a_proxy_says_what_to_boot_and_gives_no_address() {
    let mut harness = Harness::new(Mode::Proxy);
    assert!(send(&mut harness, &message(1, 0, 0, &[])).is_none());
    let bios = send(&mut harness, &message(1, 0, 0, &[PXE_BIOS])).unwrap();
    assert_eq!((bios.kind, bios.yiaddr, bios.file()), (OFFER, 0, "loader"));
    assert_eq!((bios.option(60), bios.option(43)), (Some(&b"PXEClient"[..]), Some(&[6, 1, 8, 255][..])));
    assert_eq!((bios.option(51), bios.option(1)), (None, None));
    let uefi = send(&mut harness, &message(1, 0, 0, &[PXE_UEFI])).unwrap();
    assert_eq!((uefi.option(60), uefi.option(43)), (Some(&b"PXEClient"[..]), None));
    let http = send(&mut harness, &message(1, 0, 0, &[HTTP])).unwrap();
    assert_eq!(http.option(60), Some(&b"HTTPClient"[..]));
    assert!(send(&mut harness, &message(3, 0, 0, &[PXE_UEFI, (50, &at(50)), (54, &at(2))])).is_none());
    let item = [71, 4, 0x80, 0, 0, 0, 255];
    let boot = message(3, 0, 50, &[PXE_UEFI, (43, &item)]);
    let boot = send_to(&mut harness, Port::BootServer, &boot).unwrap();
    assert_eq!((boot.kind, boot.yiaddr, boot.file()), (ACK, 0, "loader"));
    assert_eq!(boot.option(43), Some(&item[..]));
}

/// Any step of any of a few machines.
fn step() -> impl Strategy<Value = (u8, u8, u8, u8, u8, u8)> {
    (0..12_u8, 0..10_u8, prop_oneof![Just(0_u8), 9..17_u8, Just(50_u8)], 8..17_u8, 0..4_u8, 0..3_u8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// `Harness::feed` checks each answer: no address is given to two, no ACK leaves without its lease.
    #[test]
    fn no_order_of_messages_gives_an_address_twice(steps in proptest::collection::vec(step(), 1..60)) {
        let mut harness = Harness::new(Mode::Authoritative);
        for (kind, mac, ciaddr, asked, server, class) in steps {
            match kind {
                0 => harness.restart(),
                2 => harness.wait(u64::from(mac) * 70),
                5 => harness.probe(),
                6 => harness.sighting(Ipv4Addr::from(at(asked)), Mac([2, 0, 0, 0, 0, mac])),
                9..=11 => { send(&mut harness, &message(3, mac, ciaddr, &[(50, &at(asked)), PXE_UEFI])); }
                kind => {
                    let asked = at(asked);
                    let mut options = vec![(50, &asked[..])];
                    match server { 0 => {} 1 => options.push((54, &[10, 0, 0, 2])), _ => options.push((54, &US)) }
                    match class { 0 => {} 1 => options.push(PXE_BIOS), _ => options.push(IPXE) }
                    send(&mut harness, &message(kind, mac, ciaddr, &options));
                }
            }
        }
    }
}
