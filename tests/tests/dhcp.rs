//! The DHCP server against clients that nobody here wrote, in private network namespaces.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tempfile::TempDir;
use tesela::cluster::Mac;
use tesela::dhcp::{FoundServer, Mode, Outcome, StartError, find_servers};
use tesela_tests::dhcp::Setup;
use tesela_tests::netns::Namespace;
use tesela_tests::ready::{Port, PortWatch};

const SERVER: &str = "10.77.0.1/24";

/// A namespace for the server and one for a client, linked: `srv` and `cli`.
struct Wire {
    server: Namespace,
    client: Namespace,
    directory: TempDir,
}

impl Wire {
    fn new() -> Self {
        let (server, client) = (Namespace::new(), Namespace::new());
        server.link("srv", SERVER, &client, "cli", "");
        Self { server, client, directory: tempfile::tempdir().unwrap() }
    }

    fn setup(&self) -> Setup {
        let range = (Ipv4Addr::new(10, 77, 0, 100), Ipv4Addr::new(10, 77, 0, 149));
        Setup::new("srv", SERVER, Some(range))
    }

    fn leases(&self) -> PathBuf {
        self.directory.path().join("leases.db")
    }

    fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        run(Command::new("chmod").arg("755").arg(&path));
        path
    }

    /// One run of dhclient until it is bound or ends: what it wrote. Its lease file stays between runs.
    fn dhclient(&self, arguments: &[&str]) -> String {
        let file = |name: &str| self.directory.path().join(name);
        let configure = "[ -z \"$new_ip_address\" ] || ip addr replace $new_ip_address/24 dev $interface";
        let mut command = self.client.command("dhclient");
        command
            .args(["-4", "-d", "-1", "-cf", "/dev/null", "-sf"])
            .arg(self.script("dhclient.sh", configure));
        command.arg("-lf").arg(file("dhclient.leases")).arg("-pf").arg(file("dhclient.pid"));
        let mut client = Running::start(command.args(arguments).arg("cli").stderr(Stdio::piped()));
        let mut text = String::new();
        for line in BufReader::new(client.0.stderr.as_mut().unwrap()).lines().map_while(Result::ok) {
            text += &(line + "\n");
            if text.contains("bound to") {
                break;
            }
        }
        text
    }

    /// The server as a process of its own.
    fn process(&self) -> Running {
        let mut command = self.server.command(env!("CARGO_BIN_EXE_dhcp-server"));
        command.args(["srv", SERVER, "10.77.0.100", "10.77.0.149"]).arg(self.leases());
        let mut server = Running::start(&mut command);
        server.wait_for("ready");
        server
    }

    fn set_mac(&self, mac: &str) -> Mac {
        self.client.ip("link set cli down");
        self.client.ip(&format!("link set cli address {mac}"));
        self.client.ip("link set cli up");
        mac.parse().unwrap()
    }

    /// One run of udhcpc; its script prints what it got.
    fn udhcpc(&self, arguments: &[&str]) -> String {
        let shown = "$1 ip=$ip router=$router boot=$boot_file siaddr=$siaddr lease=$lease";
        let script = self.script("udhcpc.sh", &format!("echo \"{shown}\""));
        let mut command = self.client.command("udhcpc");
        command
            .args(["-i", "cli", "-f", "-q", "-n", "-t", "5", "-T", "1", "-s"])
            .arg(&script)
            .args(arguments);
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

/// A program that is killed when the test ends.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Waits for a line of its output that contains this.
    fn wait_for(&mut self, text: &str) {
        let output = BufReader::new(self.0.stdout.as_mut().unwrap());
        assert!(
            output.lines().map_while(Result::ok).any(|line| line.contains(text)),
            "it ended without `{text}`"
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        self.0.wait().unwrap();
    }
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {text}");
    text
}

#[test]
fn udhcpc_gets_the_address_of_its_machine_whatever_it_calls_itself() {
    let wire = Wire::new();
    let mut setup = wire.setup();
    let mac = wire.set_mac("02:00:00:00:77:07");
    setup.known.insert(mac, Ipv4Addr::new(10, 77, 0, 7));
    let (server, policy) = wire.server.run(|| setup.start(&wire.leases()));
    for arguments in
        [&[][..], &["-C"], &["-x", "0x3d:ff00112233"], &["-V", "PXEClient:Arch:00000:UNDI:002001"]]
    {
        let text = wire.udhcpc(arguments);
        assert!(text.contains("bound ip=10.77.0.7 router=10.77.0.1"), "{text}");
    }
    assert!(policy.seen().contains(&(mac, Outcome::Acknowledged(Ipv4Addr::new(10, 77, 0, 7)))));
    assert!(server.is_running());
}

#[test]
fn a_boot_client_is_told_its_loader_and_a_stranger_nothing() {
    let wire = Wire::new();
    let setup = Setup { everyone: false, ..wire.setup() };
    let (server, _policy) = wire.server.run(|| setup.start(&wire.leases()));
    let text = wire.udhcpc(&["-V", "PXEClient:Arch:00007:UNDI:003016", "-O", "bootfile"]);
    assert!(text.contains("boot=loader siaddr=10.77.0.1"), "{text}");
    let text = wire.udhcpc(&[]);
    assert!(text.contains("no lease"), "{text}");
    drop(server);
}

#[test]
fn dhclient_gets_renews_and_gives_back() {
    let wire = Wire::new();
    let mac = wire.set_mac("02:00:00:00:77:08");
    let (_server, policy) = wire.server.run(|| wire.setup().start(&wire.leases()));
    let text = wire.dhclient(&[]);
    assert!(text.contains("DHCPDISCOVER") && text.contains("bound to 10.77.0.100"), "{text}");
    // It remembers its lease and asks for that alone (INIT-REBOOT).
    let text = wire.dhclient(&[]);
    assert!(!text.contains("DHCPDISCOVER") && text.contains("bound to 10.77.0.100"), "{text}");
    let text = wire.dhclient(&["-r"]);
    assert!(text.contains("DHCPRELEASE"), "{text}");
    let released = (mac, Outcome::Released(address(100)));
    policy.wait_until("the release arrives", |seen| seen.exchanges.contains(&released));
}

#[test]
fn an_address_that_is_no_longer_the_machines_is_refused_at_its_next_start() {
    let wire = Wire::new();
    let mac = wire.set_mac("02:00:00:00:77:09");
    let (server, _policy) = wire.server.run(|| wire.setup().start(&wire.leases()));
    assert!(wire.dhclient(&[]).contains("bound to 10.77.0.100"));
    drop(server);
    let mut setup = wire.setup();
    setup.known.insert(mac, address(9));
    let (_server, policy) = wire.server.run(|| setup.start(&wire.leases()));
    let text = wire.dhclient(&[]);
    assert!(text.contains("DHCPNAK") && text.contains("bound to 10.77.0.9"), "{text}");
    assert!(policy.seen().contains(&(mac, Outcome::Refused(address(100)))));
}

#[test]
fn a_range_that_changes_while_the_server_runs_takes_its_machines_along() {
    let wire = Wire::new();
    let mac = wire.set_mac("02:00:00:00:77:0c");
    let (server, policy) = wire.server.run(|| wire.setup().start(&wire.leases()));
    assert!(wire.dhclient(&[]).contains("bound to 10.77.0.100"));
    let moved = Setup { range: Some((address(120), address(149))), ..wire.setup() };
    assert!(server.reconfigure(moved.config()));
    let text = wire.dhclient(&[]);
    assert!(text.contains("DHCPNAK") && text.contains("bound to 10.77.0.120"), "{text}");
    assert!(policy.seen().contains(&(mac, Outcome::Refused(address(100)))));
    let elsewhere = Setup { address: "10.77.0.2/24".to_owned(), ..wire.setup() };
    assert!(!server.reconfigure(elsewhere.config()), "another address takes a new server");
}

#[test]
fn a_killed_server_knows_its_leases_again() {
    let wire = Wire::new();
    let (first, second) = ("02:00:00:00:77:0a", "02:00:00:00:77:0b");
    let mut server = wire.process();
    wire.set_mac(first);
    assert!(wire.udhcpc(&[]).contains("bound ip=10.77.0.100"));
    server.0.kill().unwrap();
    server.0.wait().unwrap();
    let _server = wire.process();
    wire.set_mac(second);
    assert!(wire.udhcpc(&[]).contains("bound ip=10.77.0.101"));
    wire.set_mac(first);
    assert!(wire.udhcpc(&[]).contains("bound ip=10.77.0.100"));
}

#[test]
fn a_client_that_finds_its_address_in_use_gets_another() {
    let wire = Wire::new();
    // The server's own host answers for the first address of the range, so no probe of ours sees it.
    wire.server.ip("addr add 10.77.0.100/24 dev srv");
    let setup = Setup { probed_ahead: 0, ..wire.setup() };
    let (server, _policy) = wire.server.run(|| setup.start(&wire.leases()));
    let text = wire.udhcpc(&["-a"]);
    assert!(text.contains("bound ip=10.77.0.101"), "{text}");
    assert_eq!(server.counters().decline.load(Ordering::Relaxed), 1);
}

#[test]
fn an_address_that_someone_uses_is_never_offered() {
    let wire = Wire::new();
    wire.client.ip("link add link cli name squat type macvlan mode bridge");
    wire.client.ip("addr add 10.77.0.100/24 dev squat");
    wire.client.ip("link set dev squat up");
    let (server, policy) = wire.server.run(|| wire.setup().start(&wire.leases()));
    policy.wait_until("the probe is answered", |seen| seen.conflicts == [address(100)]);
    assert_eq!(server.counters().conflicts.load(Ordering::Relaxed), 1);
    assert!(wire.udhcpc(&[]).contains("bound ip=10.77.0.101"));
    assert!(!policy.seen().iter().any(|(_, outcome)| *outcome == Outcome::Offered(address(100))));
}

#[test]
fn a_relay_passes_requests_on() {
    let (server, relay, client) = (Namespace::new(), Namespace::new(), Namespace::new());
    server.link("srv", SERVER, &relay, "above", "10.77.0.2/24");
    relay.link("below", "10.78.0.1/24", &client, "cli", "");
    server.ip("route add 10.78.0.0/24 via 10.77.0.2");
    let wire = Wire { server, client, directory: tempfile::tempdir().unwrap() };
    let range = (Ipv4Addr::new(10, 78, 0, 100), Ipv4Addr::new(10, 78, 0, 149));
    let setup = Setup { clients: Some("10.78.0.0/24".to_owned()), range: Some(range), ..wire.setup() };
    let (_server, policy) = wire.server.run(|| setup.start(&wire.leases()));
    let mut command = relay.command("dhcrelay");
    command.args(["-4", "-d", "-a", "-iu", "above", "-id", "below", "10.77.0.1"]);
    let _relay = Running::start(command.stderr(Stdio::null()));
    let text = wire.udhcpc(&["-t", "10"]);
    assert!(text.contains("bound ip=10.78.0.100"), "{text}");
    assert!(policy.seen().iter().any(|(_, outcome)| matches!(outcome, Outcome::Acknowledged(_))));
}

#[test]
fn perfdhcp_loses_nothing() {
    let wire = Wire::new();
    wire.client.ip("addr add 10.77.0.254/24 dev cli");
    let (server, _policy) = wire.server.run(|| wire.setup().start(&wire.leases()));
    let class = "60,505845436c69656e743a417263683a30303030373a554e44493a303033303136";
    let mut command = wire.client.command("perfdhcp");
    command.args([
        "-4",
        "-r",
        "500",
        "-n",
        "1000",
        "-R",
        "40",
        "-o",
        class,
        "-o",
        "93,0007",
        // A late answer is none that was lost.
        "-W",
        "10000000",
        "10.77.0.1",
    ]);
    let text = run(&mut command);
    let drops: Vec<_> = text.lines().filter(|line| line.starts_with("drops:")).map(str::trim).collect();
    assert_eq!(drops, ["drops: 0", "drops: 0"], "{text}");
    assert_eq!(server.counters().nak.load(Ordering::Relaxed), 0);
}

#[test]
fn other_servers_on_the_wire_are_found() {
    let wire = Wire::new();
    let look = || wire.client.run(|| find_servers("cli", Duration::from_secs(1)).unwrap());
    assert_eq!(look(), []);
    let other = Namespace::new();
    wire.server.ip("link add name br type bridge");
    wire.server.ip("link set dev br up");
    wire.server.ip("addr flush dev srv");
    wire.server.ip("link set dev srv master br");
    wire.server.ip(&format!("addr add {SERVER} dev br"));
    wire.server.link("port", "", &other, "oth", "10.77.0.3/24");
    wire.server.ip("link set dev port master br");
    let setup = Setup { interface: "br".to_owned(), mode: Mode::Proxy, ..wire.setup() };
    let (_server, _policy) = wire.server.run(|| setup.start(&wire.leases()));
    let mut command = other.command("dnsmasq");
    command.args([
        "-k",
        "--port=0",
        // It would look for seconds whether an address is free, and answer then.
        "--no-ping",
        "--interface=oth",
        "--dhcp-range=10.77.0.200,10.77.0.210",
        "--pid-file=",
    ]);
    command.arg("--dhcp-leasefile=/dev/null").arg("--user=root").arg("--conf-file=/dev/null");
    let watch = PortWatch::new();
    let dnsmasq = Running::start(watch.watched(&command).stderr(Stdio::null()));
    watch.wait(&[Port::Udp(67)], &dnsmasq.0);
    let ours = FoundServer { address: address(1), gives_addresses: false };
    let theirs = FoundServer { address: address(3), gives_addresses: true };
    assert_eq!(look(), [ours, theirs]);
}

#[test]
fn what_stands_against_a_start_is_said() {
    let wire = Wire::new();
    let start = |setup: &Setup| {
        wire.server.run(|| {
            let store = tesela::dhcp::SqliteLeases::open(&wire.leases()).unwrap();
            let policy = wire.setup().policy();
            tesela::dhcp::serve(setup.config(), policy, std::sync::Arc::new(store)).unwrap_err()
        })
    };
    let error = start(&Setup { interface: "eth7".to_owned(), ..wire.setup() });
    assert!(matches!(&error, StartError::NoInterface { present, .. } if present == "lo, srv"), "{error}");
    let error = start(&Setup { address: "10.77.0.5/24".to_owned(), ..wire.setup() });
    assert!(matches!(&error, StartError::OtherAddress { found, .. } if found == "10.77.0.1"), "{error}");
    let _taken = wire.server.run(|| UdpSocket::bind("0.0.0.0:67").unwrap());
    let error = start(&wire.setup());
    let me = format!("(process {})", std::process::id());
    assert!(matches!(&error, StartError::PortTaken { port: 67, holder } if holder.ends_with(&me)), "{error}");
}
