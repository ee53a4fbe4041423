//! The two ends that a move has when the other node is lost: a process that cannot have begun to run there goes on at
//! home as if nothing had been asked, and any other one ends.

use std::os::fd::AsFd as _;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Home, HomeError, PARTING};
use crate::migrate::freeze::Frozen;
use crate::migrate::image::Image;

/// By this a process ends that is lost with its node, and a shell says "Power failure" of it: so its parent can tell
/// it from one that somebody has killed, or that has had too much memory.
const LOST: Signal = Signal::SIGPWR;

impl Home {
    /// Lets the processes go on where they were stopped, if nothing of what they may have done on the other node has
    /// had an effect. `false`: they have been heard of from there.
    pub(super) fn take_back(&mut self) -> Result<bool, HomeError> {
        let images = std::mem::take(&mut self.departing);
        let mut here = Vec::new();
        for image in images {
            if self.stands_as_it_left(&image)? {
                here.push(image);
            } else if self.deputies.contains_key(&image.tgid) {
                return Ok(false);
            }
        }
        let any = !here.is_empty();
        for image in here {
            self.go_on_here(image)?;
        }
        Ok(any)
    }

    /// Stops a process's deputies. `false`: one has heard of its body, or is gone.
    fn stands_as_it_left(&mut self, image: &Image) -> Result<bool, HomeError> {
        for thread in &image.threads {
            if !self.halt(thread.tid)? {
                return Ok(false);
            }
            let known = self.thread(Pid::from_raw(image.tgid), thread.slot.into())?;
            let heard = self.deputies.get(&thread.tid).is_none_or(|deputy| deputy.line.heard);
            if heard || !known.receive.is_unused() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn go_on_here(&mut self, image: Image) -> Result<(), HomeError> {
        let mut threads = Vec::new();
        for thread in &image.threads {
            let Some(mut deputy) = self.deputies.remove(&thread.tid) else { return Ok(()) };
            deputy.tracee.quiet()?;
            // It has made other calls since.
            deputy.tracee.goes_on = false;
            // Signals that were sent on.
            let own = |tid: i32| tid == thread.tid || (tid == 0 && thread.tid == image.tgid);
            for signal in self.on_their_way.iter_mut().filter(|one| one.tgid == image.tgid && own(one.tid)) {
                deputy.tracee.held.extend(signal.info.take());
            }
            threads.push(deputy.tracee);
        }
        Ok(Frozen { threads, image, lines: Vec::new(), entry: self.entry, labels: self.labels }.release()?)
    }

    /// The bodies are lost: so the processes end, by a signal that says so.
    pub(super) fn end_all(&mut self, reason: &HomeError) {
        let all = self.processes();
        // Whoever waits in the kernel, for its child (vfork) or a file server, cannot be told by another signal.
        std::thread::spawn({
            let all = all.clone();
            move || {
                std::thread::sleep(PARTING);
                all.into_iter().for_each(kill_hard);
            }
        });
        self.deputies.values().filter(|deputy| deputy.borrows).for_each(|deputy| kill_hard(deputy.tgid));
        for tgid in all {
            tracing::error!(pid = tgid, %reason, "the process is lost with the node where it was, and ends");
            if let Err(error) = self.ends_by(tgid, LOST as i32) {
                tracing::debug!(pid = tgid, %error, "it does not end by {LOST}");
                kill_hard(tgid);
            }
        }
        let until = Instant::now() + PARTING;
        while !self.deputies.is_empty() && Instant::now() < until {
            if let Err(error) = self.see_them_end(until) {
                tracing::warn!(%error, "the end of a process cannot be followed");
                break;
            }
        }
        // Those that are left end with this program, which traces them.
    }

    fn see_them_end(&mut self, until: Instant) -> Result<(), HomeError> {
        self.look_at_children()?;
        if self.deputies.is_empty() {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], wait)?;
        while self.signals.read_signal()?.is_some() {}
        Ok(())
    }
}

fn kill_hard(tgid: i32) {
    // ESRCH: it has ended already.
    let _ended = kill(Pid::from_raw(tgid), Signal::SIGKILL);
}
