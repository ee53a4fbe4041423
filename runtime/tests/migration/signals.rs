//! Signals, timers and niceness.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use nix::sys::signal::{Signal, kill};

use super::common::{Away, await_end, pid_of, stat, talks};
use super::{computes, counter, python};

#[test]
fn signals_reach_the_process_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let mut program = counter(directory.path());
    let mut away = Away::send(program.id(), false);
    assert!(away.arrived());
    kill(pid_of(&program), Signal::SIGTERM).unwrap();
    assert_eq!(await_end(&mut program, "awk").signal(), Some(libc::SIGTERM), "its parent sees how it ended");
    let (home, guest) = away.recall();
    assert!(home.success() && guest.success(), "{home} {guest}");
}

#[test]
fn a_body_is_as_nice_as_its_process() {
    /// Of [`stat`].
    const NICE: usize = 16;
    let directory = tempfile::tempdir().unwrap();
    let script = "exec nice -n 7 awk 'BEGIN { print \"computes\"; fflush(); for (;;) i++ }'";
    let mut program = computes(script, directory.path());
    let mut away = Away::send(program.id(), false);
    assert!(away.arrived());
    let bodies = away.bodies().into_iter().filter_map(stat);
    let nice: Vec<String> = bodies.map(|(_, fields)| fields[NICE].clone()).collect();
    assert_eq!(nice, ["7"]);
    program.kill().unwrap();
    await_end(&mut program, "awk");
    let (home, guest) = away.recall();
    assert!(home.success() && guest.success(), "{home} {guest}");
}

#[test]
fn timers_and_blocked_signals_go_along() {
    // A timer that fires while the body is being built, and all the time.
    let ticks = "
import hashlib, signal
ticks = []
signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
while len(ticks) < 300:
    hashlib.sha256(b'x' * 50000).digest()
# At its end Python gives handlers back, and a timer that goes on would kill it.
signal.setitimer(signal.ITIMER_REAL, 0)
print('done')
";
    python("timer", ticks);
    // By default it is ignored, but not while it is blocked.
    let waits = "
import hashlib, os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])
os.kill(os.getpid(), signal.SIGURG)
for _ in range(4000):
    hashlib.sha256(b'x' * 50000).digest()
print(signal.sigpending())
";
    python("waits", waits);
    let blocks = "
import hashlib, signal
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append('one'))
signal.signal(signal.SIGUSR2, lambda *_: seen.append('two'))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print('ready', flush=True)
while not seen:
    hashlib.sha256(b'x' * 50000).digest()
assert seen == ['two'] and signal.sigpending() == {signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
print(seen)
";
    let mut program = talks(blocks, Path::new("/"));
    let mut output = BufReader::new(program.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let mut away = Away::send(program.id(), false);
    assert!(away.arrived());
    kill(pid_of(&program), Signal::SIGUSR1).unwrap();
    let (home, guest) = away.recall();
    assert!(home.success() && guest.success(), "{home} {guest}");
    kill(pid_of(&program), Signal::SIGUSR2).unwrap();
    line.clear();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "['two', 'one']\n");
    assert!(await_end(&mut program, "python").success());
}
