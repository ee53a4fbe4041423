//! Sleeps last as long as they were to.

use std::io::{BufRead as _, BufReader};

use nix::sys::signal::{Signal, kill};

use super::common::{Away, await_end, pid_of, talks};
use super::moves;

#[test]
fn a_sleep_lasts_as_long_as_it_was_to() {
    let script =
        "exec perl -MTime::HiRes=time -e '$t = time; sleep 2; print time - $t < 1.99 ? q(short) : q(slept)'";
    moves("sleep", script, 6);
}

/// Where a program does not ask what is left of its sleep, the kernel at home knows it; begun anew with each move, it would
/// not end while this goes on.
#[test]
fn a_sleep_goes_on_where_it_was_however_often_its_process_moves() {
    // nanosleep(2), and clock_nanosleep(2) with CLOCK_MONOTONIC, for three seconds; the short ones before are made away.
    let sleeps = |call: &str, before: u32| {
        format!(
            "exec perl -MTime::HiRes=time -e '($short, $long) = map {{ pack q(qq), @$_ }} [0, 2000000], [3, 0];
                $t = time; select undef, undef, undef, 0.02 while time - $t < {before};
                syscall 35, $short, 0 for 1 .. 100 * {before};
                $t = time; syscall {call}; print time - $t < 2.99 ? q(short) : q(slept)'"
        )
    };
    for (call, before) in [("35, $long, 0", 0), ("35, $long, 0", 1), ("230, 1, 0, $long, 0", 1)] {
        // Each takes longer than a tenth of a second.
        assert!(moves("sleep", &sleeps(call, before), 100) < 100, "{call}: it does not end while it moves");
    }
}

#[test]
fn a_handler_ends_a_sleep_away_and_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let program = "
import ctypes, os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
libc = ctypes.CDLL(None, use_errno=True)
for _ in range(3):
    print('sleeps', flush=True)
    ended = libc.syscall(35, (ctypes.c_long * 2)(600, 0), None)
    print(ended, ctypes.get_errno(), flush=True)
";
    let mut child = talks(program, directory.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut says = || lines.next().unwrap().unwrap();
    let pid = pid_of(&child);
    // It sleeps, or its deputy does: nanosleep(2), or restart_syscall(2) that goes on with it.
    let interrupt = || {
        let call = || std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
        while !call().starts_with("35 ") && !call().starts_with("219 ") {
            std::thread::yield_now();
        }
        kill(pid, Signal::SIGUSR1).unwrap();
    };
    // Begun at home, and interrupted away; begun away, and interrupted there and, another one, at home.
    assert_eq!(says(), "sleeps");
    let mut away = Away::send(child.id(), false);
    assert!(away.arrived());
    interrupt();
    assert_eq!((says(), says()), ("-1 4".to_owned(), "sleeps".to_owned()));
    interrupt();
    assert_eq!((says(), says()), ("-1 4".to_owned(), "sleeps".to_owned()));
    let (home, remote) = away.recall();
    assert!(home.success() && remote.success(), "{home} {remote}");
    interrupt();
    assert_eq!(says(), "-1 4");
    assert!(await_end(&mut child, "the sleeper").success());
}
