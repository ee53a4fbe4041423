//! The boot interface: found, brought up, given its address.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{setsockopt, sockopt};
use tesela_node_image::stage1::cmdline::Mac;
use tesela_node_image::stage1::dhcp::{CLIENT_PORT, Client, Event, Lease, SERVER_PORT};

use crate::console::{say, uptime};
use crate::devices::{Modules, Monitor, timeout, undriven};
use crate::error::{BootError, at};
use crate::sys::Interface;

/// How long a NIC may take to show itself.
const DEVICE_LIMIT: Duration = Duration::from_secs(30);
/// How long the NIC that the firmware booted from may take, before any other is tried.
const PREFERRED_LIMIT: Duration = Duration::from_secs(10);
/// How long a link may take: a switch with spanning tree blocks a port for half a minute.
const CARRIER_LIMIT: Duration = Duration::from_secs(45);
/// How long an address is asked for on one interface.
const LEASE_LIMIT: Duration = Duration::from_secs(60);

/// An interface that is up and has its address.
#[derive(Debug)]
pub struct Link {
    /// The kernel's name for it.
    pub interface: String,
    /// Its hardware address.
    pub mac: Mac,
    /// What the DHCP server gave.
    pub lease: Lease,
}

/// An Ethernet interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nic {
    /// The kernel's name for it.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
}

/// Finds the boot interface (the one that `wanted` names, else each in turn) and gets it an address.
pub fn connect(wanted: Option<Mac>, modules: &mut Modules) -> Result<Link, BootError> {
    let monitor = Monitor::open().map_err(at("netlink"))?;
    modules.load_drivers();
    let uuid = machine_uuid();
    let mut last = None;
    for nic in candidates(wanted, modules, &monitor)? {
        match try_interface(&nic, uuid, &monitor) {
            Ok(lease) => return Ok(Link { interface: nic.name, mac: nic.mac, lease }),
            Err(error) => {
                say(&error);
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| no_interface(wanted, &[])))
}

/// The interfaces to try, best first; waits for the first to appear.
fn candidates(wanted: Option<Mac>, modules: &mut Modules, monitor: &Monitor) -> Result<Vec<Nic>, BootError> {
    let start = Instant::now();
    loop {
        let mut nics = nics().map_err(at("/sys/class/net"))?;
        let preferred = nics.iter().position(|nic| Some(nic.mac) == wanted);
        if let Some(index) = preferred {
            // The firmware has booted from it, so it is the one; the others would only be asked in vain.
            return Ok(vec![nics.swap_remove(index)]);
        }
        let patience = if wanted.is_some() && !nics.is_empty() { PREFERRED_LIMIT } else { DEVICE_LIMIT };
        if wanted.is_none() && !nics.is_empty() {
            return Ok(nics);
        }
        if !monitor.wait(start + patience).map_err(at("netlink"))? {
            if nics.is_empty() {
                return Err(no_interface(wanted, &nics));
            }
            say(no_interface(wanted, &nics));
            return Ok(nics);
        }
        modules.load_drivers();
    }
}

fn no_interface(wanted: Option<Mac>, nics: &[Nic]) -> BootError {
    let seen: Vec<String> = nics.iter().map(|nic| format!("{} is {}", nic.name, nic.mac)).collect();
    let idle: Vec<String> =
        undriven().into_iter().map(|device| format!("no driver for PCI {device}")).collect();
    let seen = [seen, idle].concat().join(", ");
    BootError::NoInterface {
        wanted: wanted
            .map(|mac| format!(" with the address {mac}, which the firmware used"))
            .unwrap_or_default(),
        seen: if seen.is_empty() { "there is no network device".to_owned() } else { seen },
    }
}

/// All Ethernet interfaces, by name.
fn nics() -> io::Result<Vec<Nic>> {
    let mut nics = Vec::new();
    for entry in fs::read_dir("/sys/class/net")? {
        let path = entry?.path();
        let read = |name: &str| fs::read_to_string(path.join(name)).map(|text| text.trim().to_owned());
        // 1 is ARPHRD_ETHER. One that has just gone away is passed over.
        let (Ok(kind), Ok(address)) = (read("type"), read("address")) else { continue };
        if let (true, Some(mac)) = (kind == "1", Mac::parse(&address)) {
            nics.push(Nic { name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(), mac });
        }
    }
    nics.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
    Ok(nics)
}

fn try_interface(nic: &Nic, uuid: Option<[u8; 16]>, monitor: &Monitor) -> Result<Lease, BootError> {
    let failed = |what: &'static str| {
        let interface = nic.name.clone();
        move |error: io::Error| BootError::Interface { interface, what, error }
    };
    let socket =
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_PORT)).map_err(failed("open the DHCP port"))?;
    let interface = Interface::new(socket.as_fd(), &nic.name);
    interface.up().map_err(failed("bring up the link"))?;
    wait_for_carrier(&nic.name, monitor)?;
    let lease = match ask(nic, uuid, &socket) {
        Ok(lease) => lease,
        Err(error) => {
            interface.down().map_err(failed("take down the link"))?;
            return Err(error);
        }
    };
    let mask = Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(lease.prefix)).unwrap_or(0));
    interface.set_address(lease.address, mask).map_err(failed("set the address"))?;
    if let Some(mtu) = lease.mtu {
        interface.set_mtu(mtu).map_err(failed("set the MTU"))?;
    }
    if let Some(&router) = lease.routers.first() {
        // The master is on the link: a gateway that does not work must not stop the boot.
        if let Err(error) = interface.add_default_route(router) {
            say(format_args!("default route through {router}: {error}"));
        }
    }
    Ok(lease)
}

fn wait_for_carrier(name: &str, monitor: &Monitor) -> Result<(), BootError> {
    let path = Path::new("/sys/class/net").join(name).join("carrier");
    let deadline = Instant::now() + CARRIER_LIMIT;
    loop {
        if fs::read_to_string(&path).is_ok_and(|carrier| carrier.trim() == "1") {
            return Ok(());
        }
        if !monitor.wait(deadline).map_err(at("netlink"))? {
            let error = io::Error::new(io::ErrorKind::TimedOut, "no link; is the cable in?");
            return Err(BootError::Interface { interface: name.to_owned(), what: "see the carrier", error });
        }
    }
}

fn ask(nic: &Nic, uuid: Option<[u8; 16]>, socket: &UdpSocket) -> Result<Lease, BootError> {
    let failed = |what: &'static str| {
        let interface = nic.name.clone();
        move |error: io::Error| BootError::Interface { interface, what, error }
    };
    socket.set_broadcast(true).map_err(failed("broadcast on the DHCP port"))?;
    setsockopt(socket, sockopt::BindToDevice, &nic.name.as_str().into())
        .map_err(|error| failed("bind the DHCP port")(error.into()))?;
    socket.set_nonblocking(true).map_err(failed("open the DHCP port"))?;
    let start = Instant::now();
    let mut client = Client::new(nic.mac, uuid, transaction_id(nic.mac), Duration::ZERO);
    let mut detail = String::new();
    let mut buffer = [0; 2048];
    loop {
        if let Some(packet) = client.poll(start.elapsed()) {
            socket
                .send_to(&packet, (Ipv4Addr::BROADCAST, SERVER_PORT))
                .map_err(failed("send a DHCP request"))?;
        }
        let wake = client.due().min(LEASE_LIMIT).saturating_sub(start.elapsed());
        let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, timeout(wake)).map_err(|error| failed("wait for a DHCP answer")(error.into()))?;
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            match client.receive(&buffer[..length], start.elapsed()) {
                Some(Event::Bound(lease)) => return Ok(lease),
                Some(Event::Refused(message)) => detail = format!("; a server refused: {message}"),
                Some(Event::Progress) | None => {}
            }
        }
        if start.elapsed() >= LEASE_LIMIT {
            let seconds = LEASE_LIMIT.as_secs();
            return Err(BootError::NoLease { interface: nic.name.clone(), seconds, detail });
        }
    }
}

/// The machine's UUID as SMBIOS holds it and PXE sends it: the first three fields little-endian.
fn machine_uuid() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/sys/class/dmi/id/product_uuid").ok()?;
    let digits: String = text.trim().chars().filter(|&c| c != '-').collect();
    let mut uuid = u128::from_str_radix(&digits, 16).ok()?.to_be_bytes();
    uuid[0..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    Some(uuid)
}

/// A transaction id. It need not be secret, only differ between machines switched on together: the
/// kernel's random numbers are not waited for.
pub fn transaction_id(mac: Mac) -> u32 {
    let [.., a, b, c, d] = mac.0;
    let now = std::time::Duration::try_from_secs_f64(uptime()).unwrap_or_default();
    u32::from_be_bytes([a, b, c, d]).rotate_left(13) ^ now.subsec_nanos()
}
