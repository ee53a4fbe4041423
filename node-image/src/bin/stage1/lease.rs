//! Keeps the address: a lease with an end is renewed by a small process that stays in memory.
//!
//! The root may come over this very interface, so nothing that lies in the root can be left to renew
//! it. The process is stage1 itself under the name `@tesela-lease`: systemd spares a process whose name
//! begins with `@` until the very end of a shutdown (systemd's ROOT_STORAGE_DAEMONS). Nodes that the
//! master itself gives an address have it for ever, and then there is no such process.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{setsockopt, sockopt};
use tesela_node_image::stage1::cmdline::Mac;
use tesela_node_image::stage1::dhcp::{CLIENT_PORT, Client, Event, INFINITE, Lease, SERVER_PORT};

use crate::console::say;
use crate::devices::timeout;
use crate::network::{Link, transaction_id};

/// The process's name, and how `main` knows that it is meant.
pub const NAME: &str = "@tesela-lease";

/// Between a failure and the next try.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Starts the process, if the lease ends at all.
pub fn keep(link: &Link) -> io::Result<()> {
    if link.lease.seconds == INFINITE {
        return Ok(());
    }
    let lease = &link.lease;
    Command::new("/proc/self/exe")
        .arg0(NAME)
        .args([&link.interface, &link.mac.to_string(), &lease.address.to_string(), &lease.server.to_string()])
        .arg(lease.seconds.to_string())
        .spawn()
        .map(drop)
}

/// Runs as that process: renews for ever.
pub fn run(arguments: &[String]) -> Option<()> {
    let [interface, mac, address, server, seconds] = arguments else { return None };
    let mac = Mac::parse(mac)?;
    let mut lease = Lease {
        address: address.parse().ok()?,
        prefix: 0,
        routers: Vec::new(),
        dns: Vec::new(),
        domain: None,
        mtu: None,
        server: server.parse().ok()?,
        seconds: seconds.parse().ok()?,
    };
    loop {
        match renew(interface, mac, &lease) {
            Ok(renewed) => lease = renewed,
            // The address stays whatever the server says: without it the node would lose its root.
            Err(error) => {
                say(format_args!("the lease of {} could not be renewed: {error}", lease.address));
                // What fails at once (another program of the node has the port) would fail at once again.
                std::thread::sleep(AFTER_FAILURE);
            }
        }
    }
}

/// Waits for half of the lease, then asks until it is granted anew (RFC 2131, section 4.4.5).
fn renew(interface: &str, mac: Mac, lease: &Lease) -> io::Result<Lease> {
    let length = Duration::from_secs(u64::from(lease.seconds.max(60)));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_PORT))?;
    setsockopt(&socket, sockopt::BindToDevice, &interface.into())?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    let start = Instant::now();
    let mut client = Client::renew(mac, None, lease, transaction_id(mac), length / 2);
    let mut buffer = [0; 2048];
    while start.elapsed() < length {
        // After seven eighths any server may answer.
        let rebinding = start.elapsed() > length * 7 / 8;
        let to = if rebinding { Ipv4Addr::BROADCAST } else { lease.server };
        if let Some(packet) = client.poll(start.elapsed()) {
            // A link that is down for a while is no reason to stop.
            if let Err(error) = socket.send_to(&packet, (to, SERVER_PORT)) {
                say(format_args!("renewing {}: {error}", lease.address));
            }
        }
        let wake = client.due().saturating_sub(start.elapsed());
        poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout(wake))?;
        while let Ok((received, _)) = socket.recv_from(&mut buffer) {
            match client.receive(&buffer[..received], start.elapsed()) {
                Some(Event::Bound(renewed)) => return Ok(renewed),
                Some(Event::Refused(message)) => return Err(io::Error::other(message)),
                Some(Event::Progress) | None => {}
            }
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
