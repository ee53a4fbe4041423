//! Files that both nodes have: what a process shows of them is not sent, but taken from the other node's.
//!
//! While the process still runs, home names the files behind its mappings; both sides find out what they are
//! ([`Digests`]), and by one digest of all pages whether they are the same. Once the process stands still, home
//! leaves out what is still the file's of it: no private copies, and nothing of a file that has been changed since
//! ([`Offers`]). The other side looks at each page before it is put into place, and what is no longer what it was
//! comes from home after all ([`Parts`]).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::Arc;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::digests::{Digests, Stamp};
use super::image::Image;
use super::look::{self, Line, PAGE, Pagemap};
use super::shared;
use super::sys;

/// Octets that are looked at before a move, at most: the other side is waited for.
const AT_ONCE: u64 = 1 << 30;

/// A file of home's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Where it is.
    pub path: String,
    /// Octets.
    pub octets: u64,
}

/// What a file is by its content; `None`: there is none like it.
pub type Root = Option<[u8; 32]>;

/// A range of a process's memory that is a file's which both nodes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Equal {
    /// First octet.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
    /// The file, by its number among those that were named.
    pub file: u32,
    /// Its page that begins the range.
    pub page: u64,
}

/// A file that processes show, which are about to move.
#[derive(Debug)]
struct Offer {
    file: File,
    stamp: Stamp,
    named: Named,
    /// Where that is so beyond doubt.
    shown: Vec<(Pid, Line)>,
    is_equal: bool,
}

/// What home may leave out.
#[derive(Debug, Default)]
pub struct Offers(Vec<Offer>);

impl Offers {
    /// The files of these processes, which run.
    pub fn of(pids: impl IntoIterator<Item = Pid>) -> Self {
        let mut offers = Vec::new();
        for pid in pids {
            if let Err(error) = collect(pid, &mut offers, Stamp::is_settled) {
                // One that ends meanwhile shows nothing.
                tracing::debug!(%pid, %error, "its files are not looked at");
            }
        }
        // To find out what a large file is of which little is shown costs more than it spares.
        let mut all = 0;
        offers.retain(|offer| {
            let shown = offer.shown.iter().map(|(_, line)| line.end - line.start).sum::<u64>();
            let octets = offer.stamp.octets();
            let fits = shown >= octets / 4 && all + octets <= AT_ONCE;
            all += if fits { octets } else { 0 };
            fits
        });
        Self(offers)
    }

    /// As the other side gets to know them.
    pub fn named(&self) -> Vec<Named> {
        self.0.iter().map(|offer| offer.named.clone()).collect()
    }

    /// What they are here. It takes a while, where that is not known yet.
    pub fn roots(&self) -> Vec<Root> {
        let root = |offer: &Offer| Digests::of(&offer.file, &offer.stamp).map(|digests| digests.root());
        self.0.iter().map(|offer| root(offer).ok()).collect()
    }

    /// Those are left out from now on that are the same here and there.
    pub fn agree(&mut self, here: &[Root], there: &[Root]) {
        for (offer, (here, there)) in self.0.iter_mut().zip(here.iter().zip(there)) {
            offer.is_equal = here.is_some() && here == there;
        }
    }

    /// Says what of a process that stands still, with these mappings, is left out.
    ///
    /// # Errors
    /// Those of /proc.
    pub fn leave_out(&self, image: &mut Image, lines: &[Line]) -> io::Result<()> {
        let pid = Pid::from_raw(image.tgid);
        // What it shares with others goes another way.
        let is_own = |line: &&Line| {
            let map = image.maps.binary_search_by_key(&line.start, |map| map.start);
            map.is_ok_and(|map| image.maps[map].shared.is_none())
        };
        if self.0.iter().any(|offer| offer.is_equal) {
            let lines: Vec<&Line> = lines.iter().filter(is_own).collect();
            image.equal = self.equal(pid, &lines)?;
        }
        Ok(())
    }

    fn equal(&self, pid: Pid, lines: &[&Line]) -> io::Result<Vec<Equal>> {
        let mut pagemap = Pagemap::of(pid)?;
        let mut equal = Vec::new();
        for (number, offer) in (0..).zip(&self.0).filter(|(_, offer)| offer.is_equal) {
            let shows =
                |line: &&Line| offer.shown.iter().any(|(of, shown)| *of == pid && is_part(line, shown));
            let lines: Vec<&Line> = lines.iter().copied().filter(shows).collect();
            if lines.is_empty() || !offer.is_unchanged() {
                continue;
            }
            for line in lines {
                let whole = (offer.stamp.pages() * PAGE).saturating_sub(line.offset);
                let end = line.end.min(line.start.saturating_add(whole));
                for (start, end) in pagemap.ranges(line.start, end, |entry| !look::is_own(entry))? {
                    let page = (line.offset + (start - line.start)) / PAGE;
                    equal.push(Equal { start, end, file: number, page });
                }
            }
        }
        equal.sort_by_key(|range| range.start);
        Ok(equal)
    }
}

impl Offer {
    /// Nobody has changed it since it was looked at, nor could at this moment.
    fn is_unchanged(&self) -> bool {
        let same = self.file.metadata().is_ok_and(|about| Stamp::of(&about) == Some(self.stamp));
        same && sys::has_writers(&self.file).is_ok_and(|writers| writers != Some(true))
    }
}

/// A mapping as it was, or what is left of it.
fn is_part(line: &Line, whole: &Line) -> bool {
    (whole.start..whole.end).contains(&line.start)
        && line.end <= whole.end
        && line.offset == whole.offset + (line.start - whole.start)
        && (line.device, line.inode, line.shared) == (whole.device, whole.inode, whole.shared)
}

fn collect(pid: Pid, offers: &mut Vec<Offer>, is_settled: fn(&Stamp) -> bool) -> io::Result<()> {
    let mut pagemap = Pagemap::of(pid)?;
    for line in look::maps(pid)? {
        // To open a device is to use it; and a segment of System V's is no file.
        if line.inode == 0 || shared::is_device(&line) || !line.name.starts_with('/') {
            continue;
        }
        let path = format!("/proc/{pid}/map_files/{:x}-{:x}", line.start, line.end);
        // What has been unmapped meanwhile is not shown.
        let Some(stamp) = fs::metadata(&path).ok().as_ref().and_then(Stamp::of) else { continue };
        let known = offers.iter().position(|offer: &Offer| offer.stamp == stamp);
        let offer = match known {
            Some(known) => &mut offers[known],
            None => {
                let Ok(file) = File::open(&path) else { continue };
                let about = file.metadata()?;
                if Stamp::of(&about) != Some(stamp) || !is_settled(&stamp) {
                    continue;
                }
                let named = Named { path: line.name.clone(), octets: stamp.octets() };
                offers.push(Offer { file, stamp, named, shown: Vec::new(), is_equal: false });
                let last = offers.len() - 1;
                &mut offers[last]
            }
        };
        if shows(&mut pagemap, &line, &offer.file)? {
            offer.shown.push((pid, line));
        }
    }
    Ok(())
}

/// Whether a mapping shows what is read of the file: another file may have taken its place below the same name and
/// number, where one file system lies over another. They have memory in common, or are not the same.
fn shows(pagemap: &mut Pagemap, line: &Line, file: &File) -> io::Result<bool> {
    let of_file = |entry: u64| look::is_there(entry) && !look::is_own(entry);
    let Some((page, entry)) = pagemap.first(line.start, line.end, of_file)? else { return Ok(false) };
    let frame = sys::frame(file, line.offset + (page - line.start))?;
    Ok(frame.is_some_and(|frame| frame == look::frame(entry)))
}

/// A file of this node's that is like one of the other's.
#[derive(Debug)]
pub struct Own {
    file: File,
    digests: Digests,
}

impl Own {
    /// What there is below this name; `None`: no file of that size that root alone changes.
    ///
    /// # Errors
    /// Those of reading.
    pub fn of(named: &Named) -> io::Result<Option<Self>> {
        let open = |path: &str, flags: libc::c_int| File::options().read(true).custom_flags(flags).open(path);
        // What is no file is not opened in earnest.
        let found = match open(&named.path, libc::O_PATH | libc::O_NOFOLLOW) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let Some(stamp) = Stamp::of(&found.metadata()?).filter(|stamp| stamp.octets() == named.octets) else {
            return Ok(None);
        };
        let file = open(&format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found)), 0)?;
        let digests = Digests::of(&file, &stamp)?;
        Ok(Some(Self { file, digests }))
    }

    /// What it is.
    pub fn root(&self) -> [u8; 32] {
        self.digests.root()
    }

    /// Reads pages from this one on. `false`: they are not what they were.
    fn read(&self, page: u64, memory: &mut [u8]) -> bool {
        self.file.read_exact_at(memory, page * PAGE).is_ok() && self.digests.hold(page, memory)
    }
}

/// What of a body's memory this node has in files.
#[derive(Debug, Default)]
pub struct Parts(Vec<(Equal, Arc<Own>)>);

impl Parts {
    /// These ranges, in order, in `files` by their numbers; `None`: one is not there.
    pub fn of(ranges: &[Equal], files: &[Option<Arc<Own>>]) -> Option<Self> {
        let part = |range: &Equal| {
            let own = files.get(usize::try_from(range.file).ok()?)?.as_ref()?;
            Some((*range, Arc::clone(own)))
        };
        ranges.iter().map(part).collect::<Option<_>>().map(Self)
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where they are.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(range, _)| (range.start, range.end))
    }

    fn at(&self, address: u64) -> Option<&(Equal, Arc<Own>)> {
        let place = self.0.partition_point(|(range, _)| range.start <= address).checked_sub(1)?;
        self.0.get(place).filter(|(range, _)| address < range.end)
    }

    /// Where the part ends that has this page.
    pub fn end(&self, address: u64) -> u64 {
        self.at(address).map_or(address, |(range, _)| range.end)
    }

    /// Reads pages of one part. `false`: they are not what they are at home.
    pub fn read(&self, address: u64, memory: &mut [u8]) -> bool {
        self.at(address).is_some_and(|(range, own)| {
            range.end - address >= memory.len() as u64
                && own.read(range.page + (address - range.start) / PAGE, memory)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use super::*;

    const PAGES: u64 = 40;

    /// A program that shows this file, has looked at all of it, and has changed its fourth page for itself.
    fn shows_it(path: &Path) -> Child {
        let program = "import mmap, sys
f = open(sys.argv[1], 'rb')
m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
m[:].count(b'x')
m[3 * 4096] = 9
print('ready', flush=True)
input()";
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", program]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    /// What is offered of the file, and what is left out, as pages of it.
    fn offers(pid: Pid, path: &Path) -> Offers {
        let mut offers = Vec::new();
        collect(pid, &mut offers, |_| true).unwrap();
        offers.retain(|offer| Path::new(&offer.named.path) == path);
        Offers(offers)
    }

    #[test]
    fn what_is_still_the_files_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let content: Vec<u8> = (0..PAGES * PAGE + 5).map(|at| u8::try_from(at / PAGE).unwrap() + 1).collect();
        fs::write(&path, &content).unwrap();
        let mut child = shows_it(&path);
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let lines = look::maps(pid).unwrap();
        let lines: Vec<&Line> = lines.iter().collect();
        let mut offers = offers(pid, &path);
        let [named] = &offers.named()[..] else { panic!("{offers:?}") };
        let here = offers.roots();
        assert_eq!(offers.equal(pid, &lines).unwrap(), [], "nothing is agreed on");
        offers.agree(&here, &[None]);
        assert_eq!(offers.equal(pid, &lines).unwrap(), []);
        let own = Own::of(named).unwrap().unwrap();
        offers.agree(&here, &[Some(own.root())]);
        let equal = offers.equal(pid, &lines).unwrap();
        let pages: Vec<_> =
            equal.iter().map(|range| (range.page, (range.end - range.start) / PAGE, range.file)).collect();
        assert_eq!(pages, [(0, 3, 0), (4, PAGES - 4, 0)], "but for its own page, and what is no whole one");

        let parts = Parts::of(&equal, &[Some(Arc::new(own))]).unwrap();
        assert!(Parts::of(&equal, &[None]).is_none());
        let start = equal[1].start;
        let page = |memory: &mut Vec<u8>, number: u64| {
            memory.resize(usize::try_from(2 * PAGE).unwrap(), 0);
            parts.read(start + (number - 4) * PAGE, memory)
        };
        let mut memory = Vec::new();
        assert!(
            page(&mut memory, 6)
                && memory[..] == content[usize::try_from(6 * PAGE).unwrap()..][..memory.len()]
        );
        assert!(!page(&mut memory, PAGES - 1), "it ends before");
        assert_eq!(
            [start - PAGE, start, equal[1].end].map(|page| parts.end(page)),
            [start - PAGE, equal[1].end, equal[1].end]
        );

        let file = File::options().write(true).open(&path).unwrap();
        assert_eq!(offers.equal(pid, &lines).unwrap(), [], "somebody can write it");
        file.write_all_at(&[0], 7 * PAGE).unwrap();
        drop(file);
        assert_eq!(offers.equal(pid, &lines).unwrap(), [], "it has been changed");
        assert!(!page(&mut memory, 6) && page(&mut memory, 8), "and no longer what was agreed on");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn another_file_that_takes_its_place_is_not_taken_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let [path, other] = ["file", "other"].map(|name| directory.path().join(name));
        let octets = usize::try_from(PAGES * PAGE).unwrap();
        fs::write(&path, vec![1; octets]).unwrap();
        fs::write(&other, vec![2; octets]).unwrap();
        let mut child = shows_it(&path);
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let lines = look::maps(pid).unwrap();
        let line = lines.iter().find(|line| Path::new(&line.name) == path).unwrap();
        let mut pagemap = Pagemap::of(pid).unwrap();
        assert!(shows(&mut pagemap, line, &File::open(&path).unwrap()).unwrap());
        assert!(!shows(&mut pagemap, line, &File::open(&other).unwrap()).unwrap());
        let before = offers(pid, &path);
        fs::rename(&other, &path).unwrap();
        let own = Own::of(&before.named()[0]).unwrap().unwrap();
        assert_ne!(before.roots(), [Some(own.root())]);
        assert_eq!(offers(pid, &path).named(), [], "it has no name any more");
        let named = Named { path: path.to_str().unwrap().to_owned(), octets: PAGES * PAGE - 1 };
        assert!(Own::of(&named).unwrap().is_none(), "another size");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
