//! What the fuzzer sends to the HTTP port of a whole master, and what must hold of the answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::{Metrics, Service, connection, router};
use crate::boot::{Beginning, Paths, Site, Tokens, context};
use crate::inventory::Inventory;

const CLUSTER: &str = "cluster: aula
master: {interface: eth1, address: 10.0.0.1/24, range: 10.0.0.100-10.0.0.199, unknown: register}
images: {base: {from: debian:bookworm}}
profiles: {node: {image: base}, ram: {image: base, root: ram}}
nodes:
  n1: {mac: 02:00:00:00:00:01, address: 10.0.0.11, profile: node}
  n2: {mac: 02:00:00:00:00:02, address: 10.0.0.12, profile: ram}
  n3: {mac: 02:00:00:00:00:03, profile: node}
";
/// What a build says of itself.
const BUILD: &str = r#"{"inputs":"","source":"debian:bookworm","kernel":"6.1","built_at":1,"seconds":1,
    "inodes":1,"size":1,"initramfs_size":1,"stage1":"","squashfs_sha256":"00","dropped_xattrs":[]}"#;
/// The content of the one file that is served from the disk.
const KERNEL: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// Stands in the files beside it, which nobody may be sent.
const SECRET: &[u8] = b"in no answer whatever";

/// Gives the same token to all, and has no figures.
struct Plain;

impl Tokens for Plain {
    fn issue_join(&self, _: &str) -> String {
        String::new()
    }

    fn issue(&self, _: &str, _: Option<Ipv4Addr>) -> String {
        "token".to_owned()
    }
    fn fetched(&self, _: &str) {}
}

impl Metrics for Plain {
    fn text(&self) -> String {
        "# EOF\n".to_owned()
    }
}

/// A master without sockets, and its directory, which goes with it.
struct Master {
    router: Router,
    directory: PathBuf,
}

impl Master {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tesela-fuzz-http-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let router =
            Self::start(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        Self { router, directory }
    }

    fn start(directory: &Path) -> Result<Router, Box<dyn std::error::Error>> {
        let write = |path: &str, content: &[u8]| {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(directory))?;
            std::fs::write(path, content)
        };
        write("cluster.yaml", CLUSTER.as_bytes())?;
        write("state/images/base/1/kernel", KERNEL)?;
        write("state/images/base/1/build.json", BUILD.as_bytes())?;
        for beside in ["secret", "state/secret", "state/images/secret", "state/images/base/1/secret"] {
            write(beside, SECRET)?;
        }
        std::os::unix::fs::symlink("1", directory.join("state/images/base/current"))?;
        let state = directory.join("state");
        let paths = Paths {
            config: directory.join("cluster.yaml"),
            templates: directory.join("templates"),
            state: state.clone(),
        };
        let keys = context::Keys {
            ssh_host_ca: String::new(),
            ssh_user_ca: String::new(),
            ca_sha256: "00".to_owned(),
        };
        let inventory = Arc::new(Inventory::open(&state.join("tesela.db"))?);
        let site = Arc::new(Site::open(Beginning::read(paths)?, inventory, keys, Arc::new(Plain))?);
        Ok(router(Service { site, metrics: Arc::new(Plain) }))
    }

    /// All that is answered to these octets.
    fn answer(&self, peer: SocketAddr, request: &[u8]) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
        let router = self.router.clone();
        let answer = runtime.block_on(async {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            let (mut read, mut write) = tokio::io::split(ours);
            let mut answer = Vec::new();
            let client = async {
                // A server that has read enough closes the connection under the rest.
                let _closed = write.write_all(request).await;
                let _closed = write.shutdown().await;
                read.read_to_end(&mut answer).await
            };
            let ((), read) = tokio::join!(connection(theirs, peer, router, CancellationToken::new()), client);
            read.unwrap_or_else(|error| panic!("{error}"));
            answer
        });
        check(request, &answer);
        answer
    }

    /// Sends the octets over a connection to the HTTP port, from the machine that the first one says.
    fn take(&self, data: &[u8]) {
        let Some((&peer, request)) = data.split_first() else { return };
        // A port below 1024 is root's.
        let (peer, port) = match peer {
            b'1' => (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 11)), 1023),
            b'2' => (IpAddr::V6(Ipv4Addr::new(10, 0, 0, 12).to_ipv6_mapped()), 1023),
            b'6' => (IpAddr::V6(Ipv6Addr::LOCALHOST), 1023),
            b'u' => (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 11)), 1024),
            _ => (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 200)), 1023),
        };
        self.answer(SocketAddr::from((peer, port)), request);
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // It is in the directory for temporary files.
        let _left = std::fs::remove_dir_all(&self.directory);
    }
}

/// Sends the octets over a connection to the HTTP port of one and the same master.
///
/// # Panics
/// Where an answer is not what it has to be.
pub fn http_request(data: &[u8]) {
    static MASTER: OnceLock<Master> = OnceLock::new();
    MASTER.get_or_init(Master::new).take(data);
}

/// Checks the first answer of a connection, and that none of them holds what is not served.
fn check(request: &[u8], answer: &[u8]) {
    assert!(!answer.windows(SECRET.len()).any(|part| part == SECRET), "a file that is not served");
    let Some(end) = answer.windows(4).position(|part| part == b"\r\n\r\n") else {
        return assert!(answer.is_empty(), "an answer without an end of its head");
    };
    let (head, body) = (String::from_utf8_lossy(&answer[..end]).to_lowercase(), &answer[end + 4..]);
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let status = head.split(' ').nth(1).unwrap_or_default();
    assert!(head.starts_with("http/1.") && status.len() == 3, "{head}");
    assert_ne!(status, "500", "a fault of ours: {head}");
    let length: Option<usize> = field("content-length").and_then(|length| length.parse().ok());
    if matches!(status, "200" | "206") && !request.starts_with(b"HEAD") {
        let length = length.unwrap_or_else(|| panic!("no length: {head}"));
        assert!(body.len() >= length, "{} of {length} octets", body.len());
        if let Some(range) = field("content-range") {
            let range = range.strip_prefix("bytes ").and_then(|range| range.strip_suffix("/36"));
            let (from, to) =
                range.and_then(|range| range.split_once('-')).unwrap_or_else(|| panic!("{head}"));
            let at = |text: &str| text.parse::<usize>().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(body[..length], KERNEL[at(from)..=at(to)], "{head}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_the_fuzzer_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/http_request");
        let master = Master::new();
        let mut replayed = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            master.take(&std::fs::read(entry.unwrap().path()).unwrap());
            replayed += 1;
        }
        assert!(replayed > 10, "the corpus is not there");
    }

    #[test]
    fn a_range_a_script_and_a_report_are_answered() {
        let master = Master::new();
        let ask = |from: [u8; 4], request: &str| {
            let from = SocketAddr::from((from, 1023));
            String::from_utf8(master.answer(from, request.as_bytes())).unwrap()
        };
        let node = [10, 0, 0, 11];
        let part = ask(node, "GET /images/base/1/kernel HTTP/1.1\r\nHost: x\r\nRange: bytes=2-4\r\n\r\n");
        assert!(part.starts_with("HTTP/1.1 206 ") && part.ends_with("\r\n\r\n234"), "{part}");
        let script = ask(node, "GET /boot.ipxe?mac=02:00:00:00:00:01 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(script.starts_with("HTTP/1.1 200 ") && script.contains("tesela.node=n1"), "{script}");
        let report = r#"{"node":"n1","mac":"02:00:00:00:00:01","stage":"root"}"#;
        let head = format!("POST /report HTTP/1.1\r\nHost: x\r\nContent-Length: {}", report.len());
        let post = format!("{head}\r\n\r\n{report}");
        assert!(ask(node, &post).starts_with("HTTP/1.1 204 "));
        assert!(ask([10, 0, 0, 12], &post).starts_with("HTTP/1.1 403 "));
    }
}
