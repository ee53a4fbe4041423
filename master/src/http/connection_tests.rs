//! HTTP over real sockets.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tesela_runtime::port::connect_privileged;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::boot::testing::{self, Noted};
use crate::inventory::Stage;

/// The node is at 127.0.0.1, which is where the tests call from.
const CLUSTER: &str = "\
cluster: aula
master: {interface: lo, address: 127.0.0.9/8}
images: {base: {from: \"dir:/\"}}
profiles: {node: {image: base, root: ram}}
nodes: {n1: {mac: 02:00:00:00:00:01, address: 127.0.0.1, profile: node}}
";

struct NoMetrics;

impl Metrics for NoMetrics {
    fn text(&self) -> String {
        String::new()
    }
}

struct Serving {
    runtime: Runtime,
    address: SocketAddrV4,
    site: Arc<Site>,
    tokens: Arc<Noted>,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

fn serving(state: &Path) -> Serving {
    std::fs::write(state.join("cluster.yaml"), CLUSTER).unwrap();
    let tokens = Arc::new(Noted::default());
    let site = Arc::new(testing::open(state, Arc::clone(&tokens)).unwrap());
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!("it is bound to IPv4") };
    let stop = CancellationToken::new();
    let router = router(Service { site: Arc::clone(&site), metrics: Arc::new(NoMetrics) });
    let served = runtime.spawn(serve(listener, router, stop.clone()));
    Serving { runtime, address, site, tokens, stop, served }
}

/// The answer to a request, status line first.
fn ask(mut stream: TcpStream, method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn only_root_of_a_node_speaks_for_it() {
    let state = tempfile::tempdir().unwrap();
    let serving = serving(state.path());
    let by_root = || connect_privileged(serving.address, Duration::from_secs(5)).unwrap();
    let by_user = || TcpStream::connect(serving.address).unwrap();
    let report = r#"{"node": "n1", "mac": "02:00:00:00:00:01", "stage": "agent"}"#;
    let refused = ask(by_user(), "POST", "/report", report);
    assert!(refused.contains(" 403 ") && refused.contains("below 1024"), "{refused}");
    assert!(serving.site.inventory.node("n1").is_none());
    let taken = ask(by_root(), "POST", "/report", report);
    assert!(taken.contains(" 204 "), "{taken}");
    assert_eq!(serving.site.inventory.node("n1").unwrap().stage, Stage::Agent);

    let rendered = "/nodes/n1/rendered.tar";
    assert!(ask(by_user(), "GET", rendered, "").contains(" 403 "));
    let archive = ask(by_root(), "GET", rendered, "");
    assert!(archive.contains(" 200 ") && archive.contains("etc/hostname"), "{archive}");
}

#[test]
fn a_file_that_the_loader_fetches_prolongs_the_life_of_the_nodes_token() {
    let state = tempfile::tempdir().unwrap();
    let serving = serving(state.path());
    let script = "/boot.ipxe?mac=02:00:00:00:00:09";
    let answer = ask(TcpStream::connect(serving.address).unwrap(), "GET", script, "");
    assert!(answer.contains(" 200 "), "{answer}");
    assert_eq!(*serving.tokens.0.lock().unwrap(), ["n1"]);
}

#[test]
fn a_machine_that_nobody_knows_is_told_how_it_becomes_a_node() {
    let state = tempfile::tempdir().unwrap();
    let serving = serving(state.path());
    for path in ["/boot.ipxe?mac=02:00:00:00:00:09", "/grub/node/02:00:00:00:00:09"] {
        let answer = ask(TcpStream::connect(serving.address).unwrap(), "GET", path, "");
        assert!(answer.contains(" 200 ") && answer.contains("tesela node accept NAME"), "{answer}");
    }
}

#[test]
fn one_client_cannot_take_all_connections_nor_hold_up_a_shutdown() {
    let state = tempfile::tempdir().unwrap();
    let serving = serving(state.path());
    let idle: Vec<TcpStream> =
        (0..CONNECTIONS_EACH).map(|_| TcpStream::connect(serving.address).unwrap()).collect();
    // The places are taken one after the other, so this one is the first too many.
    let mut refused = TcpStream::connect(serving.address).unwrap();
    refused.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let end = refused.read(&mut [0; 1]);
    assert!(matches!(end, Ok(0)) || end.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
    let begun = Instant::now();
    serving.stop.cancel();
    serving.runtime.block_on(serving.served).unwrap();
    assert!(begun.elapsed() < DRAIN + Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(idle);
}
