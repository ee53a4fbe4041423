//! A process is stopped at home, and everything of it is read that travels.

use std::collections::{BTreeMap, HashMap};
use std::io;

use nix::errno::Errno;
use nix::unistd::Pid;
use serde_bytes::ByteBuf;
use tesela_shim::layout::{self, CODE, Process, REGION, SLOT, SLOTS, Thread};

use super::blob::{Blob, BrokenBlob};
use super::group::Agreed;
use super::image::{Image, Mapping, ThreadImage};
use super::look::{self, Line, PAGE, Status};
use super::processor;
use super::restart;
use super::shared::{self, Object};
use super::sys;
use super::tracee::{self, TraceError, Tracee};
use super::xstate::{self, ExtendedState};

/// Why a process was not stopped. It goes on as it was.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// It has ended, or another tracer has it.
    #[error("it cannot be stopped: {0}")]
    Trace(#[from] TraceError),
    /// Something of it cannot be read.
    #[error("it cannot be looked at: {0}")]
    Look(#[from] io::Error),
    /// This program is broken.
    #[error(transparent)]
    Blob(#[from] BrokenBlob),
    /// It has something that does not move.
    #[error("{0}")]
    CantMove(&'static str),
    /// Another one, with which it shares memory.
    #[error("shared: of process {pid}, {reason}")]
    With {
        /// Which.
        pid: Pid,
        /// Why that one stays.
        reason: Box<FreezeError>,
    },
}

impl From<Errno> for FreezeError {
    fn from(error: Errno) -> Self {
        Self::Look(error.into())
    }
}

/// A stopped process with the region in it.
#[derive(Debug)]
pub struct Frozen {
    /// Its threads, the leader first, in the order of their slots.
    pub threads: Vec<Tracee>,
    /// What travels.
    pub image: Image,
    /// Its mappings, as long as it stands where it was stopped.
    pub lines: Vec<Line>,
    /// The blob's entry.
    pub entry: u64,
    /// Of the blob's calls: begin, end, cancel.
    pub labels: [u64; 3],
}

/// A process's mappings as they travel, or why they do not. The reason has openMosix's name where it had one.
pub(super) fn movable(lines: &[Line], objects: &[Object]) -> Result<Vec<Mapping>, &'static str> {
    let own = lines.iter().filter(|line| !line.is_special());
    own.map(|line| match line {
        line if shared::is_device(line) => Err("mmap_dev"),
        line => Ok(shared::mapping(line, objects)),
    })
    .collect()
}

/// How much memory may be kept out of swap by a process that moves: as much as any user's may by Debian's limit.
const LOCKED: u64 = 8 << 20;

/// What keeps a process at home that is none of its mappings.
pub(super) fn held(pid: Pid, status: &Status) -> Result<(), FreezeError> {
    let mut tids = look::threads(pid)?.into_iter();
    if tids.any(|tid| look::is_real_time(pid, tid).unwrap_or(false)) {
        return Err(FreezeError::CantMove("rt_sched"));
    }
    // The deputy makes calls of its own, which its filter may not let through.
    if status.value("Seccomp")? != "0" {
        return Err(FreezeError::CantMove("seccomp"));
    }
    if status.locked()? > LOCKED { Err(FreezeError::CantMove("mem_lock")) } else { Ok(()) }
}

/// Lets threads go on that nothing has been done to.
pub(super) fn release(threads: impl IntoIterator<Item = Tracee>) {
    for thread in threads {
        let tid = thread.tid;
        if let Err(error) = thread.detach() {
            tracing::debug!(%tid, %error, "a thread that was being stopped is gone");
        }
    }
}

/// A process that stands still.
#[derive(Debug)]
pub(super) struct Stopped {
    pub pid: Pid,
    pub threads: Vec<Tracee>,
    pub lines: Vec<Line>,
}

/// What is free where the region goes: for it, for the plan behind that, and for what is put aside.
pub const SPACE: u64 = REGION + (64 << 20);

/// What takes a while to find out, and is found out while the processes still run.
#[derive(Debug)]
pub struct Ahead {
    processor: String,
    /// By process: ranges of its memory that have content.
    content: HashMap<i32, Vec<(u64, u64)>>,
    /// The region's code, for the place where it goes in all of them; `None`: they have no room.
    pub blob: Option<Blob>,
    /// By process: how many threads it has.
    pub threads: BTreeMap<i32, usize>,
}

impl Ahead {
    /// Looks at processes that are about to be stopped.
    ///
    /// # Errors
    /// [`FreezeError`].
    pub fn of(pids: impl IntoIterator<Item = Pid>) -> Result<Self, FreezeError> {
        /// A shorter range is looked at again as quickly as it is left out.
        const SHORTEST: u64 = 32 * PAGE;
        let mut ahead = Self {
            processor: processor::here()?,
            content: HashMap::new(),
            blob: None,
            threads: BTreeMap::new(),
        };
        let mut all = Vec::new();
        let mut look = |pid: Pid| {
            let mut lines = look::maps(pid)?;
            ahead.threads.insert(pid.as_raw(), look::threads(pid)?.len());
            all.extend(lines.iter().cloned());
            lines.retain(|line| !line.is_special() && line.inode == 0);
            let mut content = look::content(pid, &lines, &[])?;
            content.retain(|(start, end)| end - start >= SHORTEST);
            ahead.content.insert(pid.as_raw(), content);
            Ok::<_, io::Error>(())
        };
        for pid in pids {
            if let Err(error) = look(pid) {
                // Of one that ends meanwhile there is nothing to find out.
                tracing::debug!(%pid, %error, "it is not looked at");
            }
        }
        all.sort_by_key(|line| line.start);
        // Not directly behind what one of them has there, which may grow.
        let base = look::free(&all, 2 * SPACE, SLOT).map(|at| at + SPACE);
        ahead.blob = base.map(Blob::at).transpose()?;
        Ok(ahead)
    }
}

/// Whether the other node has consented to a process with these rights. A server makes processes all the time: one
/// that has come to a group since is like any in it that has the same rights.
fn is_agreed(agreed: &Agreed, pid: Pid, rights: &str) -> bool {
    match agreed.get(&pid.as_raw()) {
        Some(then) => then == rights,
        None => agreed.values().any(|then| then == rights),
    }
}

/// Stops all threads of a process that is allowed to move, and reads its mappings.
pub(super) fn stop_process(process: &mut Stopped, agreed: Option<&Agreed>) -> Result<(), FreezeError> {
    let Stopped { pid, threads, lines } = process;
    let pid = *pid;
    // A thread that is not stopped yet can make another one.
    loop {
        let before = threads.len();
        for tid in look::threads(pid)? {
            if threads.iter().any(|thread| thread.tid == tid) {
                continue;
            }
            match stop(tid) {
                // One that ends meanwhile is none; the first one stays until all have ended.
                Err(FreezeError::Trace(TraceError::Ended | TraceError::System(Errno::ESRCH)))
                    if tid != pid => {}
                Err(_) if has_ended(tid) && tid != pid => {}
                Err(_) if has_ended(tid) => return Err(FreezeError::CantMove("ended")),
                stopped => threads.push(stopped?),
            }
        }
        if threads.len() == before {
            break;
        }
    }
    if threads.len() as u64 > SLOTS / 2 {
        return Err(FreezeError::CantMove("threads"));
    }
    let status = Status::of(pid)?;
    if let Some(agreed) = agreed
        && !is_agreed(agreed, pid, &status.rights()?)
    {
        return Err(FreezeError::CantMove("changed"));
    }
    held(pid, &status)?;
    *lines = look::maps(pid)?;
    Ok(())
}

/// Puts the region into a process that stands still, and reads it.
pub(super) fn read_process(
    process: &mut Stopped,
    (blob, first_fd): (&Blob, u64),
    objects: &[Object],
    ahead: &Ahead,
) -> Result<(Image, u64, [u64; 3]), FreezeError> {
    let Stopped { pid, threads, lines } = process;
    let pid = *pid;
    let mut maps = movable(lines, objects).map_err(FreezeError::CantMove)?;
    let status = Status::of(pid)?;
    if status.locked()? > 0 {
        let locked = look::locked(pid)?;
        maps.iter_mut().for_each(|map| map.locked = locked.contains(&map.start));
    }
    let (vdso, site) = look::vdso(pid, lines)?;
    threads.iter_mut().for_each(|thread| thread.site = site);
    let mut marks = look::marks(pid)?;
    let mut images = Vec::with_capacity(threads.len());
    for (slot, thread) in threads.iter_mut().enumerate() {
        images.push(read_thread(thread, slot)?);
    }
    let ids = |key| status.ids(key).map(|ids| ids[1]);
    let (uid, gid) = (ids("Uid")?, ids("Gid")?);
    let personality = std::fs::read_to_string(format!("/proc/{pid}/personality"))?;
    let personality = u64::from_str_radix(personality.trim(), 16).map_err(io::Error::other)?;
    let auxv = std::fs::read(format!("/proc/{pid}/auxv"))?;
    let own = |line: &&Line| !line.is_special() && shared::part(line, objects).is_none();
    let own: Vec<Line> = lines.iter().filter(own).cloned().collect();
    let known = ahead.content.get(&pid.as_raw()).map(Vec::as_slice).unwrap_or_default();
    let content = look::content(pid, &own, known)?;
    let hot = hot(pid, &images, &own)?;
    // From here on the process is changed, and put back where something fails.
    let masks: Vec<u64> = threads.iter().map(Tracee::quiet).collect::<Result<_, _>>()?;
    for (image, mask) in images.iter_mut().zip(masks) {
        image.mask = mask;
    }
    let read = collect(pid, threads, &mut images, (blob, first_fd), &mut marks);
    let (entry, process) = match read {
        Ok(read) => read,
        Err(error) => {
            restore_registers(threads, &images)?;
            return Err(error);
        }
    };
    let image = Image {
        tgid: pid.as_raw(),
        base: blob.base,
        first_fd,
        uid,
        gid,
        personality,
        nice: sys::nice(pid)?,
        marks,
        auxv,
        content,
        equal: Vec::new(),
        special: lines
            .iter()
            .filter(|line| line.is_special() && line.name != "[vsyscall]")
            .map(|line| (line.name.clone(), line.start, line.end))
            .collect(),
        maps,
        vdso,
        processor: ahead.processor.clone(),
        dispositions: process
            .dispositions
            .iter()
            .map(|one| [one.handler, one.flags, one.restorer, one.mask])
            .collect(),
        files: lines.iter().any(|line| shared::is_of_file(line, objects)),
        hot,
        threads: images,
        pending: Vec::new(),
    };
    Ok((image, entry, [process.call_begin, process.call_end, process.call_cancel]))
}

impl Frozen {
    /// Takes everything back that was done to the process: it goes on at home as if nothing had been asked.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn release(mut self) -> Result<(), TraceError> {
        self.requeue_held()?;
        let Image { base, first_fd, .. } = self.image;
        let Some(leader) = self.threads.first() else { return Ok(()) };
        leader.call(libc::SYS_close_range, [first_fd, u64::from(u32::MAX), 0, 0, 0, 0])?;
        leader.call(libc::SYS_munmap, [base, REGION, 0, 0, 0, 0])?;
        restore_registers(&self.threads, &self.image.threads)?;
        self.threads.into_iter().try_for_each(Tracee::detach)
    }

    /// Has stopped threads, whose signals are blocked, send themselves again what they were held from.
    fn requeue_held(&mut self) -> Result<(), TraceError> {
        let tgid = Pid::from_raw(self.image.tgid);
        for (thread, image) in self.threads.iter_mut().zip(&self.image.threads) {
            let slot = layout::slot(self.image.base, image.slot.into());
            requeue_held(thread, tgid, slot)?;
        }
        Ok(())
    }
}

/// Has a stopped thread, whose signals are blocked, send itself again what it was held from.
pub fn requeue_held(thread: &mut Tracee, tgid: Pid, slot: u64) -> Result<(), TraceError> {
    for info in std::mem::take(&mut thread.held) {
        thread.requeue(slot + layout::OUT_AT, tgid, &info)?;
    }
    Ok(())
}

/// It is a zombie: its parent, or the other threads of its process, are still there.
pub(super) fn has_ended(tid: Pid) -> bool {
    look::status(tid, "State").map_or(true, |state| state.starts_with(['Z', 'X']))
}

fn stop(tid: Pid) -> Result<Tracee, FreezeError> {
    let mut thread = Tracee::seize(tid)?;
    match thread.stop() {
        Ok(false) => Ok(thread),
        Ok(true) => {
            release(vec![thread]);
            Err(FreezeError::CantMove("stopped"))
        }
        Err(error) => {
            release(vec![thread]);
            Err(error.into())
        }
    }
}

fn read_thread(thread: &mut Tracee, slot: usize) -> Result<ThreadImage, FreezeError> {
    let registers = thread.registers()?;
    thread.goes_on = restart::goes_on(thread.tid, &registers);
    let settled = tracee::settled(registers);
    let registers = if thread.goes_on { restart::away(thread.tid, settled) } else { settled };
    let state = ExtendedState::of(thread.tid)?;
    if state.has_tiles() {
        return Err(FreezeError::CantMove("amx"));
    }
    let (head, length) = sys::robust_list(thread.tid)?;
    let rseq = sys::rseq(thread.tid)?;
    Ok(ThreadImage {
        tid: thread.tid.as_raw(),
        slot: u32::try_from(slot).unwrap_or(0),
        registers: registers_as_words(&registers),
        state,
        robust: [head, length],
        rseq: (rseq.address, rseq.size, rseq.signature),
        ..ThreadImage::default()
    })
}

/// `struct user_regs_struct` as words.
pub fn registers_as_words(registers: &libc::user_regs_struct) -> Vec<u64> {
    let r = registers;
    vec![
        r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx, r.rdx, r.rsi,
        r.rdi, r.orig_rax, r.rip, r.cs, r.eflags, r.rsp, r.ss, r.fs_base, r.gs_base, r.ds, r.es, r.fs, r.gs,
    ]
}

/// And back; what is missing is zero.
pub fn registers_from_words(words: &[u64]) -> libc::user_regs_struct {
    let word = |index: usize| words.get(index).copied().unwrap_or(0);
    libc::user_regs_struct {
        r15: word(0),
        r14: word(1),
        r13: word(2),
        r12: word(3),
        rbp: word(4),
        rbx: word(5),
        r11: word(6),
        r10: word(7),
        r9: word(8),
        r8: word(9),
        rax: word(10),
        rcx: word(11),
        rdx: word(12),
        rsi: word(13),
        rdi: word(14),
        orig_rax: word(15),
        rip: word(16),
        cs: word(17),
        eflags: word(18),
        rsp: word(19),
        ss: word(20),
        fs_base: word(21),
        gs_base: word(22),
        ds: word(23),
        es: word(24),
        fs: word(25),
        gs: word(26),
    }
}

/// Puts threads back where they were, which have made no calls since that wait.
pub fn restore_registers(threads: &[Tracee], images: &[ThreadImage]) -> Result<(), TraceError> {
    for (thread, image) in threads.iter().zip(images) {
        let registers = registers_from_words(&image.registers);
        thread.set_registers(&restart::at_home(thread.tid, registers, thread.goes_on))?;
        image.state.put(thread.tid)?;
        sys::set_signal_mask(thread.tid, image.mask)?;
    }
    Ok(())
}

/// Puts the blob into the process and asks it.
fn collect(
    pid: Pid,
    threads: &[Tracee],
    images: &mut [ThreadImage],
    (blob, first_fd): (&Blob, u64),
    marks: &mut [u64; 11],
) -> Result<(u64, Box<Process>), FreezeError> {
    let base = blob.base;
    let Some(leader) = threads.first() else { return Err(FreezeError::CantMove("ended")) };
    // PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE
    leader.must_call(libc::SYS_mmap, [base, REGION, 3, 0x02 | 0x20 | 0x4000 | 0x10_0000, u64::MAX, 0])?;
    let asked = (|| {
        sys::write_memory(pid, base, &blob.memory)?;
        for (start, end) in &blob.code {
            // PROT_READ | PROT_EXEC
            leader.must_call(libc::SYS_mprotect, [*start, end - start, 5, 0, 0, 0])?;
        }
        if xstate::has_amx() && may_use_amx(leader, layout::slot(base, 0) + layout::OUT_AT)? {
            return Err(FreezeError::CantMove("amx"));
        }
        let process_at = layout::slot(base, 0) + layout::PROCESS_AT;
        let first_fd_at = process_at + core::mem::offset_of!(Process, first_fd) as u64;
        sys::write_memory(pid, first_fd_at, &first_fd.to_le_bytes())?;
        for image in images.iter() {
            let slot = layout::slot(base, image.slot.into());
            let thread =
                Thread { process: process_at, slot: image.slot, tid: image.tid, fd: -1, ..empty_thread() };
            sys::write_memory(pid, slot, octets(&thread))?;
        }
        for (thread, image) in threads.iter().zip(images.iter()) {
            let slot = layout::slot(base, image.slot.into());
            thread.enter(blob.entry, slot + SLOT - 64, layout::ENTER_COLLECT, slot)?;
        }
        for (thread, image) in threads.iter().zip(images.iter_mut()) {
            thread.finished()?;
            let mut told = empty_thread();
            sys::read_memory(pid, layout::slot(base, image.slot.into()), octets_mut(&mut told))?;
            image.alternate = [told.alt_sp, told.alt_size, told.alt_flags];
            image.clear_tid = told.clear_tid;
            image.name = told.name;
        }
        let mut process = empty_process();
        sys::read_memory(pid, process_at, octets_mut(&mut *process))?;
        marks[5] = process.brk;
        Ok((blob.entry, process))
    })();
    if asked.is_err() {
        leader.call(libc::SYS_munmap, [base, REGION, 0, 0, 0, 0])?;
    }
    debug_assert_eq!(base % CODE, 0);
    asked
}

/// Whether a process has asked for AMX's tiles. Its body would have to ask as well.
fn may_use_amx(leader: &Tracee, scratch: u64) -> Result<bool, FreezeError> {
    const ARCH_GET_XCOMP_PERM: u64 = 0x1022;
    let asked = leader.call(libc::SYS_arch_prctl, [ARCH_GET_XCOMP_PERM, scratch, 0, 0, 0, 0])?;
    let mut permitted = [0; 8];
    sys::read_memory(leader.tid, scratch, &mut permitted)?;
    Ok(asked == 0 && xstate::permits_tiles(u64::from_le_bytes(permitted)))
}

/// A thread's part with nothing in it.
pub fn empty_thread() -> Thread {
    // SAFETY: integers only.
    unsafe { std::mem::zeroed() }
}

/// A process's part with nothing in it.
pub fn empty_process() -> Box<Process> {
    // SAFETY: integers only.
    Box::new(unsafe { std::mem::zeroed() })
}

/// A structure of `layout` as octets: all are integers without padding that matters.
pub fn octets<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: the callers' structures are `repr(C)` of integers, zeroed before they are filled.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The same to be filled.
pub fn octets_mut<T: Copy>(value: &mut T) -> &mut [u8] {
    // SAFETY: any octets are a value of theirs.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(value).cast(), size_of::<T>()) }
}

/// Where the descriptors of the channels may begin: beyond the program's soft limit where the hard one leaves
/// room, and else at the end of what it may have. And where they must begin at the latest.
pub(super) fn descriptors(pid: Pid) -> io::Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut limits =
        line.unwrap_or_default().split_ascii_whitespace().map(|word| word.parse().unwrap_or(1 << 20));
    let (soft, hard): (Option<u64>, Option<u64>) = (limits.next(), limits.next());
    let (Some(soft), Some(hard)) = (soft, hard) else {
        return Err(io::Error::other("limits: no `Max open files'"));
    };
    let hard = hard.min(1 << 20);
    let room = CHANNEL_ROOM.min(hard / 2);
    Ok((soft.min(hard - room), hard - room))
}

pub(super) fn highest_fd(pid: Pid) -> io::Result<Option<u64>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).max())
}

/// How many descriptors a process gets beyond its own for its channels.
pub const CHANNEL_ROOM: u64 = SLOTS * 2;

/// The pages that a process needs as soon as it goes on: where its threads execute, their stacks, and what it has in
/// place of its files' pages, which is what its linker and its libraries look into all the time, and its allocator's
/// first page. What is swapped out would be waited for.
fn hot(pid: Pid, images: &[ThreadImage], own: &[Line]) -> io::Result<Vec<(u64, ByteBuf)>> {
    /// Of the latter: a fault costs as much as some ten of them.
    const MOST: usize = 24;
    /// Mappings in which these are looked for, and how much of each.
    const LINES: usize = 64;
    const OF_ONE: u64 = 32 * PAGE;
    let mut pages: Vec<u64> = Vec::new();
    let mut add = |address: u64| {
        let page = address / PAGE * PAGE;
        let is_own = own.iter().any(|line| (line.start..line.end).contains(&page));
        if is_own && !pages.contains(&page) {
            pages.push(page);
        }
    };
    for image in images {
        let registers = registers_from_words(&image.registers);
        let stack = registers.rsp;
        [registers.rip, stack, stack + PAGE, stack + 2 * PAGE, registers.fs_base, image.rseq.0]
            .into_iter()
            .for_each(&mut add);
    }
    let mut pagemap = look::Pagemap::of(pid)?;
    let is_at_hand = |entry| look::is_there(entry) && look::is_own(entry);
    let mut left = MOST;
    for line in own.iter().filter(|line| line.inode != 0).take(LINES) {
        if left == 0 {
            break;
        }
        for (start, end) in pagemap.ranges(line.start, line.end.min(line.start + OF_ONE), is_at_hand)? {
            for page in (start..end).step_by(4096).take(left) {
                left -= 1;
                add(page);
            }
        }
    }
    own.iter().filter(|line| line.name == "[heap]").for_each(|heap| add(heap.start));
    let read = |page: u64| {
        let mut content = vec![0; usize::try_from(PAGE).unwrap_or(0)];
        let got = sys::read_memory(pid, page, &mut content).ok()?;
        (got == content.len()).then_some((page, ByteBuf::from(content)))
    };
    Ok(pages.into_iter().filter_map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_with_the_rights_of_others_is_agreed_on() {
        let agreed = Agreed::from([(10, "a".to_owned()), (11, "b".to_owned())]);
        let is = |pid, rights| is_agreed(&agreed, Pid::from_raw(pid), rights);
        assert!(is(10, "a") && is(12, "a") && is(12, "b"));
        assert!(!is(10, "b") && !is(12, "c"));
    }
}
