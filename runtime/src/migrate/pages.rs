//! A body's memory on its way: asked for page by page where the program faults, and sent ahead meanwhile.
//!
//! One record carries an address and a run of pages. The side that has the memory ([`serve`]) sends what is
//! asked for first, and otherwise goes on with the rest in order; the other side ([`Pager`]) puts pages into
//! place through a userfaultfd. Pages of zeros do not travel.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::link::{LinkError, Receiver, Sender};
use super::look::PAGE;
use super::sys::{self, Userfaultfd};

/// Octets of memory in a record.
const RUN: u64 = 7 * PAGE;
/// The address of a record that says that all has been sent.
const DONE: u64 = u64::MAX;

/// What the other side has where nothing is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Zeros: they do not travel.
    Fresh,
    /// What the process was before: zeros travel as a number, 8 octets instead of pages.
    Old,
}

/// Sends the memory of `pid` in these ranges, in which the process does not change anything meanwhile.
/// Returns once the other side has closed the connection.
///
/// # Errors
/// Those of the connection.
pub fn serve(
    pid: Pid,
    content: &[(u64, u64)],
    ground: Ground,
    mut sender: Sender,
    mut receiver: Receiver,
) -> Result<(), LinkError> {
    let mut rest = content.iter().copied().filter(|(start, end)| start < end);
    let mut current = rest.next();
    let mut told = false;
    loop {
        let waits = if current.is_some() || !told { PollTimeout::ZERO } else { PollTimeout::NONE };
        let mut ready = [PollFd::new(receiver.as_fd(), PollFlags::POLLIN)];
        let asked = poll(&mut ready, waits).map_err(io::Error::from)? > 0;
        if asked {
            let address = address(receiver.record()?)?;
            let end =
                content.iter().find(|(start, end)| (*start..*end).contains(&address)).map(|range| range.1);
            let Some(end) = end else {
                send(&mut sender, address, &[])?;
                continue;
            };
            send_memory(pid, &mut sender, address, end.min(address + RUN), ground, true)?;
        } else if let Some((start, end)) = current {
            let part = end.min(start + RUN);
            send_memory(pid, &mut sender, start, part, ground, false)?;
            current = if part < end { Some((part, end)) } else { rest.next() };
        } else if !told {
            send(&mut sender, DONE, &[])?;
            told = true;
        }
    }
}

fn address(record: &[u8]) -> Result<u64, LinkError> {
    record.first_chunk().map(|octets| u64::from_le_bytes(*octets)).ok_or(LinkError::NotAuthentic)
}

fn send(sender: &mut Sender, address: u64, memory: &[u8]) -> Result<(), LinkError> {
    let mut record = Vec::with_capacity(8 + memory.len());
    record.extend_from_slice(&address.to_le_bytes());
    record.extend_from_slice(memory);
    sender.put(&record)
}

/// Sends pages in runs without zeros between; `asked`: the first page travels even if it is zero.
fn send_memory(
    pid: Pid,
    sender: &mut Sender,
    start: u64,
    end: u64,
    ground: Ground,
    asked: bool,
) -> Result<(), LinkError> {
    let mut memory = vec![0_u8; usize::try_from(end - start).unwrap_or(0)];
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
    let mut run: Option<usize> = None;
    let pages = memory.len() / page;
    for number in 0..=pages {
        let zero = number == pages || memory[number * page..][..page].iter().all(|octet| *octet == 0);
        match (zero, run) {
            (false, None) => run = Some(number),
            (true, Some(first)) => {
                send(sender, start + (first * page) as u64, &memory[first * page..number * page])?;
                run = None;
            }
            _ => {}
        }
        if zero && number < pages && ground == Ground::Old {
            send(sender, start + (number * page) as u64, &PAGE.to_le_bytes())?;
        } else if zero && asked && number == 0 {
            send(sender, start, &[])?;
        }
    }
    Ok(())
}

/// Puts a body's pages into place as they come.
#[derive(Debug)]
pub struct Pager {
    userfaultfd: Userfaultfd,
    places: Mutex<Places>,
    content: Vec<(u64, u64)>,
}

/// What the program has done with its mappings meanwhile, in order: start, end, and where the range has been
/// moved; `None`: given up.
#[derive(Debug, Default)]
struct Places {
    changes: Vec<(u64, u64, Option<u64>)>,
}

impl Places {
    /// Where a page of home belongs now; `None`: nowhere.
    fn now(&self, address: u64) -> Option<u64> {
        self.changes.iter().try_fold(address, |at, (start, end, to)| {
            if (*start..*end).contains(&at) { to.map(|to| to + (at - start)) } else { Some(at) }
        })
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
    /// zero.
    pub fn new(userfaultfd: Userfaultfd, content: Vec<(u64, u64)>) -> Arc<Self> {
        Arc::new(Self { userfaultfd, places: Mutex::default(), content })
    }

    /// Puts a run of pages into place.
    pub fn put(&self, address: u64, memory: &[u8]) -> io::Result<()> {
        let page = usize::try_from(PAGE).unwrap_or(0);
        let (mut at, mut whole) = (0, true);
        while at < memory.len() {
            let home = address + at as u64;
            // Held while the page is put there, and not while we wait for those that need it to go on.
            let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            whole &= places.changes.is_empty();
            let Some(to) = places.now(home) else {
                at += page;
                continue;
            };
            let part = if whole { &memory[at..] } else { &memory[at..at + page] };
            match self.userfaultfd.copy(to, part) {
                (done, None) => at += usize::try_from(done).unwrap_or(0),
                (done, Some(error)) => match error.raw_os_error() {
                    // Some of it is in place already; or the mappings change while we copy.
                    Some(libc::EAGAIN) if done > 0 => at += usize::try_from(done).unwrap_or(0),
                    Some(libc::EAGAIN) => {
                        drop(places);
                        std::thread::yield_now();
                    }
                    // The program has divided a mapping meanwhile, or has some of these pages: one by one.
                    Some(libc::EEXIST | libc::ENOENT) if part.len() > page => whole = false,
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
                while !self.zero(address)? {
                    std::thread::yield_now();
                }
            } else {
                self.put(address, memory)?;
            }
        }
    }

    /// Puts a page of zeros where the page `home` of home's is now. `false`: the mappings change meanwhile, and
    /// it has to be tried again once that has been heard of.
    fn zero(&self, home: u64) -> io::Result<bool> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.now(home).map_or(Ok(true), |page| self.zero_here(page))
    }

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

    /// Answers faults, and hears of changes of the mappings, until the process or the connection is gone, or
    /// `stop` becomes readable. The process waits until its changes have been heard of: even of one that it
    /// had begun before all pages were there.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn faults(&self, sender: &mut Sender, stop: impl AsFd) -> Result<(), LinkError> {
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
            poll(&mut ready, wait).map_err(io::Error::from)?;
            if ready[1].any() == Some(true) {
                return Ok(());
            }
            // SAFETY: an array of integers seen as its octets.
            let octets = unsafe { message.align_to_mut::<u8>().1 };
            match nix::unistd::read(&self.userfaultfd.0, octets) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => return Err(io::Error::from(error).into()),
            }
            later.extend(self.event(message, sender)?);
        }
    }

    /// Returns a page that could not be made yet.
    fn event(
        &self,
        [kind, one, two, three]: [u64; 4],
        sender: &mut Sender,
    ) -> Result<Option<u64>, LinkError> {
        const PAGEFAULT: u64 = 0x12;
        const REMAP: u64 = 0x14;
        const REMOVE: u64 = 0x15;
        const UNMAP: u64 = 0x16;
        match kind & 0xff {
            PAGEFAULT => {
                let page = two & !(PAGE - 1);
                let home = self.places.lock().unwrap_or_else(PoisonError::into_inner).home(page);
                let held = |home: &u64| self.content.iter().any(|(start, end)| (*start..*end).contains(home));
                match home.filter(held) {
                    Some(home) => sender.put(&home.to_le_bytes())?,
                    None if self.zero_here(page)? => {}
                    None => return Ok(Some(page)),
                }
            }
            REMAP => {
                let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
                places.change(one, one + three, Some(two));
            }
            REMOVE | UNMAP => {
                self.places.lock().unwrap_or_else(PoisonError::into_inner).change(one, two, None);
                // Who waits there for a page that home is sending waits for nothing any more. A range that has
                // been unmapped has nobody to wake.
                let _gone = self.userfaultfd.wake(one, two - one);
            }
            _ => {}
        }
        Ok(None)
    }

    /// Pages that are missing are zero from now on: all have come.
    pub fn finish(&self, maps: &[(u64, u64)]) {
        for (start, end) in maps {
            // A range that has been unmapped meanwhile has nothing to be unregistered.
            let _gone = self.userfaultfd.unregister(*start, end - start);
        }
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
            [90, 100, 155, 170, 200].map(|page| places.now(page)),
            [Some(90), None, None, None, Some(200)]
        );
        assert_eq!([90, 170].map(|page| places.home(page)), [Some(90), None]);
        places.change(300, 400, Some(500));
        places.change(550, 560, None);
        assert_eq!([300, 355, 399].map(|page| places.now(page)), [Some(500), None, Some(599)]);
        assert_eq!([500, 555, 599, 300].map(|page| places.home(page)), [Some(300), None, Some(399), None]);
    }
}
