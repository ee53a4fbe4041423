//! The master as a process, without nodes: in a network of its own, with a state directory that fills up.
//!
//! Run as root: it makes network namespaces, and mounts a small file system that only the master sees.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tesela_node_image::image::{ImageSpec, Source};
use tesela_runtime::port::connect_privileged;
use tesela_tests::lab::tesela;
use tesela_tests::netns::Namespace;
use tesela_tests::nfs::{Args, Client, opaque, procedure};

const LIMIT: Duration = Duration::from_secs(60);
/// `NFS3ERR_NOSPC`.
const NO_SPACE: &str = "status 28";

/// A network of the master and one machine, and the master's files.
struct Place {
    server: Namespace,
    client: Namespace,
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let (server, client) = (Namespace::new(), Namespace::new());
        server.link("srv", "10.79.0.1/24", &client, "cli", "");
        client.ip("link set cli address 02:00:00:00:00:01");
        let place = Self { server, client, folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(place.path("seed")).unwrap();
        fs::create_dir_all(place.path("state")).unwrap();
        place.configure("n1: {mac: 02:00:00:00:00:01, address: 10.79.0.11, profile: node}");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a cluster.yaml with these nodes.
    fn configure(&self, nodes: &str) {
        let text = format!(
            "cluster: aula\nmaster: {{interface: srv, address: 10.79.0.1/24, range: 10.79.0.100-10.79.0.199}}\n\
             images: {{base: {{from: debian:bookworm}}}}\nprofiles: {{node: {{image: base}}}}\nnodes:\n  {nodes}\n"
        );
        fs::write(self.path("cluster.yaml"), text).unwrap();
    }

    /// An image with a kernel in name only, for what the state directory begins with.
    fn build_image(&self) {
        let tree = self.path("tree");
        for name in ["boot", "etc", "usr/lib/modules/6.1"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        std::os::unix::fs::symlink("usr/lib", tree.join("lib")).unwrap();
        fs::write(tree.join("boot/vmlinuz-6.1"), "kernel").unwrap();
        fs::write(tree.join("usr/lib/modules/6.1/modules.dep"), "").unwrap();
        let builtin = "k/nfs.ko\nk/nfsv3.ko\nk/loop.ko\nk/squashfs.ko\nk/overlay.ko\n";
        fs::write(tree.join("usr/lib/modules/6.1/modules.builtin"), builtin).unwrap();
        fs::write(self.path("stage1"), "stage1").unwrap();
        let spec = ImageSpec {
            name: "base".into(),
            source: Source::Directory(tree),
            packages: Vec::new(),
            post_install: None,
            mirror: None,
            extra: Vec::new(),
            squashfs: false,
            refresh: false,
        };
        tesela_node_image::image::build(&spec, &self.path("seed"), &self.path("stage1"), &mut |_| {})
            .unwrap();
    }

    /// `tesela` with these files.
    fn words(&self, words: &[&str]) -> Vec<String> {
        let file = |flag: &str, name: &str| [flag.to_owned(), self.path(name).to_str().unwrap().to_owned()];
        let files = [
            file("--config", "cluster.yaml"),
            file("--state", "state"),
            file("--socket", "socket"),
            file("--templates", "templates"),
        ];
        words.iter().map(|&word| word.to_owned()).chain(files.into_iter().flatten()).collect()
    }

    /// A command of the administrator's.
    fn tesela(&self, words: &[&str]) -> Output {
        Command::new(tesela()).args(self.words(words)).output().unwrap()
    }

    /// `tesela serve`, with a state directory of so much that begins as `seed` is.
    fn serve(&self, size: &str) -> Command {
        let (state, seed) = (self.path("state"), self.path("seed"));
        let script = "mount -t tmpfs -o size=$1,mode=755 small \"$2\" && cp -a \"$3\"/. \"$2\" && shift 3 && exec \"$@\"";
        // ip-netns(8) gives the command a mount namespace of its own.
        let mut command = self.server.command("sh");
        command.args(["-c", script, "sh", size]).arg(state).arg(seed).arg(tesela());
        command.args(self.words(&["serve"])).stderr(Stdio::piped());
        command
    }

    /// Waits until it answers.
    fn start(&self, size: &str) -> Master<'_> {
        let mut process = self.serve(size).spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let (tell, told) = mpsc::channel();
        // It is read to its end, whether anyone waits for it or not.
        std::thread::spawn(move || log.lines().map_while(Result::ok).for_each(|line| drop(tell.send(line))));
        let master = Master { place: self, process, log: told };
        master.await_log("all services answer");
        master
    }

    /// What it says when it does not start.
    fn refusal(&self) -> String {
        let output = self.serve("16m").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    }
}

/// A master that serves.
struct Master<'a> {
    place: &'a Place,
    process: Child,
    log: mpsc::Receiver<String>,
}

impl Master<'_> {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }

    /// A file of its state directory.
    fn state(&self, name: &str) -> PathBuf {
        let state = self.place.path("state");
        Path::new("/proc")
            .join(self.process.id().to_string())
            .join("root")
            .join(state.strip_prefix("/").unwrap())
            .join(name)
    }

    /// Waits for a line of its log.
    fn await_log(&self, text: &str) {
        let mut lines = Vec::new();
        while !lines.last().is_some_and(|line: &String| line.contains(text)) {
            let line = self.log.recv_timeout(LIMIT);
            lines.push(line.unwrap_or_else(|error| panic!("no `{text}` ({error}): {lines:#?}")));
        }
    }

    /// Takes all room that is left of its disk.
    fn fill_disk(&self) {
        let mut filler = File::create(self.state("filler")).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while filler.write(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.state("filler")).unwrap();
    }

    /// Whether the machine gets an address.
    fn leases(&self) -> bool {
        let words = ["-i", "cli", "-f", "-q", "-n", "-t", "2", "-T", "2", "-s", "/bin/true"];
        self.place.client.command("udhcpc").args(words).output().unwrap().status.success()
    }

    /// An answer over HTTP, head and body.
    fn http(&self, request: &str) -> String {
        self.place.client.run(|| {
            // From a port of root's, as stage1 does.
            let mut stream = connect_privileged("10.79.0.1:80".parse().unwrap(), LIMIT).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
    }

    fn get(&self, path: &str) -> String {
        self.http(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }

    /// A report of stage1: the status of the answer.
    fn report(&self) -> String {
        let body = r#"{"node":"n1","mac":"02:00:00:00:00:01","stage":"stage1"}"#;
        let head = "POST /report HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length:";
        self.http(&format!("{head} {}\r\n\r\n{body}", body.len())).split(' ').nth(1).unwrap().to_owned()
    }

    /// A figure of `/metrics`.
    fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}: {text}")).parse().unwrap()
    }

    fn nfs<T: Send>(&self, calls: impl FnOnce(&mut Client, &[u8]) -> T + Send) -> T {
        self.place.client.run(|| {
            let mut client = Client::connect("10.79.0.1:2049".parse().unwrap()).unwrap();
            let root = client.mount("/nodes/n1").unwrap();
            calls(&mut client, &root)
        })
    }

    fn stop(mut self, signal: Signal) -> Option<i32> {
        kill(self.pid(), signal).unwrap();
        self.process.wait().unwrap().code()
    }
}

impl Drop for Master<'_> {
    fn drop(&mut self) {
        // It may have been stopped.
        let _ended = self.process.kill().and_then(|()| self.process.wait());
    }
}

fn write(client: &mut Client, file: &[u8], offset: u64, data: &[u8]) -> Result<(), String> {
    const FILE_SYNC: u32 = 2;
    let count = u32::try_from(data.len()).unwrap();
    let args = Args::new().opaque(file).u64(offset).u32(count).u32(FILE_SYNC).opaque(data);
    client.nfs(procedure::WRITE, &args).map(drop).map_err(|error| error.to_string())
}

fn create(client: &mut Client, root: &[u8], name: &str) -> Result<Vec<u8>, String> {
    let unchecked = Args::new().u32(0).mode(Some(0o644));
    client.make(procedure::CREATE, root, name, unchecked).map_err(|error| error.to_string())
}

#[test]
fn a_full_disk_is_told_and_got_over() {
    let place = Place::new();
    place.build_image();
    // A build that ends while the disk is full.
    let images = place.path("seed/images/base");
    fs::rename(images.join("current"), images.join("later")).unwrap();
    let master = place.start("16m");
    let generation =
        || fs::read_to_string(master.state("applied.yaml")).unwrap().lines().next().unwrap().to_owned();
    let two = "n1: {mac: 02:00:00:00:00:01, address: 10.79.0.11, profile: node}\n  n2: {profile: node}";

    place.client.ip("addr add 10.79.0.11/24 dev cli");
    master.fill_disk();
    assert!(!master.leases(), "an ACK left without its lease");
    assert!(master.metric("tesela_dhcp_store_errors_total") > 0);
    place.configure(two);
    let applied = place.tesela(&["apply"]);
    let why = String::from_utf8_lossy(&applied.stderr);
    assert!(
        !applied.status.success() && why.contains("applied.yaml") && why.contains("No space left"),
        "{why}"
    );
    assert_eq!(generation(), "# tesela generation 1");
    assert!(place.tesela(&["node", "list"]).status.success());
    assert!(master.get("/grub/grub.cfg").starts_with("HTTP/1.1 200 "));
    fs::rename(master.state("images/base/later"), master.state("images/base/current")).unwrap();
    assert_eq!(master.report(), "503", "a root without a journal");

    master.make_room();
    assert_eq!(master.report(), "204");
    assert!(master.leases());
    let applied = place.tesela(&["apply"]);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    assert_eq!(generation(), "# tesela generation 2");

    // A node fills the disk itself, and makes room again.
    master.nfs(|client, root| {
        let file = create(client, root, "big").unwrap();
        let full = (0..).find_map(|at| write(client, &file, at << 16, &[1; 1 << 16]).err());
        assert!(full.as_ref().is_some_and(|why| why.contains(NO_SPACE)), "{full:?}");
        let full = (0..).find_map(|at| create(client, root, &format!("{at:0200}")).err());
        assert!(full.as_ref().is_some_and(|why| why.contains(NO_SPACE)), "{full:?}");
    });
    master.nfs(|client, root| {
        client.nfs(procedure::REMOVE, &Args::new().opaque(root).opaque(b"big")).unwrap();
        let file = create(client, root, "after").unwrap();
        write(client, &file, 0, b"kept").unwrap();
    });
    assert!(master.leases());
    let events = || place.tesela(&["node", "log", "n1"]).stdout;
    let begun = Instant::now();
    while !String::from_utf8(events()).unwrap().contains("stage1 has its lease") {
        assert!(begun.elapsed() < LIMIT, "the history is not written again");
    }

    // What was promised is there after a crash.
    let kept = master.state("");
    let _copied = fs::remove_dir_all(place.path("seed"));
    assert!(Command::new("cp").arg("-a").arg(&kept).arg(place.path("seed")).status().unwrap().success());
    assert_eq!(master.stop(Signal::SIGKILL), None);
    let master = place.start("16m");
    master.nfs(|client, root| {
        let file = client.walk(root, "after").unwrap();
        let mut read = client.nfs(procedure::READ, &Args::new().opaque(&file).u64(0).u32(100)).unwrap();
        // Attributes (a word and 84 octets), count and end of file.
        let _before = read.split_to(4 + 84 + 8);
        assert_eq!(opaque(&mut read), b"kept");
    });
    assert_eq!(master.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn a_hangup_applies_and_a_mistake_changes_nothing() {
    let place = Place::new();
    let master = place.start("16m");
    place.configure("n1: {profile: node}\n  n2: {profile: node}");
    kill(master.pid(), Signal::SIGHUP).unwrap();
    master.await_log("generation 2 is in force (SIGHUP)");
    place.configure("n1: {profile: none}");
    kill(master.pid(), Signal::SIGHUP).unwrap();
    master.await_log("cluster.yaml was not applied (SIGHUP)");
    // As `check` tells it, carets and all.
    let [applied, checked] = [["apply"], ["check"]].map(|words| place.tesela(&words));
    assert_eq!(applied.status.code(), Some(2));
    assert_eq!((applied.status, applied.stderr), (checked.status, checked.stderr));
    // What is compared with is the master's, not the state directory's, which is another one here.
    place.configure("n1: {profile: node, kernel args: [quiet]}\n  n2: {profile: node}");
    for (command, begins) in [("plan", "node n1\n"), ("apply", "generation 3 is in force\n")] {
        let told = String::from_utf8(place.tesela(&[command]).stdout).unwrap();
        assert!(told.starts_with(begins) && told.contains("\n1 node must reboot: n1\n"), "{told}");
    }
    let nodes = String::from_utf8(place.tesela(&["node", "list"]).stdout).unwrap();
    assert!(nodes.contains("n2"), "{nodes}");
    let second = place.refusal();
    assert!(second.contains("another master answers at"), "{second}");
    assert_eq!(master.stop(Signal::SIGTERM), Some(0));
    assert!(!place.path("socket").exists());
}

#[test]
fn what_keeps_a_node_from_its_root_is_told_and_costs_nobody_else() {
    let place = Place::new();
    place
        .configure("n1: {mac: 02:00:00:00:00:01, address: 10.79.0.11, profile: node}\n  n2: {profile: node}");
    let motd = place.path("templates/root/etc/motd");
    let write = |text: &str| fs::write(&motd, text).unwrap();
    let said = |words: &[&str]| {
        let output = place.tesela(words);
        let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), out + &err)
    };
    fs::create_dir_all(motd.parent().unwrap()).unwrap();

    // Without an image.
    let master = place.start("16m");
    for words in [&["node", "list"][..], &["plan"], &["render", "n1", "/etc/hosts"]] {
        let (_, told) = said(words);
        assert!(told.contains("the image `base` is not built; run `tesela image build base`"), "{told}");
    }
    assert_eq!(master.stop(Signal::SIGTERM), Some(0));

    // With a template that fails for one of them: the master starts all the same.
    place.build_image();
    write("{% if node.name == 'n2' %}{{ node.nmae }}{% endif %}\n");
    let master = place.start("16m");
    let row = |node: &str| {
        said(&["node", "list"]).1.lines().find(|line| line.starts_with(node)).unwrap().to_owned()
    };
    assert!(row("n2").contains("nmae") && !row("n1").contains("nmae"), "{} {}", row("n1"), row("n2"));
    assert_eq!(said(&["render", "n1", "/etc/motd"]), (Some(0), "\n".to_owned()));
    assert_eq!(said(&["apply"]).0, Some(1));
    assert_eq!(master.stop(Signal::SIGTERM), Some(0));

    // For all of them.
    write("{{ cluster.nmae");
    let master = place.start("16m");
    assert!(row("n1").contains("etc/motd") && row("n2").contains("etc/motd"), "{} {}", row("n1"), row("n2"));
    write("mended\n");
    assert_eq!(said(&["apply"]).0, Some(0));
    assert!(!row("n1").contains("etc/motd") && !row("n2").contains("etc/motd"));
    assert_eq!(said(&["render", "n2", "/etc/motd"]), (Some(0), "mended\n".to_owned()));

    let (status, why) = said(&["node", "forget", "n9"]);
    assert!(status == Some(1) && why.contains("nothing is known of a node `n9`"), "{why}");
    assert_eq!(master.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn what_stands_against_serving_is_named() {
    let place = Place::new();
    let me = format!("(process {})", std::process::id());
    let tcp = place.server.run(|| TcpListener::bind("10.79.0.1:80").unwrap());
    let why = place.refusal();
    assert!(why.contains("HTTP cannot have TCP port 80") && why.contains(&me), "{why}");
    assert!(!place.path("socket").exists(), "it was left behind");
    drop(tcp);
    for (port, service) in [(69, "TFTP cannot have UDP port 69"), (67, "UDP port 67 is taken by")] {
        let udp = place.server.run(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
        let why = place.refusal();
        assert!(why.contains(service) && why.contains(&me), "{why}");
        drop(udp);
    }
    place.server.ip("addr del 10.79.0.1/24 dev srv");
    place.server.ip("addr add 10.79.0.2/24 dev srv");
    let why = place.refusal();
    assert!(why.contains("srv has 10.79.0.2, not 10.79.0.1"), "{why}");
    place.server.ip("link set srv name other");
    let why = place.refusal();
    assert!(why.contains("no network interface `srv` (there are: lo, other)"), "{why}");
}
