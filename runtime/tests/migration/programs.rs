//! Programs that compute, with threads and children.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use super::common::{Away, await_end, talks};
use super::{built, moves, moves_once, python};

#[test]
fn programs_that_compute() {
    let data = "head -c 12000000 /usr/bin/qemu-system-x86_64";
    moves("gzip", &format!("{data} | cat > data; exec gzip -9 -n -c data"), 6);
    moves("awk", "exec awk 'BEGIN { for (i = 0; i < 6000000; i++) s += i * i % 7; print s }'", 3);
    moves("bc", "echo 'scale=1200; 4*a(1)' > sum; exec bc -l sum", 3);
    moves("exit status", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; exit 7", 3);
}

#[test]
fn vector_registers_keep_what_they_hold() {
    let directory = tempfile::tempdir().unwrap();
    let program = built("vectors", directory.path());
    moves("vectors", &format!("exec {} 600", program.display()), 12);
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
