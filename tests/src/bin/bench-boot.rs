//! Power-on to `multi-user.target` of one stock Debian tree, served by tesela and by dnsmasq with
//! NFS-Ganesha: the same virtual machine, in turns, and a table of time and octets sent to it.
//!
//! `bench-boot [ROUNDS]`, 3 unless told otherwise. What the machine said on its console in the last round,
//! each line with the seconds since power-on, is left in `/var/tmp/tesela-bench/{tesela,peer}.times`: that
//! tells where the time goes.
#![expect(clippy::unwrap_used, reason = "what fails here fails the benchmark")]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use tesela_tests::lab::tesela;
use tesela_tests::netns::Namespace;
use tesela_tests::ready::{Port, PortWatch, until_files};
use tesela_tests::{Ended, cpu_time};

const STATE: &str = "/var/tmp/tesela-bench";
const MARK: &str = "BENCH: multi-user";
const LIMIT: Duration = Duration::from_secs(600);

const CLUSTER: &str = "cluster: bench
master: {interface: tesela0, address: 10.77.0.1/24, range: 10.77.0.100-10.77.0.199}
images: {debian: {from: \"dir:/var/tmp/tesela-bench/debian\"}}
profiles: {node: {image: debian}}
nodes:
  n1: {mac: \"52:54:00:7e:5e:01\", address: 10.77.0.11, profile: node}
";

/// One boot.
#[derive(Clone, Copy)]
struct Boot {
    multi_user: Duration,
    sent: u64,
    /// Processor time of the virtual machine: other work on this host does not change it.
    cpu: Duration,
    /// From `multi-user.target` on; negative never: the mark is awaited first.
    member: Option<Duration>,
}

fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(3, |word| word.parse().unwrap());
    let state = Path::new(STATE);
    fs::create_dir_all(state).unwrap();
    make_tree(&state.join("debian"));
    fs::write(state.join("cluster.yaml"), CLUSTER).unwrap();
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}: tesela");
        let (boot, qemu) = boot_ours(state);
        ours.push(boot);
        eprintln!("round {round} of {rounds}: dnsmasq and NFS-Ganesha");
        peers.push(boot_peer(state, &qemu));
    }
    print(rounds, median(&mut ours), median(&mut peers));
}

fn median(boots: &mut [Boot]) -> Boot {
    boots.sort_by_key(|boot| boot.multi_user);
    boots[boots.len() / 2]
}

#[expect(clippy::cast_precision_loss, reason = "a table for people")]
fn print(rounds: usize, ours: Boot, peer: Boot) {
    let mib = |octets: u64| octets as f64 / f64::from(1 << 20);
    println!(
        "| power-on to multi-user.target | time, s | the machine's CPU, s | sent to the node, MiB |\n|---|---|---|---|"
    );
    for (name, boot) in [("tesela", ours), ("dnsmasq + NFS-Ganesha", peer)] {
        let (time, cpu) = (boot.multi_user.as_secs_f64(), boot.cpu.as_secs_f64());
        println!("| {name} | {time:.1} | {cpu:.1} | {:.1} |", mib(boot.sent));
    }
    let time = ours.multi_user.as_secs_f64() / peer.multi_user.as_secs_f64();
    let cpu = ours.cpu.as_secs_f64() / peer.cpu.as_secs_f64();
    println!("| ratio | {time:.2} | {cpu:.2} | {:.2} |", ours.sent as f64 / peer.sent as f64);
    let member = ours.member.unwrap_or_default();
    println!(
        "\nMedians of {rounds} boots each, in turns. `member` came {:.1} s after.",
        member.as_secs_f64()
    );
}

/// A stock Debian 12 as mmdebstrap makes it, with Debian's own initramfs for an NFS root. The one
/// thing added says on the serial line when `multi-user.target` is reached.
fn make_tree(tree: &Path) {
    if tree.join("etc/bench.service").exists() {
        return;
    }
    if tree.exists() {
        fs::remove_dir_all(tree).unwrap();
    }
    let unit = format!(
        "[Unit]\\nDefaultDependencies=no\\nAfter=multi-user.target\\n[Service]\\nType=oneshot\\n\
         ExecStart=/bin/sh -c 'echo {MARK} > /dev/ttyS0'\\n"
    );
    let wants = "etc/systemd/system/multi-user.target.wants";
    let status = Command::new("mmdebstrap")
        .args(["--variant=minbase", "--include=systemd-sysv,dbus,openssh-server,linux-image-amd64,zstd"])
        .arg("--essential-hook=mkdir -p $1/etc/initramfs-tools/conf.d")
        .arg("--essential-hook=printf 'MODULES=netboot\\nBOOT=nfs\\n' > $1/etc/initramfs-tools/conf.d/bench")
        .arg(format!("--customize-hook=printf \"{unit}\" > $1/etc/systemd/system/bench.service"))
        .arg(format!("--customize-hook=mkdir -p $1/{wants}; ln -s ../bench.service $1/{wants}/bench.service"))
        .arg("--customize-hook=touch $1/etc/bench.service")
        .arg("bookworm")
        .arg(tree)
        .status()
        .unwrap();
    assert!(status.success(), "mmdebstrap ended with {status}");
}

/// A boot by tesela, and the words that QEMU was started with.
fn boot_ours(state: &Path) -> (Boot, Vec<String>) {
    let _down = Down;
    lab(&["down"]).output().unwrap();
    // The peer's tree is a fresh copy, so the node is one that never booted here.
    let nodes = state.join("lab/master/nodes");
    if nodes.exists() {
        fs::remove_dir_all(&nodes).unwrap();
    }
    let console = state.join("lab/machines/n1/console.log");
    if console.exists() {
        fs::remove_file(&console).unwrap();
    }
    let mut up = lab(&["up", "--nodes", "1", "--firmware", "bios"]);
    let mut up = up.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(up.stderr.take().unwrap());
    let (tell, powered) = channel();
    let member = std::thread::spawn(move || {
        let mut member = None;
        for line in stderr.lines() {
            let line = line.unwrap();
            eprintln!("  {line}");
            if line.contains("powered on") {
                tell.send(Instant::now()).unwrap();
            } else if line.starts_with("n1: member") {
                member = Some(Instant::now());
            }
        }
        member
    });
    let on = powered.recv().expect("`tesela lab up` failed");
    await_console(&console);
    let (pid, words) = qemu_of(&console);
    let boot = until_mark(&console, pid, tap_of(&words), on, "tesela.times");
    assert!(up.wait().unwrap().success(), "`tesela lab up` failed");
    let member = member.join().unwrap().map(|member| member.saturating_duration_since(on + boot.multi_user));
    (Boot { member, ..boot }, words)
}

/// Ends the lab, however the boot went.
struct Down;

impl Drop for Down {
    fn drop(&mut self) {
        lab(&["down"]).output().unwrap();
    }
}

fn lab(words: &[&str]) -> Command {
    let mut command = Command::new(tesela());
    let state = Path::new(STATE);
    command.arg("--config").arg(state.join("cluster.yaml")).arg("--state").arg(state).arg("lab").args(words);
    command
}

/// The QEMU whose console this is: its process and its words.
fn qemu_of(console: &Path) -> (i32, Vec<String>) {
    let console = console.to_str().unwrap();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> = line.split_terminator('\0').map(str::to_owned).collect();
        if words.first().is_some_and(|word| word.contains("qemu")) && line.contains(console) {
            return (pid, words);
        }
    }
    panic!("no QEMU writes {console}");
}

/// The same machine, its root on NFS-Ganesha and all before it from dnsmasq.
fn boot_peer(state: &Path, qemu: &[String]) -> Boot {
    let (root, tftp, machine) = (state.join("peer"), state.join("tftp"), state.join("peer-machine"));
    for directory in [&root, &tftp, &machine] {
        if directory.exists() {
            fs::remove_dir_all(directory).unwrap();
        }
    }
    assert!(Command::new("cp").arg("-a").arg(state.join("debian")).arg(&root).status().unwrap().success());
    fs::create_dir_all(&tftp).unwrap();
    fs::create_dir_all(&machine).unwrap();
    for (link, name) in [("vmlinuz", "vmlinuz"), ("initrd.img", "initrd.img")] {
        fs::copy(root.join(link), tftp.join(name)).unwrap();
    }
    let nfsroot = format!("10.77.0.1:{},vers=3,tcp,nolock", root.display());
    let script = format!(
        "#!ipxe\nkernel vmlinuz root=/dev/nfs nfsroot={nfsroot} ip=dhcp rw console=ttyS0\ninitrd initrd.img\nboot\n"
    );
    fs::write(tftp.join("boot.ipxe"), script).unwrap();

    let namespace = Namespace::new();
    let tap = tap_of(qemu);
    for words in [
        "link add tesela0 type bridge mcast_snooping 0",
        "addr add 10.77.0.1/24 broadcast + dev tesela0",
        "link set tesela0 up",
        &format!("tuntap add dev {tap} mode tap"),
        &format!("link set {tap} master tesela0 up"),
    ] {
        namespace.ip(words);
    }
    let _dnsmasq = start_dnsmasq(&namespace, &tftp);
    let _ganesha = start_ganesha(&namespace, &root, &machine);

    let old = state.join("lab/machines/n1").display().to_string();
    let mut command = namespace.command(&qemu[0]);
    command.args(qemu[1..].iter().map(|word| word.replace(&old, machine.to_str().unwrap())));
    let powered = Ended(command.stdin(Stdio::null()).spawn().unwrap());
    let on = Instant::now();
    let console = machine.join("console.log");
    await_console(&console);
    until_mark(&console, pid_of(&powered), tap, on, "peer.times")
}

fn start_dnsmasq(namespace: &Namespace, tftp: &Path) -> Ended {
    let mut dnsmasq = namespace.command("dnsmasq");
    dnsmasq.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        "--user=root",
        "--enable-tftp",
    ]);
    dnsmasq.args(["--dhcp-range=10.77.0.11,10.77.0.11", "--dhcp-boot=boot.ipxe", "--interface=tesela0"]);
    dnsmasq.args(["--dhcp-authoritative", "--no-ping", "--leasefile-ro"]);
    Ended(dnsmasq.arg(format!("--tftp-root={}", tftp.display())).stderr(Stdio::null()).spawn().unwrap())
}

fn start_ganesha(namespace: &Namespace, root: &Path, scratch: &Path) -> Ended {
    let config = scratch.join("ganesha.conf");
    let path = root.display();
    let text = format!(
        "NFS_CORE_PARAM {{ NFS_Port=2049; MNT_Port=20048; Enable_NLM=false; Enable_RQUOTA=false; Protocols=3; }}\n\
         EXPORT {{ Export_Id=1; Path={path}; Pseudo={path}; Access_Type=RW; Squash=No_Root_Squash; SecType=sys;\n\
         Protocols=3; Transports=TCP,UDP; Disable_ACL=true; FSAL {{ Name=VFS; }} }}\nLOG {{ Default_Log_Level=CRIT; }}\n"
    );
    fs::write(&config, text).unwrap();
    // Ganesha does not start without a portmapper, whose socket has one fixed name: both have a /run of
    // their own, and end with `unshare`.
    let mut ganesha = namespace.command("unshare");
    ganesha.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-ec"]);
    ganesha.arg("mount -t tmpfs none /run; mkdir /run/ganesha; rpcbind; exec ganesha.nfsd \"$@\"");
    ganesha.args(["ganesha", "-F", "-f"]).arg(&config).arg("-L").arg(scratch.join("ganesha.log"));
    ganesha.arg("-p").arg(scratch.join("ganesha.pid"));
    let watch = PortWatch::new();
    let ganesha = Ended(watch.watched(&ganesha).spawn().unwrap());
    watch.wait(&[Port::Tcp(2049), Port::Tcp(20048)], &ganesha.0);
    ganesha
}

fn pid_of(process: &Ended) -> i32 {
    i32::try_from(process.0.id()).unwrap()
}

/// Waits for the mark, and leaves in `times` what was said before it.
fn until_mark(console: &Path, qemu: i32, tap: &str, on: Instant, times: &str) -> Boot {
    let directory = console.parent().unwrap();
    let mut console = File::open(console).unwrap();
    let (mut line, mut lines) = (Vec::new(), String::new());
    until_files(directory, "multi-user.target", LIMIT, || {
        let mut said = Vec::new();
        console.read_to_end(&mut said).unwrap();
        let mut found = false;
        for octet in said {
            match octet {
                b'\n' => {
                    let text = String::from_utf8_lossy(&line).replace('\r', "");
                    found |= text.contains(MARK);
                    writeln!(lines, "{:8.3} {text}", on.elapsed().as_secs_f64()).unwrap();
                    line.clear();
                }
                octet => line.push(octet),
            }
        }
        found
    });
    let boot = Boot { multi_user: on.elapsed(), sent: sent_to(tap, qemu), cpu: cpu_time(qemu), member: None };
    fs::write(Path::new(STATE).join(times), lines).unwrap();
    boot
}

/// The tap that a QEMU's words name.
fn tap_of(words: &[String]) -> &str {
    words.iter().flat_map(|word| word.split(',')).find_map(|part| part.strip_prefix("ifname=")).unwrap()
}

/// What the host's side of a tap has sent, in the namespace of this process.
fn sent_to(tap: &str, pid: i32) -> u64 {
    let devices = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let line =
        devices.lines().find_map(|line| line.trim_start().strip_prefix(tap)?.strip_prefix(':')).unwrap();
    line.split_ascii_whitespace().nth(8).unwrap().parse().unwrap()
}

/// Waits until QEMU runs far enough to write what the machine says.
fn await_console(console: &Path) {
    until_files(console.parent().unwrap(), "QEMU opens the console's log", LIMIT, || console.exists());
}
