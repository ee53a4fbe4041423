//! The side that has the memory of a process, and sends it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::unistd::Pid;

use super::pace::Moments;
use super::{DONE, RUN, WAITS, address};
use crate::migrate::equal::Equal;
use crate::migrate::known::{Change, Known};
use crate::migrate::link::{LinkError, Receiver, Sender};
use crate::migrate::look::PAGE;
use crate::migrate::sys;

/// The side that has the memory.
#[derive(Debug)]
pub struct Source {
    pid: Pid,
    known: Option<Arc<Known>>,
    rest: Rest,
    /// What the other side takes from its own files, unless it says that it cannot.
    elsewhere: Rest,
    /// It has taken all of that.
    taken: bool,
    /// How many records have been sent, and each run with how many had been before it.
    records: u64,
    sent: Vec<(u64, u64, u64)>,
    /// Octets of memory that have been sent.
    octets: Arc<AtomicU64>,
}

impl Source {
    /// The memory of `pid` in these ranges, in which the process does not change anything meanwhile. What the other
    /// side has is `known`, or it has zeros.
    pub fn new(pid: Pid, content: &[(u64, u64)], known: Option<Arc<Known>>) -> Self {
        let (rest, elsewhere) = (Rest::of(content.iter().copied()), Rest::of([]));
        Self {
            pid,
            known,
            rest,
            elsewhere,
            taken: true,
            records: 0,
            sent: Vec::new(),
            octets: Arc::default(),
        }
    }

    /// But for what the other side has in files, which has to be in ranges of the content.
    pub fn without(mut self, equal: &[Equal]) -> Self {
        for Equal { start, end, .. } in equal {
            if let Some((start, end)) = self.rest.cut(*start, *end) {
                self.elsewhere.ranges.insert(start, end);
                self.taken = false;
            }
        }
        self.rest.next = 0;
        self
    }

    /// How many octets of memory have been sent: it goes on counting.
    pub fn octets(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.octets)
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
        // A process that goes home waits for all of it.
        let mut moments = if self.known.is_some() { Moments::none() } else { Moments::begin() };
        loop {
            let idle = self.rest.ranges.is_empty() && (told || !self.taken);
            let waits = (!idle).then(|| moments.wait().into());
            let mut ready = [PollFd::new(receiver.as_fd(), PollFlags::POLLIN)];
            let asked = ppoll(&mut ready, waits, None).map_err(io::Error::from)? > 0;
            if asked {
                let record = receiver.record()?;
                let address = address(record)?;
                if let Some(end) = record[8..].first_chunk() {
                    self.has_not(address, u64::from_le_bytes(*end));
                } else if address == WAITS {
                    moments.asked(false);
                } else if address == DONE {
                    self.taken = true;
                } else if let Some((start, end)) = self.rest.asked_from(address, &mut moments) {
                    self.send_run(&mut sender, start, end, true)?;
                } else if is_zero(self.pid, address) {
                    // What has been sent is on its way, but zeros have not been.
                    self.send(&mut sender, address, &[])?;
                }
            } else if let Some((start, end)) = self.rest.next() {
                self.send_run(&mut sender, start, end, false)?;
            } else if !told && self.taken {
                self.send(&mut sender, DONE, &[])?;
                told = true;
                let (pid, octets, spared) =
                    (self.pid, self.octets.load(Ordering::Relaxed), self.elsewhere.octets());
                tracing::info!(%pid, octets, spared, "all its memory has been sent");
            }
        }
    }

    /// The other side has no such file any more for this range: it is sent, once.
    fn has_not(&mut self, start: u64, end: u64) {
        self.rest.ranges.extend(self.elsewhere.cut_all(start, end));
    }

    fn send(&mut self, sender: &mut Sender, address: u64, memory: &[u8]) -> Result<(), LinkError> {
        let mut record = Vec::with_capacity(8 + memory.len());
        record.extend_from_slice(&address.to_le_bytes());
        record.extend_from_slice(memory);
        self.records += 1;
        self.octets.fetch_add(memory.len() as u64, Ordering::Relaxed);
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

/// What has not been sent yet: ranges by their start, and where to go on.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) ranges: BTreeMap<u64, u64>,
    next: u64,
}

impl Rest {
    pub(super) fn of(content: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Self { ranges: content.into_iter().filter(|(start, end)| start < end).collect(), next: 0 }
    }

    fn octets(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// Takes a run from `address` on; `None` where that is not to be sent, or has been.
    pub(super) fn run_from(&mut self, address: u64) -> Option<(u64, u64)> {
        self.cut(address, address.saturating_add(RUN))
    }

    /// The same for a page that the program waits for.
    pub(super) fn asked_from(&mut self, address: u64, moments: &mut Moments) -> Option<(u64, u64)> {
        let next = self.next;
        self.run_from(address).inspect(|_| moments.asked(address == next))
    }

    /// Takes what there is from `address` on in one range, up to `most`.
    fn cut(&mut self, address: u64, most: u64) -> Option<(u64, u64)> {
        let (&start, &end) = self.ranges.range(..=address).next_back().filter(|(_, end)| address < **end)?;
        self.ranges.remove(&start);
        if start < address {
            self.ranges.insert(start, address);
        }
        let behind = end.min(most);
        if behind < end {
            self.ranges.insert(behind, end);
        }
        self.next = behind;
        Some((address, behind))
    }

    /// Takes all that there is in a range.
    pub(super) fn cut_all(&mut self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        let mut at = start;
        while at < end {
            if let Some(part) = self.cut(at, end) {
                at = part.1;
                all.push(part);
            } else if let Some((next, _)) = self.ranges.range(at..end).next() {
                at = *next;
            } else {
                break;
            }
        }
        all
    }
}

impl Iterator for Rest {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let (&start, _) = self.ranges.range(self.next..).chain(&self.ranges).next()?;
        self.run_from(start)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::thread::JoinHandle;

    use super::super::{Asks, Calm};
    use super::*;
    use crate::migrate::link::{Keys, split};

    #[test]
    fn all_is_sent_once_and_first_what_is_asked_for() {
        let (first, second) = (16 * PAGE, 1000 * PAGE);
        let mut rest = Rest::of([(first, first + 3 * RUN), (second, second + PAGE), (5, 5)]);
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
    fn what_the_other_side_has_is_sent_if_it_has_it_no_more() {
        let first = 16 * PAGE;
        let at = |page: u64| first + page * PAGE;
        let equal =
            [(1, 3), (4, 9)].map(|(start, end)| Equal { start: at(start), end: at(end), file: 0, page: 7 });
        let content = [(at(0), at(3)), (at(3), at(10))];
        let mut source = Source::new(Pid::from_raw(1), &content, None).without(&equal);
        assert!(!source.taken);
        assert_eq!(source.rest.next(), Some((at(0), at(1))));
        assert_eq!(source.rest.run_from(at(2)), None, "it has that");
        source.has_not(at(2), at(6));
        let left: Vec<_> = source.rest.by_ref().collect();
        assert_eq!(left, [(at(2), at(3)), (at(3), at(4)), (at(4), at(6)), (at(9), at(10))]);
        source.has_not(at(0), u64::MAX);
        source.has_not(at(0), at(9));
        let left: Vec<_> = source.rest.collect();
        assert_eq!(left, [(at(1), at(2)), (at(6), at(9))], "each once");
        assert!(Source::new(Pid::from_raw(1), &content, None).without(&[]).taken);
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

    /// A connection over which it is sent.
    fn over(mut source: Source) -> (Sender, Receiver, JoinHandle<Source>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let keys = Keys::random().unwrap();
        let (sender, receiver) = split(one, keys).unwrap();
        let (theirs, hears) = split(listener.accept().unwrap().0, keys.turned()).unwrap();
        let thread = std::thread::spawn(move || {
            assert!(source.serve(theirs, hears).is_err(), "until it is hung up");
            source
        });
        (sender, receiver, thread)
    }

    #[test]
    fn all_has_come_once_the_other_side_has_taken_its_part() {
        let memory: Vec<u8> = (0..11 * PAGE).map(|at| u8::try_from(at / PAGE).unwrap() + 1).collect();
        let first = (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let at = |page: u64| first + page * PAGE;
        let equal = [Equal { start: at(2), end: at(8), file: 0, page: 0 }];
        let source = Source::new(Pid::this(), &[(at(0), at(10))], None).without(&equal);
        let next = |receiver: &mut Receiver| {
            let record = receiver.record().unwrap();
            let offset = usize::try_from(address(record).unwrap().wrapping_sub(first)).unwrap_or(usize::MAX);
            let aligned = usize::try_from(first).unwrap() - memory.as_ptr() as usize;
            assert!(record.len() == 8 || memory[aligned + offset..].starts_with(&record[8..]));
            (address(record).unwrap(), (record.len() as u64 - 8) / PAGE)
        };
        let (sender, mut receiver, thread) = over(source);
        let mut asks = Asks { sender, lacks: Vec::new(), taken: false, calm: Calm::begin() };
        assert_eq!([(); 2].map(|()| next(&mut receiver)), [(at(0), 2), (at(8), 2)]);
        asks.lack(at(6), at(8));
        asks.lack(at(7), at(8));
        assert_eq!(next(&mut receiver), (at(6), 2));
        asks.sender.hang_up();
        let mut source = thread.join().unwrap();

        // The last one has not come, nor is it sure what home has heard.
        source.go_back(2);
        asks.lacks.push((at(3), at(4)));
        let (sender, mut receiver, thread) = over(source);
        asks.say_again(sender);
        let mut come = [(); 3].map(|()| next(&mut receiver));
        come.sort_unstable();
        assert_eq!(come, [(at(3), 1), (at(6), 2), (at(8), 2)]);
        asks.take();
        assert_eq!(next(&mut receiver), (DONE, 0));
        asks.sender.hang_up();
        thread.join().unwrap();

        // Home had heard that all was taken, or hears it again.
        for taken in [true, false] {
            let mut source = Source::new(Pid::this(), &[(at(2), at(8))], None).without(&equal);
            source.taken = taken;
            let (sender, mut receiver, thread) = over(source);
            asks.lacks.clear();
            asks.say_again(sender);
            assert_eq!(next(&mut receiver), (DONE, 0));
            asks.sender.hang_up();
            thread.join().unwrap();
        }
    }

    #[test]
    fn all_is_sent_once_whatever_is_waited_for() {
        let memory = vec![1_u8; usize::try_from(40 * PAGE).unwrap()];
        let first = (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let at = |page: u64| first + page * PAGE;
        let (sender, mut receiver, thread) = over(Source::new(Pid::this(), &[(at(0), at(30))], None));
        let mut asks = Asks { sender, lacks: Vec::new(), taken: false, calm: Calm::begin() };
        asks.waits();
        for page in [20, 9] {
            asks.page(at(page));
        }
        let mut come = Vec::new();
        loop {
            let record = receiver.record().unwrap();
            let place = address(record).unwrap();
            come.extend((0..(record.len() as u64 - 8) / PAGE).map(|page| (place - first) / PAGE + page));
            if place == DONE {
                break;
            }
        }
        come.sort_unstable();
        assert_eq!(come, (0..30).collect::<Vec<_>>(), "all of it once");
        asks.sender.hang_up();
        thread.join().unwrap();
    }
}
