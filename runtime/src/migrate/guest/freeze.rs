//! A body is stopped and read, to be sent home.
//!
//! A thread that runs its program is stopped there. One that is in the shim goes on until it stands at the
//! edge of its program: a call that is on its way home is let go, and made again later.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use nix::unistd::Pid;
use tesela_shim::layout::{
    self, CODE, Context, IN_CALL, LOST, NEW, PARKED, Process, RUNNING, Thread, WAITING,
};

use super::lines::{Purpose, Wanted};
use super::signals::thread_ids;
use super::{Guest, GuestError};
use crate::migrate::freeze::{
    SPACE, empty_process, empty_thread, octets_mut, registers_as_words, registers_from_words,
};
use crate::migrate::home::without;
use crate::migrate::image::{Channel, Image, Mapping, ThreadImage, ToHome, ToRemote};
use crate::migrate::look::{self, Line};
use crate::migrate::restart;
use crate::migrate::shared::{self, Object, WRITE};
use crate::migrate::sys;
use crate::migrate::tracee::{Tracee, settled};
use crate::migrate::xstate::ExtendedState;

/// A body that is being stopped.
#[derive(Debug)]
pub struct Freezing {
    /// Its threads, by their ids at home: those that stand still for good.
    standing: HashMap<i32, Tracee>,
    /// And those that still have to come to the edge of the shim: with their ids here.
    coming: HashMap<i32, Pid>,
    /// It has been read, and what is sent to it now comes too late.
    pub(super) has_left: bool,
    /// Such as these.
    pub(super) late: Vec<ToRemote>,
}

impl Freezing {
    /// The body has been killed: its parent hears of a traced thread's end after its tracer, and of the
    /// leader's after all others'.
    pub(super) fn ended(self, tgid: i32) {
        let (leader, others): (Vec<_>, Vec<_>) = self.standing.into_iter().partition(|(tid, _)| *tid == tgid);
        for (_, tracee) in others.into_iter().chain(leader) {
            tracee.await_end();
        }
    }
}

impl Guest {
    /// Begins to stop a body; it is sent home once all its threads stand still.
    pub(super) fn freeze(&mut self, tgid: i32) -> Result<(), GuestError> {
        let has_pager = |tgid: &i32| self.bodies.get(tgid).is_some_and(|body| body.pager.is_some());
        let is_whole = !has_pager(&tgid)
            && !self.bodies.get(&tgid).and_then(|body| body.maker).is_some_and(|maker| has_pager(&maker));
        let Some(body) = self.bodies.get_mut(&tgid) else { return Ok(()) };
        if body.frozen.is_some() {
            return Ok(());
        }
        if !is_whole {
            // What has not come yet would have to go back: it comes first.
            body.wanted_home = true;
            return Ok(());
        }
        body.wanted_home = false;
        tracing::debug!(tgid, "stops");
        body.frozen = Some(Freezing {
            standing: HashMap::new(),
            coming: HashMap::new(),
            has_left: false,
            late: Vec::new(),
        });
        self.go_on_stopping(tgid)
    }

    /// Stops the threads that have not been stopped yet: a thread that is still on its way to the edge of the
    /// shim may make another one. Once all stand, they are sent home.
    fn go_on_stopping(&mut self, tgid: i32) -> Result<(), GuestError> {
        let Some(pid) = self.pid_of(tgid) else { return Ok(()) };
        let Some(mut freezing) = self.bodies.get_mut(&tgid).and_then(|body| body.frozen.take()) else {
            return Ok(());
        };
        let stopped = self.stop_threads(tgid, pid, &mut freezing);
        let still = freezing.coming.is_empty();
        if let Some(body) = self.bodies.get_mut(&tgid) {
            body.frozen = Some(freezing);
        }
        let calls = match stopped {
            Ok(calls) => calls,
            // Most often it ends, and home hears of that.
            Err(error) => {
                return Ok(self.link.send(&ToHome::NotFrozen { tgid, reason: error.to_string() })?);
            }
        };
        if !calls.is_empty() {
            tracing::debug!(tgid, ?calls, "calls to be let go");
            self.link.send(&ToHome::Cancel { tgid, calls })?;
        }
        if still { self.send_home(tgid) } else { Ok(()) }
    }

    fn stop_threads(
        &self,
        tgid: i32,
        pid: Pid,
        freezing: &mut Freezing,
    ) -> Result<Vec<(i32, u64)>, GuestError> {
        let base = self.bodies.get(&tgid).map_or(0, |body| body.image.base);
        let mut calls = Vec::new();
        loop {
            let before = freezing.standing.len() + freezing.coming.len();
            for here in look::threads(pid)? {
                // One that ends meanwhile is none.
                let Ok(Some(tid)) = thread_ids(pid, here) else { continue };
                let known = freezing.standing.contains_key(&tid) || freezing.coming.contains_key(&tid);
                let Some(slot) = self.bodies.get(&tgid).and_then(|body| body.threads.get(&tid).copied())
                else {
                    continue;
                };
                if known {
                    continue;
                }
                let at = layout::slot(base, slot.into());
                let freeze_at = at + core::mem::offset_of!(Thread, freeze) as u64;
                sys::write_memory(pid, freeze_at, &1_u32.to_le_bytes())?;
                // From here on the shim begins nothing that it could wait for: a thread that is in it comes to
                // its edge, or is in a call, within a few instructions.
                let thread = loop {
                    let thread = read_part(pid, at)?;
                    if !matches!(thread.state, RUNNING | WAITING | NEW | PARKED) {
                        break Some(thread);
                    }
                    let tracee = stopped(here)?;
                    if stands(&tracee, &read_part(pid, at)?, base)? {
                        freezing.standing.insert(tid, tracee);
                        break None;
                    }
                    tracee.detach().map_err(io::Error::from)?;
                    std::thread::yield_now();
                };
                let Some(thread) = thread else { continue };
                if matches!(thread.state, IN_CALL | LOST) {
                    calls.push((tid, thread.seq));
                }
                freezing.coming.insert(tid, here);
            }
            if freezing.standing.len() + freezing.coming.len() == before {
                break;
            }
        }
        Ok(calls)
    }

    /// A thread has come to the edge of the shim.
    pub(super) fn parked(&mut self, tgid: i32, tid: i32) -> Result<(), GuestError> {
        let Some(freezing) = self.bodies.get_mut(&tgid).and_then(|body| body.frozen.as_mut()) else {
            return Ok(());
        };
        let Some(here) = freezing.coming.remove(&tid) else { return Ok(()) };
        freezing.standing.insert(tid, stopped(here)?);
        if freezing.coming.is_empty() { self.go_on_stopping(tgid) } else { Ok(()) }
    }

    /// A thread ends, and is not waited for.
    pub(super) fn gone(&mut self, tgid: i32, tid: i32) -> Result<(), GuestError> {
        let Some(body) = self.bodies.get_mut(&tgid) else { return Ok(()) };
        body.threads.remove(&tid);
        body.lines.remove(&tid);
        let freezing = body.frozen.as_mut();
        if freezing
            .is_some_and(|freezing| freezing.coming.remove(&tid).is_some() && freezing.coming.is_empty())
        {
            self.go_on_stopping(tgid)?;
        }
        Ok(())
    }

    fn send_home(&mut self, tgid: i32) -> Result<(), GuestError> {
        let Some((pid, body)) = self.pid_of(tgid).zip(self.bodies.get_mut(&tgid)) else { return Ok(()) };
        let Some(freezing) = body.frozen.as_mut() else { return Ok(()) };
        if !freezing.standing.contains_key(&tgid) {
            // Nothing at home can do without it.
            let reason = "its first thread has ended, and others go on".into();
            return Ok(self.link.send(&ToHome::NotFrozen { tgid, reason })?);
        }
        // The end of a thread changes memory, for those that wait for it.
        while look::threads(pid)?.len() > freezing.standing.len() {
            std::thread::yield_now();
        }
        let (_, site) = look::vdso(pid, &look::maps(pid)?)?;
        freezing.standing.values_mut().for_each(|tracee| tracee.site = site);
        freezing.has_left = true;
        let copies =
            body.copies.as_ref().map(|pager| pager.untouched(&body.image.copies())).unwrap_or_default();
        let image = match read(pid, &body.image, (tgid, &body.threads), freezing, &self.objects, &copies) {
            Ok(image) => image,
            // Home lets it go on here.
            Err(error) => {
                let reason = error.to_string();
                return Ok(self.link.send(&ToHome::NotFrozen { tgid, reason })?);
            }
        };
        let (content, known) = (image.content.clone(), Arc::clone(&body.known));
        let (channel, keys) = Channel::new()?;
        self.link.send(&ToHome::Frozen(Box::new(image), channel))?;
        let purpose = Purpose::Homeward(pid, content, known);
        self.want(channel.token, Wanted::new(tgid, keys, purpose))
    }

    /// Sends what the bodies share, all of which stand still.
    pub(super) fn unshare(&mut self, channel: &Channel) -> Result<(), GuestError> {
        // It is not one body's.
        self.want(channel.token, Wanted::new(0, channel.keys, Purpose::Unshare))
    }

    /// It could not be taken home: it goes on here.
    pub(super) fn thaw(&mut self, tgid: i32) -> Result<(), GuestError> {
        let Some((pid, body)) = self.pid_of(tgid).zip(self.bodies.get_mut(&tgid)) else { return Ok(()) };
        body.wanted_home = false;
        let Some(freezing) = body.frozen.take() else { return Ok(()) };
        self.wanted
            .retain(|_, wanted| wanted.tgid != tgid || !matches!(wanted.purpose, Purpose::Homeward(..)));
        for tid in freezing.standing.keys().chain(freezing.coming.keys()) {
            if let Some(slot) = body.threads.get(tid) {
                let at = layout::slot(body.image.base, u64::from(*slot));
                let freeze_at = at + core::mem::offset_of!(Thread, freeze) as u64;
                sys::write_memory(pid, freeze_at, &0_u32.to_le_bytes())?;
            }
        }
        for tracee in freezing.standing.into_values() {
            tracee.detach().map_err(io::Error::from)?;
        }
        freezing.late.into_iter().try_for_each(|message| super::or_gone(self.hear(message)))
    }
}

fn stopped(here: Pid) -> Result<Tracee, GuestError> {
    let mut tracee = Tracee::seize(here).map_err(io::Error::from)?;
    tracee.stop().map_err(io::Error::from)?;
    Ok(tracee)
}

fn read_part(pid: Pid, at: u64) -> io::Result<Thread> {
    let mut thread = empty_thread();
    sys::read_memory(pid, at, octets_mut(&mut thread))?;
    Ok(thread)
}

/// Whether a stopped thread's program can be read: it is in the program, or the shim waits at its edge. A
/// signal that is about to come (SIGSYS for a call that it has just made, above all) comes first.
fn stands(tracee: &Tracee, thread: &Thread, base: u64) -> Result<bool, GuestError> {
    if !tracee.held.is_empty() || sys::has_signal(tracee.tid)? {
        return Ok(false);
    }
    let rip = tracee.registers().map_err(io::Error::from)?.rip;
    let in_shim = (base..base + CODE).contains(&rip);
    Ok(match thread.state {
        RUNNING => !in_shim,
        WAITING | PARKED => true,
        _ => false,
    })
}

fn read(
    pid: Pid,
    came: &Image,
    (tgid, slots): (i32, &HashMap<i32, u32>),
    freezing: &Freezing,
    objects: &[Object],
    copies: &[(u64, u64)],
) -> Result<Image, GuestError> {
    let base = came.base;
    let mut threads = Vec::new();
    let mut process_at = 0;
    for (tid, tracee) in &freezing.standing {
        let slot = slots.get(tid).copied().unwrap_or(0);
        let part = read_part(pid, layout::slot(base, slot.into()))?;
        process_at = part.process;
        threads.push(read_thread(pid, *tid, slot, tracee, &part, base)?);
    }
    threads.sort_by_key(|thread| (thread.tid != tgid, thread.tid));
    let mut process = empty_process();
    sys::read_memory(pid, process_at, octets_mut(&mut *process))?;
    for thread in &mut threads {
        thread.pending.iter_mut().for_each(|info| told(&mut process, info));
    }
    let mut pending = match freezing.standing.get(&tgid) {
        Some(leader) => waiting_for(leader, true)?,
        None => Vec::new(),
    };
    pending.iter_mut().for_each(|info| told(&mut process, info));
    let region = base..base + SPACE;
    let own = |line: &Line| !line.is_special() && !region.contains(&line.start);
    let lines: Vec<Line> = look::maps(pid)?.into_iter().filter(own).collect();
    let private: Vec<Line> = lines.iter().filter(|line| !line.shared).cloned().collect();
    let mut marks = look::marks(pid)?;
    marks[5] = break_of(freezing)?.unwrap_or(marks[5]);
    Ok(Image {
        tgid,
        content: look::content(pid, &private, &[])?,
        maps: lines.iter().flat_map(|line| split(shared::mapping(line, objects), copies)).collect(),
        marks,
        dispositions: process
            .dispositions
            .iter()
            .map(|one: &layout::Disposition| [one.handler, one.flags, one.restorer, one.mask])
            .collect(),
        threads,
        pending,
        hot: Vec::new(),
        equal: Vec::new(),
        special: Vec::new(),
        auxv: Vec::new(),
        ..came.clone()
    })
}

/// A mapping in the parts that still are copies of files, and those that are not.
fn split(map: Mapping, copies: &[(u64, u64)]) -> Vec<Mapping> {
    let whole = [(map.start, map.end)];
    // What the program could write is not the file's any more.
    let copies = if map.protection & WRITE == 0 { copies } else { &[] };
    let others = without(&whole, copies);
    let part = |copy| move |(start, end)| Mapping { start, end, copy, ..map };
    let mut parts: Vec<Mapping> = without(&whole, &others).into_iter().map(part(true)).collect();
    parts.extend(others.into_iter().map(part(false)));
    parts.sort_by_key(|part| part.start);
    parts
}

/// Signals that wait for a thread, or for its process, but for those of job control, which home sees to.
fn waiting_for(tracee: &Tracee, of_process: bool) -> io::Result<Vec<Vec<u8>>> {
    let mut infos = sys::pending_signals(tracee.tid, of_process)?;
    infos.retain(|info| !matches!(signal_of(info), libc::SIGSTOP | libc::SIGTRAP));
    Ok(infos)
}

fn signal_of(info: &[u8]) -> i32 {
    info.first_chunk().map_or(0, |octets| i32::from_ne_bytes(*octets))
}

/// Says of a signal that was sent on what its first sender has said.
fn told(process: &mut Process, info: &mut Vec<u8>) {
    let signal = usize::try_from(signal_of(info)).unwrap_or(0);
    if let Some(place) = process.infos.get_mut(signal)
        && u64::try_from(signal) == Ok(place[0] & 0xffff_ffff)
        && signal != 0
    {
        *info = place.iter().flat_map(|word| word.to_le_bytes()).collect();
        place[0] = 0;
    }
}

/// The body's program break, which no file of /proc has.
fn break_of(freezing: &Freezing) -> Result<Option<u64>, GuestError> {
    let Some(tracee) = freezing.standing.values().next() else { return Ok(None) };
    let asked = (|| {
        let (before, mask) = (tracee.registers()?, tracee.quiet()?);
        let value = tracee.must_call(libc::SYS_brk, [0; 6])?;
        tracee.set_registers(&before)?;
        sys::set_signal_mask(tracee.tid, mask)?;
        Ok::<u64, crate::migrate::tracee::TraceError>(value)
    })();
    Ok(Some(asked.map_err(io::Error::from)?))
}

fn read_thread(
    pid: Pid,
    tid: i32,
    slot: u32,
    tracee: &Tracee,
    part: &Thread,
    base: u64,
) -> Result<ThreadImage, GuestError> {
    let registers = tracee.registers().map_err(io::Error::from)?;
    let in_shim = matches!(part.state, PARKED | WAITING) && (base..base + CODE).contains(&registers.rip);
    let (registers, state) = if in_shim {
        let mut context = Context::default();
        sys::read_memory(pid, part.context, octets_mut(&mut context))?;
        (of_context(&context, &registers), ExtendedState::of_frame(pid, context.fpstate)?)
    } else {
        (restart::anew(tracee.tid, settled(registers)), ExtendedState::of(tracee.tid)?)
    };
    let (head, length) = sys::robust_list(tracee.tid)?;
    let rseq = sys::rseq(tracee.tid)?;
    let mut name = [0; 16];
    let comm = std::fs::read(format!("/proc/{pid}/task/{}/comm", tracee.tid))?;
    let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
    let length_of = comm.len().min(15);
    name[..length_of].copy_from_slice(&comm[..length_of]);
    Ok(ThreadImage {
        tid,
        slot,
        registers: registers_as_words(&registers),
        state,
        mask: part.mask,
        alternate: [part.alt_sp, part.alt_size, part.alt_flags],
        clear_tid: part.clear_tid,
        robust: [head, length],
        rseq: (rseq.address, rseq.size, rseq.signature),
        name,
        pending: waiting_for(tracee, false)?,
        channel: None,
    })
}

fn of_context(context: &Context, kernel: &libc::user_regs_struct) -> libc::user_regs_struct {
    let [r8, r9, r10, r11, r12, r13, r14, r15] = context.r8;
    libc::user_regs_struct {
        r15,
        r14,
        r13,
        r12,
        rbp: context.rbp,
        rbx: context.rbx,
        r11,
        r10,
        r9,
        r8,
        rax: context.rax,
        rcx: context.rcx,
        rdx: context.rdx,
        rsi: context.rsi,
        rdi: context.rdi,
        orig_rax: u64::MAX,
        rip: context.rip,
        cs: context.segments & 0xffff,
        eflags: context.rflags,
        rsp: context.rsp,
        ss: context.segments >> 48,
        ..registers_from_words(&registers_as_words(kernel))
    }
}
