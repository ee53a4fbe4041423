//! TFTP side by side: ours, dnsmasq, tftpd-hpa, atftpd and async-tftp, in one run.
//!
//! Server and clients sit in a network namespace each, joined by a veth pair that carries real frames (no
//! segments of 64 KB), the server on processor 0, the clients on processor 1. Every client fetches a
//! file again and again for the time of a case. Prints a table in Markdown: MB/s, and the server's
//! processor time a MB, medians of the rounds, which go through the servers in turn. Both sides run at
//! a real-time priority, so that what else the machine does hardly meets them, and what they leave of the
//! processors is taken by endless loops of the idle class: to wake a virtual processor from sleep costs what
//! its host pleases, and the time that it steals would be missing in the servers' own. Needs root, iproute2,
//! dnsmasq, tftpd-hpa, and apt for atftpd (which cannot be installed beside tftpd-hpa).
//!
//! `bench-tftp [ROUNDS [SECONDS [CASE|PEER…]]]` measures some of the cases, against some of the peers; a case
//! is clients, window and loss in a million, as `16,1,0`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tesela::tftp::{Config, Content, Contents, OpenError, Opening, Server, normalise};
use tesela_tests::netns::Namespace;
use tesela_tests::ready::{Port, PortWatch};
use tesela_tests::tftp::{self, CLIENT_MAC, Load};

const SIZE: u64 = 32 << 20;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
const PEERS: [&str; 4] = ["dnsmasq", "tftpd-hpa", "atftpd", "async-tftp"];

/// Clients, window, packets lost of a million.
type Case = (u8, u16, u32);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", "tesela", directory] => serve_ours(Path::new(directory)),
        ["serve", "async-tftp", directory] => serve_async_tftp(Path::new(directory)),
        rest => {
            let rounds = rest.first().and_then(|n| n.parse().ok()).unwrap_or(3);
            let seconds = rest.get(1).and_then(|n| n.parse().ok()).unwrap_or(1.5);
            let chosen = rest.get(2..).unwrap_or_default();
            let some = |all: Vec<String>| match all.iter().any(|name| chosen.contains(&name.as_str())) {
                true => all.into_iter().filter(|name| chosen.contains(&name.as_str())).collect(),
                false => all,
            };
            let name = |&(clients, window, loss): &Case| format!("{clients},{window},{loss}");
            let chosen_cases = some(cases().map(|case| name(&case)).collect());
            let servers = [vec!["tesela".to_owned()], some(PEERS.map(str::to_owned).into())].concat();
            let cases = cases().filter(|case| chosen_cases.contains(&name(case)));
            bench(rounds, Duration::from_secs_f64(seconds), cases, &servers);
        }
    }
}

/// What was measured of one server in one case.
#[derive(Clone, Copy)]
struct Figure {
    /// MB/s.
    speed: f64,
    /// Milliseconds of processor a MB.
    cpu: f64,
    window: u16,
}

fn bench(rounds: usize, time: Duration, cases: impl Iterator<Item = Case>, servers: &[String]) {
    let target = PathBuf::from("target/bench-tftp");
    let files = target.join("files");
    fs::create_dir_all(&files).expect("target/bench-tftp/files");
    let octets: Vec<u8> = (0..SIZE).map(|n| (n * 31 % 251) as u8).collect();
    fs::write(files.join("file"), octets).expect("the file to serve");
    let files = files.canonicalize().expect("a path");
    let atftpd = unpack_atftpd(&target);

    let (server, client) = (Namespace::new(), Namespace::new());
    server.link("srv", &format!("{SERVER}/24"), &client, "cli", "");
    for (namespace, end) in [(&server, "srv"), (&client, "cli")] {
        // Frames as a wire has them: a segment of several packets is cut before it leaves.
        namespace.ip(&format!("link set dev {end} gso_max_segs 1"));
    }
    let mac = CLIENT_MAC.map(|octet| format!("{octet:02x}")).join(":");
    for index in 0..16 {
        let address = Ipv4Addr::from_bits(FIRST_CLIENT.to_bits() + index);
        server.ip(&format!("neigh add {address} lladdr {mac} dev srv nud permanent"));
    }
    let (server_mac, interface) = (mac_of(&server), client.run(|| index_of("cli")));
    let _awake = [Loop::on(0), Loop::on(1)];

    println!("| clients | window | loss | server | MB/s | ours / it | CPU ms/MB | ours / it |");
    println!("|---|---|---|---|---|---|---|---|");
    for (clients, window, loss) in cases {
        let mut figures: Vec<Vec<Figure>> = vec![Vec::new(); servers.len()];
        for _ in 0..rounds {
            for (name, figures) in servers.iter().zip(&mut figures) {
                let load = Load {
                    interface,
                    server_mac,
                    server: SERVER,
                    first_client: FIRST_CLIENT,
                    clients,
                    file: "file".to_owned(),
                    size: SIZE,
                    window,
                    loss,
                    time: if loss == 0 { time } else { time * 2 },
                };
                figures.push(measure(name, &server, &client, &files, &atftpd, &load));
            }
        }
        let medians: Vec<Figure> = figures.iter().map(|figures| median(figures)).collect();
        let ours = medians[0];
        for (name, figure) in servers.iter().zip(&medians) {
            let fallback = if figure.window < window { " (window 1)" } else { "" };
            println!(
                "| {clients} | {window} | {} % | {name}{fallback} | {:.1} | {:.2} | {:.2} | {:.2} |",
                f64::from(loss) / 10_000.0,
                figure.speed,
                ours.speed / figure.speed,
                figure.cpu,
                ours.cpu / figure.cpu,
            );
        }
    }
}

fn cases() -> impl Iterator<Item = Case> {
    let losses = [0, 1000];
    losses.into_iter().flat_map(|loss| {
        [1, 16]
            .into_iter()
            .flat_map(move |window| [1, 16].into_iter().map(move |clients| (clients, window, loss)))
    })
}

fn median(figures: &[Figure]) -> Figure {
    let middle = |value: fn(&Figure) -> f64| {
        let mut values: Vec<f64> = figures.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Figure { speed: middle(|f| f.speed), cpu: middle(|f| f.cpu), window: figures[0].window }
}

fn measure(
    name: &str,
    server: &Namespace,
    client: &Namespace,
    files: &Path,
    atftpd: &Path,
    load: &Load,
) -> Figure {
    let mut running = start(name, server, files, atftpd);
    let before = cpu_of(running.id());
    let (result, after) = client.run(|| {
        pin(1);
        tftp::run(load, || cpu_of(running.id())).expect("the clients' packet socket")
    });
    let cpu = (after - before).as_secs_f64();
    end(&mut running);
    let megabytes = result.bytes as f64 / 1e6;
    Figure { speed: megabytes / result.time.as_secs_f64(), cpu: cpu * 1e3 / megabytes, window: result.window }
}

/// Starts a server, ready when this returns, on processor 0, with the priority that the clients have.
fn start(name: &str, namespace: &Namespace, files: &Path, atftpd: &Path) -> Child {
    let own = std::env::current_exe().expect("this program's path");
    let own = own.to_str().expect("a path in UTF-8");
    let files = files.to_str().expect("a path in UTF-8");
    let address = SERVER.to_string();
    let words: Vec<&str> = match name {
        "tesela" | "async-tftp" => vec![own, "serve", name, files],
        "dnsmasq" => vec![
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--enable-tftp",
            "--user=root",
            "--tftp-max=1000",
            "--tftp-root",
            files,
        ],
        "tftpd-hpa" => vec!["in.tftpd", "-L", "-u", "root", "-a", &address, "-s", files],
        _ => vec![
            atftpd.to_str().expect("a path in UTF-8"),
            "--daemon",
            "--no-fork",
            "--user",
            "root",
            "--group",
            "root",
            "--maxthread",
            "1000",
            "--bind-address",
            &address,
            "--logfile",
            "/dev/null",
            files,
        ],
    };
    let mut command = namespace.command("chrt");
    command.args(["-f", "10", "taskset", "-c", "0"]).args(words);
    let watch = PortWatch::new();
    let mut command = watch.watched(&command);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = command.spawn().expect("a server");
    watch.wait(&[Port::Udp(69)], &server);
    server
}

fn end(running: &mut Child) {
    // The pid is that of the server itself: ip, chrt and taskset each became it.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(running.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("the server still runs");
    running.wait().expect("the server ends");
}

/// Keeps a processor from sleeping while it lives.
struct Loop(Child);

impl Loop {
    fn on(processor: usize) -> Self {
        let mut command = Command::new("chrt");
        command.args(["-i", "0", "taskset", "-c", &processor.to_string()]);
        Self(command.args(["sh", "-c", "while :; do :; done"]).spawn().expect("an endless loop"))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("the endless loop ends");
    }
}

/// Processor time of a process with its children, alive or waited for.
fn cpu_of(pid: u32) -> Duration {
    let mut ticks = 0;
    for process in fs::read_dir("/proc").expect("/proc").flatten() {
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().skip(1);
        let parent = fields.next().and_then(|parent| parent.parse::<u32>().ok());
        if parent == Some(pid) || process.file_name().to_str() == Some(&pid.to_string()) {
            ticks += fields.skip(9).take(4).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
        }
    }
    Duration::from_millis(ticks * 10)
}

fn pin(processor: usize) {
    use nix::sched::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    set.set(processor).expect("a processor");
    let own = nix::unistd::gettid();
    sched_setaffinity(own, &set).expect("sched_setaffinity");
    let output = Command::new("chrt").args(["-f", "-p", "10", &own.to_string()]).output();
    assert!(output.expect("chrt").status.success(), "chrt -f -p");
}

fn mac_of(namespace: &Namespace) -> [u8; 6] {
    let output = namespace.command("cat").arg("/sys/class/net/srv/address").output().expect("cat");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut mac = [0; 6];
    for (octet, word) in mac.iter_mut().zip(text.trim().split(':')) {
        *octet = u8::from_str_radix(word, 16).expect("a hardware address");
    }
    mac
}

fn index_of(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).expect("the clients' interface")
}

/// Debian's atftpd, which is not installed but unpacked.
fn unpack_atftpd(target: &Path) -> PathBuf {
    let binary = target.join("usr/sbin/atftpd");
    if !binary.exists() {
        let script = "apt-get download -q atftpd && dpkg -x atftpd_*.deb .";
        let status = Command::new("sh").arg("-c").arg(script).current_dir(target).status().expect("sh");
        assert!(status.success(), "{script}");
    }
    binary.canonicalize().expect("atftpd")
}

struct Directory {
    file: Content,
}

impl Contents for Directory {
    async fn open(&self, opening: Opening<'_>) -> Result<Content, OpenError> {
        match normalise(opening.path) {
            Ok(path) if path == "file" => Ok(self.file.clone()),
            _ => Err(OpenError::NotFound),
        }
    }
}

fn serve_ours(directory: &Path) {
    let file = fs::File::open(directory.join("file")).expect("the file");
    let contents = Directory { file: Content::from_file(file).expect("a mapping") };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let server =
            Server::bind(Config { listen: (SERVER, 69).into(), ..Config::default() }).expect("port 69");
        server.run(Arc::new(contents), Default::default()).await.expect("serving");
    });
}

/// The file in memory: async-tftp's own handler of directories costs it two thirds of its speed.
struct InMemory(&'static [u8]);

impl async_tftp::server::Handler for InMemory {
    type Reader = &'static [u8];
    type Writer = Vec<u8>;

    async fn read_req_open(
        &mut self,
        _client: &SocketAddr,
        _path: &Path,
    ) -> Result<(Self::Reader, Option<u64>), async_tftp::packet::Error> {
        Ok((self.0, Some(self.0.len() as u64)))
    }

    async fn write_req_open(
        &mut self,
        _client: &SocketAddr,
        _path: &Path,
        _size: Option<u64>,
    ) -> Result<Self::Writer, async_tftp::packet::Error> {
        Err(async_tftp::packet::Error::PermissionDenied)
    }
}

fn serve_async_tftp(directory: &Path) {
    let octets: &'static [u8] = fs::read(directory.join("file")).expect("the file").leak();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let server = async_tftp::server::TftpServerBuilder::with_handler(InMemory(octets))
            .bind((SERVER, 69).into())
            .block_size_limit(1468)
            .window_size_limit(64);
        server.build().await.expect("port 69").serve().await.expect("serving");
    });
}
