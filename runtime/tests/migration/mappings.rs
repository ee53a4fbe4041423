//! Files that are mapped, memory that is locked or cleared, and what changes its place.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::Child;

use super::common::{Away, await_end, start, talks};
use super::python;

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
