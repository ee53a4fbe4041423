//! A body's memory on its way: asked for page by page where the program faults, and sent ahead meanwhile.
//!
//! One record carries an address and a run of pages. The side that has the memory ([`Source`]) sends what is
//! asked for first, and otherwise goes on behind what was asked for last, where the program will soon be;
//! the other side ([`Pager`]) puts pages into place through a userfaultfd. Pages of zeros do not travel.
//!
//! What is sent ahead stands in the way of what is asked for, so little of it may be on its way
//! ([`hold_back`]).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use super::home::without;
use super::known::{Change, Known};
use super::link::{LinkError, Receiver, Sender};
use super::look::PAGE;
use super::sys::{self, Userfaultfd};

/// Octets of memory in a record.
const RUN: u64 = 7 * PAGE;
/// Where a program's memory may be: the kernel refuses to look elsewhere.
const LOWEST: u64 = 16 * PAGE;
const HIGHEST: u64 = 0x7fff_ffff_f000;
/// The address of a record that says that all has been sent.
const DONE: u64 = u64::MAX;

/// The side that has the memory.
#[derive(Debug)]
pub struct Source {
    pid: Pid,
    known: Option<Arc<Known>>,
    rest: Rest,
    /// How many records have been sent, and each run with how many had been before it.
    records: u64,
    sent: Vec<(u64, u64, u64)>,
}

impl Source {
    /// The memory of `pid` in these ranges, in which the process does not change anything meanwhile. What the other
    /// side has is `known`, or it has zeros.
    pub fn new(pid: Pid, content: &[(u64, u64)], known: Option<Arc<Known>>) -> Self {
        Self { pid, known, rest: Rest::of(content), records: 0, sent: Vec::new() }
    }

    /// Goes on on another connection behind the record of this number. A run of which some has arrived is sent
    /// once more.
    pub fn go_back(&mut self, received: u64) {
        let arrived = self.sent.partition_point(|(before, ..)| *before < received);
        let last = arrived.saturating_sub(1);
        self.rest.next = self.sent.get(last).map_or(self.rest.next, |(_, start, _)| *start);
        for (_, start, end) in self.sent.drain(last..) {
            self.rest.ranges.insert(start, end);
        }
        self.records = received;
    }

    /// Sends it. Returns once the other side has closed the connection.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn serve(&mut self, mut sender: Sender, mut receiver: Receiver) -> Result<(), LinkError> {
        let mut told = false;
        loop {
            let waits = if told { PollTimeout::NONE } else { PollTimeout::ZERO };
            let mut ready = [PollFd::new(receiver.as_fd(), PollFlags::POLLIN)];
            let asked = poll(&mut ready, waits).map_err(io::Error::from)? > 0;
            if asked {
                let address = address(receiver.record()?)?;
                if let Some((start, end)) = self.rest.run_from(address) {
                    self.send_run(&mut sender, start, end, true)?;
                } else if is_zero(self.pid, address) {
                    // What has been sent is on its way, but zeros have not been.
                    self.send(&mut sender, address, &[])?;
                }
            } else if let Some((start, end)) = self.rest.next() {
                self.send_run(&mut sender, start, end, false)?;
            } else if !told {
                self.send(&mut sender, DONE, &[])?;
                told = true;
            }
        }
    }
}

/// Bounds what is on its way to a quarter of a megabyte, a few milliseconds of a Gigabit link.
///
/// # Errors
/// Those of the socket.
pub fn hold_back(stream: &impl AsFd) -> io::Result<()> {
    const OCTETS: usize = 128 << 10;
    setsockopt(stream, sockopt::SndBuf, &OCTETS)?;
    Ok(setsockopt(stream, sockopt::RcvBuf, &OCTETS)?)
}

/// What has not been sent yet: ranges by their start, and where to go on.
#[derive(Debug)]
struct Rest {
    ranges: BTreeMap<u64, u64>,
    next: u64,
}

impl Rest {
    fn of(content: &[(u64, u64)]) -> Self {
        Self { ranges: content.iter().copied().filter(|(start, end)| start < end).collect(), next: 0 }
    }

    /// Takes a run from `address` on; `None` where that is not to be sent, or has been.
    fn run_from(&mut self, address: u64) -> Option<(u64, u64)> {
        let (&start, &end) = self.ranges.range(..=address).next_back().filter(|(_, end)| address < **end)?;
        self.ranges.remove(&start);
        if start < address {
            self.ranges.insert(start, address);
        }
        let behind = end.min(address + RUN);
        if behind < end {
            self.ranges.insert(behind, end);
        }
        self.next = behind;
        Some((address, behind))
    }
}

impl Iterator for Rest {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let (&start, _) = self.ranges.range(self.next..).chain(&self.ranges).next()?;
        self.run_from(start)
    }
}

fn address(record: &[u8]) -> Result<u64, LinkError> {
    record.first_chunk().map(|octets| u64::from_le_bytes(*octets)).ok_or(LinkError::NotAuthentic)
}

impl Source {
    fn send(&mut self, sender: &mut Sender, address: u64, memory: &[u8]) -> Result<(), LinkError> {
        let mut record = Vec::with_capacity(8 + memory.len());
        record.extend_from_slice(&address.to_le_bytes());
        record.extend_from_slice(memory);
        self.records += 1;
        sender.put(&record)
    }

    /// Sends pages in runs without what the other side has between; `asked`: it waits for the first page, even if that
    /// is zero. Where it has other content, zeros travel as a number, 8 octets instead of pages.
    fn send_run(&mut self, sender: &mut Sender, start: u64, end: u64, asked: bool) -> Result<(), LinkError> {
        self.sent.push((self.records, start, end));
        let mut memory = vec![0_u8; usize::try_from(end - start).unwrap_or(0)];
        read(self.pid, start, &mut memory);
        let page = usize::try_from(PAGE).unwrap_or(0);
        let mut run: Option<usize> = None;
        for number in 0..=memory.len() / page {
            let at = start + (number * page) as u64;
            let change = match (memory.get(number * page..(number + 1) * page), &self.known) {
                (None, _) => Change::None,
                (Some(content), Some(known)) => known.compare(at, content),
                (Some(content), None) if content.iter().all(|octet| *octet == 0) => Change::None,
                (Some(_), None) => Change::Content,
            };
            match (change, run) {
                (Change::Content, None) => run = Some(number),
                (Change::None | Change::Zero, Some(first)) => {
                    self.send(sender, start + (first * page) as u64, &memory[first * page..number * page])?;
                    run = None;
                }
                _ => {}
            }
            if change == Change::Zero {
                self.send(sender, at, &PAGE.to_le_bytes())?;
            } else if change == Change::None && asked && number == 0 {
                self.send(sender, start, &[])?;
            }
        }
        Ok(())
    }
}

fn is_zero(pid: Pid, address: u64) -> bool {
    let mut page = vec![0; usize::try_from(PAGE).unwrap_or(0)];
    read(pid, address, &mut page);
    page.iter().all(|octet| *octet == 0)
}

/// Reads whole pages of a process that does not change them.
fn read(pid: Pid, start: u64, memory: &mut [u8]) {
    let page = usize::try_from(PAGE).unwrap_or(0);
    let mut at = 0;
    while at < memory.len() {
        at += sys::read_memory(pid, start + at as u64, &mut memory[at..]).unwrap_or(0);
        if at < memory.len() {
            // A page that the process may not read itself has content all the same; one behind the end of a
            // file has none.
            let end = (at / page + 1) * page;
            if sys::force_read(pid, start + at as u64, &mut memory[at..end]).is_err() {
                memory[at..end].fill(0);
            }
            at = end;
        }
    }
}

/// Puts a body's pages into place as they come.
#[derive(Debug)]
pub struct Pager {
    userfaultfd: Userfaultfd,
    places: Mutex<Places>,
    /// Told of each change of `places`.
    changed: Condvar,
    content: Vec<(u64, u64)>,
    known: Arc<Known>,
    /// By which pages are asked for.
    asks: Mutex<Sender>,
    /// How many records have come.
    received: AtomicU64,
    /// All have.
    whole: AtomicBool,
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
    /// A pager for what has been registered with `userfaultfd`; `content`: what comes from home, all else is
    /// zero. `known` hears of what has come.
    pub fn new(
        userfaultfd: Userfaultfd,
        content: Vec<(u64, u64)>,
        known: Arc<Known>,
        asks: Sender,
    ) -> Arc<Self> {
        Arc::new(Self {
            userfaultfd,
            places: Mutex::default(),
            changed: Condvar::new(),
            content,
            known,
            asks: Mutex::new(asks),
            received: AtomicU64::new(0),
            whole: AtomicBool::new(false),
        })
    }

    fn asks(&self) -> MutexGuard<'_, Sender> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pages are asked for by another connection from now on: those as well that have been asked for and have
    /// not come, for who waits for them faults once more.
    ///
    /// # Errors
    /// The process is gone.
    pub fn ask_by(&self, sender: Sender) -> io::Result<()> {
        *self.asks() = sender;
        self.userfaultfd.wake(LOWEST, HIGHEST - LOWEST)
    }

    /// The connection is of no more use.
    pub fn hang_up(&self) {
        self.asks().hang_up();
    }

    /// How many records have come.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
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
            match nix::unistd::read(&self.userfaultfd.0, octets) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            later.extend(self.event(message)?);
        }
    }

    /// Returns a page that could not be made yet.
    fn event(&self, [kind, one, two, three]: [u64; 4]) -> io::Result<Option<u64>> {
        const PAGEFAULT: u64 = 0x12;
        const REMAP: u64 = 0x14;
        const REMOVE: u64 = 0x15;
        const UNMAP: u64 = 0x16;
        match kind & 0xff {
            PAGEFAULT => {
                let page = two & !(PAGE - 1);
                let home = self.places().home(page);
                let whole = self.whole.load(Ordering::SeqCst);
                let held = |home: &u64| {
                    !whole && self.content.iter().any(|(start, end)| (*start..*end).contains(home))
                };
                match home.filter(held) {
                    Some(home) => {
                        if let Err(error) = self.asks().put(&home.to_le_bytes()) {
                            // It is asked for by the next one.
                            tracing::debug!(%error, "a page is not asked for");
                        }
                    }
                    None if self.zero_here(page)? => {}
                    None => return Ok(Some(page)),
                }
            }
            REMAP => {
                self.places().change(one, one + three, Some(two));
                self.changed.notify_one();
            }
            REMOVE | UNMAP => {
                self.places().change(one, two, None);
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
    use nix::unistd::Pid;

    use super::{PAGE, Places, RUN, Rest, Source};

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

    #[test]
    fn all_is_sent_once_and_first_what_is_asked_for() {
        let (first, second) = (16 * PAGE, 1000 * PAGE);
        let mut rest = Rest::of(&[(first, first + 3 * RUN), (second, second + PAGE), (5, 5)]);
        assert_eq!(rest.next(), Some((first, first + RUN)));
        let asked = first + RUN + 2 * PAGE;
        assert_eq!(rest.run_from(asked), Some((asked, asked + RUN)));
        assert_eq!(rest.run_from(asked), None, "it has been");
        assert_eq!(rest.run_from(second + PAGE), None, "it is not there");
        let left: Vec<_> = rest.collect();
        let behind = asked + RUN;
        assert_eq!(left, [(behind, first + 3 * RUN), (second, second + PAGE), (first + RUN, asked)]);
    }

    #[test]
    fn over_another_connection_all_is_sent_that_has_not_come() {
        let first = 16 * PAGE;
        let mut source = Source::new(Pid::from_raw(1), &[(first, first + 4 * RUN)], None);
        // Runs of two records, of none, and of one.
        for records in [2, 0, 1] {
            let (start, end) = source.rest.next().unwrap();
            source.sent.push((source.records, start, end));
            source.records += records;
        }
        source.go_back(3);
        assert_eq!(
            source.rest.next(),
            Some((first + 2 * RUN, first + 3 * RUN)),
            "it may have had more records"
        );
        assert_eq!(source.rest.next(), Some((first + 3 * RUN, first + 4 * RUN)));
        source.go_back(1);
        let all: Vec<_> = source.rest.collect();
        let runs: Vec<_> = (0..4).map(|run| (first + run * RUN, first + (run + 1) * RUN)).collect();
        assert_eq!(all, runs[..2], "the others were not noted");
    }
}
