//! What of the memory travels, and what home keeps of it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Child;

use super::common::{Away, How, await_end, talks};

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
    // Every second it says what is used, too.
    let sent = std::iter::repeat_with(|| away.says()).find(|line| !line.starts_with("used: ")).unwrap();
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
