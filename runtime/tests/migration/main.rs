//! Real programs move to another node and home again, several times in mid-run, and never know: each is
//! compared with a run that does not move. Needs root.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[expect(dead_code, reason = "some of it is for the tests with a network")]
#[path = "../common/mod.rs"]
mod common;
mod failures;
mod mappings;
mod programs;
mod sent;
mod signals;
mod sleeps;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use common::{Away, await_end, ends_within, start};

/// How long a process may take to end that is about to.
const ENDING: Duration = Duration::from_secs(10);

/// Runs a script unmoved, and then so that it is away, at home, away and so on, `trips` times, as long as it
/// lasts. Output and exit status have to be the same. Returns how often it was away.
fn moves(name: &str, script: &str, trips: usize) -> usize {
    moves_once(name, script, trips, |_| {})
}

/// The same; before its first move, `begun` waits for what the script tells the FIFO `ready`.
fn moves_once(name: &str, script: &str, trips: usize, begun: impl FnOnce(&mut File)) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let (unmoved, moved) = (directory.path().join("unmoved"), directory.path().join("moved"));
    let ready = directory.path().join("ready");
    nix::unistd::mkfifo(&ready, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let expected = start(script, &unmoved).wait().unwrap();
    let mut ready = File::options().read(true).write(true).open(ready).unwrap();
    let mut program = start(script, &moved);
    begun(&mut ready);
    let mut made = 0;
    for _ in 0..trips {
        if program.try_wait().unwrap().is_some() {
            break;
        }
        let mut away = Away::send(program.id(), false);
        let arrived = away.arrived();
        // It stays for a tenth of a second, unless it ends there.
        let _ended_there = arrived && ends_within(&program, Duration::from_millis(100));
        let (home, _) = away.recall();
        made += usize::from(arrived);
        // It may be ending, and only then does a side fail.
        assert!(home.success() || ends_within(&program, ENDING), "{name}: move {made}: {home}");
    }
    let status = await_end(&mut program, name);
    assert_eq!(status, expected, "{name}, after {made} moves");
    assert!(made > 0, "{name} has ended before it could move");
    let [wanted, said] = [&unmoved, &moved].map(|output| std::fs::read(output).unwrap());
    let at = wanted.iter().zip(&said).take_while(|(one, other)| one == other).count();
    let lengths = (said.len(), wanted.len());
    assert!(
        said == wanted,
        "{name}, after {made} moves: another output from octet {at} on, {lengths:?} octets"
    );
    eprintln!("{name}: {made} moves");
    made
}

/// As [`moves`], for a program of Python's.
fn python(name: &str, program: &str) {
    moves(name, &format!("exec /usr/bin/python3 -c \"{program}\""), 12);
}

/// A program in C, made by what links Rust's own programs.
fn built(name: &str, directory: &Path) -> PathBuf {
    let program = directory.join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/migration").join(name).with_extension("c");
    let built = Command::new("cc").args(["-O1", "-o"]).args([&program, &source]).status().unwrap();
    assert!(built.success(), "{}", source.display());
    program
}

/// A program that counts, and says so.
fn counter(directory: &Path) -> Child {
    computes("exec awk 'BEGIN { for (;;) if (++i % 1000000 == 0) { print i; fflush() } }'", directory)
}

/// A script that says something once it computes; its output is the file `out`. Before, a loader's calls would take it home.
fn computes(script: &str, directory: &Path) -> Child {
    let out = directory.join("out");
    let child = start(script, &out);
    while std::fs::metadata(&out).unwrap().len() == 0 {
        std::thread::yield_now();
    }
    child
}
