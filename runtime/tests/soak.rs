//! A process with threads and one that forks are moved back and forth for a long time (`make soak`): each checks
//! by itself that nothing of it is lost. Arguments: how many moves there and back, 1,000 if not said; and which
//! program, both if not said. Needs root.
#![expect(clippy::unwrap_used, reason = "it fails by panicking, as tests do")]

#[expect(dead_code, reason = "some of it is for programs that are talked with")]
mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Away, await_end, ends_within, pid_of, start};
use nix::sys::signal::{Signal, kill};

/// Four threads hand values round in a ring, and others come and go. In the end every value is there, and is what
/// as many hashes make of it as it has gone steps.
const THREADS: &str = "
import hashlib, queue, signal, threading
told = []
signal.signal(signal.SIGUSR1, lambda *_: told.append(1))
ring = [queue.Queue() for _ in range(4)]
def work(number):
    while True:
        item = ring[number].get()
        if item is None:
            return
        steps, value = item
        ring[(number + 1) % 4].put((steps + 1, hashlib.sha256(value).digest()))
workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for worker in workers:
    worker.start()
for number in range(20):
    ring[0].put((0, b'begin'))
while not told:
    short = threading.Thread(target=lambda: hashlib.sha256(b'x' * 100000).digest())
    short.start()
    short.join()
for number in range(4):
    ring[number].put(None)
for worker in workers:
    worker.join()
left = sorted(item for one in ring for item in one.queue if item)
assert len(left) == 20, left
steps, value = 0, b'begin'
for wanted, found in left:
    while steps < wanted:
        steps, value = steps + 1, hashlib.sha256(value).digest()
    assert value == found, steps
print('sound')
";

/// Children that compute, whose parent compares what they say with what it knows; and programs that they execute.
const FORKS: &str = "
import hashlib, os, signal, subprocess
told = []
signal.signal(signal.SIGUSR1, lambda *_: told.append(1))
def chain(length):
    value = b'chain'
    for _ in range(length):
        value = hashlib.sha256(value).digest()
    return value
expected, count = chain(3000), 0
while not told:
    count += 1
    read, write = os.pipe()
    children = []
    for number in range(2):
        child = os.fork()
        if child == 0:
            os.write(write, chain(3000))
            os._exit((count + number) % 200)
        children.append(child)
    os.close(write)
    for number, child in enumerate(children):
        assert os.waitpid(child, 0)[1] >> 8 == (count + number) % 200, (count, number)
    said = b''
    while part := os.read(read, 64):
        said += part
    os.close(read)
    assert said == expected * 2, count
    if count % 5 == 0:
        assert subprocess.run(['/bin/echo', str(count)], stdout=subprocess.PIPE).stdout == b'%d\\n' % count
    assert len(os.listdir('/proc/self/fd')) < 12, os.listdir('/proc/self/fd')
print('sound')
";

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|word| !word.starts_with('-'));
    let moves = arguments.next().map_or(1000, |word| word.parse().unwrap());
    let only = arguments.next();
    for (name, program) in [("threads", THREADS), ("forks", FORKS)] {
        if only.as_deref().is_none_or(|only| only == name) {
            soak(name, program, moves);
        }
    }
}

fn soak(name: &str, program: &str, moves: u32) {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("output");
    let mut process = start(&format!("exec /usr/bin/python3 -c \"{program}\""), &output);
    let begun = Instant::now();
    let mut trips = Vec::new();
    for made in 0..moves {
        let trip = Instant::now();
        let mut away = Away::send(process.id(), false);
        assert!(away.arrived(), "{name}: move {made} did not arrive");
        // From at once to long after all its memory has come.
        let stays = Duration::from_millis(u64::from(made * 7 % 60));
        assert!(!ends_within(&process, stays), "{name} has ended at move {made}: {}", said(&output));
        let (home, guest) = away.recall();
        assert!(home.success() && guest.success(), "{name}: move {made}: {home}, {guest}");
        assert!(process.try_wait().unwrap().is_none(), "{name} has ended at move {made}: {}", said(&output));
        trips.push(trip.elapsed().saturating_sub(stays));
    }
    kill(pid_of(&process), Signal::SIGUSR1).unwrap();
    let status = await_end(&mut process, name);
    assert!(status.success() && said(&output) == "sound\n", "{name}: {status}: {}", said(&output));
    trips.sort_unstable();
    let milliseconds = |part: usize| trips.get(trips.len() * part / 100).map_or(0, Duration::as_millis);
    println!(
        "{name}: {moves} moves there and back in {} s, none failed; a trip takes {} ms at the median, {} ms at the 99th percentile",
        begun.elapsed().as_secs(),
        milliseconds(50),
        milliseconds(99),
    );
}

fn said(output: &Path) -> String {
    std::fs::read_to_string(output).unwrap()
}
