//! Real programs move to another node and home again, several times in mid-run, and never know: each is
//! compared with a run that does not move. Needs root.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[expect(dead_code, reason = "some of it is for the tests with a network")]
mod common;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Away, How, await_end, ends_within, pid_of, start, stat, talks};
use nix::sys::signal::{Signal, kill};

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

#[test]
fn programs_that_compute() {
    let data = "head -c 12000000 /usr/bin/qemu-system-x86_64";
    moves("gzip", &format!("{data} | cat > data; exec gzip -9 -n -c data"), 6);
    moves("awk", "exec awk 'BEGIN { for (i = 0; i < 6000000; i++) s += i * i % 7; print s }'", 3);
    moves("bc", "echo 'scale=1200; 4*a(1)' > sum; exec bc -l sum", 3);
    moves("exit status", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; exit 7", 3);
}

/// A program in C, made by what links Rust's own programs.
fn built(name: &str, directory: &Path) -> PathBuf {
    let program = directory.join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name).with_extension("c");
    let built = Command::new("cc").args(["-O1", "-o"]).args([&program, &source]).status().unwrap();
    assert!(built.success(), "{}", source.display());
    program
}

#[test]
fn vector_registers_keep_what_they_hold() {
    let directory = tempfile::tempdir().unwrap();
    let program = built("vectors", directory.path());
    moves("vectors", &format!("exec {} 600", program.display()), 12);
}

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

/// It goes home from the memory that it shares with its maker, of which most is still on its way.
#[test]
fn a_child_in_its_makers_memory_has_all_of_it_at_home() {
    let directory = tempfile::tempdir().unwrap();
    let program = built("vfork", directory.path());
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut says = || lines.next().unwrap().unwrap();
    assert_eq!(says(), "ready");
    let mut away = Away::send(child.id(), false);
    assert!(away.arrived());
    writeln!(input).unwrap();
    assert_eq!(says(), "child");
    let (home, remote) = away.recall();
    assert!(home.success() && remote.success(), "{home} {remote}");
    writeln!(input).unwrap();
    assert_eq!(says(), "exit status 7");
    drop(input);
    assert!(await_end(&mut child, "the maker").success());
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

#[test]
fn threads_move_with_their_process() {
    let data = "head -c 6000000 /usr/bin/qemu-system-x86_64 > data";
    moves("xz", &format!("{data}; exec xz -T2 -2 -c data"), 12);
    // Four that compute and share a queue, and many that come and go meanwhile.
    let threads = "
import hashlib, queue, threading
results, told = [None] * 4, queue.Queue()
def work(number):
    value = b'%d' % number
    for i in range(80000):
        value = hashlib.sha256(value).digest()
        if i % 1000 == 0:
            told.put((number, i))
    results[number] = value.hex()
workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for worker in workers:
    worker.start()
for _ in range(100):
    short = threading.Thread(target=lambda: hashlib.sha256(b'x' * 200000).digest())
    short.start()
    short.join()
for worker in workers:
    worker.join()
print(results, told.qsize())
";
    python("threads", threads);
}

#[test]
fn processes_that_share_memory_move_together() {
    // Memory that children inherit, a lock and a condition in it, pipes between them.
    let python_processes = "
import hashlib, multiprocessing as mp
def work(number, total, ring, told):
    value = b'%d' % number
    for i in range(20000):
        value = hashlib.sha256(value * 20).digest()
        with total.get_lock():
            total.value += value[0]
            ring[i % 5000] ^= value[1] << 8
        if i % 2000 == 0:
            told.put((number, i))
    told.put((number, value.hex()))
context = mp.get_context('fork')
total, ring, told = context.Value('q'), context.Array('q', 5000), context.Queue()
workers = [context.Process(target=work, args=(number, total, ring, told)) for number in range(3)]
for worker in workers:
    worker.start()
open('ready', 'r+b', 0).write(b'.')
said = sorted(str(told.get()) for _ in range(33))
for worker in workers:
    worker.join()
print(total.value, hashlib.sha256(str(ring[:]).encode()).hexdigest(), said, [w.exitcode for w in workers])
";
    let script = format!("exec /usr/bin/python3 -c \"{python_processes}\"");
    moves_once("multiprocessing", &script, 12, |ready| ready.read_exact(&mut [0]).unwrap());
    // The memory is not where it was when the process comes home.
    let wanders = "
import ctypes, hashlib, os
libc = ctypes.CDLL(None)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
size, at = 4 << 20, [libc.mmap(None, ctypes.c_size_t(4 << 20), 3, kind, -1, ctypes.c_long(0)) for kind in (0x21, 0x22)]
words = lambda: (ctypes.c_uint64 * (size // 8)).from_address(at[0])
child = os.fork()
if child == 0:
    for i in range(60000):
        words()[i * 7 % 500000] += i
        hashlib.sha256(b'x' * 100).digest()
    os._exit(3)
open('ready', 'r+b', 0).write(b'.')
for i in range(300):
    old, new = map(ctypes.c_void_p, at)
    libc.mremap(old, ctypes.c_size_t(size), ctypes.c_size_t(size), 3, new)
    at.reverse()
    words()[500000 + i] = i
    value = hashlib.sha256(b'x' * 1000000).digest()
print(os.waitpid(child, 0)[1], hashlib.sha256(bytes(words())).hexdigest())
";
    let script = format!("exec /usr/bin/python3 -c \"{wanders}\"");
    moves_once("wanders", &script, 12, |ready| ready.read_exact(&mut [0]).unwrap());
}

#[test]
fn children_are_made_waited_for_and_executed() {
    let directory = tempfile::tempdir().unwrap();
    let forks = "
import hashlib, os
for k in range(60):
    children = []
    for j in range(3):
        child = os.fork()
        if child == 0:
            value = b'x'
            for _ in range(6000):
                value = hashlib.sha256(value).digest()
            os._exit(k + j)
        children.append(child)
    print([os.waitpid(child, 0)[1] >> 8 for child in children], flush=True)
";
    python("forks", forks);
    let executes = "
import hashlib, subprocess
for k in range(30):
    value = b'x'
    for _ in range(6000):
        value = hashlib.sha256(value).digest()
    said = subprocess.run(['/bin/echo', str(k)], stdout=subprocess.PIPE).stdout
    print(said, subprocess.run(['sh', '-c', 'exit %d' % k]).returncode, flush=True)
";
    python("exec", executes);
    // As make waits: SIGCHLD is blocked but for as long as that lasts.
    let waits = "
import ctypes, hashlib, os, signal
libc, empty, events, told = ctypes.CDLL(None, use_errno=True), (ctypes.c_ulong * 16)(), (ctypes.c_char * 12)(), []
signal.signal(signal.SIGCHLD, lambda *_: told.append(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
epoll = libc.epoll_create1(0)
ways = [
    lambda: libc.pselect(0, None, None, None, None, empty),
    lambda: libc.ppoll(None, 0, None, empty),
    lambda: libc.epoll_pwait(epoll, events, 1, -1, empty),
]
for k in range(60):
    child = os.fork()
    if child == 0:
        value = b'x'
        for _ in range(k % 5 * 2000):
            value = hashlib.sha256(value).digest()
        os._exit(k % 7)
    print(ways[k % 3](), ctypes.get_errno(), len(told), os.waitpid(child, 0)[1] >> 8, flush=True)
    print(told, signal.pthread_sigmask(signal.SIG_BLOCK, []), flush=True)
";
    python("waits", waits);
    let pipes = "i=0; while [ $i -lt 150 ]; do i=$((i+1)); echo $i | sed s/1/x/ | tr 2 y; done";
    moves("pipelines", pipes, 12);
    // A signal that a program sends to itself is handled before kill(2) returns.
    let tells = "trap 'echo told' USR1; i=0
while [ $i -lt 1500 ]; do i=$((i+1)); echo $i; kill -USR1 $$; echo on; (exit $((i % 7))); echo $?; done";
    std::fs::write(directory.path().join("tells"), tells).unwrap();
    moves("traps", &format!("exec bash {}", directory.path().join("tells").display()), 12);
}

/// As [`moves`], for a program of Python's.
fn python(name: &str, program: &str) {
    moves(name, &format!("exec /usr/bin/python3 -c \"{program}\""), 12);
}

/// A program that writes a file by a mapping alone, and ends when it is told so.
fn writes_by_mapping(directory: &Path, file: &Path) -> Child {
    let script = format!(
        "exec /usr/bin/python3 -c \"
import ctypes, os
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
fd = os.open('{}', os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 8192)
at = libc.mmap(None, ctypes.c_size_t(8192), 3, 1, fd, ctypes.c_long(0))
os.close(fd)
ready, go = open('ready', 'r+b', 0), open('go', 'rb', 0)
ready.write(b'.')
go.read(1)
ctypes.memset(at, 65, 8192)
\"",
        file.display()
    );
    for fifo in ["ready", "go"] {
        nix::unistd::mkfifo(&directory.join(fifo), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    start(&script, &directory.join("output"))
}

#[test]
fn what_is_written_by_a_mapping_away_is_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let in_memory = tempfile::Builder::new().tempfile_in("/dev/shm").unwrap().into_temp_path();
    for file in [&*directory.path().join("file"), &*in_memory] {
        let mut program = writes_by_mapping(directory.path(), file);
        let mut go = File::options().read(true).write(true).open(directory.path().join("go")).unwrap();
        File::open(directory.path().join("ready")).unwrap().read_exact(&mut [0]).unwrap();
        let mut away = Away::send(program.id(), false);
        assert!(away.arrived());
        go.write_all(b".").unwrap();
        assert!(await_end(&mut program, "python3").success());
        if file.starts_with(directory.path()) {
            assert_eq!(std::fs::read(file).unwrap(), [65; 8192], "as soon as it has ended");
        }
        let (home, guest) = away.recall();
        assert!(home.success() && guest.success(), "{home}, {guest}");
        assert_eq!(std::fs::read(file).unwrap(), [65; 8192]);
        for fifo in ["ready", "go"] {
            std::fs::remove_file(directory.path().join(fifo)).unwrap();
        }
    }
}

#[test]
fn a_page_of_a_file_that_has_been_cleared_stays_so() {
    let cleared = "
import hashlib, mmap
with open('content', 'wb') as content:
    content.write(b'x' * 16384)
with open('content', 'rb') as content:
    m = mmap.mmap(content.fileno(), 16384, access=mmap.ACCESS_COPY)
m[:8192] = bytes(8192)
for _ in range(6000):
    hashlib.sha256(b'x' * 50000).digest()
print(m[:].count(b'\\0'), m[:].count(b'x'))
";
    python("cleared", cleared);
}

#[test]
fn locked_memory_moves_as_far_as_any_user_may_lock_it() {
    let locked = "
import ctypes, hashlib, mmap
m = mmap.mmap(-1, 40960, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m[:4096] = b'x' * 4096
libc = ctypes.CDLL(None)
at = ctypes.addressof(ctypes.c_char.from_buffer(m))
assert libc.mlock(ctypes.c_void_p(at), ctypes.c_size_t(40960)) == 0
for _ in range(4000):
    hashlib.sha256(b'x' * 50000).digest()
print(m[:].count(b'x'), [line for line in open('/proc/self/status') if line.startswith('VmLck')])
";
    python("locked", locked);
}

#[test]
fn files_are_read_and_written_past_the_cache() {
    let direct = "
import hashlib, mmap, os
m = mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
try:
    fd = os.open('direct', os.O_RDWR | os.O_CREAT | os.O_DIRECT)
except OSError:
    # A file system in memory may have none.
    fd = os.open('direct', os.O_RDWR | os.O_CREAT)
value = b'x'
for i in range(3000):
    value = hashlib.sha256(value * 300).digest()
    m[:8192] = value * 256
    os.pwritev(fd, [memoryview(m)[:4096], memoryview(m)[4096:]], i % 50 * 8192)
    assert os.preadv(fd, [m], i * 7 % (min(i, 49) + 1) * 8192) == 8192
    value += m[:32]
print(hashlib.sha256(value).hexdigest())
";
    python("direct", direct);
}

#[test]
fn what_can_be_done_at_home_only_is_done_there() {
    // It goes home by itself for setrlimit(2), which its next move finds done.
    let limits = "
import hashlib, resource
for k in range(20):
    value = b'x'
    for _ in range(20000):
        value = hashlib.sha256(value).digest()
    if k % 5 == 4:
        resource.setrlimit(resource.RLIMIT_CORE, (k, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    print(k, resource.getrlimit(resource.RLIMIT_CORE)[0], flush=True)
";
    python("limits", limits);
}

/// A Python program that says `ready`, changes its mappings away and says `mapped`; at home again it looks at them,
/// and says `sound`.
fn maps_away(script: &str, directory: &Path, meanwhile: impl FnOnce()) {
    let mut program = talks(script, directory);
    let mut output = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut input = program.stdin.take().unwrap();
    assert_eq!(output.next().as_deref(), Some("ready"));
    let mut away = Away::send(program.id(), false);
    assert!(away.arrived());
    input.write_all(b"\n").unwrap();
    assert_eq!(output.next().as_deref(), Some("mapped"));
    meanwhile();
    let (home, guest) = away.recall();
    assert!(home.success() && guest.success(), "{home} {guest}");
    input.write_all(b"\n").unwrap();
    assert_eq!(output.next().as_deref(), Some("sound"));
    assert!(await_end(&mut program, "python").success());
}

#[test]
fn a_file_that_is_mapped_beyond_its_end_may_be_mapped_over() {
    // As the loader of libraries does: away, where it is caught in the middle of that.
    let loads = "
import ctypes
mmap = ctypes.CDLL(None, use_errno=True).mmap
mmap.restype, mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
page = 4096
with open('/bin/true', 'rb') as file:
    size = (file.seek(0, 2) + page - 1) // page * page
    at = mmap(None, size + 2 * page, 1, 2, file.fileno(), 0)
print('ready', flush=True)
input()
assert mmap(at + size - page, 2 * page, 3, 0x32, -1, 0) == at + size - page
ctypes.memset(at + size - page, 7, 2 * page)
print('mapped', flush=True)
input()
assert ctypes.string_at(at + size - page, 2 * page) == b'\\x07' * 2 * page
assert ctypes.string_at(at + 1, 3) == b'ELF'
print('sound', flush=True)
";
    maps_away(loads, Path::new("/"), || {});
}

/// A file that is mapped to be read is the file's own at home again; what has come in its place is not.
#[test]
fn what_takes_the_place_of_a_files_mapping_stays() {
    let maps = "
import ctypes, mmap
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
with open('data', 'rb') as file:
    at = libc.mmap(None, 4 * 8192, 1, 1, file.fileno(), 0)
print('ready', flush=True)
input()
# MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
assert libc.mmap(at + 8192, 8192, 3, 0x32, -1, 0) == at + 8192
ctypes.memset(at + 8192, 66, 8192)
assert libc.mprotect(at + 8192, 8192, 1) == 0
print('mapped', flush=True)
input()
# Somebody has written to the file meanwhile.
assert ctypes.string_at(at, 4 * 8192) == b'c' * 8192 + b'B' * 8192 + b'c' * 16384
print('sound')
";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data");
    std::fs::write(&file, [b'a'; 4 * 8192]).unwrap();
    maps_away(maps, directory.path(), || std::fs::write(&file, [b'c'; 4 * 8192]).unwrap());
}

#[test]
fn threads_that_have_ended_leave_nothing_behind() {
    // More than there are slots, and descriptors for their channels.
    let threads = "
import threading
print('ready', flush=True)
input()
for _ in range(1500):
    short = threading.Thread(target=int)
    short.start()
    short.join()
print('done', flush=True)
";
    let mut program = talks(threads, Path::new("/"));
    let mut output = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(output.next().as_deref(), Some("ready"));
    let mut away = Away::send(program.id(), false);
    assert!(away.arrived());
    program.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(output.next().as_deref(), Some("done"));
    assert!(await_end(&mut program, "python").success());
    let (home, guest) = away.recall();
    assert!(home.success() && guest.success(), "{home} {guest}");
}

/// A large file that every node has.
const LARGE: &str = "/usr/bin/qemu-system-x86_64";

/// A program that shows a large file with a few pages that it has changed, and at each line says what it sees; at
/// every second one it changes more.
const SHOWS: &str = "
import hashlib, mmap, sys
with open('/usr/bin/qemu-system-x86_64', 'rb') as large:
    shown = mmap.mmap(large.fileno(), 0, access=mmap.ACCESS_COPY)
page, number = 4096, 0
def change():
    shown[number * 7 * page:(number * 7 + 1) * page] = bytes(page)
    shown[(number * 11 + 3) * page + 5] ^= 255
change()
for _ in sys.stdin:
    print(hashlib.sha256(shown).hexdigest(), flush=True)
    number += 1
    if number % 2 == 0:
        change()
";

/// Has two programs say their next line, which has to be the same; they end with this.
fn same(programs: &mut [Child; 2]) -> impl FnMut() + use<> {
    let mut talk = programs.each_mut().map(|program| {
        let output = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap);
        (program.stdin.take().unwrap(), output)
    });
    move || {
        let [one, other] = talk.each_mut().map(|(input, output)| {
            input.write_all(b"\n").unwrap();
            output.next().unwrap()
        });
        assert_eq!(one, other);
    }
}

/// What of a program's memory was sent and what was not, and whether it is right: it says the same as one that stays.
fn octets_sent(other: Option<&Path>) -> [u64; 2] {
    let mut programs = [(); 2].map(|()| talks(SHOWS, Path::new("/")));
    let mut same = same(&mut programs);
    same();
    let (reads, writes) = std::io::pipe().unwrap();
    let other = other.map(|other| (Path::new(LARGE), other));
    let mut away = Away::send_as(programs[0].id(), How { log: Some(writes.into()), other, ..How::default() });
    assert!(away.arrived());
    (0..3).for_each(|_| same());
    let mut log = BufReader::new(reads).lines().map(Result::unwrap);
    let line = log.find(|line| line.contains("memory has been sent")).unwrap();
    let (home, guest) = away.recall();
    assert!(home.success() && guest.success(), "{home} {guest}");
    (0..3).for_each(|_| same());
    drop(same);
    programs.iter_mut().for_each(|program| assert!(await_end(program, "python").success()));
    ["octets=", "spared="].map(|key| {
        let value = line.split(key).nth(1).unwrap().split_whitespace().next();
        value.unwrap().parse().unwrap()
    })
}

#[test]
fn files_that_both_nodes_have_do_not_travel() {
    let large = std::fs::metadata(LARGE).unwrap();
    let (size, page) = (large.len(), 4096);
    let [sent, spared] = octets_sent(None);
    assert!(spared > size - 10 * page && sent < size, "{sent} and {spared} of {size}");

    // Another file in its place, of the same size.
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other");
    let mut content = std::fs::read(LARGE).unwrap();
    content[usize::try_from(size / 2).unwrap()] ^= 1;
    std::fs::write(&other, &content).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&other, mode).unwrap();
    let [all, less] = octets_sent(Some(&other));
    assert!(all > size - 10 * page && less + size < spared + 10 * page, "{all} and {less} of {size}");

    // One that has changed since it was looked at, and nobody has seen that.
    let kept = |about: &std::fs::Metadata| {
        Path::new("/run/tesela/digests").join(format!("{:x}-{:x}", about.dev(), about.ino()))
    };
    let about = std::fs::metadata(&other).unwrap();
    let times = [about.mtime(), about.mtime_nsec(), about.ctime(), about.ctime_nsec()];
    let head = [about.dev(), about.ino(), size].into_iter().chain(times.map(i64::cast_unsigned));
    let mut forged: Vec<u8> = head.flat_map(u64::to_le_bytes).collect();
    let digests = std::fs::read(kept(&large)).unwrap();
    forged.extend(&digests[forged.len()..]);
    std::fs::write(kept(&about), forged).unwrap();
    let [more, part] = octets_sent(Some(&other));
    assert!(sent < more && more < all && less < part && part < spared, "{more} and {part} of {size}");
    std::fs::remove_file(kept(&about)).unwrap();
}

#[test]
fn a_home_that_is_short_of_memory_keeps_none_of_what_is_away() {
    let program = "
import hashlib, sys
page, shown = 4096, bytearray(b'tesela!.' * (6 << 20))
for round, _ in enumerate(sys.stdin):
    print(hashlib.sha256(shown).hexdigest(), flush=True)
    for number in range(round, 12 << 10, 100):
        shown[number * page:(number + 1) * page] = bytes(page) if number % 2 else b'change..' * 512
";
    let directory = tempfile::tempdir().unwrap();
    let memory = directory.path().join("meminfo");
    std::fs::write(&memory, "MemTotal: 1000000 kB\nMemFree: 1000 kB\nMemAvailable: 140000 kB\n").unwrap();
    let mut programs = [(); 2].map(|()| talks(program, Path::new("/")));
    let mut same = same(&mut programs);
    (0..2).for_each(|_| same());
    let (reads, writes) = std::io::pipe().unwrap();
    let how = How { log: Some(writes.into()), memory: Some(&memory), ..How::default() };
    let mut away = Away::send_as(programs[0].id(), how);
    assert!(away.arrived());
    same();
    let mut log = BufReader::new(reads).lines().map(Result::unwrap);
    let line = log.find(|line| line.contains("nothing is kept")).unwrap();
    let octets = line.split("octets=").nth(1).unwrap().split_whitespace().next().unwrap();
    assert!(octets.parse::<u64>().unwrap() >= 48 << 20, "{line}");
    let sent = away.says();
    let numbers: Vec<u64> =
        sent.strip_prefix("sent: ").unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
    let [octets, took, round_trip] = numbers[..] else { panic!("{sent}") };
    assert!(octets >= 48 << 20 && took > 1000 && (1..took).contains(&round_trip), "{sent}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", programs[0].id())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let resident: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(resident < 2 << 10, "{resident} KiB are still there");
    (0..3).for_each(|_| same());
    let (home, guest) = away.recall();
    assert!(home.success() && guest.success(), "{home} {guest}");
    (0..3).for_each(|_| same());
    drop(same);
    programs.iter_mut().for_each(|program| assert!(await_end(program, "python").success()));
}

/// A program that counts, and says so.
fn counter(directory: &Path) -> Child {
    let out = directory.join("out");
    let child = start("exec awk 'BEGIN { for (;;) if (++i % 1000000 == 0) { print i; fflush() } }'", &out);
    // It computes: a loader's calls would take it home.
    while std::fs::metadata(&out).unwrap().len() == 0 {
        std::thread::yield_now();
    }
    child
}

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
    let output = directory.path().join("out");
    let mut program =
        start("exec nice -n 7 awk 'BEGIN { print \"computes\"; fflush(); for (;;) i++ }'", &output);
    // Before, it makes calls that take it home.
    while std::fs::metadata(&output).unwrap().len() == 0 {
        std::thread::yield_now();
    }
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
