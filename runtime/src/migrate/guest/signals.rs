//! Signals that have come at home are handed to the body.

use std::io;

use nix::unistd::Pid;
use tesela_shim::layout::{self, IN_CALL, LOST, Process, RUNNING, Thread};

use super::{Guest, GuestError};
use crate::migrate::freeze::{empty_thread, octets_mut};
use crate::migrate::image::{ToHome, ToRemote};
use crate::migrate::look;
use crate::migrate::sys;

impl Guest {
    /// Hands a signal on: its siginfo to the shim, and then the signal itself.
    pub(super) fn signal(&mut self, tgid: i32, tid: i32, info: Vec<u8>) -> Result<(), GuestError> {
        if let Some(leaving) = self.bodies.get_mut(&tgid).and_then(|body| body.frozen.as_mut())
            && leaving.has_left
        {
            // Home delivers it there, for it has heard of no answer; unless the process does not come.
            leaving.late.push(ToRemote::Signal { tgid, tid, info });
            return Ok(());
        }
        let signal = info.first_chunk().map_or(0, |octets| i32::from_ne_bytes(*octets));
        let mut calls = Vec::new();
        if let Some(pid) = self.pid_of(tgid) {
            match self.hand_on(tgid, tid, pid, signal, &info) {
                Ok(interrupted) => calls = interrupted,
                // It ends, and home hears of that.
                Err(error) => tracing::debug!(tgid, signal, %error, "a signal comes too late"),
            }
        }
        Ok(self.link.send(&ToHome::Signalled { tgid, calls })?)
    }

    fn hand_on(
        &self,
        tgid: i32,
        tid: i32,
        pid: Pid,
        signal: i32,
        info: &[u8],
    ) -> io::Result<Vec<(i32, u64)>> {
        let stops = signal == libc::SIGSTOP;
        let Some(body) = self.bodies.get(&tgid) else { return Ok(Vec::new()) };
        let parts = self.parts(tgid, pid)?;
        let thread = if tid == 0 { None } else { thread_here(pid, tid)? };
        let code = info.get(8..12).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
        if code < 0
            && code != libc::SI_TKILL
            && let Ok(info) = info.try_into()
        {
            // The kernel lets anybody say this of a signal (sigqueue, timers): each keeps what it carries.
            sys::queue_signal(pid, thread, signal, info)?;
        } else {
            if !stops
                && let Some((_, any)) = parts.first()
                && let Ok(number) = u64::try_from(signal)
            {
                let infos = core::mem::offset_of!(Process, infos) as u64;
                sys::write_memory(pid, any.process + infos + number * 128, info)?;
            }
            match thread {
                Some(thread) => sys::tgkill(pid, thread, signal)?,
                None => sys::kill(pid, signal)?,
            }
        }
        if stops {
            return Ok(Vec::new());
        }
        debug_assert!(!body.threads.is_empty());
        // From here on a call that has not been sent yet is not: the shim sees the signal. One that has been
        // is interrupted where it is made.
        let bit = 1_u64 << (signal - 1);
        let open = |thread: &Thread| thread.mask & bit == 0 || thread.takes & bit != 0;
        let parts = self.parts(tgid, pid)?;
        if tid == 0 && parts.iter().any(|(_, thread)| thread.state == RUNNING && open(thread)) {
            return Ok(Vec::new());
        }
        let in_call = parts.iter().filter(|(id, thread)| {
            matches!(thread.state, IN_CALL | LOST) && open(thread) && (tid == 0 || tid == *id)
        });
        Ok(in_call.take(1).map(|(id, thread)| (*id, thread.seq)).collect())
    }

    /// The parts of a body's threads, the leader first.
    pub(super) fn parts(&self, tgid: i32, pid: Pid) -> io::Result<Vec<(i32, Thread)>> {
        let Some(body) = self.bodies.get(&tgid) else { return Ok(Vec::new()) };
        let mut threads: Vec<(i32, u32)> = body.threads.iter().map(|(tid, slot)| (*tid, *slot)).collect();
        threads.sort_by_key(|(tid, _)| (*tid != tgid, *tid));
        let mut parts = Vec::with_capacity(threads.len());
        for (tid, slot) in threads {
            let mut thread = empty_thread();
            sys::read_memory(pid, layout::slot(body.image.base, slot.into()), octets_mut(&mut thread))?;
            if thread.tid == tid {
                parts.push((tid, thread));
            }
        }
        Ok(parts)
    }
}

/// The thread of this id in the place, as this program's namespace has it.
pub fn thread_here(pid: Pid, tid: i32) -> io::Result<Option<Pid>> {
    for thread in look::threads(pid)? {
        // One that ends while we look is not the one.
        let Ok(ids) = thread_ids(pid, thread) else { continue };
        if ids == Some(tid) {
            return Ok(Some(thread));
        }
    }
    Ok(None)
}

/// A thread's id in its innermost namespace.
pub fn thread_ids(pid: Pid, thread: Pid) -> io::Result<Option<i32>> {
    let text = look::text(format!("/proc/{pid}/task/{thread}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    Ok(line.and_then(|line| line.split_ascii_whitespace().next_back()?.parse().ok()))
}
