//! A body's memory on its way: asked for page by page where the program faults, and sent ahead meanwhile.
//!
//! One record carries an address and a run of pages. The side that has the memory ([`Source`]) sends what is
//! asked for first, and otherwise goes on behind what was asked for last, where the program will soon be;
//! the other side ([`Pager`]) puts pages into place through a userfaultfd. Pages of zeros do not travel.
//!
//! What the other side has in files of its own ([`Parts`]) it takes from there, by itself. It says which it has not
//! after all, and when it has taken all; only then is everything there.
//!
//! What is sent ahead stands in the way of what is asked for, so little of it may be on its way
//! ([`hold_back`]), and nothing at all in a program's first moments ([`Moments`]).

mod pace;
mod source;

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{setsockopt, sockopt};

use super::equal::Parts;
use super::home::without;
use super::known::Known;
use super::link::{LinkError, Receiver, Sender};
use super::look::PAGE;
use super::sys::Userfaultfd;
pub use pace::aside;
use pace::{Calm, Moments};
use source::Rest;
pub use source::Source;

/// Octets of memory in a record.
const RUN: u64 = 7 * PAGE;
/// Where a program's memory may be: the kernel refuses to look elsewhere.
const LOWEST: u64 = 16 * PAGE;
const HIGHEST: u64 = 0x7fff_ffff_f000;
/// The address of a record that says that all has been sent.
const DONE: u64 = u64::MAX;
/// In place of a page's address: the program waits for one that its own node has in a file.
const WAITS: u64 = 0;

/// Bounds what is on its way to a quarter of a megabyte, a few milliseconds of a Gigabit link.
///
/// # Errors
/// Those of the socket.
pub fn hold_back(stream: &impl AsFd) -> io::Result<()> {
    const OCTETS: usize = 128 << 10;
    setsockopt(stream, sockopt::SndBuf, &OCTETS)?;
    Ok(setsockopt(stream, sockopt::RcvBuf, &OCTETS)?)
}

fn address(record: &[u8]) -> Result<u64, LinkError> {
    record.first_chunk().map(|octets| u64::from_le_bytes(*octets)).ok_or(LinkError::NotAuthentic)
}

/// Puts a body's pages into place as they come.
#[derive(Debug)]
pub struct Pager {
    userfaultfd: Userfaultfd,
    places: Mutex<Places>,
    /// Told of each change of `places`.
    changed: Condvar,
    content: Vec<(u64, u64)>,
    /// Where this node has it in files, in order.
    in_files: Vec<(u64, u64)>,
    /// By which such a page is wanted at once; `None`: none is any more.
    wants: Mutex<Option<mpsc::Sender<u64>>>,
    moments: Mutex<Moments>,
    known: Arc<Known>,
    asks: Mutex<Asks>,
    /// Told of each fault: those that put pages into place are waited for.
    asked: EventFd,
    /// How many records have come.
    received: AtomicU64,
    /// All have.
    whole: AtomicBool,
}

/// What home is told.
#[derive(Debug)]
struct Asks {
    sender: Sender,
    /// Ranges that are not in this node's files as home has them.
    lacks: Vec<(u64, u64)>,
    /// All others have been taken from there.
    taken: bool,
    /// When home is told that nothing may be sent ahead.
    calm: Calm,
}

impl Asks {
    /// What home does not hear is said again on the next connection, or asked for by the next fault.
    fn say(&mut self, words: &[u64]) {
        let octets: Vec<u8> = words.iter().copied().flat_map(u64::to_le_bytes).collect();
        if let Err(error) = self.sender.put(&octets) {
            tracing::debug!(%error, "home does not hear which pages are to come");
        }
    }

    /// Asks for a page that the program waits for.
    fn page(&mut self, home: u64) {
        self.say(&[home]);
    }

    /// It waits for one of a file: what home sends ahead is in its way.
    fn waits(&mut self) {
        if self.calm.is_due() {
            self.say(&[WAITS]);
        }
    }

    fn lack(&mut self, start: u64, end: u64) {
        if !self.lacks.iter().any(|(from, to)| *from <= start && end <= *to) {
            self.lacks.push((start, end));
            self.say(&[start, end]);
        }
    }

    fn take(&mut self) {
        self.taken = true;
        self.say(&[DONE]);
    }

    fn say_again(&mut self, sender: Sender) {
        self.sender = sender;
        for (start, end) in self.lacks.clone() {
            self.say(&[start, end]);
        }
        if self.taken {
            self.say(&[DONE]);
        }
    }
}

/// What the program has done with its mappings meanwhile, in order: start, end, and where the range has been
/// moved; `None`: given up.
#[derive(Debug, Default)]
struct Places {
    changes: Vec<(u64, u64, Option<u64>)>,
}

impl Places {
    /// Where a page of home belongs now (`None`: nowhere), and how many octets of `length` from there on
    /// belong behind it.
    fn now(&self, address: u64, mut length: u64) -> (Option<u64>, u64) {
        let mut at = address;
        for (start, end, to) in &self.changes {
            if (*start..*end).contains(&at) {
                length = length.min(end - at);
                match to {
                    Some(to) => at = to + (at - start),
                    None => return (None, length),
                }
            } else if at < *start {
                length = length.min(start - at);
            }
        }
        (Some(at), length)
    }

    /// Of which page at home the content of this one is; `None`: it is zero.
    fn home(&self, address: u64) -> Option<u64> {
        self.changes.iter().rev().try_fold(address, |at, (start, end, to)| match to {
            Some(to) if (*to..to + (end - start)).contains(&at) => Some(start + (at - to)),
            // Whatever is where something else has been is new.
            _ if (*start..*end).contains(&at) => None,
            _ => Some(at),
        })
    }

    fn change(&mut self, start: u64, end: u64, to: Option<u64>) {
        self.changes.push((start, end, to));
    }
}

impl Pager {
    /// A pager for what has been registered with `userfaultfd`; `content`: what comes from home or is `in_files`, all
    /// else is zero. `known` hears of what has come.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub fn new(
        userfaultfd: Userfaultfd,
        content: Vec<(u64, u64)>,
        in_files: Vec<(u64, u64)>,
        known: Arc<Known>,
        sender: Sender,
    ) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            userfaultfd,
            places: Mutex::default(),
            changed: Condvar::new(),
            content,
            in_files,
            wants: Mutex::default(),
            moments: Mutex::new(Moments::begin()),
            known,
            asks: Mutex::new(Asks { sender, lacks: Vec::new(), taken: false, calm: Calm::begin() }),
            asked: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            received: AtomicU64::new(0),
            whole: AtomicBool::new(false),
        }))
    }

    fn asks(&self) -> MutexGuard<'_, Asks> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pages are asked for by another connection from now on: those as well that have been asked for and have
    /// not come, for who waits for them faults once more.
    ///
    /// # Errors
    /// The process is gone.
    pub fn ask_by(&self, sender: Sender) -> io::Result<()> {
        self.asks().say_again(sender);
        self.userfaultfd.wake(LOWEST, HIGHEST - LOWEST)
    }

    /// The connection is of no more use.
    pub fn hang_up(&self) {
        self.asks().sender.hang_up();
    }

    /// How many records have come.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }

    fn moments(&self) -> MutexGuard<'_, Moments> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wants(&self) -> MutexGuard<'_, Option<mpsc::Sender<u64>>> {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        // A change is whole before anything can fail.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the thread that hears of changes have its turn: the kernel takes no pages while one is on its way
    /// to it, nor until the program, which waits for that, runs again. Nothing tells of the latter.
    fn let_change(&self, places: MutexGuard<'_, Places>) {
        let waited = self.changed.wait_timeout(places, Duration::from_millis(1));
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Puts a run of pages into place.
    ///
    /// # Errors
    /// The process is gone.
    pub fn put(&self, address: u64, memory: &[u8]) -> io::Result<()> {
        let page = usize::try_from(PAGE).unwrap_or(0);
        let (mut at, mut one_by_one) = (0, false);
        while at < memory.len() {
            // Held while the pages are put there, and not while we wait for those that need it to go on.
            let places = self.places();
            let left = if one_by_one { page } else { memory.len() - at };
            let (to, length) = places.now(address + at as u64, left as u64);
            let part = &memory[at..at + usize::try_from(length).unwrap_or(page)];
            let Some(to) = to else {
                at += part.len();
                continue;
            };
            match self.userfaultfd.copy(to, part) {
                (done, None) => at += usize::try_from(done).unwrap_or(0),
                (done, Some(error)) => match error.raw_os_error() {
                    // Some of it is in place already; or the mappings change while we copy.
                    Some(libc::EAGAIN) if done > 0 => at += usize::try_from(done).unwrap_or(0),
                    Some(libc::EAGAIN) => self.let_change(places),
                    // The program has divided a mapping meanwhile, or has some of these pages: one by one.
                    Some(libc::EEXIST | libc::ENOENT) if part.len() > page => one_by_one = true,
                    // There already, or given up.
                    Some(libc::EEXIST | libc::ENOENT | libc::EFAULT) => {
                        self.userfaultfd.wake(to, PAGE)?;
                        at += page;
                    }
                    // The process is gone.
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Receives pages until all have come.
    ///
    /// # Errors
    /// Those of the connection; the process is gone.
    pub fn receive(&self, receiver: &mut Receiver) -> Result<(), LinkError> {
        pace::aside(self.asked.as_fd(), || self.receive_all(receiver))
    }

    fn receive_all(&self, receiver: &mut Receiver) -> Result<(), LinkError> {
        loop {
            let record = receiver.record()?;
            let address = address(record)?;
            let memory = &record[8..];
            if address == DONE {
                return Ok(());
            }
            if memory.is_empty() {
                self.zero(address)?;
            } else {
                self.known.note(address, memory);
                self.put(address, memory)?;
            }
            self.received.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Puts into place what this node has in files, on a thread of its own: what is wanted first, and otherwise all
    /// in order, as what comes from home. It begins when it is told so.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn fill(self: &Arc<Self>, tgid: i32, parts: Parts) -> io::Result<mpsc::Sender<()>> {
        let (gate, waits) = mpsc::channel();
        if parts.is_empty() {
            return Ok(gate);
        }
        let (tell, wanted) = mpsc::channel();
        *self.wants() = Some(tell);
        let pager = Arc::clone(self);
        thread::Builder::new().name("files".into()).spawn(move || {
            // A body that is never told to go on needs nothing.
            if waits.recv().is_ok()
                && let Err(error) = pace::aside(pager.asked.as_fd(), || pager.fill_from(&parts, &wanted))
            {
                tracing::debug!(tgid, %error, "its files are not needed any more");
            }
        })?;
        Ok(gate)
    }

    fn fill_from(&self, parts: &Parts, wanted: &mpsc::Receiver<u64>) -> io::Result<()> {
        *self.moments() = Moments::begin();
        let mut rest = Rest::of(self.in_files.iter().copied());
        let mut memory = vec![0; usize::try_from(RUN).unwrap_or(0)];
        loop {
            let wait = self.moments().wait();
            let asked = if rest.ranges.is_empty() {
                if !self.asks().taken {
                    self.asks().take();
                }
                wanted.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            } else {
                wanted.recv_timeout(wait)
            };
            let run = match asked {
                // A page that has been passed by may be zero.
                Ok(page) => rest.asked_from(page, &mut self.moments()).or(Some((page, page + PAGE))),
                // Home has been asked meanwhile.
                Err(mpsc::RecvTimeoutError::Timeout) if !self.moments().wait().is_zero() => continue,
                Err(mpsc::RecvTimeoutError::Timeout) => rest.next(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            };
            let Some((start, end)) = run else { continue };
            let memory = &mut memory[..usize::try_from(end - start).unwrap_or(0)];
            if parts.read(start, memory) {
                self.put_all(start, memory, asked.is_ok())?;
            } else {
                // The file is another one now: all of it that is left comes from home.
                let end = parts.end(start);
                rest.cut_all(start, end);
                self.asks().lack(start, end);
                if asked.is_ok() {
                    self.asks().page(start);
                }
            }
        }
    }

    /// Puts pages into place, but for those of zeros; `asked`: it waits for the first page, even if that is zero.
    fn put_all(&self, start: u64, memory: &[u8], asked: bool) -> io::Result<()> {
        let page = usize::try_from(PAGE).unwrap_or(1);
        let is_zero = |page: &[u8]| page.iter().all(|octet| *octet == 0);
        if asked && memory.get(..page).is_some_and(is_zero) {
            self.zero(start)?;
        }
        let pages: Vec<&[u8]> = memory.chunks_exact(page).collect();
        let mut at = 0;
        for run in pages.chunk_by(|one, next| is_zero(one) == is_zero(next)) {
            let (address, content) =
                (start + (at * page) as u64, &memory[at * page..(at + run.len()) * page]);
            if !is_zero(run[0]) {
                self.known.note(address, content);
                self.put(address, content)?;
            }
            at += run.len();
        }
        Ok(())
    }

    /// Puts a page of zeros where the page `home` of home's is now.
    fn zero(&self, home: u64) -> io::Result<()> {
        loop {
            let places = self.places();
            match places.now(home, PAGE) {
                (Some(page), _) if !self.zero_here(page)? => self.let_change(places),
                _ => return Ok(()),
            }
        }
    }

    /// `false`: the mappings change meanwhile, and it has to be tried again.
    fn zero_here(&self, page: u64) -> io::Result<bool> {
        match self.userfaultfd.zero(page, PAGE) {
            Ok(()) => Ok(true),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(false),
                Some(libc::EEXIST | libc::ENOENT) => self.userfaultfd.wake(page, PAGE).map(|()| true),
                _ => Err(error),
            },
        }
    }

    /// Answers faults, and hears of changes of the mappings, until the process is gone, or
    /// `stop` becomes readable. The process waits until its changes have been heard of: even of one that it
    /// had begun before all pages were there.
    ///
    /// # Errors
    /// The process is gone.
    pub fn faults(&self, stop: impl AsFd) -> io::Result<()> {
        let answered = self.answer_faults(stop);
        self.wants().take();
        answered
    }

    fn answer_faults(&self, stop: impl AsFd) -> io::Result<()> {
        // struct uffd_msg
        let mut message = [0_u64; 4];
        // Pages of zeros that are waited for while the mappings change.
        let mut later: Vec<u64> = Vec::new();
        loop {
            let mut left = Vec::new();
            for page in later {
                if !self.zero_here(page)? {
                    left.push(page);
                }
            }
            later = left;
            let wait = if later.is_empty() { PollTimeout::NONE } else { PollTimeout::from(1_u8) };
            let mut ready = [
                PollFd::new(self.userfaultfd.0.as_fd(), PollFlags::POLLIN),
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut ready, wait)?;
            if ready[1].any() == Some(true) {
                return Ok(());
            }
            // SAFETY: an array of integers seen as its octets.
            let octets = unsafe { message.align_to_mut::<u8>().1 };
            // The program goes on with a change as soon as that has been read: no page is put into place before it
            // is known, too.
            let places = self.places();
            match nix::unistd::read(&self.userfaultfd.0, octets) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            later.extend(self.event(message, places)?);
        }
    }

    /// Returns a page that could not be made yet.
    fn event(
        &self,
        [kind, one, two, three]: [u64; 4],
        mut places: MutexGuard<'_, Places>,
    ) -> io::Result<Option<u64>> {
        const PAGEFAULT: u64 = 0x12;
        const REMAP: u64 = 0x14;
        const REMOVE: u64 = 0x15;
        const UNMAP: u64 = 0x16;
        // Before anything else, for they may have what is needed here. The counter would have to overflow for this to
        // fail.
        let _told = self.asked.write(1);
        match kind & 0xff {
            PAGEFAULT => {
                let page = two & !(PAGE - 1);
                let home = places.home(page);
                drop(places);
                let whole = self.whole.load(Ordering::SeqCst);
                let held = |home: &u64| {
                    !whole && self.content.iter().any(|(start, end)| (*start..*end).contains(home))
                };
                let in_file = |home: u64| {
                    let place = self.in_files.partition_point(|(_, end)| *end <= home);
                    self.in_files.get(place).is_some_and(|(start, _)| *start <= home)
                };
                match home.filter(held) {
                    Some(home) if in_file(home) => {
                        if let Some(wants) = &*self.wants() {
                            // All is there where nobody hears it any more, or the process is gone.
                            let _over = wants.send(home);
                        }
                        self.asks().waits();
                    }
                    Some(home) => {
                        self.asks().page(home);
                        self.moments().asked(false);
                    }
                    None if self.zero_here(page)? => {}
                    None => return Ok(Some(page)),
                }
            }
            REMAP => {
                places.change(one, one + three, Some(two));
                self.changed.notify_one();
            }
            REMOVE | UNMAP => {
                places.change(one, two, None);
                drop(places);
                self.changed.notify_one();
                // Who waits there for a page that home is sending waits for nothing any more. A range that has
                // been unmapped has nobody to wake.
                let _gone = self.userfaultfd.wake(one, two - one);
            }
            _ => {}
        }
        Ok(None)
    }

    /// Pages that are missing are zero from now on: all have come. What the program does with its mappings is not heard
    /// of any more, but for those that are `kept`.
    pub fn finish(&self, maps: &[(u64, u64)], kept: &[(u64, u64)]) {
        self.whole.store(true, Ordering::SeqCst);
        self.wants().take();
        for (start, end) in without(maps, kept) {
            // A range that has been unmapped meanwhile has nothing to be unregistered.
            let _gone = self.userfaultfd.unregister(start, end - start);
        }
        for (start, end) in kept {
            // Who waits there for a page of zeros faults once more. As above.
            let _gone = self.userfaultfd.wake(*start, end - start);
        }
    }

    /// What is left of these ranges, in order, where the program has not put anything else.
    pub fn untouched(&self, ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let places = self.places();
        let touched = places.changes.iter().flat_map(|(start, end, to)| {
            [Some((*start, *end)), to.map(|to| (to, to + (end - start)))].into_iter().flatten()
        });
        touched.fold(ranges.to_vec(), |left, range| without(&left, &[range]))
    }

    /// The descriptor.
    pub fn raw(&self) -> i32 {
        self.userfaultfd.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn pages_follow_what_the_program_does_with_its_mappings() {
        let mut places = Places::default();
        places.change(100, 200, None);
        places.change(150, 160, None);
        assert_eq!(
            [90, 100, 155, 170, 200].map(|page| places.now(page, 1).0),
            [Some(90), None, None, None, Some(200)]
        );
        assert_eq!([90, 170].map(|page| places.home(page)), [Some(90), None]);
        places.change(300, 400, Some(500));
        places.change(550, 560, None);
        assert_eq!([300, 355, 399].map(|page| places.now(page, 1).0), [Some(500), None, Some(599)]);
        assert_eq!([500, 555, 599, 300].map(|page| places.home(page)), [Some(300), None, Some(399), None]);
    }

    #[test]
    fn runs_end_where_what_became_of_the_pages_differs() {
        let mut places = Places::default();
        assert_eq!(places.now(90, 50), (Some(90), 50));
        places.change(100, 200, Some(300));
        assert_eq!(places.now(90, 50), (Some(90), 10));
        assert_eq!(places.now(150, 90), (Some(350), 50));
        places.change(370, 380, None);
        assert_eq!(places.now(150, 90), (Some(350), 20));
        assert_eq!(places.now(175, 90), (None, 5));
    }
}
