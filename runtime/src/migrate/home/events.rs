//! What happens to deputies, and what the remote node says of their bodies.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tesela_shim::layout::{self, CODE, SLOT};
use tesela_shim::seal::Direction;

use super::connector::Wanted;
use super::{Arriving, Deputy, Home, HomeError, OnItsWay};
use crate::migrate::freeze::{empty_thread, octets};
use crate::migrate::image::{Channel, ToHome, ToRemote};
use crate::migrate::lasting::PING;
use crate::migrate::look;
use crate::migrate::restart;
use crate::migrate::sys;
use crate::migrate::tracee::{Happening, TraceError, Tracee, is_interrupted, next_happening};
use crate::migrate::{AGAIN, USED, since_boot, tell};

/// What the kernel would do with a signal of a process at home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// A handler of the program's is called, which is where the body is.
    Caught,
    /// The process stops.
    Stops,
    /// Nothing, or its end: the deputy stands for it.
    AtHome,
}

impl Home {
    /// Everything that the kernel has to tell.
    pub(super) fn look_at_children(&mut self) -> Result<(), HomeError> {
        loop {
            match next_happening(None, libc::WNOHANG) {
                Ok(None) | Err(Errno::ECHILD) => return Ok(()),
                Ok(Some((tid, happening))) => or_gone(self.happened(tid, happening))?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn happened(&mut self, tid: Pid, happening: Happening) -> Result<(), HomeError> {
        tracing::debug!(%tid, ?happening, "a deputy");
        match happening {
            Happening::Ended => self.ended(tid.as_raw()),
            Happening::Signal(libc::SIGTRAP) if self.in_blob(tid)? => self.asks_for_channel(tid.as_raw()),
            Happening::Signal(signal) => self.signalled(tid, signal),
            Happening::Event { event, signal } => match event {
                libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => {
                    let child = i32::try_from(ptrace::getevent(tid)?).unwrap_or(0);
                    self.born(tid.as_raw(), child)
                }
                libc::PTRACE_EVENT_EXEC => self.became_another(tid),
                libc::PTRACE_EVENT_STOP => self.stands(tid, signal),
                _ => Ok(ptrace::cont(tid, None)?),
            },
        }
    }

    /// Stops a deputy. What happens to it before it stands still (a child of it, a signal, its end) is seen to
    /// first. `false`: it is none any more.
    pub(super) fn halt(&mut self, tid: i32) -> Result<bool, HomeError> {
        let stands = |home: &Self| home.deputies.get(&tid).map(|deputy| deputy.stopped);
        while stands(self) == Some(false) {
            // Every time: any other stop makes the kernel forget it.
            ptrace::interrupt(Pid::from_raw(tid))?;
            match next_happening(Some(Pid::from_raw(tid)), 0) {
                Ok(Some((_, Happening::Event { event: libc::PTRACE_EVENT_STOP, .. }))) => {
                    if let Some(deputy) = self.deputies.get_mut(&tid) {
                        deputy.stopped = true;
                    }
                }
                Ok(Some((pid, happening))) => self.happened(pid, happening)?,
                Ok(None) | Err(Errno::ECHILD) => self.ended(tid)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(stands(self).is_some())
    }

    fn in_blob(&self, tid: Pid) -> Result<bool, HomeError> {
        let rip = ptrace::getregs(tid)?.rip;
        Ok((self.base..self.base + CODE).contains(&rip))
    }

    pub(super) fn ended(&mut self, tid: i32) -> Result<(), HomeError> {
        self.early.remove(&tid);
        self.standing.remove(&tid);
        self.copies.forget(tid);
        self.is_fetched(tid);
        let Some(deputy) = self.deputies.remove(&tid) else { return Ok(()) };
        if tid == deputy.tgid {
            self.deputies.retain(|_, other| other.tgid != tid);
            self.arriving.retain(|one| one.image.tgid != tid);
            return Ok(self.link.send(&ToRemote::End { tgid: tid })?);
        }
        self.free_slot(Pid::from_raw(deputy.tgid), deputy.slot)
    }

    /// Another thread may have this slot of a deputy.
    fn free_slot(&self, pid: Pid, slot: u32) -> Result<(), HomeError> {
        let at = layout::slot(self.base, slot.into()) + core::mem::offset_of!(layout::Thread, tid) as u64;
        match sys::write_memory(pid, at, &0_i32.to_le_bytes()) {
            // It has become another program meanwhile, which has no slots.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
            done => Ok(done?),
        }
    }

    /// A body has met something that can be done at home only, or is wanted there; what shares memory goes together.
    pub(super) fn asks_to_go_home(&mut self, tgid: i32) -> Result<(), HomeError> {
        if self.objects.is_empty() {
            return Ok(self.link.send(&ToRemote::Freeze { tgid })?);
        }
        self.recall()
    }

    /// A stop that is none of a signal's: a child that has just been made, or job control.
    fn stands(&mut self, tid: Pid, signal: i32) -> Result<(), HomeError> {
        let stopped = signal != libc::SIGTRAP;
        if !self.deputies.contains_key(&tid.as_raw()) {
            self.early.insert(tid.as_raw(), Tracee::inherited(tid));
            return Ok(());
        }
        let leads = self.deputies.get(&tid.as_raw()).is_some_and(|deputy| deputy.tgid == tid.as_raw());
        if stopped {
            // The whole process stands, here and there, until it is told to go on.
            if leads && self.standing.insert(tid.as_raw()) {
                self.send_signal(tid.as_raw(), libc::SIGSTOP)?;
            }
            return Ok(sys::listen(tid)?);
        }
        // SIGCONT has come, or an interruption that is of no use any more. One that a handler waits for is sent on
        // like any other.
        if leads && self.standing.remove(&tid.as_raw()) && fate(tid, libc::SIGCONT)? != Fate::Caught {
            self.send_signal(tid.as_raw(), libc::SIGCONT)?;
        }
        Ok(ptrace::cont(tid, None)?)
    }

    fn send_signal(&mut self, tgid: i32, signal: i32) -> Result<(), HomeError> {
        let mut info = vec![0; 128];
        info[..4].copy_from_slice(&signal.to_ne_bytes());
        self.on_their_way.push_back(OnItsWay { tgid, tid: 0, info: None, holds: None });
        Ok(self.link.send(&ToRemote::Signal { tgid, tid: 0, info })?)
    }

    /// A signal for a deputy: what a handler does with it, it does where the body is.
    fn signalled(&mut self, tid: Pid, signal: i32) -> Result<(), HomeError> {
        let Some(deputy) = self.deputies.get(&tid.as_raw()) else {
            return Ok(sys::cont(tid, signal)?);
        };
        let tgid = deputy.tgid;
        match fate(tid, signal)? {
            Fate::AtHome | Fate::Stops => Ok(sys::cont(tid, signal)?),
            Fate::Caught => {
                let info = sys::signal_info(tid)?;
                let code = i32::from_ne_bytes([info[8], info[9], info[10], info[11]]);
                let held = self.in_call(tid)? || ptrace::getregs(tid)?.rip == self.labels[1];
                // tgkill(2) means this thread. Of all that could, the kernel has chosen one that is in a call, if it
                // is the one that calls kill(2): away it cannot tell, for all of them wait with signals blocked.
                let target = if code == libc::SI_TKILL || held { tid.as_raw() } else { 0 };
                let holds = held.then_some(tid.as_raw());
                let info_here = Some(info.clone());
                self.on_their_way.push_back(OnItsWay { tgid, tid: target, info: info_here, holds });
                self.link.send(&ToRemote::Signal { tgid, tid: target, info })?;
                if held {
                    // It goes on when the body has the signal: so that finds it there when the call returns, as
                    // it would at home (kill(2) of oneself), or sees that the call was interrupted.
                    if let Some(deputy) = self.deputies.get_mut(&tid.as_raw()) {
                        (deputy.stopped, deputy.delivering) = (true, true);
                    }
                    return Ok(());
                }
                Ok(sys::cont(tid, 0)?)
            }
        }
    }

    /// Whether a stopped deputy was interrupted in a call of the program's, or just before it.
    fn in_call(&self, tid: Pid) -> Result<bool, HomeError> {
        let registers = ptrace::getregs(tid)?;
        let [begin, end, _] = self.labels;
        let interrupted = registers.rip == end
            && registers.orig_rax.cast_signed() >= 0
            && is_interrupted(registers.orig_rax, registers.rax.cast_signed());
        Ok(interrupted || (begin..end).contains(&registers.rip))
    }

    /// Lets a stopped deputy go on such that the call in which it is ends as interrupted.
    fn interrupt_call(&mut self, tid: i32) -> Result<(), HomeError> {
        let pid = Pid::from_raw(tid);
        if self.in_call(pid)? {
            let mut registers = ptrace::getregs(pid)?;
            if registers.rip == self.labels[1] {
                // The kernel would begin it again; the shim decides that. It gets the kernel's own word.
                registers.orig_rax = u64::MAX;
            } else if restart::goes_on(pid, &registers) {
                // It has begun before.
                (registers.rip, registers.rax) = (self.labels[1], restart::INTERRUPTED);
            } else {
                registers.rip = self.labels[2];
            }
            ptrace::setregs(pid, registers)?;
        }
        self.deputies.get_mut(&tid).map_or(Ok(()), |deputy| Ok(deputy.go_on()?))
    }

    /// The call `seq` of a thread is not waited for any longer.
    fn cancel(&mut self, tid: i32, seq: u64) -> Result<(), HomeError> {
        tracing::debug!(tid, seq, "a call is let go");
        let Some(deputy) = self.deputies.get_mut(&tid) else { return Ok(()) };
        let (slot, tgid) = (u64::from(deputy.slot), Pid::from_raw(deputy.tgid));
        let at = layout::slot(self.base, slot) + core::mem::offset_of!(layout::Thread, cancel) as u64;
        if !self.halt(tid)? {
            return Ok(());
        }
        // Not begun yet, it does not begin.
        sys::write_memory(tgid, at, &seq.to_le_bytes())?;
        if self.deputies.get(&tid).is_some_and(|deputy| deputy.delivering) {
            // It goes on with the signal, and is told then.
            return Ok(());
        }
        let thread = self.thread(tgid, slot)?;
        if thread.busy != 0 && thread.seq == seq {
            self.interrupt_call(tid)?;
        } else if let Some(deputy) = self.deputies.get_mut(&tid) {
            deputy.go_on()?;
        }
        Ok(())
    }

    /// A deputy has made a thread or a process.
    fn born(&mut self, parent: i32, child: i32) -> Result<(), HomeError> {
        self.are_away();
        // A child that is killed at once does not hold its maker up.
        or_gone(self.receives_channel(parent, child))?;
        Ok(ptrace::cont(Pid::from_raw(parent), None)?)
    }

    /// A child of a deputy gets its channel before its first instruction.
    fn receives_channel(&mut self, parent: i32, child: i32) -> Result<(), HomeError> {
        // Not one of ours any more: its children are not either.
        let Some(maker) = self.deputies.get(&parent) else { return Ok(()) };
        let (parent_tgid, parent_slot, site) = (maker.tgid, u64::from(maker.slot), maker.tracee.site);
        let mut tracee = self.early.remove(&child);
        if tracee.is_none() {
            let mut fresh = Tracee::inherited(Pid::from_raw(child));
            fresh.wait_stopped()?;
            tracee = Some(fresh);
        }
        let Some(mut tracee) = tracee else { return Ok(()) };
        tracee.site = site;
        let tgid: i32 = look::status(tracee.tid, "Tgid")?.parse().unwrap_or(child);
        let registers = tracee.registers()?;
        let slot = (registers.rsp - self.base - CODE) / SLOT;
        let (channel, keys) = Channel::new()?;
        let (slot_number, process) = (u32::try_from(slot).unwrap_or(0), tgid == child);
        // A process has its parent's slot here, and there another one where the two share their memory (vfork).
        let there = self.thread(Pid::from_raw(parent_tgid), parent_slot)?.makes;
        let there = u32::try_from(there).unwrap_or(0);
        self.link.send(&ToRemote::Child {
            parent: parent_tgid,
            tid: child,
            slot: there,
            process,
            channel,
        })?;
        // One that takes longer is waited for by the deputy, and not by all.
        let stream = if self.link.is_lost() { None } else { self.connect(&channel).ok() };
        let mask = tracee.quiet()?;
        let mut thread = empty_thread();
        if tgid == child {
            // The copies of its parent's channels.
            let all = [self.first_fd, u64::from(u32::MAX), 0, 0, 0, 0];
            tracee.must_call(libc::SYS_close_range, all)?;
            for sibling in self.deputies.values().filter(|one| one.tgid == parent_tgid) {
                self.free_slot(tracee.tid, sibling.slot)?;
            }
            let before = self.thread(tracee.tid, slot)?;
            (thread.bounce, thread.bounce_size) = (before.bounce, before.bounce_size);
        }
        thread.process = layout::slot(self.base, 0) + layout::PROCESS_AT;
        (thread.slot, thread.tid, thread.fd) = (slot_number, child, -1);
        (thread.send, thread.receive) = (Direction::new(keys.send), Direction::new(keys.receive));
        thread.mask = mask;
        sys::write_memory(tracee.tid, layout::slot(self.base, slot), octets(&thread))?;
        match &stream {
            Some(stream) => self.adopt(&tracee, Pid::from_raw(tgid), slot, &[stream])?,
            None if self.link.is_lost() => {}
            None => {
                self.connector.want(channel.token, Wanted::Channel { tid: child, generation: 0, keys });
            }
        }
        sys::set_signal_mask(tracee.tid, mask)?;
        let address = layout::slot(self.base, slot);
        tracee.enter(self.entry, address + SLOT - 64, layout::ENTER_RESIDENT, address)?;
        let borrows = process && there != slot_number;
        let fresh = Deputy::new(tracee, tgid, slot_number, stream);
        self.deputies.insert(child, Deputy { borrows, made_away: process, ..fresh });
        if process && self.recalled {
            self.link.send(&ToRemote::Freeze { tgid })?;
        }
        Ok(())
    }

    /// execve(2) has made another program of a deputy, which runs at home.
    fn became_another(&mut self, tid: Pid) -> Result<(), HomeError> {
        self.are_away();
        let tgid = tid.as_raw();
        self.deputies.retain(|_, deputy| deputy.tgid != tgid);
        self.copies.forget(tgid);
        self.link.send(&ToRemote::End { tgid })?;
        if !self.asked.contains(&tgid) {
            self.can_move_again(tgid)?;
        }
        let detached = ptrace::detach(tid, None);
        self.is_fetched(tgid);
        Ok(detached?)
    }

    /// A process runs at home that nobody has called there: the agent is told before it can do anything, for it looks
    /// which process that is, and what it has started since.
    pub(super) fn can_move_again(&self, tgid: i32) -> Result<(), HomeError> {
        if !self.recalled {
            tell(&format!("{AGAIN}{tgid} {}", since_boot()?.as_millis()));
        }
        Ok(())
    }

    /// What the remote node says.
    pub(super) fn hear_remote(&mut self, message: ToHome) -> Result<(), HomeError> {
        or_gone(self.hear(message))
    }

    fn hear(&mut self, message: ToHome) -> Result<(), HomeError> {
        tracing::debug!(%message, "the other node says");
        match message {
            ToHome::Signalled { tgid, calls } => {
                let place = self.on_their_way.iter().position(|signal| signal.tgid == tgid);
                let signal = place.and_then(|place| self.on_their_way.remove(place));
                if let Some(tid) = signal.and_then(|signal| signal.holds)
                    && self.deputies.get(&tid).is_some_and(|deputy| deputy.delivering)
                {
                    self.interrupt_call(tid)?;
                }
                for (tid, seq) in calls {
                    self.cancel(tid, seq)?;
                }
            }
            ToHome::Cancel { calls, .. } => {
                for (tid, seq) in calls {
                    self.cancel(tid, seq)?;
                }
            }
            ToHome::Ended { tgid, status } => self.ends_as_its_body(tgid, status)?,
            ToHome::Resumed => self.are_away(),
            ToHome::Frozen(image, pages) => {
                if self.deputies.contains_key(&image.tgid) {
                    self.arriving.push(Arriving { image: *image, pages });
                }
            }
            ToHome::NotFrozen { tgid, reason } => self.stays_away(tgid, &HomeError::Refused(reason))?,
            ToHome::Whole { tgid } => self.is_whole(tgid),
            ToHome::Used(used) => self.tell_use(used),
            ToHome::Forgotten { tgid } => self.give_up_copy(tgid)?,
            ToHome::Asks { tgid } => self.asks_to_go_home(tgid)?,
            ToHome::Lost { tid, generation } => self.lost_there(tid, generation)?,
            ToHome::Pages { tgid, received, channel } => {
                if let Some(memory) = self.memory.remove(&tgid) {
                    let memory = memory.go_on(received, self.there, channel)?;
                    self.memory.extend(memory.map(|memory| (tgid, memory)));
                }
            }
            ToHome::Ends(reason) => return Err(HomeError::EndedThere(reason)),
            ToHome::Listening { .. } | ToHome::Files(_) | ToHome::Built | ToHome::Failed(_) => {
                return Err(crate::migrate::link::LinkError::NotAuthentic.into());
            }
        }
        Ok(())
    }

    /// What the other node says more often than it should is passed over: the agent has other things to hear.
    fn tell_use(&mut self, used: Vec<(i32, u64, bool)>) {
        if !self.departing.is_empty() || self.told_use.is_some_and(|at| at.elapsed() < PING / 2) {
            return;
        }
        self.told_use = Some(Instant::now());
        let all: BTreeMap<i32, (u64, bool)> =
            used.into_iter().map(|(tgid, micros, runs)| (tgid, (micros, runs))).collect();
        for (tgid, (micros, runs)) in all.iter().filter(|(tgid, _)| self.deputies.contains_key(tgid)) {
            tell(&format!("{USED}{tgid} {micros} {}", u8::from(*runs)));
        }
    }

    /// A fatal signal has ended the body: the deputy dies of the same, so that its parent sees it.
    fn ends_as_its_body(&mut self, tgid: i32, status: i32) -> Result<(), HomeError> {
        if !self.deputies.contains_key(&tgid) {
            return Ok(());
        }
        let signal = if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { libc::SIGKILL };
        tracing::info!(tgid, signal, "the process has ended away from home");
        if signal != libc::SIGKILL {
            return self.ends_by(tgid, signal);
        }
        Ok(nix::sys::signal::kill(Pid::from_raw(tgid), Signal::SIGKILL)?)
    }

    /// Has a process end by a signal that ends one where the program does not say otherwise.
    pub(super) fn ends_by(&mut self, tgid: i32, signal: i32) -> Result<(), HomeError> {
        if !self.halt(tgid)? {
            return Ok(());
        }
        let Some(leader) = self.deputies.get_mut(&tgid) else { return Ok(()) };
        let at = layout::slot(self.base, leader.slot.into()) + layout::OUT_AT;
        let pid = leader.tracee.tid;
        // struct sigaction: SIG_DFL
        sys::write_memory(pid, at, &[0; 32])?;
        leader.tracee.call(libc::SYS_rt_sigaction, [u64::from(signal.cast_unsigned()), at, 0, 8, 0, 0])?;
        sys::set_signal_mask(pid, !(1 << (signal - 1)))?;
        leader.stopped = false;
        sys::tgkill(pid, pid, signal)?;
        Ok(sys::cont(pid, 0)?)
    }
}

/// A deputy that ends while something is done with it is no failure: the kernel tells of its end next.
pub(super) fn or_gone(done: Result<(), HomeError>) -> Result<(), HomeError> {
    let gone = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT));
    match done {
        Err(HomeError::Trace(TraceError::Ended | TraceError::System(Errno::ESRCH))) => Ok(()),
        Err(HomeError::Trace(TraceError::Io(error)) | HomeError::Io(error)) if gone(&error) => {
            tracing::debug!(%error, "a deputy is gone");
            Ok(())
        }
        done => done,
    }
}

/// What becomes of a signal of this thread's process, by what the deputy's kernel knows of its dispositions.
fn fate(tid: Pid, signal: i32) -> Result<Fate, HomeError> {
    let set = |key| -> Result<u64, HomeError> {
        let text = look::status(tid, key)?;
        Ok(u64::from_str_radix(&text, 16).unwrap_or(0))
    };
    let bit = 1_u64 << (signal - 1);
    if signal != libc::SIGKILL && signal != libc::SIGSTOP && set("SigCgt")? & bit != 0 {
        return Ok(Fate::Caught);
    }
    let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&signal);
    Ok(if stops && set("SigIgn")? & bit == 0 { Fate::Stops } else { Fate::AtHome })
}
