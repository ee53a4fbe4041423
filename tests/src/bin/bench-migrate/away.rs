//! Two places with a link between them, and a process that goes from one to the other.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tesela_tests::netns::Namespace;

const ADDRESSES: [&str; 2] = ["10.79.0.1", "10.79.0.2"];

/// Two network namespaces, joined by a veth pair.
pub struct Link {
    places: [Namespace; 2],
}

impl Link {
    pub fn new() -> Self {
        let places = [Namespace::new(), Namespace::new()];
        let [here, there] = ADDRESSES.map(|address| format!("{address}/24"));
        places[0].link("here", &here, &places[1], "there", &there);
        Self { places }
    }

    /// Holds both directions to a rate.
    pub fn shape(&self, rate: &str) {
        self.control(&["add"], &["tbf", "rate", rate, "burst", "256kb", "latency", "20ms"]);
    }

    /// Takes that back.
    pub fn unshape(&self) {
        self.control(&["del"], &[]);
    }

    fn control(&self, verb: &[&str], discipline: &[&str]) {
        for (place, end) in self.places.iter().zip(["here", "there"]) {
            let mut command = place.command("tc");
            command.arg("qdisc").args(verb).args(["dev", end, "root"]).args(discipline);
            assert!(command.status().unwrap().success(), "{command:?}");
        }
    }

    /// A connection: its end at home, and the one away.
    pub fn connect(&self) -> [TcpStream; 2] {
        let listener = self.places[1].run(|| TcpListener::bind((ADDRESSES[1], 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let here = self.places[0].run(|| TcpStream::connect(address).unwrap());
        let there = listener.accept().unwrap().0;
        for end in [&here, &there] {
            end.set_nodelay(true).unwrap();
        }
        [here, there]
    }
}

/// A process that is away.
pub struct Trip {
    home: Child,
    guest: Child,
    said: BufReader<ChildStdout>,
    _keys: tempfile::TempDir,
}

impl Trip {
    /// Moves a process; it runs at the other place then.
    pub fn of(link: &Link, pid: u32) -> Self {
        let keys = tempfile::tempdir().unwrap();
        let [here, there] = link.connect();
        let key = |octets: [u8; 2], name: &str| {
            let path = keys.path().join(name);
            fs::write(&path, octets.map(|octet| [octet; 32]).concat()).unwrap();
            path
        };
        let guest = link.places[1].run(|| side(there, &key([1, 2], "guest"), &["guest"]));
        let mut home = link.places[0].run(|| side(here, &key([2, 1], "home"), &["home", &pid.to_string()]));
        let mut trip = Self { said: BufReader::new(home.stdout.take().unwrap()), home, guest, _keys: keys };
        let mut line = String::new();
        trip.said.read_line(&mut line).unwrap();
        assert_eq!(line, "away\n", "process {pid} did not move");
        trip
    }

    /// Calls it home, and returns when it is there.
    pub fn home(self) {
        // It may have ended.
        let _gone = kill(Pid::from_raw(self.home.id().try_into().unwrap()), Signal::SIGUSR1);
        self.end();
    }

    /// Waits until it has come home, or ended.
    pub fn end(mut self) {
        self.home.wait().unwrap();
        self.guest.wait().unwrap();
    }
}

/// Starts one of the two sides.
fn side(stream: TcpStream, keys: &std::path::Path, words: &[&str]) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3<&0 <\"$1\"; shift; exec \"$@\"", "sh"]).arg(keys).arg(teselad()).args(words);
    command.stdin(OwnedFd::from(stream)).stdout(Stdio::piped());
    command.env("GLIBC_TUNABLES", "glibc.pthread.rseq=0").env("TESELA_LOG", "warn").spawn().unwrap()
}

fn teselad() -> PathBuf {
    std::env::current_exe().unwrap().with_file_name("teselad")
}
