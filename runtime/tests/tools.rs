//! The tools as programs, on a terminal and on a pipe, with an agent that is not one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;
use tesela_runtime::discovery::NodeId;
use tesela_runtime::load::{Load, Status};
use tesela_runtime::wire::local::{Answer, Node, Request, Settings, line};

const TOOLS: &str = env!("CARGO_BIN_EXE_tesela-tools");
/// What takes the terminal for a tool, and what gives it back.
const TAKEN: &str = "\x1b[?1049h";
const GIVEN: &str = "\x1b[?1049l";

fn answer(request: Request) -> Answer {
    match request {
        Request::Settings {} => Answer::Settings(Settings::default()),
        Request::List {} => Answer::Listed { away: Vec::new(), guests: Vec::new() },
        Request::Costs {} => Answer::Costs { move_us: 30_000, kib_per_second: 102_400, call_us: 100 },
        Request::Migrate { pid, to } => {
            // What is to move is there.
            assert!(Path::new(&format!("/proc/{pid}")).exists());
            let node = if to == "home" { "n1".to_owned() } else { to };
            Answer::At { pid, node, home: "n1".to_owned() }
        }
        Request::Nodes {} => {
            let status = Status::UP;
            let load = Load {
                load: 150,
                speed: 10_000,
                cpus: 200,
                util: 75,
                mem: 1024,
                rmem: 512,
                tmem: 4096,
                status,
            };
            let node = |low| {
                let address = [10, 77, 0, low].into();
                Node {
                    id: NodeId(low.into()),
                    name: None,
                    address,
                    up: true,
                    age_ms: Some(9),
                    load: Some(load),
                    multicast: None,
                }
            };
            let gone = vec![Node { up: false, age_ms: None, load: None, ..node(10) }];
            Answer::Nodes { own: NodeId(11), nodes: vec![node(11), node(12)], gone }
        }
        request => Answer::Failed { reason: format!("{request:?} is not expected") },
    }
}

/// Where it listens.
fn agent(place: &Path) -> PathBuf {
    let socket = place.join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut text = String::new();
            stream.read_line(&mut text).unwrap();
            let answer = answer(serde_json::from_str(&text).unwrap());
            // Who asked may have ended meanwhile.
            let _said = stream.get_mut().write_all(&line(&answer).unwrap());
        }
    });
    socket
}

/// A tool on a terminal of its own.
struct OnTerminal {
    tool: Child,
    terminal: File,
    slave: OwnedFd,
    before: Termios,
}

impl OnTerminal {
    /// Returns once there is a picture.
    fn start(words: &[&str], socket: &Path) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).unwrap();
        let before = tcgetattr(&slave).unwrap();
        let end = || slave.try_clone().unwrap();
        // Whoever runs this may ignore SIGHUP.
        let tool = Command::new("setsid")
            .args(["--ctty", "env", "--default-signal", TOOLS])
            .args([words, &["--socket", socket.to_str().unwrap()]].concat())
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Self { tool, terminal: master.into(), slave, before }
    }

    /// What is written to the terminal, up to these words.
    fn until(&mut self, words: &str) -> String {
        let mut seen = Vec::new();
        let mut some = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains(words) {
            let mut wait = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut wait, PollTimeout::try_from(60_000).unwrap()).unwrap();
            assert!(ready > 0, "no {words:?} in {:?}", String::from_utf8_lossy(&seen));
            let length = self.terminal.read(&mut some).unwrap();
            seen.extend_from_slice(&some[..length]);
        }
        String::from_utf8(seen).unwrap()
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_flags.contains(LocalFlags::ICANON)
    }
}

#[test]
fn the_terminal_is_given_back_however_a_tool_ends() {
    let place = tempfile::tempdir().unwrap();
    let socket = agent(place.path());
    for (words, seen) in [(&["mosmon"][..], "help,"), (&["mon", "-m"], "help,"), (&["mtop"], "COMMAND")] {
        for (keys, signal) in
            [("q", None), ("\x03", None), ("", Some(Signal::SIGTERM)), ("", Some(Signal::SIGHUP))]
        {
            let mut it = OnTerminal::start(words, &socket);
            assert!(it.until(seen).contains(TAKEN));
            assert!(it.is_raw());
            it.terminal.write_all(keys.as_bytes()).unwrap();
            if let Some(signal) = signal {
                kill(Pid::from_raw(it.tool.id().cast_signed()), signal).unwrap();
            }
            it.until(GIVEN);
            let ended = it.tool.wait().unwrap();
            let by = signal.map(|signal| signal as i32);
            assert_eq!((ended.signal(), ended.success()), (by, signal.is_none()), "{words:?} {signal:?}");
            assert_eq!(tcgetattr(&it.slave).unwrap(), it.before, "{words:?} {signal:?}");
        }
    }
}

fn on_pipe(words: &[&str], socket: &Path) -> String {
    let (tool, rest) = words.split_first().unwrap();
    let words = [&[*tool, "--socket", socket.to_str().unwrap()], rest].concat();
    let Output { status, stdout, stderr } = Command::new(TOOLS).args(&words).output().unwrap();
    assert!(status.success(), "{words:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// The line of the nodes' numbers.
fn numbers(picture: &str) -> &str {
    picture.lines().find(|line| line.starts_with("Node #")).unwrap()
}

#[test]
fn where_there_is_no_terminal_it_is_text() {
    let place = tempfile::tempdir().unwrap();
    let socket = agent(place.path());
    for words in [&["mosmon", "-t"][..], &["mon", "-t", "--once"]] {
        let picture = on_pipe(words, &socket);
        assert!(
            picture.starts_with("LOAD ") && picture.contains("Total: 2 of 3 nodes up, 4 CPUs\n"),
            "{picture}"
        );
        assert!(numbers(&picture).split_whitespace().eq(["Node", "#", "11", "12"]), "{picture}");
    }
    let picture = on_pipe(&["mosmon", "-d"], &socket);
    assert!(numbers(&picture).split_whitespace().eq(["Node", "#", "10", "11", "12"]), "{picture}");
    for words in [&["mtop"][..], &["mtop", "-b", "-n", "1"]] {
        let table = on_pipe(words, &socket);
        assert!(table.starts_with("mtop: up ") && table.contains("    PID NODE USER"), "{table}");
        assert!(table.contains(&format!("{:>7} - ", std::process::id())), "{table}");
    }
    assert_eq!(on_pipe(&["mtop", "-bn3", "-d0.1"], &socket).matches("mtop: up ").count(), 3);
}

#[test]
fn a_move_is_timed_with_a_process_of_its_own() {
    let place = tempfile::tempdir().unwrap();
    let told = on_pipe(&["tune", "n3"], &agent(place.path()));
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].starts_with("to n3: ") && lines[1].starts_with("to home: "), "{told}");
    assert!(lines[2].starts_with("the balance reckons with 30.0 ms for a move"), "{told}");
}
