//! A master and machines without any virtual hardware: the real `tesela serve` in a network namespace, and a
//! namespace for each machine, whose firmware, kernel and stage1 the test plays with programs that exist.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;
use tesela_runtime::enroll::{Enrolment, enroll};

use crate::Ended;
use crate::lab::tesela;
use crate::netns::Namespace;
use crate::nfs::Client;
use crate::ready::{start_service, until_files};

/// The master's address, on a bridge `lan` in a namespace of its own.
pub const MASTER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// How long anything may take that is not said to take longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running master. It ends with the test.
#[derive(Debug)]
pub struct Master {
    network: Namespace,
    directory: TempDir,
    process: Mutex<Child>,
}

impl Master {
    /// Serves this cluster.yaml, whose `master:` is `lan` with [`MASTER`]`/24`, once it is ready.
    pub fn start(cluster: &str) -> Self {
        Self::start_with(cluster, |_| {})
    }

    /// The same, with something done before: the master does not run yet.
    pub fn start_with(cluster: &str, before: impl FnOnce(&Preparation<'_>)) -> Self {
        let network = Namespace::new();
        network.ip("link add name lan type bridge");
        network.ip(&format!("addr add {MASTER}/24 dev lan"));
        network.ip("link set lan up");
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cluster.yaml"), cluster).unwrap();
        before(&Preparation { directory: directory.path() });
        let process = Mutex::new(serve(&network, directory.path()));
        Self { network, directory, process }
    }

    /// Ends it by SIGKILL, as a crash would, and starts it again.
    pub fn crash_and_start(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        *process = serve(&self.network, self.directory.path());
    }

    /// Sends its process a signal.
    pub fn signal(&self, signal: Signal) {
        let process = self.process.lock().unwrap().id();
        kill(Pid::from_raw(process.try_into().unwrap()), signal).unwrap();
    }

    /// Its cluster.yaml.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("cluster.yaml")
    }

    /// Replaces a word of its cluster.yaml, which has to be there.
    pub fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.config()).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        fs::write(self.config(), text.replace(from, to)).unwrap();
    }

    /// Runs `tesela` with these words.
    pub fn tesela(&self, words: &[&str]) -> Output {
        command(self.directory.path()).args(words).output().unwrap()
    }

    /// What it says; panics if it fails.
    pub fn said(&self, words: &[&str]) -> String {
        let output = self.tesela(words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "`tesela {}` ended with {}: {stderr}",
            words.join(" "),
            output.status
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says on standard error; panics if it does not fail.
    pub fn refused(&self, words: &[&str]) -> String {
        let output = self.tesela(words);
        assert_eq!(output.status.code(), Some(1), "`tesela {}`: {output:?}", words.join(" "));
        String::from_utf8(output.stderr).unwrap()
    }

    /// The row of a node in `tesela node list`.
    pub fn row(&self, node: &str) -> String {
        let list = self.said(&["node", "list"]);
        let row = list.lines().find(|line| line.split_whitespace().next() == Some(node));
        row.unwrap_or_else(|| panic!("{node} in {list}")).to_owned()
    }

    /// Waits until `tesela` says this with these words.
    pub fn await_said(&self, words: &[&str], wanted: &str, patience: Duration) {
        self.wait_until(wanted, patience, || self.said(words).contains(wanted));
    }

    /// Waits until it holds, looking again whenever the master has written something into its log.
    pub fn wait_until(&self, what: &str, patience: Duration, holds: impl FnMut() -> bool) {
        until_files(self.directory.path(), what, patience, holds);
    }

    /// Waits for an event, or finds that it has been.
    pub fn await_event(&self, wanted: &str) {
        let mut command = Command::new(tesela());
        command.args(["events", "-n", "1000", "--socket"]).arg(socket(self.directory.path()));
        let mut events = Ended(command.stdout(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(events.0.stdout.take().unwrap()).lines();
        let (tell, told) = channel();
        let reader = thread::spawn(move || {
            // Nobody listens any more once it has come.
            let _over = lines.map_while(Result::ok).try_for_each(|line| tell.send(line));
        });
        let deadline = Instant::now() + PATIENCE;
        let next = || told.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        while !next().unwrap_or_else(|error| panic!("{wanted}: {error}")).contains(wanted) {}
        drop((told, events));
        reader.join().unwrap();
    }

    /// A machine with this MAC, plugged in.
    pub fn machine(&self, mac: &str) -> Machine<'_> {
        let namespace = Namespace::new();
        let port = format!("p{}", mac.replace(':', "")[6..].to_owned());
        self.network.link(&port, "", &namespace, "eth0", "");
        self.network.ip(&format!("link set {port} master lan"));
        namespace.ip("link set eth0 down");
        namespace.ip(&format!("link set eth0 address {mac}"));
        namespace.ip("link set eth0 up");
        Machine {
            master: self,
            namespace,
            mac: mac.to_owned(),
            port,
            directory: tempfile::tempdir().unwrap(),
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            eprintln!("the master's log:\n{log}");
        }
        // It may have ended by itself.
        let process = self.process.get_mut().unwrap();
        let _ended = process.kill();
        process.wait().unwrap();
    }
}

/// Where a master is about to run.
#[derive(Debug)]
pub struct Preparation<'a> {
    directory: &'a Path,
}

impl Preparation<'_> {
    /// The tree that `images: {base: {from: dir:/TREE}}` is made of, with a kernel in name only; `/TREE` in
    /// cluster.yaml becomes its path. Builds the image.
    pub fn image(&self) {
        let tree = self.directory.join("tree");
        make_tree(&tree);
        let config = self.directory.join("cluster.yaml");
        let text = fs::read_to_string(&config).unwrap().replace("/TREE", &tree.to_string_lossy());
        fs::write(&config, text).unwrap();
        let output = command(self.directory).args(["image", "build"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Master {
    /// The tree of [`Preparation::image`].
    pub fn tree(&self) -> PathBuf {
        self.directory.path().join("tree")
    }
}

fn make_tree(tree: &Path) {
    for name in ["etc", "usr/bin", "usr/lib/modules/6.1/k", "boot", "root"] {
        fs::create_dir_all(tree.join(name)).unwrap();
    }
    std::os::unix::fs::symlink("usr/lib", tree.join("lib")).unwrap();
    fs::write(tree.join("boot/vmlinuz-6.1"), "kernel").unwrap();
    fs::write(tree.join("usr/lib/modules/6.1/modules.dep"), "k/virtio_net.ko:\n").unwrap();
    let builtin = "k/nfs.ko\nk/nfsv3.ko\nk/loop.ko\nk/squashfs.ko\nk/overlay.ko\n";
    fs::write(tree.join("usr/lib/modules/6.1/modules.builtin"), builtin).unwrap();
    fs::write(tree.join("usr/lib/modules/6.1/k/virtio_net.ko"), "module").unwrap();
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("socket")
}

fn command(directory: &Path) -> Command {
    let mut command = Command::new(tesela());
    arguments(&mut command, directory);
    command
}

fn arguments(command: &mut Command, directory: &Path) {
    command.arg("--config").arg(directory.join("cluster.yaml"));
    command.arg("--state").arg(directory.join("state"));
    command.arg("--socket").arg(socket(directory));
    command.arg("--templates").arg(directory.join("templates"));
}

fn serve(network: &Namespace, directory: &Path) -> Child {
    let mut command = network.command(&tesela().to_string_lossy());
    arguments(&mut command, directory);
    // Even what is no event is told: a sign of life of an agent's.
    command.env("RUST_LOG", "info,tesela::inventory=debug");
    start_service(command.arg("serve"), directory)
}

/// What udhcpc runs at each change.
const TAKE_AND_TELL: &str = "[ $1 = bound ] || exit 0
ip addr flush dev $interface; ip addr add $ip/24 dev $interface
echo \"ip=$ip router=$router dns=$dns lease=$lease\"";
/// What dhclient runs at each change.
const TAKE_NEW: &str = "[ -z \"$new_ip_address\" ] || ip addr replace $new_ip_address/24 dev $interface";

/// A machine on the master's wire.
#[derive(Debug)]
pub struct Machine<'a> {
    master: &'a Master,
    namespace: Namespace,
    mac: String,
    port: String,
    directory: TempDir,
}

impl Machine<'_> {
    /// Asks for an address as the firmware of a PC does, and takes it: what it was told, a line a lease.
    pub fn firmware(&self) -> String {
        self.udhcpc(&["-V", "PXEClient:Arch:00000:UNDI:002001"])
    }

    /// Asks for an address as a system that runs does, and takes it: what it was told.
    pub fn renew(&self) -> String {
        self.udhcpc(&[])
    }

    /// One run of udhcpc with these words; the address is the machine's then.
    fn udhcpc(&self, words: &[&str]) -> String {
        let script = self.script("udhcpc.sh", TAKE_AND_TELL);
        let mut command = self.namespace.command("udhcpc");
        command.args(["-i", "eth0", "-f", "-q", "-n", "-t", "3", "-T", "1", "-s"]).arg(&script).args(words);
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Takes an address by dhclient(8), and gives it back.
    pub fn take_and_give_back(&self) {
        let file = |name: &str| self.directory.path().join(name);
        let run = |words: &[&str]| {
            let mut command = self.namespace.command("dhclient");
            command.args(["-4", "-d", "-cf", "/dev/null", "-sf"]).arg(self.script("dhclient.sh", TAKE_NEW));
            command.arg("-lf").arg(file("leases")).arg("-pf").arg(file("pid")).args(words).arg("eth0");
            Running(command.stderr(Stdio::piped()).spawn().unwrap())
        };
        run(&["-1"]).await_line("bound to");
        let mut release = run(&["-r"]);
        release.await_line("DHCPRELEASE");
        assert!(release.0.wait().unwrap().success());
    }

    fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    /// Has this address, whoever gave it.
    pub fn take_address(&self, address: &str) {
        self.namespace.ip("addr flush dev eth0");
        self.namespace.ip(&format!("addr add {address} dev eth0"));
    }

    /// curl(1) with these words; panics if it fails.
    pub fn curl(&self, words: &[&str]) -> String {
        let mut command = self.namespace.command("curl");
        let output =
            command.args(["--silent", "--show-error", "--fail-with-body"]).args(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{words:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// The kernel command line that the master's script for iPXE has for this machine.
    pub fn command_line(&self) -> String {
        let script = self.curl(&[&format!("http://{MASTER}/boot.ipxe?mac={}", self.mac)]);
        let line = script.lines().find(|line| line.contains("tesela.node="));
        line.unwrap_or_else(|| panic!("no command line in {script}")).to_owned()
    }

    /// Reports a stage of the boot, as stage1 and init do.
    pub fn report(&self, node: &str, stage: &str) {
        let report = format!(r#"{{"node": "{node}", "mac": "{}", "stage": "{stage}"}}"#, self.mac);
        // Only root of a node may.
        self.curl(&["--local-port", "600-1023", "--data", &report, &format!("http://{MASTER}/report")]);
    }

    /// Connects to NFS from here.
    pub fn nfs(&self) -> Client {
        self.namespace.run(|| Client::connect((MASTER, 2049).into()).unwrap())
    }

    /// Boots up to a member: script, stage1, keys, and the real agent.
    pub fn join(&self, node: &str) -> Running {
        let line = self.command_line();
        let word = |key: &str| {
            let mut words = line.split_whitespace().filter_map(|word| word.split_once('='));
            words.find(|(name, _)| *name == key).unwrap_or_else(|| panic!("{key} in {line}")).1.to_owned()
        };
        self.report(node, "stage1");
        let control_port = word("tesela.control").parse().unwrap();
        let enrolment = Enrolment {
            node: word("tesela.node"),
            master: SocketAddrV4::new(MASTER, control_port),
            ca: word("tesela.ca").parse().unwrap(),
            token: word("tesela.token"),
        };
        let keys = self.namespace.run(|| enroll(&enrolment, Duration::ZERO).unwrap());
        let directory = self.directory.path().join("keys");
        keys.store(&directory).unwrap();
        let config = json!({
            "cluster": "t", "node": node, "master": MASTER, "control_port": control_port, "http_port": 80, "hpc": null,
            "keys": directory,
        });
        let path = self.directory.path().join("teselad.json");
        fs::write(&path, config.to_string()).unwrap();
        let mut command = self.namespace.command(&tesela().with_file_name("teselad").to_string_lossy());
        let agent = Running(command.arg("--config").arg(path).stderr(Stdio::null()).spawn().unwrap());
        self.master.await_said(&["node", "log", node], "[member]", PATIENCE);
        agent
    }

    /// Pulls its cable, or plugs it in again.
    pub fn cable(&self, plugged_in: bool) {
        let state = if plugged_in { "up" } else { "down" };
        self.master.network.ip(&format!("link set {} {state}", self.port));
    }
}

/// A running program. It ends with the test.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    fn await_line(&mut self, wanted: &str) {
        let mut said = BufReader::new(self.0.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(said.any(|line| line.contains(wanted)), "it ended without `{wanted}`");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        self.0.wait().unwrap();
    }
}
