//! Agents of three nodes on this host, each with an address of the loopback, and the tool `migrate`: a real
//! program moves and comes home, and what must not move does not.
//!
//! It runs as root, as the agent does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ED25519,
};
use serde_json::{Value, json};
use tokio::net::TcpSocket;

/// No process of the host's is one of these users'.
const USER: u32 = 64_001;
const ANOTHER: u32 = 64_002;
const PATIENCE: Duration = Duration::from_secs(60);

struct Ca(Issuer<'static, KeyPair>, String);

impl Ca {
    fn new(cluster: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, format!("tesela CA of {cluster}"));
        let certificate = params.self_signed(&key).unwrap().pem();
        Ca(Issuer::new(params, key), certificate)
    }

    /// The files that stage1 leaves, signed by this CA, of a node that trusts that one.
    fn keys(&self, node: &str, trusted: &Ca, directory: &Path) {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new([format!("{node}.node.tesela")]).unwrap();
        params.distinguished_name.push(DnType::CommonName, node);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.0).unwrap();
        for (name, text) in [
            ("node.key", key.serialize_pem()),
            ("node.crt", certificate.pem()),
            ("ca.crt", trusted.1.clone()),
        ] {
            fs::write(directory.join(name), text).unwrap();
        }
    }
}

/// An agent of a node of its own.
struct Node {
    directory: PathBuf,
    agent: Child,
    log: Receiver<String>,
}

impl Node {
    /// One whose certificate this CA has signed, for that name.
    fn start(cluster: &Cluster, number: u8, signed_by: &Ca, certified: &str) -> Self {
        let name = format!("n{number}");
        let root = cluster.directory.path();
        let directory = root.join(&name);
        fs::create_dir(&directory).unwrap();
        signed_by.keys(certified, &cluster.ca, &directory);
        let config = json!({
            "cluster": "aula", "node": name, "master": "127.0.0.1", "control_port": 1, "http_port": 1,
            "keys": directory, "address": address(number), "agents_port": cluster.port, "trusted": number != 4,
            "peers": root.join("peers.json"), "hpc": null,
        });
        fs::write(directory.join("teselad.json"), config.to_string()).unwrap();
        Self::run(directory)
    }

    fn run(directory: PathBuf) -> Self {
        let name = directory.file_name().unwrap().to_str().unwrap().to_owned();
        let mut agent = Command::new(env!("CARGO_BIN_EXE_teselad"))
            .arg("--config")
            .arg(directory.join("teselad.json"))
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (tell, log) = channel();
        let stderr = BufReader::new(agent.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("{name}: {line}");
                let _test_is_over = tell.send(line);
            }
        });
        let node = Node { directory, agent, log };
        // It listens before it looks for a master.
        node.says("no connection to the master");
        node
    }

    /// The agent dies, and another one takes its place.
    fn crashes(mut self) -> Self {
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
        let directory = self.directory.clone();
        drop(self);
        Self::run(directory)
    }

    /// Waits for a line of the agent's log.
    fn says(&self, what: &str) {
        while !self.log.recv_timeout(PATIENCE).unwrap().contains(what) {}
    }

    /// Runs `migrate` as a user. Exit status, standard output, standard error.
    fn migrate(&self, user: u32, words: &[&str]) -> (i32, String, String) {
        self.tool("migrate", user, words)
    }

    fn tool(&self, tool: &str, user: u32, words: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_tesela-tools"))
            .arg(tool)
            .arg("--socket")
            .arg(self.directory.join("agent.sock"))
            .args(words)
            .uid(user)
            .gid(user)
            .output()
            .unwrap();
        let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap().trim_end().to_owned();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// The tool does it, and says this.
    #[track_caller]
    fn done(&self, user: u32, words: &[&str], says: &str) {
        assert_eq!(self.migrate(user, words), (0, says.to_owned(), String::new()), "{words:?}");
    }

    /// The tool does not do it, and says why.
    #[track_caller]
    fn refused(&self, user: u32, words: &[&str], status: i32, why: &str) {
        let (ended, out, err) = self.migrate(user, words);
        assert!(ended == status && out.is_empty() && err.contains(why), "{words:?}: {ended} {out} {err}");
    }

    fn list(&self) -> Value {
        serde_json::from_str(&self.migrate(USER, &["--list", "--json"]).1).unwrap()
    }
}

impl Node {
    /// Nothing is left of a process once it is at home.
    #[track_caller]
    fn no_guests(&self) {
        assert_eq!(self.list()["guests"], json!([]));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Ok(None) = self.agent.try_wait() {
            kill(Pid::from_raw(self.agent.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
            self.agent.wait().unwrap();
        }
    }
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 77, number)
}

/// One at a time: they call their nodes by the same names, and see the same processes.
static ONE: Mutex<()> = Mutex::new(());

struct Cluster {
    directory: tempfile::TempDir,
    port: u16,
    ca: Ca,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    fn new() -> Self {
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        // The users of the test reach the agents' sockets.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let peers: Vec<Value> =
            (1..=4).map(|number| json!({"name": format!("n{number}"), "address": address(number)})).collect();
        fs::write(directory.path().join("peers.json"), Value::from(peers).to_string()).unwrap();
        // Free at one address of the loopback, and at all those that nobody else uses.
        let port = TcpListener::bind((address(1), 0)).unwrap().local_addr().unwrap().port();
        Cluster { directory, port, ca: Ca::new("aula"), _alone: alone }
    }

    fn node(&self, number: u8) -> Node {
        Node::start(self, number, &self.ca, &format!("n{number}"))
    }
}

/// A program that adds up what it is told, and says the sum and its own id.
struct Adder {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

const ADDER: &str = r#"$| = 1; while (<STDIN>) { $n += $_; print "$n $$ $<\n" } print "end $n\n"; exit 7"#;

impl Adder {
    fn start(user: u32) -> Self {
        Self::of("perl", ADDER, user)
    }

    fn of(interpreter: &str, program: &str, user: u32) -> Self {
        let mut child = Command::new(interpreter)
            .args([if interpreter == "perl" { "-e" } else { "-c" }, program])
            // In another locale a file is mapped by which it is shared, at home.
            .env("LC_ALL", "C")
            .uid(user)
            .gid(user)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Adder { child, input, output }
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn adds(&mut self, number: u32, sum: u32, user: u32) {
        writeln!(self.input.as_ref().unwrap(), "{number}").unwrap();
        assert_eq!(self.line(), format!("{sum} {} {user}\n", self.child.id()));
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    fn ends(mut self, sum: u32) {
        self.input = None;
        assert_eq!(self.line(), format!("end {sum}\n"));
        assert_eq!(self.line(), "");
        assert_eq!(self.child.wait().unwrap().code(), Some(7));
    }
}

#[test]
fn a_program_moves_by_the_tool_and_comes_home() {
    let cluster = Cluster::new();
    let [one, two, three] = [1, 2, 3].map(|number| cluster.node(number));
    let mut adder = Adder::start(0);
    let pid = adder.pid();
    adder.adds(5, 5, 0);
    one.done(0, &["--where", &pid], &format!("{pid}: at home (n1)"));
    one.done(0, &[&pid, "home"], &format!("{pid}: at home (n1)"));

    let away = format!("{pid}: on n2, at home on n1");
    one.done(0, &[&pid, "n2"], &away);
    adder.adds(6, 11, 0);
    one.done(USER, &["--where", &pid], &away);
    // 127.0.77.2, by openMosix's rule.
    one.done(0, &[&pid, "19714"], &away);
    let number: i32 = pid.parse().unwrap();
    assert_eq!(
        one.list()["away"],
        json!([{"pid": number, "here": number, "node": "n2", "uid": 0, "name": "perl"}])
    );
    let guests = two.list()["guests"].clone();
    assert_eq!(guests.as_array().unwrap().len(), 1, "{guests}");
    assert_eq!([&guests[0]["pid"], &guests[0]["node"]], [&json!(number), &json!("n1")]);

    // On to a third node, by its address.
    one.done(0, &[&pid, "127.0.77.3"], &format!("{pid}: on n3, at home on n1"));
    adder.adds(7, 18, 0);
    two.no_guests();

    // What keeps it outlives the agents, and the next ones find it.
    let [one, three] = [one, three].map(Node::crashes);
    adder.adds(10, 28, 0);
    one.done(USER, &["--where", &pid], &format!("{pid}: on n3, at home on n1"));
    assert_eq!(three.list()["guests"][0]["pid"], number);

    one.refused(USER, &[&pid, "home"], 1, "is another user's");
    one.done(0, &[&pid, "home"], &format!("{pid}: at home (n1)"));
    adder.adds(8, 36, 0);
    assert_eq!(one.list(), json!({"type": "listed", "away": [], "guests": []}));
    three.no_guests();
    three.done(USER, &["--list"], "nothing is away, and nothing is here from elsewhere");
    adder.ends(36);
    one.refused(0, &[&pid, "n2"], 1, "there is no process");
}

/// As root of a node, for all that is away or here.
#[test]
fn all_come_home_and_a_node_lets_none_in() {
    let cluster = Cluster::new();
    let [one, two, three] = [1, 2, 3].map(|number| cluster.node(number));
    let mut adders: Vec<Adder> = (0..3).map(|_| Adder::start(USER)).collect();
    let pids: Vec<String> = adders.iter().map(Adder::pid).collect();
    let send = |node: usize, to: &str| {
        one.done(USER, &[&pids[node], to], &format!("{}: on {to}, at home on n1", pids[node]))
    };
    for adder in &mut adders {
        adder.adds(1, 1, USER);
    }
    let shown = |pid: &str| -> Value {
        serde_json::from_str(&one.migrate(USER, &["--show", pid, "--json"]).1).unwrap()
    };
    let is = |pid: &str, place: &str, nmigs: u32, lock: bool| {
        let number: i32 = pid.parse().unwrap();
        json!({"type": "shown", "pid": number, "where": place, "home": "n1", "goto": null, "nmigs": nmigs,
               "lock": lock, "cantmove": if lock && place == "n1" { json!("user_lock") } else { Value::Null }})
    };
    for (process, to) in [(0, "n2"), (1, "n2"), (2, "n3"), (2, "n2")] {
        send(process, to);
    }
    assert_eq!(shown(&pids[2]), is(&pids[2], "n2", 2, false));

    let verb = |node: &Node, user: u32, verb: &str| node.tool("mosctl", user, &[verb]);
    let done = |text: &str| (0, text.to_owned(), String::new());
    for node in [&one, &two] {
        for word in ["bring", "expel", "block"] {
            let refused = verb(node, USER, word);
            assert!(refused.0 == 1 && refused.2.contains("only root can "), "{refused:?}");
        }
    }
    // The guests' node wants to be rid of them; their home fetches them.
    assert_eq!(verb(&two, 0, "expel"), done("3 processes came home"));
    two.no_guests();
    for adder in &mut adders {
        adder.adds(1, 2, USER);
    }
    one.refused(USER, &[&pids[0], "n2"], 1, "n2 lets no guests in");
    assert_eq!(verb(&two, 0, "expel"), done("0 processes came home"));
    assert_eq!(verb(&two, 0, "noblock"), done(""));
    send(0, "n2");
    send(1, "n3");
    assert_eq!(verb(&one, 0, "bring"), done("2 processes came home"));
    assert_eq!(one.list()["away"], json!([]));
    three.no_guests();

    // What is locked stays; what is away already may come home.
    send(1, "n3");
    for pid in &pids[..2] {
        one.refused(ANOTHER, &["--lock", pid], 1, "is another user's");
        one.done(USER, &["--lock", pid], "");
    }
    one.refused(USER, &[&pids[0], "n2"], 1, "stays at home: user_lock");
    one.refused(0, &[&pids[1], "n2"], 1, "stays at home: user_lock");
    assert_eq!(shown(&pids[0]), is(&pids[0], "n1", 2, true));
    assert_eq!(shown(&pids[1]), is(&pids[1], "n3", 3, true));
    one.done(USER, &[&pids[1], "home"], &format!("{}: at home (n1)", pids[1]));
    one.done(USER, &["--unlock", &pids[0]], "");
    send(0, "n2");
    for mut adder in adders {
        adder.adds(1, 3, USER);
        adder.ends(3);
    }
}

/// The same, but that its child adds up, in memory that the two share. It begins by saying the child's id.
const FAMILY: &str = r#"
import mmap, os, sys
memory, (asked, ask), (answered, answer) = mmap.mmap(-1, 4096), os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.close(ask)
    while os.read(asked, 1):
        memory[1] += memory[0]
        os.write(answer, b'.')
    os._exit(0)
print(child, flush=True)
for line in sys.stdin:
    memory[0] = int(line)
    os.write(ask, b'.')
    os.read(answered, 1)
    print(memory[1], os.getpid(), os.getuid(), flush=True)
os.close(ask)
os.waitpid(child, 0)
print('end', memory[1], flush=True)
sys.exit(7)
"#;

/// The network is there, so it is known at once: home's patience of a minute is for one that is not.
#[test]
fn a_process_ends_when_what_kept_it_on_the_other_node_is_killed() {
    let cluster = Cluster::new();
    let [one, two] = [1, 2].map(|number| cluster.node(number));
    let [mut lost, mut other] = [(); 2].map(|()| Adder::start(USER));
    let agent = two.agent.id();
    let mut keepers = Vec::new();
    for adder in [&mut lost, &mut other] {
        // It has begun: a loader's calls would take it home.
        adder.adds(1, 1, USER);
        let pid = adder.pid();
        one.done(USER, &[&pid, "n2"], &format!("{pid}: on n2, at home on n1"));
        let children = fs::read_to_string(format!("/proc/{agent}/task/{agent}/children")).unwrap();
        let child = children.split_ascii_whitespace().map(|id| id.parse::<i32>().unwrap());
        keepers.extend(child.filter(|id| !keepers.contains(id)).collect::<Vec<_>>());
    }
    kill(Pid::from_raw(keepers[0]), Signal::SIGKILL).unwrap();
    one.says("the other node has ended it: the program that kept it there is gone");
    assert_eq!(lost.child.wait().unwrap().signal(), Some(libc::SIGPWR));
    other.adds(5, 6, USER);
    let pid = other.pid();
    one.done(USER, &[&pid, "home"], &format!("{pid}: at home (n1)"));
    other.ends(6);
}

#[test]
fn those_that_share_memory_move_by_the_name_of_any() {
    let cluster = Cluster::new();
    let [one, two] = [1, 2].map(|number| cluster.node(number));
    let mut family = Adder::of("/usr/bin/python3", FAMILY, USER);
    let (pid, child) = (family.pid(), family.line().trim_end().to_owned());
    family.adds(5, 5, USER);
    let away = |pid: &str| format!("{pid}: on n2, at home on n1");
    one.done(USER, &[&pid, "n2"], &away(&pid));
    one.done(USER, &["--where", &child], &away(&child));
    assert_eq!(
        [&one, &two]
            .map(|node| node.list())
            .map(|list| { ["away", "guests"].map(|kind| list[kind].as_array().unwrap().len()) }),
        [[2, 0], [0, 2]]
    );
    family.adds(6, 11, USER);
    one.refused(ANOTHER, &[&child, "home"], 1, "is another user's");
    one.done(USER, &[&child, "home"], &format!("{child}: at home (n1)"));
    assert_eq!(one.list()["away"], json!([]));
    two.no_guests();
    family.adds(7, 18, USER);

    one.done(USER, &["--lock", &child], "");
    let why = format!("stays at home: shared: of process {child}, user_lock");
    one.refused(USER, &[&pid, "n2"], 1, &why);
    one.done(USER, &["--unlock", &child], "");
    one.done(USER, &[&child, "n2"], &away(&child));
    one.done(USER, &["--where", &pid], &away(&pid));
    family.adds(8, 26, USER);
    family.ends(26);
}

/// A shell: for the word `go`, or with limits for `limited`, it starts a program, which says its id, adds up, becomes the same anew at the word
/// `anew`, and at `end` becomes another one for its status. What else it is told it becomes itself.
const SHELL: &str = r#"
export ADDS='$| = 1; print "$$\n";
while (<STDIN>) { last if /end/; exec "perl", "-e", $ENV{ADDS} if /anew/; $n += $_; print "$n $$ $<\n" }
exec "sh", "-c", "exit 7"'
while read word; do
    case $word in
    go) perl -e "$ADDS"; echo ended $? ;;
    limited) (ulimit -S -c 0; exec perl -e "$ADDS"); echo ended $? ;;
    *) exec "$word" ;;
    esac
done
exit 7
"#;

/// A program that [`SHELL`] has started.
impl Adder {
    fn says(&mut self, word: &str) -> String {
        writeln!(self.input.as_ref().unwrap(), "{word}").unwrap();
        self.line().trim_end().to_owned()
    }
}

#[test]
fn what_becomes_another_program_moves_again() {
    let cluster = Cluster::new();
    let [one, two, three] = [1, 2, 3].map(|number| cluster.node(number));
    let mut shell = Adder::of("sh", SHELL, USER);
    let pid = shell.pid();
    let is = |pid: &str, place: &str| {
        let place = if place == "n1" { "at home (n1)".into() } else { format!("on {place}, at home on n1") };
        one.done(USER, &["--where", pid], &format!("{pid}: {place}"));
    };
    let moves = |pid: &str, to: &str| {
        let place = if to == "home" { "at home (n1)".into() } else { format!("on {to}, at home on n1") };
        one.done(USER, &[pid, to], &format!("{pid}: {place}"));
    };
    let adds = |shell: &mut Adder, child: &str, number: u32, sum: u32| {
        assert_eq!(shell.says(&number.to_string()), format!("{sum} {child} {USER}"));
    };
    let goes_again = |pid: &str| one.says(&format!("away pid={pid} "));

    // What it starts, and what that becomes.
    moves(&pid, "n2");
    let child = shell.says("go");
    goes_again(&child);
    is(&child, "n2");
    assert_eq!(two.list()["guests"].as_array().unwrap().len(), 2);
    adds(&mut shell, &child, 5, 5);
    assert_eq!(shell.says("anew"), child);
    goes_again(&child);
    is(&child, "n2");
    adds(&mut shell, &child, 6, 6);

    // What is made away goes home to set its limits, and then becomes another program there.
    assert_eq!(shell.says("end"), "ended 7");
    let limited = shell.says("limited");
    let begun = Instant::now();
    while one.migrate(USER, &["--where", &limited]).1 != format!("{limited}: on n2, at home on n1") {
        assert!(begun.elapsed() < PATIENCE, "{limited} does not go again");
    }
    adds(&mut shell, &limited, 4, 4);
    assert_eq!(shell.says("end"), "ended 7");
    let child = shell.says("go");
    goes_again(&child);
    adds(&mut shell, &child, 6, 6);

    // Called home it comes with what it has started, and that stays: what is away again later comes after it.
    moves(&pid, "home");
    is(&child, "n1");
    two.no_guests();
    adds(&mut shell, &child, 1, 7);
    assert_eq!(shell.says("anew"), child);
    assert_eq!(shell.says("end"), "ended 7");
    let stays = shell.says("go");
    moves(&pid, "n3");
    is(&stays, "n1");
    assert_eq!(shell.says("end"), "ended 7");
    let child = shell.says("go");
    goes_again(&child);
    is(&child, "n3");
    assert_eq!(one.tool("mosctl", 0, &["bring"]), (0, "2 processes came home".into(), String::new()));
    is(&child, "n1");
    three.no_guests();

    // Locked, it stays where it is, whatever it becomes.
    moves(&child, "n3");
    goes_again(&child);
    one.done(USER, &["--lock", &child], "");
    assert_eq!(shell.says("anew"), child);
    goes_again(&child);
    is(&child, "n3");
    one.done(USER, &["--unlock", &child], "");

    // Called home at once, it stays as well, however far it has come.
    moves(&child, "n2");
    assert_eq!(shell.says("anew"), child);
    moves(&child, "home");
    is(&child, "n1");
    assert_eq!(shell.says("end"), "ended 7");
    moves(&pid, "n2");
    let recalled = shell.says("go");
    moves(&pid, "home");
    is(&recalled, "n1");
    two.no_guests();
    assert_eq!(shell.says("end"), "ended 7");

    // Nothing tells an agent that is started again, and nothing fails for that.
    moves(&pid, "n2");
    let one = one.crashes();
    let child = shell.says("go");
    let at_home = format!("{child}: at home (n1)");
    adds(&mut shell, &child, 8, 8);
    one.done(USER, &["--where", &child], &at_home);
    assert_eq!(shell.says("end"), "ended 7");
    one.done(USER, &["--where", &pid], &format!("{pid}: on n2, at home on n1"));
    shell.input = None;
    assert_eq!(shell.child.wait().unwrap().code(), Some(7));
}

/// As make waits for its children: SIGCHLD is blocked but for as long as that lasts.
const WAITS: &str = r#"
import ctypes, os, signal, sys
libc, mask, events, told = ctypes.CDLL(None, use_errno=True), (ctypes.c_ulong * 16)(), (ctypes.c_char * 12)(), []
signal.signal(signal.SIGCHLD, lambda *_: told.append(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
epoll = libc.epoll_create1(0)
ways = {
    'pselect': lambda: libc.pselect(0, None, None, None, None, mask),
    'ppoll': lambda: libc.ppoll(None, 0, None, mask),
    'epoll_pwait': lambda: libc.epoll_pwait(epoll, events, 1, -1, mask),
}
for line in sys.stdin:
    way, told[:] = ways[line.strip()], []
    waits, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(tell)
        os.read(waits, 1)
        os._exit(9)
    os.close(waits)
    # It ends while its parent waits, or just before.
    os.close(tell)
    print(way(), ctypes.get_errno(), told == [{signal.SIGCHLD}], os.waitpid(child, 0)[1] >> 8, flush=True)
"#;

#[test]
fn a_wait_that_opens_the_mask_is_interrupted() {
    let cluster = Cluster::new();
    let [one, _two] = [1, 2].map(|number| cluster.node(number));
    let mut waits = Adder::of("/usr/bin/python3", WAITS, USER);
    let pid = waits.pid();
    assert_eq!(waits.says("pselect"), "-1 4 True 9");
    one.done(USER, &[&pid, "n2"], &format!("{pid}: on n2, at home on n1"));
    for _ in 0..20 {
        for way in ["pselect", "ppoll", "epoll_pwait"] {
            assert_eq!(waits.says(way), "-1 4 True 9", "{way}");
        }
    }
    waits.input = None;
    assert!(waits.child.wait().unwrap().success());
}

/// A program that belongs to someone else is not moved by the rights of whoever has called it.
#[test]
fn a_setuid_program_stays_at_home() {
    let cluster = Cluster::new();
    let [one, two] = [1, 2].map(|number| cluster.node(number));
    let setuid = cluster.directory.path().join("setuid");
    fs::copy("/bin/cat", &setuid).unwrap();
    fs::set_permissions(&setuid, fs::Permissions::from_mode(0o4755)).unwrap();
    let mut shell = Adder::of("sh", SHELL, USER);
    let pid = shell.pid();
    one.done(USER, &[&pid, "n2"], &format!("{pid}: on n2, at home on n1"));
    writeln!(shell.input.as_ref().unwrap(), "{}", setuid.display()).unwrap();
    one.says(&format!("does not move again pid={pid} error=process {pid} is another user's"));
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("Uid:\t{USER}\t0\t0\t0")), "{status}");
    one.done(USER, &["--where", &pid], &format!("{pid}: at home (n1)"));
    two.no_guests();
    assert_eq!(shell.says("still there"), "still there");
    shell.input = None;
    assert!(shell.child.wait().unwrap().success());
}

#[test]
fn what_must_not_move_does_not_and_says_why() {
    let cluster = Cluster::new();
    let (one, four) = (cluster.node(1), cluster.node(4));
    let mut users = Adder::start(USER);
    let pid = users.pid();
    users.adds(1, 1, USER);
    one.refused(ANOTHER, &[&pid, "n4"], 1, "is another user's");
    one.refused(USER, &["1", "n4"], 1, "is another user's");
    one.refused(0, &["1", "n4"], 1, "never moves");
    one.refused(0, &[&one.agent.id().to_string(), "n4"], 1, "it is the agent");
    one.refused(USER, &[&pid, "n9"], 1, "no node is called `n9`");
    one.refused(USER, &[&pid, "n2"], 1, "the agent of n2 (127.0.77.2): Connection refused");
    one.refused(USER, &[&pid], 2, "usage: migrate");
    one.refused(USER, &["--socket", "/nonexistent", &pid, "n2"], 1, "no agent listens at /nonexistent");
    users.adds(2, 3, USER);
    users.ends(3);

    let mut roots = Adder::start(0);
    let pid = roots.pid();
    roots.adds(1, 1, 0);
    one.refused(0, &[&pid, "n4"], 1, "run only on nodes that are `trusted` in cluster.yaml, and n4 is not");
    four.says("and n4 is not");
    one.done(0, &["--where", &pid], &format!("{pid}: at home (n1)"));
    roots.adds(2, 3, 0);
    roots.ends(3);
}

#[test]
fn a_stranger_is_refused_on_either_side() {
    let cluster = Cluster::new();
    let one = cluster.node(1);
    // Another cluster's CA has signed this one; the other one is a member that gives itself another name.
    let stranger = Node::start(&cluster, 2, &Ca::new("sala"), "n2");
    let impostor = Node::start(&cluster, 3, &cluster.ca, "n4");
    let mut adder = Adder::start(USER);
    let pid = adder.pid();
    adder.adds(1, 1, USER);
    one.refused(USER, &[&pid, "n2"], 1, "invalid peer certificate: UnknownIssuer");
    one.refused(
        USER,
        &[&pid, "n3"],
        1,
        "invalid peer certificate: certificate not valid for name \"n3.node.tesela\"",
    );
    stranger.refused(USER, &[&pid, "n1"], 1, "received fatal alert: UnknownCA");
    one.says("invalid peer certificate: UnknownIssuer");
    impostor.refused(USER, &[&pid, "n1"], 1, "the certificate is not that of `n3`");
    one.says("the certificate is not that of `n3`");
    adder.adds(2, 3, USER);
    adder.ends(3);
    one.no_guests();
}

/// A connection to an agent's port, from the address of node 2.
fn from_two(to: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address(2), 0).into()).unwrap();
    // It goes on by itself: nobody waits for it.
    let raw = std::os::fd::AsRawFd::as_raw_fd(&socket);
    let SocketAddr::V4(to) = to else { panic!("an address of IPv4") };
    match nix::sys::socket::connect(raw, &nix::sys::socket::SockaddrIn::from(to)) {
        Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => socket,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn nobody_takes_the_places_of_all() {
    let cluster = Cluster::new();
    let [one, two, three] = [1, 2, 3].map(|number| cluster.node(number));
    let mut adder = Adder::start(USER);
    let pid = adder.pid();
    let socket = one.directory.join("agent.sock");
    let silent: Vec<UnixStream> = (0..32).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    one.refused(0, &["--where", &pid], 1, "user 0 has 32 requests under way");
    one.done(USER, &["--where", &pid], &format!("{pid}: at home (n1)"));
    drop(silent);

    let agent = SocketAddr::from((address(1), cluster.port));
    let silent: Vec<TcpSocket> = (0..17).map(|_| from_two(agent)).collect();
    one.says("is not heard: 16 others of that address");
    two.refused(USER, &[&pid, "n1"], 1, "it has hung up: it hears 16 of one address at a time");
    three.done(USER, &[&pid, "n1"], &format!("{pid}: on n1, at home on n3"));
    drop(silent);
    adder.adds(2, 2, USER);
    adder.ends(2);
}
