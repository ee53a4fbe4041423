//! The DHCP server against clients that nobody here wrote, in private network namespaces.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;
use tesela::cluster::Mac;
use tesela::dhcp::Outcome;
use tesela_tests::dhcp::Setup;
use tesela_tests::netns::Namespace;

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

    fn set_mac(&self, mac: &str) -> Mac {
        self.client.ip("link set cli down");
        self.client.ip(&format!("link set cli address {mac}"));
        self.client.ip("link set cli up");
        mac.parse().unwrap()
    }

    /// One run of udhcpc; its script prints what it got.
    fn udhcpc(&self, arguments: &[&str]) -> String {
        let script = self.directory.path().join("udhcpc.sh");
        std::fs::write(&script, "#!/bin/sh\necho \"$1 ip=$ip router=$router boot=$boot_file siaddr=$siaddr lease=$lease\"\n").unwrap();
        run(Command::new("chmod").arg("755").arg(&script));
        let mut command = self.client.command("udhcpc");
        command.args(["-i", "cli", "-f", "-q", "-n", "-t", "5", "-T", "1", "-s"]).arg(&script).args(arguments);
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
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
    for arguments in [&[][..], &["-C"], &["-x", "0x3d:ff00112233"], &["-V", "PXEClient:Arch:00000:UNDI:002001"]] {
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
