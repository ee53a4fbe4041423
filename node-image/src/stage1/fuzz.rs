//! The fuzzer's way into what stage1 reads, and what must hold of what it makes of it.

use std::io::BufReader;
use std::time::Duration;

use super::cmdline::{self, Mac, Root};
use super::dhcp::{Client, Event, Lease};
use super::http::Reply;
use super::modules::{ModuleList, glob};
use super::sntp;
use crate::initramfs::{Depmod, choose};

const MAC: Mac = Mac([0x52, 0x54, 0, 1, 2, 3]);

/// Reads the octets as a kernel command line.
///
/// # Panics
/// On a mistake in this module.
pub fn cmdline(data: &[u8]) {
    let line = String::from_utf8_lossy(data);
    let args = match cmdline::parse(&line) {
        Ok(args) => args,
        Err(error) => {
            return assert!(error.to_string().contains("tesela.") || error.to_string().contains("BOOTIF"));
        }
    };
    // These become parts of an HTTP request, and of the options of a mount.
    let is_word = |word: &str| !word.is_empty() && !word.contains([' ', '\t', '\n', '\r']);
    assert!(is_word(&args.node));
    match args.root {
        Root::Nfs { export, .. } => {
            assert!(is_word(&export) && export.starts_with('/') && !export.contains(','))
        }
        Root::Ram { path, .. } => assert!(is_word(&path) && path.starts_with('/')),
    }
    // Where a word comes twice the last one holds: adding nothing new changes nothing.
    assert_eq!(cmdline::parse(&format!("{line} quiet")).map(|again| again.node), Ok(args.node));
}

/// Reads the data as a series of steps: a control octet, a length octet times four, that many octets of
/// packet; among the control's bits, whether the packet gets the client's own transaction.
///
/// # Panics
/// Where the client does something that it must not.
pub fn dhcp(data: &[u8]) {
    let Some((&mode, mut rest)) = data.split_first() else { return };
    let mut now = Duration::ZERO;
    let mut client = Client::new(MAC, (mode & 1 != 0).then_some([7; 16]), 0x0102_0304, now);
    let mut sent = vec![0; 8];
    let mut offered = Vec::new();
    while let [control, length, more @ ..] = rest {
        let (packet, after) = more.split_at(more.len().min(usize::from(*length) * 4));
        rest = after;
        now += Duration::from_secs(u64::from(control >> 4));
        if let Some(request) = client.poll(now) {
            assert!(request.len() >= 300 && request[..3] == [1, 1, 6] && request[28..34] == MAC.0);
            assert!(client.due() > now, "it would ask again at once");
            sent = request;
        }
        let mut packet = packet.to_vec();
        if control & 1 != 0 && packet.len() >= 240 {
            packet[..3].copy_from_slice(&[2, 1, 6]);
            packet[4..8].copy_from_slice(&sent[4..8]);
            packet[28..34].copy_from_slice(&MAC.0);
            packet[236..240].copy_from_slice(&[99, 130, 83, 99]);
        }
        match client.receive(&packet, now) {
            Some(Event::Progress) => offered = packet[16..20].to_vec(),
            Some(Event::Bound(lease)) => {
                check_lease(&lease);
                assert!(lease.address.octets()[..] == offered, "nobody offered {}", lease.address);
                client = Client::renew(MAC, None, &lease, 0x0102_0304, now);
            }
            Some(Event::Refused(why)) => assert!(!why.contains(char::is_control), "{why:?}"),
            None => {}
        }
    }
}

fn check_lease(lease: &Lease) {
    let address = lease.address;
    assert!(!address.is_unspecified() && !address.is_multicast() && !address.is_loopback());
    assert!(lease.prefix <= 32 && lease.mtu.is_none_or(|mtu| mtu >= 576));
    // It becomes a line of resolv.conf.
    let domain = lease.domain.as_deref().unwrap_or("none");
    assert!(!domain.is_empty() && domain.chars().all(|c| c.is_ascii_graphic()), "{domain:?}");
}

/// Reads the octets as an answer of HTTP, through a buffer of the size that the first one says.
///
/// # Panics
/// On a mistake in this module.
pub fn http(data: &[u8]) {
    let Some((&size, answer)) = data.split_first() else { return };
    let mut body = Vec::new();
    let reply = Reply::read(BufReader::with_capacity(usize::from(size) + 1, answer));
    match reply.and_then(|reply| reply.copy(&mut body)) {
        Ok(length) => {
            assert_eq!(length, body.len() as u64);
            assert!(
                answer.starts_with(b"HTTP/1.")
                    && answer.windows(body.len().max(1)).any(|part| part == body || body.is_empty())
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Reads the octets as an answer of SNTP.
///
/// # Panics
/// On a mistake in this module.
pub fn sntp(data: &[u8]) {
    let mark = data.get(24..32).and_then(|mark| mark.try_into().ok()).unwrap_or([0; 8]);
    if let Some(Ok(time)) = sntp::answer(data, mark) {
        assert!(data.len() >= sntp::PACKET && data[0] & 7 == 4 && data[1] != 0);
        assert!(time < Duration::from_secs(1 << 32), "behind the era of 2036");
    }
}

/// Reads the octets as the files of depmod(8) that an image has, parted by NUL, with the name of a
/// device behind them; and as the list that an initramfs has.
///
/// # Panics
/// On a mistake in this module or in the initramfs's.
pub fn kernel_modules(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parts: Vec<&str> = text.split('\0').collect();
    let part = |at: usize| parts.get(at).copied().unwrap_or_default();
    let depmod = Depmod::parse(part(0), part(1), part(2), part(3));
    for name in depmod.modules.keys().take(20) {
        assert!(depmod.closure([name.as_str()]).contains(name.as_str()));
    }
    let list = choose(&depmod);
    assert_eq!(ModuleList::parse(&list.to_text()), Ok(list.clone()), "written as read");
    let lists = [Some(list), ModuleList::parse(&text).ok()];
    for list in lists.into_iter().flatten() {
        assert_eq!(ModuleList::parse(&list.to_text()).as_ref(), Ok(&list));
        for name in list.modules.keys().take(20) {
            let order = list.order(name);
            assert_eq!(order.last(), Some(&name.as_str()), "the module itself comes last");
        }
        for driver in list.drivers(part(4)).take(20) {
            assert!(
                list.aliases
                    .iter()
                    .any(|(pattern, name)| name == driver && glob(pattern.as_bytes(), part(4).as_bytes()))
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn replay(name: &str, target: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let mut replayed = 0;
        for entry in std::fs::read_dir(&corpus).unwrap() {
            target(&std::fs::read(entry.unwrap().path()).unwrap());
            replayed += 1;
        }
        assert!(replayed > 0, "{} is empty", corpus.display());
    }

    #[test]
    fn the_corpora_of_the_fuzzers_hold() {
        replay("stage1_cmdline", super::cmdline);
        replay("stage1_dhcp", super::dhcp);
        replay("stage1_http", super::http);
        replay("stage1_sntp", super::sntp);
        replay("kernel_modules", super::kernel_modules);
    }
}
