//! A body is built from an image.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tesela_shim::layout::{
    self, CONTROL_MAPPED, Context, FRAME_AT, Map, PROCESS_AT, Plan, REGION, SLOT, STACK_AT, STATE_AT, Thread,
};
use tesela_shim::seal::Direction;

use super::body::{FIRST_FD, PLAN, word};
use super::init::{self, Wanted};
use super::lines::Line;
use super::{Body, Guest, GuestError, control_pair};
use crate::migrate::equal::{Named, Own, Parts};
use crate::migrate::filter::filter;
use crate::migrate::freeze::{empty_process, empty_thread, octets, octets_mut, registers_from_words};
use crate::migrate::image::{Channel, Image, Mapping, Part, ThreadImage, ToHome};
use crate::migrate::known::Known;
use crate::migrate::link;
use crate::migrate::look::{self, PAGE};
use crate::migrate::pages::{Pager, hold_back};
use crate::migrate::processor;
use crate::migrate::shared::{self, Object};
use crate::migrate::sys::{self, Userfaultfd};

/// A process that is going to be a body: it has the region with the code in it, and waits for all else.
#[derive(Debug)]
pub struct Room {
    /// Its id in this program's namespace.
    pid: Pid,
    control: OwnedFd,
    base: u64,
    /// The kernel's own mappings in it.
    special: Vec<look::Line>,
}

impl Room {
    /// Its process does not come. One that is made here later may have its id.
    pub(super) fn leave(self) {
        // ESRCH: it has ended already.
        let _ended = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
    }
}

impl Guest {
    /// Looks what the files are here that the bodies show which are built next.
    pub(super) fn look_for(&mut self, named: &[Named]) -> Result<(), GuestError> {
        let own = |named: &Named| match Own::of(named) {
            Ok(own) => own.map(Arc::new),
            Err(error) => {
                tracing::debug!(path = named.path, %error, "a file is not looked at");
                None
            }
        };
        self.files = named.iter().map(own).collect();
        let roots = self.files.iter().map(|own| own.as_ref().map(|own| own.root())).collect();
        Ok(self.link.send(&ToHome::Files(roots))?)
    }

    /// What the bodies that are built next share.
    pub(super) fn share(&mut self, sizes: &[u64], channel: &Channel) -> Result<(), GuestError> {
        let stream = self.door.connection(channel.token)?;
        self.objects = Arc::new(sizes.iter().map(|size| Object::stand_in(*size)).collect::<Result<_, _>>()?);
        let (_sender, mut receiver) = link::split(stream, channel.keys)?;
        Ok(shared::fill(&self.objects, &mut receiver)?)
    }

    /// Begins a body whose process still runs at home.
    pub(super) fn make_room(&mut self, tgid: i32, base: u64) -> Result<(), GuestError> {
        /// More than home asks for.
        const MOST: usize = 1024;
        // All that come with the link's process come before it.
        if self.begun || self.rooms.len() == MOST {
            return Ok(());
        }
        match self.room(tgid, base) {
            Ok(room) => {
                self.rooms.insert(tgid, room);
                Ok(())
            }
            Err(error) => Ok(self.link.send(&ToHome::Failed(error.to_string()))?),
        }
    }

    fn room(&self, tgid: i32, base: u64) -> Result<Room, GuestError> {
        let (control, theirs) = control_pair()?;
        self.init.body(Wanted { tgid, base }, &theirs)?;
        drop(theirs);
        let mut said = [0];
        match init::receive_named(&control, &mut said)? {
            (1, Some(pid)) => {
                let mut special = look::maps(pid)?;
                special.retain(|line| line.is_special() && line.name != "[vsyscall]");
                Ok(Room { pid, control, base, special })
            }
            _ => {
                let taken = "no process could be made for it: its id or its place in memory is taken";
                Err(io::Error::other(taken).into())
            }
        }
    }

    /// Goes on with a body, or begins it. Its memory comes by the connection `pages`.
    pub(super) fn build(&mut self, image: Image, pages: &Channel) -> Result<(), GuestError> {
        match self.try_build(image, pages) {
            Ok(()) => Ok(()),
            Err(error) => Ok(self.link.send(&ToHome::Failed(error.to_string()))?),
        }
    }

    fn try_build(&mut self, image: Image, pages: &Channel) -> Result<(), GuestError> {
        let refused = |reason: String| GuestError::Io(io::Error::other(reason));
        if self.agreed.is_some_and(|agreed| agreed != image.uid) {
            return Err(refused(format!("it is user {}'s, and that was not agreed", image.uid)));
        }
        let lacks = processor::lacks(&self.processor, &image.processor);
        if !lacks.is_empty() {
            return Err(refused(format!("the processor there lacks {}", lacks.join(" "))));
        }
        let mut streams = Vec::new();
        for thread in &image.threads {
            let channel = thread.channel.ok_or_else(|| refused("a thread without a channel".into()))?;
            streams.push(self.door.connection(channel.token)?);
        }
        let page_stream = self.door.connection(pages.token)?;
        hold_back(&page_stream)?;
        let page_link = link::split(page_stream, pages.keys)?;
        let plan_octets = plan_size(&image);
        let room = match self.rooms.remove(&image.tgid) {
            Some(room) => room,
            None => self.room(image.tgid, image.base)?,
        };
        if room.base != image.base || plan_octets > PLAN {
            return Err(refused("there is no room for it as it is".into()));
        }
        let Room { pid, control: ours, special, .. } = room;
        // Not the agent's, which all its threads would have, and none before this node's own programs.
        sys::set_nice(pid, image.nice.max(0))?;
        write_region(pid, &image, plan(&special, &image, plan_octets)?)?;
        let channels = streams.iter().map(|stream| (word::CHANNEL, stream.as_fd()));
        // Those alone that it maps.
        let mapped = objects_of(&image).into_iter().filter_map(|object| self.objects.get(object));
        let shared: Vec<OwnedFd> = mapped.map(Object::descriptor).collect::<Result<_, _>>()?;
        for (kind, fd) in channels.chain(shared.iter().map(|fd| (word::SHARED, fd.as_fd()))) {
            let fds = [fd.as_raw_fd()];
            let rights = [nix::sys::socket::ControlMessage::ScmRights(&fds)];
            let content = [io::IoSlice::new(std::slice::from_ref(&kind))];
            nix::sys::socket::sendmsg::<()>(
                ours.as_raw_fd(),
                &content,
                &rights,
                nix::sys::socket::MsgFlags::MSG_NOSIGNAL,
                None,
            )?;
        }
        nix::unistd::write(&ours, &[word::GO])?;
        let threads: HashMap<i32, u32> =
            image.threads.iter().map(|thread| (thread.tid, thread.slot)).collect();
        let tgid = image.tgid;
        let ids = image.threads.iter().map(|thread| thread.tid);
        let lines = ids.zip(streams.into_iter().map(Line::begins_with)).collect();
        self.bodies.insert(tgid, Body { threads, lines, ..Body::new(Some(pid), ours, Arc::new(image)) });
        self.page_links.insert(tgid, page_link);
        Ok(())
    }

    /// The body's maps are there, and it has a userfaultfd: its pages may come.
    pub(super) fn mapped(&mut self, tgid: i32) -> Result<(), GuestError> {
        let (Some(body), Some((sender, receiver))) =
            (self.bodies.get_mut(&tgid), self.page_links.remove(&tgid))
        else {
            return Ok(());
        };
        let (image, Some(pid)) = (Arc::clone(&body.image), body.pid) else { return Ok(()) };
        let plan = read_plan(pid, image.base)?;
        let fd = sys::take_fd(pid, i32::try_from(plan.userfaultfd).map_err(io::Error::other)?)?;
        let userfaultfd = Userfaultfd(fd);
        userfaultfd.enable()?;
        for map in image.maps.iter().filter(|map| map.shared.is_none()) {
            userfaultfd.register(map.start, map.end - map.start)?;
        }
        // It makes itself ready while those are begun who put its pages into place: before they are, it does not run.
        self.answer(tgid, CONTROL_MAPPED, None)?;
        let Some(body) = self.bodies.get_mut(&tgid) else { return Ok(()) };
        let copies = image.copies();
        let is_copy = |start: u64| copies.iter().any(|(from, to)| (*from..*to).contains(&start));
        // Of a copy home has the file, and not the content.
        let held = image.content.iter().copied().filter(|(start, _)| !is_copy(*start));
        body.known = Arc::new(Known::new(held)?);
        let parts = Parts::of(&image.equal, &self.files)
            .ok_or_else(|| io::Error::other("it shows a file that is not here"))?;
        let in_files = parts.ranges().collect();
        let pager =
            Pager::new(userfaultfd, image.content.clone(), in_files, Arc::clone(&body.known), sender)?;
        for (address, content) in &image.hot {
            pager.put(*address, content)?;
        }
        body.fills = Some(pager.fill(tgid, parts)?);
        let (stop, stopped) = control_pair()?;
        let faults = Arc::clone(&pager);
        std::thread::Builder::new().name("faults".into()).spawn(move || {
            if let Err(error) = faults.faults(stopped.as_fd()) {
                tracing::debug!(tgid, %error, "faults are not answered any more");
            }
        })?;
        (body.pager, body.listens) = (Some(Arc::clone(&pager)), Some(stop));
        self.receive_pages(tgid, 0, pager, receiver)
    }

    /// All of a body's memory has come.
    pub(super) fn pages_finished(&mut self, tgid: i32) -> Result<(), GuestError> {
        let Some(body) = self.bodies.get_mut(&tgid) else { return Ok(()) };
        if let Some(pager) = body.pager.take() {
            let maps = body.pid.and_then(|pid| look::maps(pid).ok()).unwrap_or_default();
            let copies = body.image.copies();
            pager.finish(&maps.iter().map(|line| (line.start, line.end)).collect::<Vec<_>>(), &copies);
            body.copies = (!copies.is_empty()).then_some(pager);
        }
        let wants_pages = std::mem::take(&mut body.wants_pages);
        self.link.send(&ToHome::Whole { tgid })?;
        if wants_pages {
            self.answer(tgid, layout::CONTROL_PAGES, None)?;
        }
        // It, and what runs in its memory.
        let are_wanted = self.bodies.iter().filter(|(id, body)| {
            body.wanted_home && body.frozen.is_none() && (**id == tgid || body.maker == Some(tgid))
        });
        let are_wanted: Vec<i32> = are_wanted.map(|(id, _)| *id).collect();
        are_wanted.into_iter().try_for_each(|tgid| self.freeze(tgid))
    }

    /// A body could not be built.
    pub(super) fn failed(&mut self, tgid: i32) -> Result<(), GuestError> {
        let Some((pid, body)) = self.pid_of(tgid).zip(self.bodies.get(&tgid)) else { return Ok(()) };
        let plan = read_plan(pid, body.image.base)?;
        let error = io::Error::from_raw_os_error(i32::try_from(-plan.error).unwrap_or(0));
        self.link.send(&ToHome::Failed(format!("step {} of building it: {error}", plan.step)))?;
        self.dismiss(tgid)
    }
}

fn read_plan(pid: Pid, base: u64) -> io::Result<Plan> {
    let mut plan = Plan::default();
    sys::read_memory(pid, base + REGION, octets_mut(&mut plan))?;
    Ok(plan)
}

/// What is shared that it maps, in the order of its descriptors.
fn objects_of(image: &Image) -> Vec<usize> {
    let parts = image.maps.iter().filter_map(|map| usize::try_from(map.shared?.object).ok());
    parts.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Octets of the plan with all that follows it.
fn plan_size(image: &Image) -> u64 {
    let parts = size_of::<Plan>()
        + image.maps.len() * size_of::<Map>()
        + image.auxv.len()
        + filter(image.base).len() * size_of::<libc::sock_filter>()
        + 64;
    (parts as u64).next_multiple_of(PAGE)
}

/// Puts all but the code into the region of a process that has mapped it.
fn write_region(pid: Pid, image: &Image, plan: Vec<u8>) -> Result<(), GuestError> {
    let base = image.base;
    let mut process = empty_process();
    for (place, from) in process.dispositions.iter_mut().zip(&image.dispositions) {
        [place.handler, place.flags, place.restorer, place.mask] = *from;
    }
    (process.base, process.first_fd, process.tgid) = (base, image.first_fd, image.tgid);
    process.files = image.files.into();
    for thread in &image.threads {
        let (word, bit) = (thread.slot as usize / 64, thread.slot % 64);
        if let Some(word) = process.slots.get_mut(word) {
            *word |= 1 << bit;
        }
    }
    let first = layout::slot(base, 0);
    sys::write_memory(pid, first + PROCESS_AT, octets(&*process))?;
    for thread in &image.threads {
        write_thread(pid, image, thread)?;
    }
    Ok(sys::write_memory(pid, base + REGION, &plan)?)
}

fn write_thread(pid: Pid, image: &Image, thread: &ThreadImage) -> Result<(), GuestError> {
    let slot = layout::slot(image.base, thread.slot.into());
    let registers = registers_from_words(&thread.registers);
    let keys = thread.channel.map(|channel| channel.keys).ok_or_else(|| io::Error::other("no channel"))?;
    let [alt_sp, alt_size, alt_flags] = thread.alternate;
    let part = Thread {
        process: layout::slot(image.base, 0) + PROCESS_AT,
        slot: thread.slot,
        tid: thread.tid,
        fd: -1,
        state: layout::NEW,
        send: Direction::new(keys.send),
        receive: Direction::new(keys.receive),
        mask: thread.mask,
        alt_sp,
        alt_size,
        alt_flags,
        fs: registers.fs_base,
        gs: registers.gs_base,
        clear_tid: thread.clear_tid,
        robust: thread.robust[0],
        robust_size: thread.robust[1],
        rseq: thread.rseq.0,
        rseq_size: thread.rseq.1,
        rseq_signature: thread.rseq.2,
        name: thread.name,
        ..empty_thread()
    };
    sys::write_memory(pid, slot, octets(&part))?;
    let state_at = slot + FRAME_AT + STATE_AT;
    let (state, is_extended) = thread.state.frame()?;
    if state.len() as u64 > layout::FRAME - STATE_AT {
        return Err(io::Error::other("the processor's extended state is too large").into());
    }
    let context = context(thread, state_at, slot, is_extended);
    sys::write_memory(pid, slot + FRAME_AT, octets(&context))?;
    Ok(sys::write_memory(pid, state_at, &state)?)
}

/// The signal frame with which a thread enters its program.
fn context(thread: &ThreadImage, fpstate: u64, slot: u64, is_extended: bool) -> Context {
    /// UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
    const FLAGS: u64 = 6;
    const UC_FP_XSTATE: u64 = 1;
    /// SIGSYS, SIGSEGV, SIGBUS
    const OPEN: u64 = 1 << 30 | 1 << 10 | 1 << 6;
    let r = registers_from_words(&thread.registers);
    Context {
        flags: if is_extended { FLAGS | UC_FP_XSTATE } else { FLAGS },
        stack_sp: slot + STACK_AT,
        stack_size: SLOT - STACK_AT,
        r8: [r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15],
        rdi: r.rdi,
        rsi: r.rsi,
        rbp: r.rbp,
        rbx: r.rbx,
        rdx: r.rdx,
        rax: r.rax,
        rcx: r.rcx,
        rsp: r.rsp,
        rip: r.rip,
        rflags: r.eflags,
        segments: r.cs | r.ss << 48,
        fpstate,
        mask: thread.mask & !OPEN,
        ..Context::default()
    }
}

fn plan(own: &[look::Line], image: &Image, plan_octets: u64) -> Result<Vec<u8>, GuestError> {
    let program = filter(image.base);
    let start = image.base + REGION;
    let mut tail = Vec::new();
    let objects = objects_of(image);
    let first = i64::from(FIRST_FD) + i64::try_from(image.threads.len()).map_err(io::Error::other)?;
    for map in &image.maps {
        let place = |part: Part| objects.iter().position(|object| u32::try_from(*object) == Ok(part.object));
        let shared = map.shared.and_then(|part| Some((i64::try_from(place(part)?).ok()?, part.offset)));
        let (fd, offset) = shared.map_or((-1, 0), |(place, offset)| (first + place, offset));
        let Mapping { start, end, protection, mut flags, .. } = *map;
        if map.locked {
            flags |= libc::MAP_LOCKED.cast_unsigned();
        }
        let map = Map { start, end, protection, flags, fd, offset };
        tail.extend_from_slice(octets(&map));
    }
    let after_maps = start + size_of::<Plan>() as u64 + tail.len() as u64;
    tail.extend_from_slice(&image.auxv);
    tail.resize(tail.len().next_multiple_of(8), 0);
    let head = size_of::<Plan>() as u64;
    // struct sock_fprog: the number, and where they are.
    let program_at = start + head + tail.len() as u64;
    tail.extend_from_slice(&(program.len() as u64).to_le_bytes());
    tail.extend_from_slice(&(program_at + 16).to_le_bytes());
    for instruction in &program {
        tail.extend_from_slice(octets(instruction));
    }
    let mut plan = Plan {
        size: plan_octets,
        maps: image.maps.len() as u64,
        threads: image.threads.len() as u64,
        mm: image.marks,
        uid: image.uid,
        gid: image.gid,
        filter: program_at,
        auxv: after_maps,
        auxv_size: image.auxv.len() as u64,
        personality: image.personality,
        aside: start + PLAN,
        ..Plan::default()
    };
    for (place, (name, to, end)) in plan.special.iter_mut().zip(&image.special) {
        let line = own.iter().find(|line| line.name == *name && line.end - line.start == end - to);
        let line = line.ok_or_else(|| io::Error::other(format!("its kernel has another {name}")))?;
        *place = [line.start, *to, end - to];
    }
    let mut kept: Vec<(u64, u64)> = own.iter().map(|line| (line.start, line.end)).collect();
    kept.push((image.base, start + plan_octets));
    kept.sort_unstable();
    let mut at = 0;
    let mut gaps = plan.unmap.iter_mut();
    for (from, to) in kept.into_iter().chain([(0x7fff_ffff_f000, 0)]) {
        if from > at
            && let Some(gap) = gaps.next()
        {
            *gap = [at, from - at];
        }
        at = to;
    }
    let mut octets = octets(&plan).to_vec();
    octets.extend_from_slice(&tail);
    Ok(octets)
}
