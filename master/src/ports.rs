//! Who holds a port: for the error message of a service that cannot have it.

use std::collections::HashSet;
use std::fs;

/// Which kind of port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// UDP, bound.
    Udp,
    /// TCP, listening.
    Tcp,
}

/// The program that holds a port in this network namespace, IPv4 or IPv6, as `dnsmasq (process 812)`;
/// `None` where nobody does, or where it cannot be seen (another user's process without CAP_SYS_PTRACE).
pub fn who_holds(protocol: Protocol, port: u16) -> Option<String> {
    let tables = match protocol {
        Protocol::Udp => ["udp", "udp6"],
        Protocol::Tcp => ["tcp", "tcp6"],
    };
    let inodes: HashSet<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
        .flat_map(|text| text.lines().filter_map(|line| inode(line, protocol, port)).collect::<Vec<_>>())
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(process.path().join("fd"))
            .ok()?
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|target| target.to_str().is_some_and(|target| inodes.contains(target)));
        let name = fs::read_to_string(process.path().join("comm")).ok().filter(|_| holds)?;
        Some(format!("{} (process {pid})", name.trim_end()))
    })
}

/// The socket's inode, where this line of /proc/net/{udp,tcp} (proc_net(5)) is about the port.
fn inode(line: &str, protocol: Protocol, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?.rsplit_once(':')?.1;
    let state = fields.nth(1)?;
    if u16::from_str_radix(local, 16) != Ok(port) || (protocol == Protocol::Tcp && state != LISTEN) {
        return None;
    }
    fields.nth(5)?.parse().ok().filter(|inode| *inode != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = std::net::TcpListener::bind("[::1]:0")
            .or_else(|_| std::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let me = format!("(process {})", std::process::id());
        let port = udp.local_addr().unwrap().port();
        assert!(who_holds(Protocol::Udp, port).unwrap().ends_with(&me));
        assert!(who_holds(Protocol::Tcp, tcp.local_addr().unwrap().port()).unwrap().ends_with(&me));
        drop(udp);
        assert_eq!(who_holds(Protocol::Udp, port), None);
    }

    #[test]
    fn a_connection_does_not_hold_the_port() {
        let line = "   1: 0100007F:0050 0100007F:A0C4 01 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 20 4 30 10 -1";
        assert_eq!(inode(line, Protocol::Tcp, 80), None);
        assert_eq!(inode(&line.replace(" 01 ", " 0A "), Protocol::Tcp, 80), Some(4242));
    }
}
