//! A process comes home: its deputy becomes itself again.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use nix::unistd::Pid;
use tesela_shim::layout::{self, REGION};

use super::events::or_gone;
use super::{Arriving, Deputy, Home, HomeError};
use crate::migrate::freeze::registers_from_words;
use crate::migrate::image::{Channel, Image, Mapping, ThreadImage, ToRemote};
use crate::migrate::link::{self, Keys, LinkError};
use crate::migrate::look::{self, Line, PAGE};
use crate::migrate::restart;
use crate::migrate::shared::{self, Object};
use crate::migrate::sys;
use crate::migrate::tracee::Tracee;

/// A process whose memory does not come for so long goes on where it is.
const STALLS: Duration = Duration::from_secs(10);
/// `PROT_READ | PROT_WRITE`
const WRITABLE: u64 = 3;
/// MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
const ANEW: u64 = 0x02 | 0x20 | 0x10;

impl Home {
    /// Whether all threads that are left of this process are those that come home: one that has ended away
    /// may still have to hear of that here.
    pub(super) fn is_complete(&self, image: &Image) -> bool {
        let mut own = self.deputies.iter().filter(|(_, deputy)| deputy.tgid == image.tgid);
        own.all(|(tid, _)| image.threads.iter().any(|thread| thread.tid == *tid))
    }

    /// The next that can come home: one process, or where they share memory, all of them.
    pub(super) fn next_arriving(&mut self) -> Option<Vec<Arriving>> {
        let ready = |home: &Self, one: &Arriving| home.is_complete(&one.image);
        let borrows = |home: &Self, tgid: i32| home.deputies.get(&tgid).is_some_and(|deputy| deputy.borrows);
        let one = self.arriving.iter().position(|one| {
            // One that runs in its maker's memory comes first: its maker does not stand still before.
            ready(self, one) && (self.objects.is_empty() || borrows(self, one.image.tgid))
        });
        if let Some(place) = one {
            return Some(vec![self.arriving.swap_remove(place)]);
        }
        let here = |tgid: &i32| self.arriving.iter().any(|one| one.image.tgid == *tgid && ready(self, one));
        let all = !self.arriving.is_empty() && self.processes().iter().all(here);
        all.then(|| std::mem::take(&mut self.arriving))
    }

    /// Puts processes that stand still away in their deputies' places. Until all of them are here, they can still
    /// go on where they were.
    pub(super) fn come_home(&mut self, mut arriving: Vec<Arriving>) -> Result<(), HomeError> {
        for thread in arriving.iter().flat_map(|one| &one.image.threads) {
            or_gone(self.halt(thread.tid).map(drop))?;
        }
        arriving.retain(|one| self.deputies.contains_key(&one.image.tgid));
        let all: BTreeSet<i32> = arriving.iter().map(|one| one.image.tgid).collect();
        let fetched = match self.fetch_all(arriving, all == self.processes()) {
            Ok(fetched) => fetched,
            Err(error) if self.objects.is_empty() => {
                return all.iter().try_for_each(|tgid| self.stays_away(*tgid, &error));
            }
            Err(error) => return all.first().map_or(Ok(()), |tgid| self.stays_away(*tgid, &error)),
        };
        for (image, pieces) in fetched {
            or_gone(self.replace(&image, &pieces))?;
        }
        // Only now: one may look into another's memory (process_vm_readv) at once.
        all.iter().try_for_each(|tgid| or_gone(self.let_go(*tgid)))
    }

    /// Receives the memory of bodies; of what they share, only where all stand still.
    fn fetch_all(
        &mut self,
        arriving: Vec<Arriving>,
        shared: bool,
    ) -> Result<Vec<(Image, Vec<Piece>)>, HomeError> {
        let mut fetched = Vec::new();
        for Arriving { image, pages } in arriving {
            image.threads.iter().try_for_each(|thread| thread.state.fits())?;
            let most = image.content.iter().map(|(start, end)| end - start).sum();
            let pieces = fetch(self.connect(&pages)?, pages.keys, most)?;
            fetched.push((image, pieces));
        }
        if shared {
            self.fetch_shared()?;
        }
        Ok(fetched)
    }

    /// Takes home what the processes share, unless that has been done. None of them runs away any more.
    pub(super) fn fetch_shared(&mut self) -> Result<(), HomeError> {
        if self.objects.is_empty() || self.unshared {
            return Ok(());
        }
        let (channel, keys) = Channel::new()?;
        self.link.send(&ToRemote::Unshare(channel))?;
        let (_sender, mut receiver) = link::split(self.connect(&channel)?, keys)?;
        receiver.set_timeout(Some(STALLS))?;
        let (mut pieces, mut left) = (Vec::new(), self.objects.iter().map(Object::size).sum::<u64>());
        shared::receive(&self.objects, &mut receiver, |piece| {
            left = left.checked_sub(piece.length()).ok_or(LinkError::NotAuthentic)?;
            pieces.push(piece);
            Ok(())
        })?;
        shared::replace(&self.objects, &pieces)?;
        self.unshared = true;
        Ok(())
    }

    fn replace(&self, image: &Image, pieces: &[Piece]) -> Result<(), HomeError> {
        let tgid = image.tgid;
        for deputy in self.deputies.values().filter(|deputy| deputy.tgid == tgid) {
            deputy.tracee.quiet()?;
        }
        let Some(leader) = self.deputies.get(&tgid) else { return Ok(()) };
        self.memory(&leader.tracee, image, pieces)?;
        for thread in &image.threads {
            if let Some(deputy) = self.deputies.get(&thread.tid) {
                self.thread_again(&deputy.tracee, thread)?;
            }
        }
        self.dispositions(&leader.tracee, image)?;
        self.signals_again(image)?;
        leader.tracee.must_call(libc::SYS_munmap, [self.base, REGION, 0, 0, 0, 0])?;
        for thread in &image.threads {
            if let Some(deputy) = self.deputies.get(&thread.tid) {
                let tracee = &deputy.tracee;
                // In a sleep of the deputy's it goes on itself.
                let registers = registers_from_words(&thread.registers);
                tracee.set_registers(&restart::at_home(tracee.tid, registers, false))?;
                thread.state.put(tracee.tid)?;
                sys::set_signal_mask(tracee.tid, thread.mask)?;
            }
        }
        Ok(())
    }

    /// Its deputies are itself again, and go on.
    fn let_go(&mut self, tgid: i32) -> Result<(), HomeError> {
        // Most often it has a call to make that can be made at home only, before it becomes another program. Only
        // once: what has moved by itself would come back for each such call.
        let made_away = self.deputies.get(&tgid).is_some_and(|leader| leader.made_away);
        if made_away && !self.asked.contains(&tgid) {
            self.can_move_again(tgid)?;
        }
        let here: Vec<i32> =
            self.deputies.iter().filter(|(_, deputy)| deputy.tgid == tgid).map(|(tid, _)| *tid).collect();
        let here: Vec<Deputy> = here.into_iter().filter_map(|tid| self.deputies.remove(&tid)).collect();
        let free = here.into_iter().try_for_each(|deputy| deputy.tracee.detach());
        self.is_fetched(tgid);
        free?;
        tracing::info!(pid = tgid, "at home again");
        self.at_home = true;
        self.standing.remove(&tgid);
        self.copies.forget(tgid);
        self.on_their_way.retain(|signal| signal.tgid != tgid);
        Ok(self.link.send(&ToRemote::Taken { tgid })?)
    }

    /// It goes on away, and its deputies go on with its calls.
    pub(super) fn stays_away(&mut self, tgid: i32, reason: &HomeError) -> Result<(), HomeError> {
        if !self.deputies.contains_key(&tgid) {
            return Ok(());
        }
        tracing::warn!(tgid, %reason, "the process stays away");
        // It can be asked for again.
        (self.recalled, self.unshared) = (false, false);
        self.is_fetched(tgid);
        // Those that share memory stay together.
        let all = if self.objects.is_empty() { BTreeSet::from([tgid]) } else { self.processes() };
        self.arriving.retain(|one| !all.contains(&one.image.tgid));
        for deputy in self.deputies.values_mut().filter(|deputy| all.contains(&deputy.tgid) && deputy.stopped)
        {
            or_gone(deputy.go_on().map_err(Into::into))?;
        }
        all.into_iter().try_for_each(|tgid| Ok(self.link.send(&ToRemote::Thaw { tgid })?))
    }

    /// Signals that waited for the process away, or were on their way there.
    fn signals_again(&self, image: &Image) -> Result<(), HomeError> {
        let tgid = Pid::from_raw(image.tgid);
        let again = |tid: i32, slot: u32, info: &[u8]| match self.deputies.get(&tid) {
            Some(deputy) => {
                let scratch = layout::slot(self.base, slot.into()) + layout::OUT_AT;
                deputy.tracee.requeue(scratch, tgid, info)
            }
            None => Ok(()),
        };
        for info in &image.pending {
            again(image.tgid, 0, info)?;
        }
        for thread in &image.threads {
            for info in &thread.pending {
                again(thread.tid, thread.slot, info)?;
            }
        }
        for signal in self.on_their_way.iter().filter(|signal| signal.tgid == image.tgid) {
            if let Some(info) = &signal.info {
                let to = if signal.tid == 0 { image.tgid } else { signal.tid };
                let slot =
                    image.threads.iter().find(|thread| thread.tid == to).map_or(0, |thread| thread.slot);
                again(to, slot, info)?;
            }
        }
        Ok(())
    }

    /// Mappings, and the content of what the body has.
    fn memory(&self, leader: &Tracee, image: &Image, pieces: &[Piece]) -> Result<(), HomeError> {
        let pid = leader.tid;
        let call = |nr, args| leader.must_call(nr, args);
        for thread in &image.threads {
            let part = self.thread(pid, thread.slot.into())?;
            if part.bounce_size != 0 {
                call(libc::SYS_munmap, [part.bounce, part.bounce_size, 0, 0, 0, 0])?;
            }
        }
        call(libc::SYS_close_range, [self.first_fd, u64::from(u32::MAX), 0, 0, 0, 0])?;
        call(libc::SYS_brk, [image.marks[5], 0, 0, 0, 0, 0])?;
        let region = self.base..self.base + REGION;
        let own = |line: &Line| !line.is_special() && !region.contains(&line.start);
        let before: Vec<Line> = look::maps(pid)?.into_iter().filter(own).collect();
        let had: Vec<(u64, u64)> = before.iter().map(|line| (line.start, line.end)).collect();
        let writable = before.iter().cloned().map(|line| within_file(pid, line, &image.content));
        let writable = writable.collect::<io::Result<Vec<Line>>>()?;
        let kept = kept(&writable, &image.maps, &self.objects);
        for (start, end) in without(&had, &kept) {
            call(libc::SYS_munmap, [start, end - start, 0, 0, 0, 0])?;
        }
        let (theirs, has): (Vec<&Mapping>, Vec<&Mapping>) =
            image.maps.iter().partition(|map| map.shared.is_some());
        let has: Vec<(u64, u64)> = has.iter().map(|map| (map.start, map.end)).collect();
        for (start, end) in without(&has, &kept) {
            call(libc::SYS_mmap, [start, end - start, WRITABLE, ANEW, u64::MAX, 0])?;
        }
        for map in theirs {
            for (start, end) in without(&[(map.start, map.end)], &kept) {
                self.map_shared(leader, image.threads.first(), map, (start, end))?;
            }
        }
        // What has no content there is zero. Of a file it is what it is here: what has not been touched there.
        let of_file = before.iter().filter(|line| line.inode != 0).map(|line| (line.start, line.end));
        let stays: Vec<(u64, u64)> = of_file.collect();
        for (start, end) in without(&without(&has, &image.content), &stays) {
            let advice = [start, end - start, libc::MADV_DONTNEED as u64, 0, 0, 0];
            match leader.call(libc::SYS_madvise, advice)? {
                0 => {}
                // It is locked, and stays there.
                _ => zero(pid, start, end)?,
            }
        }
        let after: Vec<Line> = look::maps(pid)?.into_iter().filter(own).collect();
        // A shared mapping is the file's, as it was.
        let shared = after.iter().filter(|line| line.shared).map(|line| (line.start, line.end));
        content(pid, pieces, &shared.collect::<Vec<_>>())?;
        for Mapping { start, end, protection, .. } in &image.maps {
            for line in after.iter().filter(|line| line.start < *end && line.end > *start) {
                if line.protection != *protection {
                    let (from, to) = (line.start.max(*start), line.end.min(*end));
                    call(libc::SYS_mprotect, [from, to - from, u64::from(*protection), 0, 0, 0])?;
                }
            }
        }
        Ok(())
    }

    /// Maps what is shared where the program has moved it to.
    fn map_shared(
        &self,
        leader: &Tracee,
        thread: Option<&ThreadImage>,
        map: &Mapping,
        (start, end): (u64, u64),
    ) -> Result<(), HomeError> {
        const SHARED: u64 = 0x01 | 0x10; // MAP_SHARED | MAP_FIXED
        let (Some(part), Some(thread)) = (map.shared, thread) else { return Ok(()) };
        let object = usize::try_from(part.object).ok().and_then(|number| self.objects.get(number));
        let file = object.ok_or(LinkError::NotAuthentic)?.writable()?;
        let fd = self.pass_in(leader, thread.slot.into(), &file)?;
        let offset = part.offset + (start - map.start);
        leader.must_call(libc::SYS_mmap, [start, end - start, WRITABLE, SHARED, fd, offset])?;
        leader.must_call(libc::SYS_close, [fd, 0, 0, 0, 0, 0])?;
        Ok(())
    }

    /// What the kernel keeps of a thread, for one that has changed it or was made away from home.
    fn thread_again(&self, tracee: &Tracee, thread: &ThreadImage) -> Result<(), HomeError> {
        let call = |nr, args| tracee.call(nr, args);
        let scratch = layout::slot(self.base, thread.slot.into()) + layout::OUT_AT;
        let [sp, size, flags] = thread.alternate;
        let mut stack = [0_u8; 24];
        stack[..8].copy_from_slice(&sp.to_le_bytes());
        stack[8..16].copy_from_slice(&(if size == 0 { 2 } else { flags & !1 }).to_le_bytes());
        stack[16..].copy_from_slice(&size.to_le_bytes());
        sys::write_memory(tracee.tid, scratch, &stack)?;
        call(libc::SYS_sigaltstack, [scratch, 0, 0, 0, 0, 0])?;
        if thread.clear_tid != 0 {
            call(libc::SYS_set_tid_address, [thread.clear_tid, 0, 0, 0, 0, 0])?;
        }
        let [head, length] = thread.robust;
        if head != 0 {
            call(libc::SYS_set_robust_list, [head, length, 0, 0, 0, 0])?;
        }
        let (address, size, signature) = thread.rseq;
        if address != 0 && sys::rseq(tracee.tid)?.address != address {
            call(libc::SYS_rseq, [address, size.into(), 0, signature.into(), 0, 0])?;
        }
        Ok(())
    }

    fn dispositions(&self, leader: &Tracee, image: &Image) -> Result<(), HomeError> {
        let scratch = layout::slot(self.base, 0) + layout::OUT_AT;
        for (signal, disposition) in (0_u64..).zip(&image.dispositions).skip(1) {
            if signal == 9 || signal == 19 {
                continue;
            }
            let octets: Vec<u8> = disposition.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut known = [0; 32];
            leader.call(libc::SYS_rt_sigaction, [signal, 0, scratch, 8, 0, 0])?;
            sys::read_memory(leader.tid, scratch, &mut known)?;
            // Even what changes nothing has the kernel forget a signal that waits and would be ignored.
            if octets != known {
                sys::write_memory(leader.tid, scratch, &octets)?;
                leader.call(libc::SYS_rt_sigaction, [signal, scratch, 0, 8, 0, 0])?;
            }
        }
        Ok(())
    }
}

/// Receives the body's pages, at most so many octets. It takes as long as the link needs.
fn fetch(connection: TcpStream, keys: Keys, most: u64) -> Result<Vec<Piece>, HomeError> {
    let (_sender, mut receiver) = link::split(connection, keys)?;
    receiver.set_timeout(Some(STALLS))?;
    let (mut pieces, mut got) = (Vec::new(), 0);
    loop {
        let record = receiver.record()?;
        let (address, content) = record.split_first_chunk::<8>().ok_or(LinkError::NotAuthentic)?;
        let address = u64::from_le_bytes(*address);
        if address == u64::MAX {
            return Ok(pieces);
        }
        let zeros = content.first_chunk().filter(|_| content.len() == 8);
        let piece = match zeros.map(|count| u64::from_le_bytes(*count)) {
            Some(zeros) => Piece { address, content: Vec::new(), zeros: zeros.min(1 << 20) },
            None => Piece { address, content: content.to_vec(), zeros: 0 },
        };
        got += piece.content.len() as u64 + piece.zeros;
        if got > most {
            return Err(LinkError::NotAuthentic.into());
        }
        pieces.push(piece);
    }
}

/// Memory of the body's.
#[derive(Debug)]
struct Piece {
    address: u64,
    content: Vec<u8>,
    /// Or as many zeros.
    zeros: u64,
}

/// Puts the body's memory into its deputy's. What the process may not write itself is written all the same.
fn content(pid: Pid, pieces: &[Piece], but: &[(u64, u64)]) -> Result<(), HomeError> {
    let memory: File = OpenOptions::new().write(true).open(format!("/proc/{pid}/mem"))?;
    let zeros = vec![0; 1 << 20];
    for Piece { address, content, zeros: count } in pieces {
        let content = match usize::try_from(*count) {
            Ok(0) | Err(_) => &content[..],
            Ok(count) => &zeros[..count],
        };
        for (start, end) in without(&[(*address, address + content.len() as u64)], but) {
            let part = |at: u64| usize::try_from(at - address).unwrap_or(0);
            let put = memory.write_all_at(&content[part(start)..part(end)], start);
            put.map_err(|error| io::Error::new(error.kind(), format!("its memory at {start:#x}: {error}")))?;
        }
    }
    Ok(())
}

/// A mapping without what lies behind the end of its file, if there is content for that: nobody can write there. The
/// program has mapped something else at that place since (a library that was being loaded when it left).
fn within_file(pid: Pid, line: Line, content: &[(u64, u64)]) -> io::Result<Line> {
    let met = content.iter().any(|(start, end)| *start < line.end && *end > line.start);
    if line.inode == 0 || line.shared || !met {
        return Ok(line);
    }
    let about = fs::metadata(format!("/proc/{pid}/map_files/{:x}-{:x}", line.start, line.end))?;
    let shown = about.len().next_multiple_of(PAGE).saturating_sub(line.offset);
    let end = line.end.min(line.start.saturating_add(shown));
    let is_behind = content.iter().any(|(start, last)| *start.max(&end) < *last.min(&line.end));
    Ok(if about.is_file() && is_behind { Line { end, ..line } } else { line })
}

fn zero(pid: Pid, start: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; usize::try_from(end - start).unwrap_or(0)];
    OpenOptions::new().write(true).open(format!("/proc/{pid}/mem"))?.write_all_at(&zeros, start)
}

/// What is mapped at home as it is away, but for its content and protection: in order.
fn kept(before: &[Line], maps: &[Mapping], objects: &[Object]) -> Vec<(u64, u64)> {
    let same = |line: &Line, map: &Mapping| match (shared::part(line, objects), map.shared) {
        (Some(here), Some(there)) => {
            here.object == there.object
                && here.offset.wrapping_sub(line.start) == there.offset.wrapping_sub(map.start)
        }
        (None, None) => !line.shared || map.copy,
        _ => false,
    };
    let mut kept = Vec::new();
    for map in maps {
        let lines =
            before.iter().filter(|line| line.start < map.end && line.end > map.start && same(line, map));
        kept.extend(lines.map(|line| (line.start.max(map.start), line.end.min(map.end))));
    }
    kept
}

/// The parts of sorted ranges that are in none of the others.
pub fn without(ranges: &[(u64, u64)], others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for &(start, end) in ranges {
        let mut at = start;
        for &(other_start, other_end) in others.iter().filter(|other| other.0 < end && other.1 > start) {
            if at < other_start {
                left.push((at, other_start));
            }
            at = at.max(other_end);
        }
        if at < end {
            left.push((at, end));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::without;

    #[test]
    fn ranges_are_taken_from_ranges() {
        assert_eq!(without(&[(0, 10)], &[]), [(0, 10)]);
        assert_eq!(without(&[(0, 10), (20, 30)], &[(2, 4), (8, 22)]), [(0, 2), (4, 8), (22, 30)]);
        assert_eq!(without(&[(0, 10)], &[(0, 10)]), []);
        assert_eq!(without(&[(5, 10)], &[(0, 6), (9, 12)]), [(6, 9)]);
    }
}
