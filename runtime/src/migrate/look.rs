//! What can be read of a process from outside: its mappings, its marks, which pages have content.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;

use nix::unistd::Pid;
use sha2::{Digest as _, Sha256};

use super::home::without;
use super::image::Mapping;
use super::sys;

/// Octets of a page.
pub const PAGE: u64 = 4096;

/// A line of /proc/PID/maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// First octet.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
    /// `PROT_…`.
    pub protection: u32,
    /// MAP_SHARED.
    pub shared: bool,
    /// Where in the file it begins.
    pub offset: u64,
    /// The file's device, major and minor number.
    pub device: (u32, u32),
    /// The file's inode; 0: anonymous.
    pub inode: u64,
    /// The file, or a name in brackets.
    pub name: String,
}

impl Line {
    /// Part of the kernel, which every process has its own of.
    pub fn is_special(&self) -> bool {
        self.name.starts_with("[v") // [vvar], [vvar_vclock], [vdso], [vsyscall]
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let flags = words.next()?.as_bytes();
        let bits = [(b'r', libc::PROT_READ), (b'w', libc::PROT_WRITE), (b'x', libc::PROT_EXEC)];
        let protection =
            bits.iter().filter(|(letter, _)| flags.contains(letter)).map(|(_, bit)| bit.cast_unsigned());
        let offset = u64::from_str_radix(words.next()?, 16).ok()?;
        let (major, minor) = words.next()?.split_once(':')?;
        let number = |text| u32::from_str_radix(text, 16).ok();
        let device = (number(major)?, number(minor)?);
        let inode = words.next()?.parse().ok()?;
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            protection: protection.sum(),
            shared: flags.get(3) == Some(&b's'),
            offset,
            device,
            inode,
            name: words.collect::<Vec<_>>().join(" "),
        })
    }

    /// As it is made anew elsewhere.
    pub fn mapping(&self) -> Mapping {
        let flags = if self.name == "[stack]" { libc::MAP_GROWSDOWN.cast_unsigned() } else { 0 };
        Mapping {
            start: self.start,
            end: self.end,
            protection: self.protection,
            flags,
            shared: None,
            copy: false,
            locked: false,
        }
    }
}

/// A file of /proc that has names in it, which are any octets.
///
/// # Errors
/// Those of reading.
pub fn text(path: impl AsRef<Path>) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

/// Its parent; `None`: it has ended.
pub fn parent(pid: i32) -> Option<i32> {
    let status = text(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

/// Its mappings.
///
/// # Errors
/// Those of /proc.
pub fn maps(pid: Pid) -> io::Result<Vec<Line>> {
    let text = text(format!("/proc/{pid}/maps"))?;
    text.lines()
        .map(|line| Line::parse(line).ok_or_else(|| io::Error::other(format!("maps: {line}"))))
        .collect()
}

/// Its threads.
///
/// # Errors
/// Those of /proc.
pub fn threads(pid: Pid) -> io::Result<Vec<Pid>> {
    let mut tids = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        tids.extend(entry?.file_name().to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw));
    }
    tids.sort_by_key(|tid| (*tid != pid, *tid));
    Ok(tids)
}

/// Whether a thread of it runs, or could. One that has ended does not.
pub fn runs(pid: Pid) -> bool {
    let runs = |tid: &Pid| {
        let stat = text(format!("/proc/{pid}/task/{tid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R'))
    };
    threads(pid).is_ok_and(|tids| tids.iter().any(runs))
}

/// Where the parts of its memory are, in the order of `struct prctl_mm_map`; `brk` is the start of the heap.
///
/// # Errors
/// Those of /proc.
pub fn marks(pid: Pid) -> io::Result<[u64; 11]> {
    let text = text(format!("/proc/{pid}/stat"))?;
    let behind = text.rsplit_once(") ").map(|(_, behind)| behind).unwrap_or_default();
    let fields: Vec<u64> =
        behind.split_ascii_whitespace().skip(1).map(|word| word.parse().unwrap_or(0)).collect();
    // proc(5) counts from 1, and the field after the state is the 4th.
    let field = |number: usize| fields.get(number - 4).copied().unwrap_or(0);
    let [start_code, end_code, start_stack] = [26, 27, 28].map(field);
    let [start_data, end_data, start_brk, arg_start, arg_end, env_start, env_end] =
        [45, 46, 47, 48, 49, 50, 51].map(field);
    Ok([
        start_code,
        end_code,
        start_data,
        end_data,
        start_brk,
        start_brk,
        start_stack,
        arg_start,
        arg_end,
        env_start,
        env_end,
    ])
}

/// `/proc/PID/status` as it was at one moment (proc(5)).
#[derive(Debug)]
pub struct Status(String);

impl Status {
    /// Looks.
    ///
    /// # Errors
    /// Those of /proc.
    pub fn of(pid: Pid) -> io::Result<Self> {
        Ok(Self(text(format!("/proc/{pid}/status"))?))
    }

    /// The value of a line.
    ///
    /// # Errors
    /// `NotFound` where there is no such line.
    pub fn value(&self, key: &str) -> io::Result<&str> {
        let value = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        value.map(str::trim).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Its real, effective, saved and file-system ids: of the user, or of the group.
    ///
    /// # Errors
    /// As [`Status::value`].
    pub fn ids(&self, key: &str) -> io::Result<[u32; 4]> {
        let mut ids = [0; 4];
        for (place, word) in ids.iter_mut().zip(self.value(key)?.split_ascii_whitespace()) {
            *place = word.parse().map_err(io::Error::other)?;
        }
        Ok(ids)
    }

    /// Whose it is, and whether it has capabilities: what another node's consent to a move rests on.
    ///
    /// # Errors
    /// As [`Status::value`].
    pub fn rights(&self) -> io::Result<String> {
        let capable = !self.value("CapPrm")?.trim_start_matches('0').is_empty();
        Ok(format!("{:?} {capable}", self.ids("Uid")?))
    }

    /// How many octets are kept out of swap (mlock(2)).
    ///
    /// # Errors
    /// As [`Status::value`].
    pub fn locked(&self) -> io::Result<u64> {
        let kilobytes = self.value("VmLck")?.split_ascii_whitespace().next();
        let all = kilobytes.and_then(|word| word.parse::<u64>().ok()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(all << 10)
    }
}

/// Mappings that are kept out of swap (mlock(2)), by where they begin.
///
/// # Errors
/// Those of /proc.
pub fn locked(pid: Pid) -> io::Result<Vec<u64>> {
    let mut starts = Vec::new();
    let mut start = None;
    for line in text(format!("/proc/{pid}/smaps"))?.lines() {
        match line.strip_prefix("VmFlags:") {
            Some(flags) if flags.split_ascii_whitespace().any(|flag| flag == "lo") => starts.extend(start),
            Some(_) => {}
            None => start = begins(line).or(start),
        }
    }
    Ok(starts)
}

/// Whether a thread has real-time priority (sched(7)).
///
/// # Errors
/// Those of /proc.
pub fn is_real_time(pid: Pid, tid: Pid) -> io::Result<bool> {
    let text = text(format!("/proc/{pid}/task/{tid}/stat"))?;
    let behind = text.rsplit_once(") ").map(|(_, behind)| behind).unwrap_or_default();
    // The 41st of proc(5), and the state is the 3rd: SCHED_FIFO, SCHED_RR, SCHED_DEADLINE.
    Ok(behind.split_ascii_whitespace().nth(41 - 3).is_some_and(|policy| ["1", "2", "6"].contains(&policy)))
}

/// The value of a line of /proc/PID/status.
///
/// # Errors
/// Those of /proc; `NotFound` where there is no such line.
pub fn status(pid: Pid, key: &str) -> io::Result<String> {
    Status::of(pid)?.value(key).map(str::to_owned)
}

/// What /proc/PID/pagemap says of pages, an entry of 64 bits each.
#[derive(Debug)]
pub struct Pagemap(File);

/// The page is in memory.
pub fn is_there(entry: u64) -> bool {
    entry >> 63 != 0
}

/// The page is the process's own: in memory or swapped out, and no file's.
pub fn is_own(entry: u64) -> bool {
    const OF_FILE: u64 = 1 << 61;
    entry >> 62 != 0 && entry & OF_FILE == 0
}

/// Where in memory a page is that is there; 0: that is not told.
pub fn frame(entry: u64) -> u64 {
    entry & ((1 << 55) - 1)
}

impl Pagemap {
    /// That of a process.
    ///
    /// # Errors
    /// Those of /proc.
    pub fn of(pid: Pid) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/pagemap")).map(Self)
    }

    /// Looks at the pages of a range in order, until `look` breaks off.
    fn each(
        &mut self,
        start: u64,
        end: u64,
        mut look: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut buffer = [0_u8; 1 << 13];
        self.0.seek(SeekFrom::Start(start / PAGE * 8))?;
        let mut page = start;
        while page < end {
            let wanted = usize::try_from((end - page) / PAGE * 8).unwrap_or(usize::MAX).min(buffer.len());
            self.0.read_exact(&mut buffer[..wanted])?;
            for entry in buffer[..wanted].as_chunks::<8>().0 {
                if look(page, u64::from_le_bytes(*entry)).is_break() {
                    return Ok(());
                }
                page += PAGE;
            }
        }
        Ok(())
    }

    /// The parts of a range whose pages are like that.
    ///
    /// # Errors
    /// Those of /proc.
    pub fn ranges(&mut self, start: u64, end: u64, are: impl Fn(u64) -> bool) -> io::Result<Vec<(u64, u64)>> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        self.each(start, end, |page, entry| {
            if are(entry) {
                match ranges.last_mut().filter(|last| last.1 == page) {
                    Some(last) => last.1 += PAGE,
                    None => ranges.push((page, page + PAGE)),
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(ranges)
    }

    /// The first page of a range that is like that, and its entry.
    ///
    /// # Errors
    /// Those of /proc.
    pub fn first(
        &mut self,
        start: u64,
        end: u64,
        is: impl Fn(u64) -> bool,
    ) -> io::Result<Option<(u64, u64)>> {
        let mut first = None;
        self.each(start, end, |page, entry| {
            first = is(entry).then_some((page, entry));
            if first.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(first)
    }
}

/// Octets of a mapping that is not looked at page by page where it has none: databases and language runtimes reserve
/// terabytes, of which the kernel tells as slowly as if they were there.
const VAST: u64 = 2 << 30;

/// Mappings without a page in memory or in swap, by where they begin.
fn empty(pid: Pid) -> io::Result<HashSet<u64>> {
    let mut empty = HashSet::new();
    let mut start = None;
    for line in text(format!("/proc/{pid}/smaps"))?.lines() {
        if let Some(begins) = begins(line) {
            start = Some(begins);
            empty.insert(begins);
        } else if let (Some(start), Some((key, value))) = (start, line.split_once(':'))
            && ["Rss", "Swap", "Private_Hugetlb", "Shared_Hugetlb"].contains(&key)
            && value.trim() != "0 kB"
        {
            empty.remove(&start);
        }
    }
    Ok(empty)
}

/// Where a mapping begins, if this is the first of its lines in /proc/PID/smaps.
fn begins(line: &str) -> Option<u64> {
    line.split_once('-').and_then(|(start, _)| u64::from_str_radix(start, 16).ok())
}

/// The ranges in `maps` whose pages have content of their own or of a file: what is outside is zero. Where pages had
/// content a moment ago, by `known`, it is not looked for again: it is as good as theirs if they have none any more.
///
/// # Errors
/// Those of /proc.
pub fn content(pid: Pid, maps: &[Line], known: &[(u64, u64)]) -> io::Result<Vec<(u64, u64)>> {
    /// Bits 63 and 62 of a pagemap entry: present, swapped.
    const THERE: u64 = 3 << 62;
    let mut pagemap = Pagemap::of(pid)?;
    let mut ranges = Vec::new();
    let of = |map: &Line| within(known, map.start, map.end);
    let holes = |map: &Line| without(&[(map.start, map.end)], &of(map).collect::<Vec<_>>());
    let octets = |ranges: &[(u64, u64)]| ranges.iter().map(|(start, end)| end - start).sum::<u64>();
    let is_vast = |map: &Line| map.end - map.start >= VAST && octets(&holes(map)) >= VAST;
    let empty = if maps.iter().any(is_vast) { empty(pid)? } else { HashSet::new() };
    for map in maps {
        if map.inode != 0 {
            // A page that nobody has touched is still the file's.
            ranges.push((map.start, map.end));
        } else if !empty.contains(&map.start) {
            // A range lies in one mapping: nothing is put into place across two.
            let mut found: Vec<(u64, u64)> = of(map).collect();
            for (start, end) in holes(map) {
                found.extend(pagemap.ranges(start, end, |entry| entry & THERE != 0)?);
            }
            found.sort_unstable();
            let first = ranges.len();
            for (start, end) in found {
                match ranges[first..].last_mut().filter(|last: &&mut (u64, u64)| last.1 == start) {
                    Some(last) => last.1 = end,
                    None => ranges.push((start, end)),
                }
            }
        }
    }
    Ok(ranges)
}

/// What of ranges in order is between these two.
fn within(ranges: &[(u64, u64)], start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let first = ranges.partition_point(|(_, to)| *to <= start);
    let behind = ranges[first..].iter().take_while(move |(from, _)| *from < end);
    behind.map(move |(from, to)| ((*from).max(start), (*to).min(end)))
}

/// The content of a special mapping.
///
/// # Errors
/// Those of reading.
pub fn special(pid: Pid, line: &Line) -> io::Result<Vec<u8>> {
    let mut content = vec![0; usize::try_from(line.end - line.start).unwrap_or(0)];
    let got = sys::read_memory(pid, line.start, &mut content)?;
    content.truncate(got);
    Ok(content)
}

/// SHA-256 of the vDSO's code and where in it a `syscall` instruction is.
///
/// # Errors
/// Those of reading; `NotFound` where a process has no vDSO.
pub fn vdso(pid: Pid, maps: &[Line]) -> io::Result<([u8; 32], u64)> {
    let line = maps.iter().find(|line| line.name == "[vdso]").ok_or(io::ErrorKind::NotFound)?;
    let code = special(pid, line)?;
    let at = code.windows(2).position(|two| two == [0x0f, 0x05]).ok_or(io::ErrorKind::NotFound)?;
    Ok((Sha256::digest(&code).into(), line.start + at as u64))
}

/// A free range for `length` octets, aligned to `align`.
pub fn free(maps: &[Line], length: u64, align: u64) -> Option<u64> {
    const FIRST: u64 = 1 << 44;
    const LAST: u64 = 1 << 46;
    let mut at = FIRST;
    for line in maps.iter().filter(|line| line.end > FIRST) {
        if at + length <= line.start {
            break;
        }
        // Lines of several processes may overlap.
        at = at.max(line.end.next_multiple_of(align));
    }
    (at + length <= LAST).then_some(at)
}

/// Nothing of the process is there.
pub fn is_free<'a>(mut maps: impl Iterator<Item = &'a Line>, at: u64, length: u64) -> bool {
    maps.all(|line| line.end <= at || at + length <= line.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_in_several_processes_at_once() {
        const FIRST: u64 = 1 << 44;
        let line = |start: u64, end: u64| {
            let text = format!("{:x}-{:x} rw-p 00000000 00:00 0", FIRST + start, FIRST + end);
            Line::parse(&text).unwrap()
        };
        let lines = [line(0, 0x9000), line(0x1000, 0x2000), line(0xb000, 0xc000)];
        assert_eq!(free(&lines, 0x2000, 0x1000), Some(FIRST + 0x9000));
        assert_eq!(free(&lines, 0x3000, 0x1000), Some(FIRST + 0xc000));
        let is_free = |at: u64, length: u64| is_free(lines.iter(), FIRST + at, length);
        assert!(is_free(0x9000, 0x2000) && is_free(0xc000, 0x1000));
        assert!(!is_free(0x9000, 0x2001) && !is_free(0x8fff, 1));
    }

    #[test]
    fn this_process_is_read() {
        let maps = maps(Pid::this()).unwrap();
        let stack = maps.iter().find(|line| line.name == "[stack]").unwrap();
        assert_eq!(stack.protection & 3, 3);
        assert!(!stack.shared && stack.mapping().flags != 0);
        assert!(maps.iter().any(|line| line.is_special()));
        let here = &raw const maps as u64;
        let own: Vec<Line> = maps.iter().filter(|line| !line.is_special()).cloned().collect();
        let of = |maps: &[Line]| content(Pid::this(), maps, &[]).unwrap();
        let content = of(&own);
        assert!(content.iter().any(|(start, end)| (*start..*end).contains(&here)));
        let heap = own.iter().find(|line| line.name == "[heap]").unwrap();
        let empty = empty(Pid::this()).unwrap();
        assert!(!empty.contains(&stack.start) && !empty.contains(&heap.start));
        let (at, length) = (1 << 45, 1 << 43);
        // SAFETY: no other test's memory is there, or this fails.
        unsafe { sys::map_fixed(at, length).unwrap() };
        let maps = super::maps(Pid::this()).unwrap();
        let reserved = maps.iter().find(|line| (line.start..line.end).contains(&at)).unwrap();
        assert_eq!(of(std::slice::from_ref(reserved)), []);
        let base = free(&maps, 1 << 30, 1 << 18).unwrap();
        assert!(maps.iter().all(|line| line.end <= base || line.start >= base + (1 << 30)));
        assert_eq!(threads(Pid::this()).unwrap()[0], Pid::this());
        let marks = marks(Pid::this()).unwrap();
        assert!(marks[6] > stack.start && marks[6] < stack.end);
        let (_, at) = vdso(Pid::this(), &maps).unwrap();
        assert!(maps.iter().any(|line| line.name == "[vdso]" && (line.start..line.end).contains(&at)));
    }
}
