//! What is so on this machine. Nothing here judges.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::firewall::Listed;
use super::kernel::Feature;
use super::members::Reach;
use super::network::Interface;
use super::sys;

/// How long a connection may take to come about: on one network, a lost packet is sent again after a second.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Connections tried at once, well below the usual limit of descriptors.
const AT_ONCE: usize = 256;

/// The network interfaces.
///
/// # Errors
/// Those of getifaddrs(3).
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut interfaces: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in getifaddrs()? {
        let interface = interfaces.entry(entry.interface_name.clone()).or_insert_with(|| Interface {
            name: entry.interface_name,
            up: entry.flags.contains(InterfaceFlags::IFF_UP),
            running: entry.flags.contains(InterfaceFlags::IFF_RUNNING),
            multicast: entry.flags.contains(InterfaceFlags::IFF_MULTICAST),
            addresses: Vec::new(),
        });
        let ip = |address: Option<SockaddrStorage>| Some(address?.as_sockaddr_in()?.ip());
        if let (Some(address), Some(mask)) = (ip(entry.address), ip(entry.netmask)) {
            let length = u8::try_from(u32::from(mask).leading_ones()).unwrap_or(32);
            interface.addresses.push((address, length));
        }
    }
    Ok(interfaces.into_values().collect())
}

/// The multicast groups that are joined on an interface (/proc/net/igmp).
///
/// # Errors
/// Those of reading it: there is no multicast in this kernel.
pub fn groups(interface: &str) -> io::Result<Vec<Ipv4Addr>> {
    Ok(groups_in(&fs::read_to_string("/proc/net/igmp")?, interface))
}

/// A line of an interface, which begins with its index, is followed by one of each group, which begins with a tab.
fn groups_in(igmp: &str, interface: &str) -> Vec<Ipv4Addr> {
    let mut groups = Vec::new();
    let mut is_it = false;
    for line in igmp.lines().skip(1) {
        let mut words = line.split_whitespace();
        if line.starts_with(char::is_whitespace) {
            let group = words.next().and_then(|group| u32::from_str_radix(group, 16).ok());
            // The address's octets in the order of the network, written as a number of this machine.
            groups.extend(group.filter(|_| is_it).map(|group| Ipv4Addr::from(group.to_ne_bytes())));
        } else {
            is_it = words.nth(1).map(|name| name.trim_end_matches(':')) == Some(interface);
        }
    }
    groups
}

/// The firewall's rules, as the programs that there are list them.
pub fn firewall() -> Listed {
    Listed { nft: said("nft", &["-j", "list", "ruleset"]), iptables: said("iptables-save", &[]) }
}

/// What a program says; none: there is no such program.
fn said(program: &str, words: &[&str]) -> Option<Result<String, String>> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let program =
        path.split(':').map(|dir| format!("{dir}/{program}")).find(|it| fs::metadata(it).is_ok())?;
    let output = match Command::new(program).args(words).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => return Some(Err(error.to_string())),
    };
    Some(if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let problem = String::from_utf8_lossy(&output.stderr);
        Err(problem.lines().next().unwrap_or("it says no reason").trim().to_owned())
    })
}

/// What the agent needs of the kernel and is not there, each with how that was seen.
pub fn missing_features() -> Vec<(Feature, String)> {
    let with = |feature| seen(feature).err().map(|seen| (feature, seen));
    Feature::ALL.into_iter().filter_map(with).collect()
}

fn seen(feature: Feature) -> Result<(), String> {
    /// Only root is refused nothing, and the agent is root's.
    fn there(done: io::Result<()>) -> Result<(), String> {
        match done {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error.to_string()),
            _ => Ok(()),
        }
    }
    match feature {
        Feature::Userfaultfd => there(sys::userfaultfd()),
        Feature::Seccomp => there(sys::seccomp_traps()),
        Feature::Pidfd => there(sys::pidfd_getfd()),
        Feature::MemoryMarks => there(sys::memory_marks()),
        Feature::CrossMemory => {
            let (from, mut to) = ([7_u8; 1], [0_u8; 1]);
            let remote = RemoteIoVec { base: from.as_ptr().addr(), len: 1 };
            let read = process_vm_readv(nix::unistd::getpid(), &mut [IoSliceMut::new(&mut to)], &[remote]);
            there(read.map(drop).map_err(io::Error::from))
        }
        Feature::Namespaces => ["pid", "mnt", "net", "ipc", "uts"].into_iter().try_for_each(|kind| {
            let path = format!("/proc/self/ns/{kind}");
            there(fs::symlink_metadata(&path).map(drop)).map_err(|error| format!("{path}: {error}"))?;
            let limit = format!("/proc/sys/user/max_{kind}_namespaces");
            match fs::read_to_string(&limit) {
                Ok(most) if most.trim() == "0" => Err(format!("{limit} is 0")),
                _ => Ok(()),
            }
        }),
        Feature::Ptrace => match fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope") {
            Ok(scope) if scope.trim() == "3" => Err("kernel.yama.ptrace_scope is 3".to_owned()),
            _ => Ok(()),
        },
        Feature::Pagemap => there(fs::symlink_metadata("/proc/self/pagemap").map(drop)),
        Feature::Fuse => there(fs::symlink_metadata("/dev/fuse").map(drop)),
    }
}

/// `uname -r`.
pub fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "this kernel".into(), |text| text.trim().into())
}

/// What becomes of a TCP connection to each of these, all at once, within two seconds.
///
/// # Errors
/// Those of the runtime that connects.
pub fn reach(targets: &[SocketAddrV4]) -> io::Result<Vec<Reach>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut tries = JoinSet::new();
        for (index, target) in targets.iter().copied().enumerate() {
            let places = Arc::clone(&places);
            tries.spawn(async move {
                let _place = places.acquire().await;
                (index, reached(target).await)
            });
        }
        let mut reached = vec![Reach::Silent; targets.len()];
        while let Some(tried) = tries.join_next().await {
            if let Ok((index, reach)) = tried {
                reached[index] = reach;
            }
        }
        reached
    }))
}

async fn reached(target: SocketAddrV4) -> Reach {
    match timeout(PATIENCE, TcpStream::connect(target)).await {
        Ok(Ok(_)) => Reach::Answers,
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Reach::Refuses,
            // Nobody has said that the address is his (arp(7)).
            io::ErrorKind::HostUnreachable | io::ErrorKind::TimedOut => Reach::Silent,
            _ => Reach::NoWay(error.to_string()),
        },
        Err(_) => Reach::Silent,
    }
}

/// The address with which packets to another one leave, or why they do not.
///
/// # Errors
/// Those of connect(2), in words.
pub fn leaving_with(towards: Ipv4Addr) -> Result<Ipv4Addr, String> {
    crate::discovery::own_address(towards).map_err(|error| error.to_string())
}

/// /etc/hosts; nothing where it is not there.
pub fn hosts() -> String {
    fs::read_to_string("/etc/hosts").unwrap_or_default()
}

/// This machine's name.
pub fn host_name() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn groups_are_read_as_the_kernel_writes_them() {
        let igmp = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                    1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
                    2\teth0      :     2      V3\n\t\t\t\t6574C0EF     2 0:00000000\t\t1\n\
                    \t\t\t\t010000E0     1 0:00000000\t\t0\n\
                    3\teth0.7:     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        let all = Ipv4Addr::new(224, 0, 0, 1);
        assert_eq!(groups_in(igmp, "eth0"), [crate::discovery::GROUP, all]);
        assert_eq!((groups_in(igmp, "eth0.7"), groups_in(igmp, "eth1")), (vec![all], vec![]));
    }

    #[test]
    fn a_port_answers_or_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let targets = [&listener, &closed]
            .map(|it| SocketAddrV4::new(Ipv4Addr::LOCALHOST, it.local_addr().unwrap().port()));
        drop(closed);
        assert_eq!(reach(&targets).unwrap(), [Reach::Answers, Reach::Refuses]);
    }

    #[test]
    fn this_machine_is_read() {
        let interfaces = interfaces().unwrap();
        let lo = interfaces.iter().find(|interface| interface.name == "lo").unwrap();
        assert!(lo.addresses.is_empty() || lo.addresses.contains(&(Ipv4Addr::LOCALHOST, 8)));
        assert!(!kernel_release().is_empty() && !host_name().is_empty());
        assert_eq!(said("no such program", &[]), None);
        assert_eq!(said("true", &[]), Some(Ok(String::new())));
        assert_eq!(said("false", &[]), Some(Err("it says no reason".to_owned())));
    }
}
