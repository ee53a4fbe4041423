//! Packets of real clients, as they were on the wire, and what they are told.

use super::client::{Arch, Client, Kind};
use super::engine::Port;
use super::fuzz::Harness;
use super::server::Mode;
use super::wire::{MessageType, Request};

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("golden/", $name, ".bin")).as_slice()
    };
}

/// iPXE 1.0 (the ROM of QEMU's virtio-net) under a BIOS.
const IPXE_BIOS: [&[u8]; 3] =
    [golden!("ipxe-bios-discover"), golden!("ipxe-bios-request"), golden!("ipxe-bios-boot-server")];
/// The PXE client of EDK2 (OVMF 2022.11), and its question on port 4011.
const OVMF_PXE: [&[u8]; 3] =
    [golden!("ovmf-pxe-discover"), golden!("ovmf-pxe-request"), golden!("ovmf-pxe-boot-server")];
/// The HTTP boot client of EDK2.
const OVMF_HTTP: [&[u8]; 2] = [golden!("ovmf-http-discover"), golden!("ovmf-http-request")];
/// BusyBox 1.35.
const UDHCPC: &[u8] = golden!("udhcpc-discover");
/// ISC dhclient 4.4.3, by itself and through ISC dhcrelay with option 82.
const DHCLIENT: [&[u8]; 2] = [golden!("dhclient-discover"), golden!("dhclient-relayed")];

#[test]
fn each_client_is_known_for_what_it_is() {
    for (packet, message, kind, arch) in [
        (IPXE_BIOS[0], MessageType::Discover, Kind::Ipxe, Some(Arch::Bios)),
        (IPXE_BIOS[1], MessageType::Request, Kind::Ipxe, Some(Arch::Bios)),
        (IPXE_BIOS[2], MessageType::Request, Kind::Ipxe, Some(Arch::Bios)),
        (OVMF_PXE[0], MessageType::Discover, Kind::Pxe, Some(Arch::EfiX64)),
        (OVMF_PXE[2], MessageType::Request, Kind::Pxe, Some(Arch::EfiX64)),
        (OVMF_HTTP[0], MessageType::Discover, Kind::Http, Some(Arch::HttpX64)),
        (UDHCPC, MessageType::Discover, Kind::Other, None),
        (DHCLIENT[0], MessageType::Discover, Kind::Other, None),
    ] {
        let request = Request::parse(packet).unwrap();
        let client = Client::of(&request);
        assert_eq!((request.message, client.kind, client.arch), (message, kind, arch));
        assert_eq!(client.uuid.is_some(), kind.is_boot());
        assert!(client.relay.is_none());
    }
}

#[test]
fn a_relay_is_seen_with_what_it_says() {
    let request = Request::parse(DHCLIENT[1]).unwrap();
    let relay = Client::of(&request).relay.unwrap();
    assert_eq!(relay.circuit_id, Some(&b"below"[..]));
    assert_eq!(relay.address, request.giaddr);
}

#[test]
fn firmware_is_answered_in_each_mode() {
    for packet in [IPXE_BIOS[0], OVMF_PXE[0], OVMF_HTTP[0]] {
        for mode in [Mode::Authoritative, Mode::Proxy] {
            let mut harness = Harness::new(mode);
            let offer = harness.feed(Port::Dhcp, packet).unwrap().unwrap();
            assert_eq!((offer[242], offer[19] != 0), (2, mode == Mode::Authoritative));
        }
    }
    for packet in [IPXE_BIOS[2], OVMF_PXE[2]] {
        // iPXE names the server at 10.77.0.1; this one is at 10.0.0.1.
        let mut packet = packet.to_vec();
        if let Some(at) = packet.windows(6).position(|option| option == [54, 4, 10, 77, 0, 1]) {
            assert_eq!(Harness::new(Mode::Proxy).feed(Port::BootServer, &packet), Ok(None));
            packet[at + 3] = 0;
        }
        let answer = Harness::new(Mode::Proxy).feed(Port::BootServer, &packet).unwrap().unwrap();
        assert_eq!(answer[242], 5);
        assert_ne!(answer[108], 0, "the boot file");
    }
}
