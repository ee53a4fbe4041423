//! Enrolment and agents over loopback, with real TLS. Root is needed for the source port of an enrolment.

use std::io::Write;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tesela_runtime::agent::Config;
use tesela_runtime::enroll::join::{JoinToken, join};
use tesela_runtime::enroll::{EnrollError, Enrolment, NodeKeys, enroll};
use tesela_runtime::wire::tls::{self, Fingerprint, Identity};
use tesela_runtime::wire::{self, ToMaster, ToNode, frame};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::*;

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[derive(Debug, PartialEq)]
enum Told {
    Enrolled(String),
    Refused(Option<String>, String),
    Joined(String),
    Heartbeat(String),
    Gone(String, String),
}

/// One node at 127.0.0.1, under a name that can change.
struct Fake {
    here: Mutex<Option<String>>,
    port: std::sync::OnceLock<u16>,
    peers: Mutex<Vec<Peer>>,
    told: mpsc::UnboundedSender<Told>,
}

impl Fake {
    fn tell(&self, told: Told) {
        self.told.send(told).unwrap();
    }
}

impl Members for Fake {
    fn master(&self) -> Option<Ipv4Addr> {
        None
    }

    fn at(&self, address: Ipv4Addr) -> Option<Member> {
        let name = self.here.lock().unwrap().clone().filter(|_| address == HERE)?;
        Some(Member { names: vec![name.clone(), format!("{name}.aula")], name, joins: false })
    }
    fn joining(&self, node: &str, _: Ipv4Addr) -> Option<Member> {
        (node == "laptop").then(|| Member { name: node.into(), names: vec![node.into()], joins: true })
    }
    fn agent_config(&self, node: &str) -> Result<String, String> {
        Ok(format!(
            r#"{{"cluster": "aula", "node": "{node}", "master": "127.0.0.1", "control_port": {}, "http_port": 80}}"#,
            self.port.get().unwrap()
        ))
    }
    fn peers(&self, node: &str) -> Option<Vec<Peer>> {
        (node == "laptop").then(|| self.peers.lock().unwrap().clone())
    }
    fn enrolled(&self, node: &str) {
        self.tell(Told::Enrolled(node.into()));
    }
    fn refused(&self, _: Ipv4Addr, node: Option<&str>, reason: &str) {
        self.tell(Told::Refused(node.map(Into::into), reason.into()));
    }
    fn joined(&self, node: &str, _: Ipv4Addr, _: &Hello) {
        self.tell(Told::Joined(node.into()));
    }
    fn heartbeat(&self, node: &str, _: &Heartbeat) {
        self.tell(Told::Heartbeat(node.into()));
    }
    fn gone(&self, node: &str, reason: &str) {
        self.tell(Told::Gone(node.into(), reason.into()));
    }
}

struct Master {
    state: tempfile::TempDir,
    control: Arc<Control>,
    members: Arc<Fake>,
    told: mpsc::UnboundedReceiver<Told>,
    address: SocketAddrV4,
    stop: CancellationToken,
}

impl Master {
    async fn start() -> Master {
        Self::at(tempfile::tempdir().unwrap(), "127.0.0.1:0".parse().unwrap()).await
    }

    async fn at(state: tempfile::TempDir, address: SocketAddr) -> Master {
        let (sender, told) = mpsc::unbounded_channel();
        let members = Arc::new(Fake {
            here: Mutex::new(Some("n1".into())),
            port: std::sync::OnceLock::new(),
            peers: Mutex::default(),
            told: sender,
        });
        let keys = Arc::new(Keys::open(&state.path().join("keys"), "aula").unwrap());
        let control = Arc::new(Control {
            tls: keys.server_config(HERE).unwrap(),
            keys,
            members: members.clone(),
            agents: Agents::default(),
            metrics: Metrics::default(),
        });
        let listener = TcpListener::bind(address).await.unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("it listens on IPv4") };
        members.port.set(address.port()).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(control.clone(), listener, stop.clone()));
        Master { state, control, members, told, address, stop }
    }

    async fn told(&mut self) -> Told {
        self.told.recv().await.unwrap()
    }

    /// Waits until so many strangers were counted, which may be after they see their connection closed.
    async fn strangers(&self, count: u64) {
        let counted = async {
            while self.control.metrics.strangers.get() != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, counted).await.unwrap();
    }

    fn enrolment(&self, node: &str) -> Enrolment {
        Enrolment {
            node: node.into(),
            master: self.address,
            ca: self.control.keys.ca_fingerprint(),
            token: self.control.keys.issue_token(node, Some(HERE)),
        }
    }

    async fn enrolled(&mut self) -> tempfile::TempDir {
        let keys = ask(self.enrolment("n1")).await.unwrap();
        assert_eq!(self.told().await, Told::Enrolled("n1".into()));
        let directory = tempfile::tempdir().unwrap();
        keys.store(directory.path()).unwrap();
        directory
    }

    fn config(&self, keys: &Path) -> Config {
        Config {
            cluster: "aula".into(),
            node: "n1".into(),
            master: HERE,
            control_port: self.address.port(),
            http_port: 80,
            kept: None,
            hpc: None,
            keys: keys.into(),
            address: None,
            agents_port: 0,
            trusted: false,
            speed: None,
            share: tesela_runtime::balance::Share::Always,
            peers: PathBuf::new(),
        }
    }

    /// An agent of the test's own, as far as the end of TLS.
    async fn connect(
        &self,
        identity: Option<Identity>,
    ) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        let config = tls::client_config(self.control.keys.ca_fingerprint(), wire::AGENT, identity).unwrap();
        let socket = tokio::net::TcpStream::connect(self.address).await.unwrap();
        tokio_rustls::TlsConnector::from(config).connect(tls::master_name(), socket).await.unwrap()
    }
}

async fn ask(enrolment: Enrolment) -> Result<NodeKeys, EnrollError> {
    tokio::task::spawn_blocking(move || enroll(&enrolment, Duration::ZERO)).await.unwrap()
}

async fn refusal(enrolment: Enrolment) -> wire::Refusal {
    match ask(enrolment).await {
        Err(EnrollError::Refused(refusal)) => refusal,
        other => panic!("not refused: {:?}", other.map(|_| ())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_enrols_and_its_agent_is_a_member() {
    let mut master = Master::start().await;
    let keys = master.enrolled().await;
    let config = master.config(keys.path());
    let (stop, stopped) = oneshot::channel::<()>();
    let agent = tokio::spawn(async move {
        tesela_runtime::agent::run(&config, None, async { drop(stopped.await) }).await;
    });
    assert_eq!(master.told().await, Told::Joined("n1".into()));
    assert_eq!(master.control.agents.connected(), ["n1"]);

    let agents = &master.control.agents;
    let paths = || (0..3000).map(|i| format!("/etc/file-{i}"));
    agents.refresh("n1", paths(), PATIENCE).await.unwrap();
    let too_long = format!("/{}", "x".repeat(300));
    let failed = agents.refresh("n1", [too_long], PATIENCE).await;
    assert!(matches!(failed, Err(AskError::Failed(_))), "{failed:?}");
    assert_eq!(agents.refresh("n2", paths(), PATIENCE).await, Err(AskError::NotConnected));

    assert_eq!(master.told().await, Told::Heartbeat("n1".into()));
    stop.send(()).unwrap();
    agent.await.unwrap();
    assert_eq!(master.told().await, Told::Gone("n1".into(), Ended::Closed.to_string()));
    assert!(master.control.agents.connected().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_comes_back_after_a_restart_of_the_master() {
    let mut master = Master::start().await;
    let keys = master.enrolled().await;
    let config = master.config(keys.path());
    let agent =
        tokio::spawn(async move { tesela_runtime::agent::run(&config, None, std::future::pending()).await });
    assert_eq!(master.told().await, Told::Joined("n1".into()));

    // Its token, issued before, is still good after, for the one that it enrolled.
    let early = master.enrolment("n1");
    master.stop.cancel();
    assert_eq!(master.told().await, Told::Gone("n1".into(), "the master stops".into()));
    let Master { state, address, .. } = master;
    let mut master = Master::at(state, address.into()).await;
    assert_eq!(master.told().await, Told::Joined("n1".into()));

    // It boots: the old certificate, still connected, is none any more.
    ask(early).await.unwrap();
    assert_eq!(master.told().await, Told::Enrolled("n1".into()));
    assert!(matches!(master.told().await, Told::Refused(Some(node), _) if node == "n1"));
    assert!(master.control.agents.connected().is_empty());
    agent.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_nobody_boots_joins_by_token() {
    let mut master = Master::start().await;
    *master.members.here.lock().unwrap() = None;
    let machine = tempfile::tempdir().unwrap();
    let (path, keys) = (machine.path().join("etc/teselad.json"), machine.path().join("keys"));
    let token = JoinToken {
        node: "laptop".into(),
        ca: master.control.keys.ca_fingerprint(),
        secret: master.control.keys.issue_join_token("laptop"),
    };
    let joins = {
        let (master, path, keys) = (master.address, path.clone(), keys.clone());
        move |token: JoinToken| {
            let (path, keys) = (path.clone(), keys.clone());
            tokio::task::spawn_blocking(move || join(master, &token, &path, &keys))
        }
    };
    // A token for a boot is none for this.
    let booting = JoinToken { secret: master.control.keys.issue_token("laptop", None), ..token.clone() };
    let error = joins(booting).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("not issued to this node"), "{error}");
    assert!(!path.exists() && !keys.exists());
    assert!(matches!(master.told().await, Told::Refused(None, _)));

    let config = joins(token.clone()).await.unwrap().unwrap();
    assert_eq!(master.told().await, Told::Enrolled("laptop".into()));
    assert_eq!(Config::read(&path).unwrap(), config);
    assert_eq!((config.node.as_str(), &config.keys, config.peers().unwrap().0.len()), ("laptop", &keys, 0));
    let error = joins(token.clone()).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("used up"), "{error}");
    assert!(matches!(master.told().await, Told::Refused(None, _)));

    // Its certificate says who it is, and it hears of the others as they come.
    let agent = {
        let config = config.clone();
        tokio::spawn(async move { tesela_runtime::agent::run(&config, None, std::future::pending()).await })
    };
    assert_eq!(master.told().await, Told::Joined("laptop".into()));
    *master.members.here.lock().unwrap() = Some("laptop".into());
    let peers: Vec<Peer> = (0..1000)
        .map(|number| Peer { name: format!("n{number}"), address: Some(Ipv4Addr::from(number)) })
        .collect();
    master.members.peers.lock().unwrap().clone_from(&peers);
    // What has been said by the next one but one has been written down.
    for _ in 0..2 {
        assert_eq!(master.told().await, Told::Heartbeat("laptop".into()));
    }
    assert_eq!(config.peers().unwrap().0, peers);
    agent.abort();

    // It is nobody else, whoever asks.
    let other = JoinToken { node: "n7".into(), ..token };
    let error = joins(other).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("is laptop of the cluster aula already"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_the_node_is_not_enrolled() {
    let mut master = Master::start().await;
    let foreign =
        Enrolment { token: master.control.keys.issue_token("n2", Some(HERE)), ..master.enrolment("n1") };
    assert!(refusal(foreign).await.reason.contains("not issued to this node"));
    assert!(refusal(master.enrolment("n2")).await.reason.contains("not the address of a node n2"));
    let used = master.enrolment("n1");
    ask(used.clone()).await.unwrap();
    let refused = refusal(used).await;
    assert!(refused.boot_again && refused.reason.contains("used up"), "{refused:?}");

    let another = Enrolment { ca: Fingerprint([7; 32]), ..master.enrolment("n1") };
    let error = ask(another).await.err().unwrap();
    assert!(matches!(error, EnrollError::Master { .. }), "{error}");

    *master.members.here.lock().unwrap() = None;
    assert!(refusal(master.enrolment("n1")).await.reason.contains("not the address"));
    let mut refused = 0;
    while refused < 4 {
        match master.told().await {
            Told::Refused(..) => refused += 1,
            Told::Enrolled(node) => assert_eq!(node, "n1"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(master.control.metrics.refused.get(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_cannot_enrol_the_node() {
    let master = Master::start().await;
    let enrolment = master.enrolment("n1");
    let config = tls::client_config(enrolment.ca, wire::ENROLL, None).unwrap();
    let socket = tokio::net::TcpStream::connect(master.address).await.unwrap();
    assert!(socket.local_addr().unwrap().port() >= 1024);
    let mut stream =
        tokio_rustls::TlsConnector::from(config).connect(tls::master_name(), socket).await.unwrap();
    let request = wire::EnrollRequest {
        node: "n1".into(),
        token: enrolment.token,
        certificate_request: String::new(),
        ssh_host_public_key: String::new(),
    };
    frame::send(&mut stream, &request).await.unwrap();
    match wire::FrameReader::new(stream).next().await.unwrap() {
        Some(wire::EnrollReply::Refused(refusal)) => assert!(refusal.reason.contains("below 1024")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_needs_the_last_certificate_of_the_node_at_its_address() {
    let mut master = Master::start().await;
    let old = master.enrolled().await;
    let _new = master.enrolled().await;
    for identity in [None, Some(NodeKeys::identity(old.path()).unwrap().0)] {
        let stream = master.connect(identity).await;
        assert!(!matches!(wire::FrameReader::new(stream).next::<ToNode>().await, Ok(Some(_))));
        assert!(matches!(master.told().await, Told::Refused(Some(_), _)));
    }
    // The very certificate, but another node holds the address.
    *master.members.here.lock().unwrap() = Some("n2".into());
    let stream = master.connect(Some(NodeKeys::identity(old.path()).unwrap().0)).await;
    assert!(!matches!(wire::FrameReader::new(stream).next::<ToNode>().await, Ok(Some(_))));
    assert!(matches!(master.told().await, Told::Refused(Some(node), _) if node == "n2"));

    // A certificate of another CA does not get through TLS.
    let other = tempfile::tempdir().unwrap();
    let other = Keys::open(other.path(), "aula").unwrap();
    assert_ne!(other.ca_fingerprint(), master.control.keys.ca_fingerprint());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_connection_takes_the_place_of_the_first_and_a_lost_address_ends_it() {
    let mut master = Master::start().await;
    let keys = master.enrolled().await;
    let hello = || {
        ToMaster::Hello(Hello {
            boot_id: String::new(),
            version: String::new(),
            kernel: String::new(),
            uptime_seconds: 0,
        })
    };
    let identity = || Some(NodeKeys::identity(keys.path()).unwrap().0);
    let mut first = master.connect(identity()).await;
    frame::send(&mut first, &hello()).await.unwrap();
    assert_eq!(master.told().await, Told::Joined("n1".into()));
    let mut second = master.connect(identity()).await;
    frame::send(&mut second, &hello()).await.unwrap();
    assert_eq!(master.told().await, Told::Joined("n1".into()));
    let mut first = wire::FrameReader::new(first);
    assert!(matches!(first.next().await, Ok(Some(ToNode::Welcome(_)))));
    assert!(matches!(first.next::<ToNode>().await, Ok(None)));

    *master.members.here.lock().unwrap() = None;
    let heartbeat = Heartbeat {
        load_hundredths: 0,
        memory_total_kib: 0,
        memory_available_kib: 0,
        uptime_seconds: 0,
        clock_ms: None,
    };
    frame::send(&mut second, &ToMaster::Heartbeat(heartbeat)).await.unwrap();
    assert_eq!(master.told().await, Told::Gone("n1".into(), Ended::NotAMember.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversize_message_costs_the_connection_and_nothing_else() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut master = Master::start().await;
    let keys = master.enrolled().await;
    let mut stream = master.connect(Some(NodeKeys::identity(keys.path()).unwrap().0)).await;
    stream.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    let mut rest = Vec::new();
    let _closed_one_way_or_the_other = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    master.strangers(1).await;
    // No TLS at all.
    let address = master.address;
    tokio::task::spawn_blocking(move || {
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let _closed_one_way_or_the_other = std::io::Read::read_to_end(&mut socket, &mut Vec::new());
    })
    .await
    .unwrap();
    master.strangers(2).await;
    master.enrolled().await;
}
