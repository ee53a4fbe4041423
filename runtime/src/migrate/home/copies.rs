//! Home's copy of what is away: the memory as it was when the process left, so that only what changes has to come home.
//!
//! It is a cache. Where the node is short of memory it is given up, once all of the memory is away and the process runs
//! there: the other side is told first, and counts on nothing of it any more, so a homecoming at the very moment loses
//! nothing. What is mapped of files stays, and so does the stack, where ps(1) finds a program's words.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use tesela_shim::layout::REGION;

use super::homeward::without;
use super::{Home, HomeError};
use crate::load::Room;
use crate::migrate::image::ToRemote;
use crate::migrate::look;
use crate::migrate::sys;

/// Between two looks at the node's memory.
const LOOK: Duration = Duration::from_secs(1);
/// A node that has less of its memory left, in percent, is short of it: before it sends processes away for that.
const SHORT: u64 = 15;

/// What is known of them.
#[derive(Debug, Default)]
pub struct Copies {
    /// Where processes had content as they left. What the deputies have put beside it since is in use.
    content: HashMap<i32, Vec<(u64, u64)>>,
    /// Of processes whose memory is away whole.
    whole: HashMap<i32, Copy>,
    looked: Option<Instant>,
}

#[derive(Debug)]
enum Copy {
    Kept,
    /// The other side has been asked to count on nothing of these ranges.
    Offered(Vec<(u64, u64)>),
}

impl Copies {
    /// A process leaves, and has content in these ranges.
    pub fn left(&mut self, tgid: i32, content: Vec<(u64, u64)>) {
        self.content.insert(tgid, content);
    }

    /// All of a process's memory is away.
    pub fn whole(&mut self, tgid: i32) {
        tracing::debug!(tgid, "all its memory has moved");
        self.whole.insert(tgid, Copy::Kept);
    }

    /// It has ended, or is another program.
    pub fn forget(&mut self, tgid: i32) {
        self.whole.remove(&tgid);
        self.content.remove(&tgid);
    }

    fn due(&mut self) -> bool {
        let kept = self.whole.values().any(|copy| matches!(copy, Copy::Kept));
        let due = kept && self.looked.is_none_or(|at| at.elapsed() >= LOOK);
        if due {
            self.looked = Some(Instant::now());
        }
        due
    }
}

impl Home {
    /// Offers to give copies up, where the node is short of memory.
    pub(super) fn look_at_memory(&mut self) -> Result<(), HomeError> {
        // As long as they may have to go on at home, they need it.
        if !self.departing.is_empty() || !self.copies.due() {
            return Ok(());
        }
        match Room::of_node() {
            Ok(Room { left, all }) if left <= all / 100 * SHORT => {}
            Ok(_) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "whether this node is short of memory cannot be told");
                return Ok(());
            }
        }
        let Copies { content, whole, .. } = &mut self.copies;
        for (tgid, copy) in whole.iter_mut().filter(|(_, copy)| matches!(copy, Copy::Kept)) {
            let now = private(Pid::from_raw(*tgid), self.base).unwrap_or_default();
            let content = content.get(tgid).map(Vec::as_slice).unwrap_or_default();
            let ranges = without(&now, &without(&now, content));
            self.link.send(&ToRemote::Forget { tgid: *tgid, ranges: ranges.clone() })?;
            *copy = Copy::Offered(ranges);
        }
        Ok(())
    }

    /// The other side counts on a copy no more. Its deputies go on with calls meanwhile: they do so with memory of their
    /// own, and none of the program's.
    pub(super) fn give_up_copy(&mut self, tgid: i32) -> Result<(), HomeError> {
        let Some(Copy::Offered(ranges)) = self.copies.whole.remove(&tgid) else { return Ok(()) };
        // One that is on its way home may have been compared with it. One that shares it still needs it.
        let needed = self.arriving.iter().any(|one| one.image.tgid == tgid)
            || self.standing.contains(&tgid)
            || self.deputies.values().any(|deputy| deputy.borrows);
        let stood = self.deputies.get(&tgid).is_some_and(|deputy| deputy.stopped);
        if needed || stood || !self.halt(tgid)? {
            // It can be offered once more, unless it has ended.
            if self.deputies.contains_key(&tgid) {
                self.copies.whole.insert(tgid, Copy::Kept);
            }
            return Ok(());
        }
        let Some(deputy) = self.deputies.get_mut(&tgid) else { return Ok(()) };
        let tracee = &deputy.tracee;
        let registers = tracee.registers_to_go_on()?;
        let mask = tracee.quiet()?;
        let now = private(tracee.tid, self.base)?;
        let mut octets = 0;
        for (start, end) in without(&ranges, &without(&ranges, &now)) {
            let advice = [start, end - start, libc::MADV_DONTNEED as u64, 0, 0, 0];
            // What is locked stays.
            if tracee.call(libc::SYS_madvise, advice)? == 0 {
                octets += end - start;
            }
        }
        tracee.set_registers(&registers)?;
        sys::set_signal_mask(tracee.tid, mask)?;
        deputy.go_on()?;
        tracing::info!(pid = tgid, octets, "this node is short of memory: nothing is kept of what is away");
        Ok(())
    }
}

/// Where a process has memory that is its own alone, but for the stack and our region.
fn private(pid: Pid, base: u64) -> io::Result<Vec<(u64, u64)>> {
    let own = |line: &look::Line| {
        !line.shared
            && line.inode == 0
            && line.name != "[stack]"
            && !line.is_special()
            && !(base..base + REGION).contains(&line.start)
    };
    Ok(look::maps(pid)?.iter().filter(|line| own(line)).map(|line| (line.start, line.end)).collect())
}
