//! Who holds a port: for the error message of a service that cannot have it.

use std::collections::HashMap;
use std::fs;

use nix::unistd::User;

/// Which kind of port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// UDP, bound.
    Udp,
    /// TCP, listening.
    Tcp,
}

/// Who holds a port in this network namespace, IPv4 or IPv6: `dnsmasq (process 812)`, or, where that
/// cannot be seen (another user's process without CAP_SYS_PTRACE), `a program of user dnsmasq`; `None` where
/// nobody does.
pub fn who_holds(protocol: Protocol, port: u16) -> Option<String> {
    let tables = match protocol {
        Protocol::Udp => ["udp", "udp6"],
        Protocol::Tcp => ["tcp", "tcp6"],
    };
    let holders: HashMap<String, u32> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
        .flat_map(|text| text.lines().filter_map(|line| holder(line, protocol, port)).collect::<Vec<_>>())
        .map(|(uid, inode)| (format!("socket:[{inode}]"), uid))
        .collect();
    let uid = *holders.values().next()?;
    Some(program_with(&holders).unwrap_or_else(|| format!("a program of {}", user(uid))))
}

/// The program that has one of these sockets open.
fn program_with(sockets: &HashMap<String, u32>) -> Option<String> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(process.path().join("fd"))
            .ok()?
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|target| target.to_str().is_some_and(|target| sockets.contains_key(target)));
        let name = fs::read_to_string(process.path().join("comm")).ok().filter(|_| holds)?;
        Some(format!("{} (process {pid})", name.trim_end()))
    })
}

fn user(uid: u32) -> String {
    match User::from_uid(uid.into()) {
        Ok(Some(user)) => format!("user {}", user.name),
        _ => format!("uid {uid}"),
    }
}

/// The owner and inode of the socket, where this line of /proc/net/{udp,tcp} (proc_net(5)) is about the port.
fn holder(line: &str, protocol: Protocol, port: u16) -> Option<(u32, u64)> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?.rsplit_once(':')?.1;
    let state = fields.nth(1)?;
    if u16::from_str_radix(local, 16) != Ok(port) || (protocol == Protocol::Tcp && state != LISTEN) {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok().filter(|inode| *inode != 0)?;
    Some((uid, inode))
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
        let line = "   1: 0100007F:0050 0100007F:A0C4 01 00000000:00000000 00:00000000 00000000    33        0 4242 1 0 20 4 30 10 -1";
        assert_eq!(holder(line, Protocol::Tcp, 80), None);
        assert_eq!(holder(&line.replace(" 01 ", " 0A "), Protocol::Tcp, 80), Some((33, 4242)));
    }

    #[test]
    fn a_holder_that_cannot_be_seen_is_told_by_its_user() {
        assert_eq!((user(0), user(4_000_000_000)), ("user root".into(), "uid 4000000000".into()));
    }
}
