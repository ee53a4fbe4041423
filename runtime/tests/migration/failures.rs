//! Moves that fail, and bodies that are lost.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;

use super::common::{Away, How, await_end, talks};
use super::counter;

#[test]
fn a_move_that_fails_leaves_the_process_at_home() {
    let directory = tempfile::tempdir().unwrap();
    let mut program = counter(directory.path());
    // Another key: nothing that the other side says is believed.
    let mut away = Away::send(program.id(), true);
    assert!(!away.arrived());
    let (home, _) = away.recall();
    assert_eq!(home.code(), Some(1));
    // A file that others could read while it writes it by a mapping.
    let shares = "import mmap
with open('data', 'w+b') as data: m = mmap.mmap(data.fileno(), data.truncate(4096))
print(1, flush=True)
while True: m[0] = (m[0] + 1) % 256";
    let mut sharing = talks(shares, directory.path());
    let mut line = String::new();
    BufReader::new(sharing.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut away = Away::send(sharing.id(), false);
    assert!(!away.arrived());
    assert_eq!(away.recall().0.code(), Some(1));
    for process in [&mut program, &mut sharing] {
        assert!(process.try_wait().unwrap().is_none(), "it goes on");
        process.kill().unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}

#[test]
fn a_process_whose_body_is_lost_ends() {
    let directory = tempfile::tempdir().unwrap();
    let mut program = counter(directory.path());
    let mut away = Away::send_as(program.id(), How { patience: Some(3), ..How::default() });
    assert!(away.arrived());
    away.guest.kill().unwrap();
    assert_eq!(await_end(&mut program, "awk").signal(), Some(libc::SIGPWR));
    assert_eq!(away.recall().0.code(), Some(1), "and its home's side says why");
}
