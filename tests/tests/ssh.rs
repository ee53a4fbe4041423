//! ssh between members, and from the master to them, with OpenSSH: two nodes in namespaces of their own,
//! with the files that the templates render and keys that were enrolled over the control port.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tesela::control::{Agents, Control, Member, Members, Metrics};
use tesela::keys::{Keys, client_arguments};
use tesela::render::{Content, Templates};
use tesela_runtime::agent::Peer;
use tesela_runtime::enroll::{Enrolment, enroll};
use tesela_runtime::wire::{Heartbeat, Hello};
use tesela_tests::netns::Namespace;
use tokio_util::sync::CancellationToken;

const MASTER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 1, 1), Ipv4Addr::new(10, 9, 2, 1)];
/// Towards the master, and towards each other.
const NODES: [(&str, Ipv4Addr, Ipv4Addr); 2] = [
    ("n1", Ipv4Addr::new(10, 9, 1, 11), Ipv4Addr::new(10, 9, 0, 11)),
    ("n2", Ipv4Addr::new(10, 9, 2, 12), Ipv4Addr::new(10, 9, 0, 12)),
];

struct Table;

impl Members for Table {
    fn master(&self) -> Option<Ipv4Addr> {
        None
    }

    fn at(&self, address: Ipv4Addr) -> Option<Member> {
        let (name, _, own) = NODES.into_iter().find(|(_, to_master, _)| *to_master == address)?;
        let names = vec![name.into(), format!("{name}.aula"), own.to_string()];
        Some(Member { name: name.into(), names, joins: false })
    }
    fn joining(&self, _: &str, _: Ipv4Addr) -> Option<Member> {
        None
    }
    fn agent_config(&self, _: &str) -> Result<String, String> {
        Err("nobody joins".into())
    }
    fn peers(&self, _: &str) -> Option<Vec<Peer>> {
        None
    }
    fn enrolled(&self, _: &str) {}
    fn refused(&self, address: Ipv4Addr, _: Option<&str>, reason: &str) {
        panic!("{address}: {reason}");
    }
    fn joined(&self, _: &str, _: Ipv4Addr, _: &Hello) {}
    fn heartbeat(&self, _: &str, _: &Heartbeat) {}
    fn gone(&self, _: &str, _: &str) {}
}

/// The master's half of the control port, in the master's namespace, until `stop`.
fn serve(keys: &Arc<Keys>, port: std::sync::mpsc::Sender<u16>, stop: CancellationToken) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let control = Control {
            keys: keys.clone(),
            tls: keys.server_config(MASTER[0]).unwrap(),
            members: Arc::new(Table),
            agents: Agents::default(),
            metrics: Metrics::default(),
        };
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        port.send(listener.local_addr().unwrap().port()).unwrap();
        tesela::control::serve(Arc::new(control), listener, stop).await;
    });
}

fn common(keys: &Keys, members: &[(&str, Ipv4Addr, Ipv4Addr)]) -> Value {
    let nodes: Vec<Value> =
        members.iter().map(|(name, _, own)| json!({"name": name, "address": own})).collect();
    json!({
        "cluster": {"name": "aula"},
        "master": {
            "name": "m", "address": MASTER[0], "network": "10.9.1.0", "netmask": "255.255.255.0",
            "prefix": 24, "gateway": null, "dns": [], "http_port": 80, "control_port": 7443, "member": true,
        },
        "nodes": nodes,
        "keys": {
            "ssh_host_ca": keys.ssh_host_ca(),
            "ssh_user_ca": keys.ssh_user_ca(),
            "ca_sha256": keys.ca_fingerprint().to_string(),
        },
    })
}

/// Writes what the templates render for a node under `root`.
fn render(root: &Path, name: &str, common: &Value) {
    let node = json!({"name": name, "machine_id": "0".repeat(32), "dns": ["10.9.1.1"], "trusted": false, "speed": null, "share": "\"always\""});
    for file in Templates::load(None, common).unwrap().root_of(&node).unwrap() {
        let path = root.join(&file.path[1..]);
        fs::DirBuilder::new().recursive(true).mode(0o755).create(path.parent().unwrap()).unwrap();
        match file.content {
            Content::Link(target) => {
                if fs::symlink_metadata(&path).is_err() {
                    symlink(target, &path).unwrap();
                }
            }
            Content::File(bytes) => {
                fs::write(&path, bytes).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)).unwrap();
            }
        }
    }
}

/// A node: a network and a mount namespace with sshd in them.
struct Node {
    sshd: Child,
}

impl Node {
    fn start(network: &Namespace, name: &str, root: &Path, keys: &Path) -> Node {
        fs::write(root.join("etc/ssh/sshd_config"), "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM no\n")
            .unwrap();
        fs::write(root.join("etc/ssh/ssh_config"), "Include /etc/ssh/ssh_config.d/*.conf\n").unwrap();
        let users = "root:x:0:0:root:/root:/bin/sh\n\
                     demo:x:4242:4242::/:/bin/sh\n\
                     sshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n";
        fs::write(root.join("etc/passwd"), users).unwrap();
        fs::write(root.join("etc/shadow"), "root:*:19000::::::\ndemo:*:19000::::::\n").unwrap();
        let script = "set -e; root=$1 keys=$2; hostname $3; mount --make-rprivate /
             for file in passwd shadow hosts; do mount --bind $root/etc/$file /etc/$file; done
             mount --bind $root/etc/ssh /etc/ssh; mount --bind $root/root /root
             cp -a $keys /tmp/keys.$$; mount -t tmpfs -o mode=755 tmpfs /run
             mkdir /run/sshd; cp -a /tmp/keys.$$ /run/tesela; rm -r /tmp/keys.$$
             exec /usr/sbin/sshd -D -e";
        let mut sshd = network
            .command("unshare")
            .args(["--mount", "--uts", "sh", "-c", script, "sh"])
            .args([root, keys])
            .arg(name)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(sshd.stderr.take().unwrap());
        while !said.contains("Server listening") {
            assert_ne!(lines.read_line(&mut said).unwrap(), 0, "sshd ended: {said}");
        }
        // What it says from here on is nobody's to read, but it must be able to say it.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Node { sshd }
    }

    fn command(&self, user: &str, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.sshd.id().to_string(), "--mount", "--net", "--uts"]);
        if user != "root" {
            command.args(["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups"]);
        }
        command.args(words).stdin(Stdio::null()).output().unwrap()
    }

    /// What `ssh WORDS` of this user prints, if it gets in.
    fn ssh(&self, user: &str, words: &[&str]) -> Option<String> {
        let words: Vec<&str> = ["ssh", "-o", "BatchMode=yes"].iter().chain(words).copied().collect();
        let Output { status, stdout, stderr } = self.command(user, &words);
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(!stderr.contains("WARNING") && !stderr.contains("added"), "{stderr}");
        status.success().then(|| String::from_utf8(stdout).unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

#[test]
fn members_reach_each_other_and_the_master_reaches_them() {
    let state = tempfile::tempdir().unwrap();
    let keys_directory = state.path().join("keys");
    let keys = Arc::new(Keys::open(&keys_directory, "aula").unwrap());
    let master = Namespace::new();
    let networks = [Namespace::new(), Namespace::new()];
    networks[0].link("peer", "10.9.0.11/24", &networks[1], "peer", "10.9.0.12/24");
    for (i, network) in networks.iter().enumerate() {
        let (own, theirs) = (format!("{}/24", MASTER[i]), format!("{}/24", NODES[i].1));
        master.link(&format!("n{i}"), &own, network, "up", &theirs);
    }

    // Each node enrols from its own namespace.
    let stop = CancellationToken::new();
    std::thread::scope(|scope| {
        let (sender, port) = std::sync::mpsc::channel();
        scope.spawn(|| master.run(|| serve(&keys, sender, stop.clone())));
        let port = port.recv().unwrap();
        for (i, (name, to_master, _)) in NODES.into_iter().enumerate() {
            let enrolment = Enrolment {
                node: name.into(),
                master: SocketAddrV4::new(MASTER[i], port),
                ca: keys.ca_fingerprint(),
                token: keys.issue_token(name, Some(to_master)),
            };
            let signed = networks[i].run(|| enroll(&enrolment, Duration::from_secs(5)));
            let signed = signed.unwrap_or_else(|error| panic!("{name}: {error}"));
            signed.store(&state.path().join(format!("{name}.keys"))).unwrap();
        }
        stop.cancel();
    });

    let roots: Vec<PathBuf> = NODES.iter().map(|(name, ..)| state.path().join(name)).collect();
    let members = common(&keys, &NODES);
    let nodes: Vec<Node> = (0..2)
        .map(|i| {
            let name = NODES[i].0;
            render(&roots[i], name, &members);
            Node::start(&networks[i], name, &roots[i], &state.path().join(format!("{name}.keys")))
        })
        .collect();

    // Either way, by every name, as root and as an ordinary user.
    for user in ["root", "demo"] {
        for name in ["n2", "n2.aula", "10.9.0.12"] {
            let said = nodes[0].ssh(user, &[name, "id -un; hostname; cat /proc/sys/kernel/hostname"]);
            assert_eq!(said.as_deref(), Some(format!("{user}\nn2\nn2\n").as_str()), "{user} at {name}");
        }
        assert_eq!(nodes[1].ssh(user, &["n1", "id -un"]).as_deref(), Some(format!("{user}\n").as_str()));
    }
    // Nobody becomes someone else by it, nor reads the key.
    assert_eq!(nodes[0].ssh("demo", &["root@n2", "id"]), None);
    assert_eq!(nodes[0].ssh("root", &["demo@n2", "id"]), None);
    assert!(!nodes[0].command("demo", &["cat", "/run/tesela/ssh_host_ed25519_key"]).status.success());

    // The master comes in as anyone; another cluster's does not.
    let from_master = |keys: &Path, user: &str| {
        let words = client_arguments(keys, "n2", NODES[1].1, user);
        master.command("ssh").args(words).arg("id -un").stdin(Stdio::null()).output().unwrap()
    };
    for user in ["root", "demo"] {
        let Output { status, stdout, stderr } = from_master(&keys_directory, user);
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        assert_eq!(String::from_utf8_lossy(&stdout), format!("{user}\n"));
    }
    let other = state.path().join("other");
    Keys::open(&other, "aula").unwrap();
    assert!(!from_master(&other, "root").status.success());

    // A node that is no member any more opens nothing, and is trusted by nobody.
    render(&roots[1], "n2", &common(&keys, &NODES[1..]));
    for user in ["root", "demo"] {
        assert_eq!(nodes[0].ssh(user, &["n2", "id"]), None, "{user}");
        assert_eq!(nodes[1].ssh(user, &["10.9.0.11", "id"]), None, "{user}");
    }
}
