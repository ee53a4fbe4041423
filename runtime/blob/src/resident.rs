//! The deputy's loop: receives a call, makes it, sends back what came of it.

use tesela_shim::layout::{self, Thread};
use tesela_shim::wire::{
    KIND_CALL, KIND_CLONE, KIND_EXIT, KIND_NOTE, MAX_MEMORY, MAX_REBASES, MAX_SEGMENTS, NO_CALL, Rebase, Reply, Request,
    SEGMENT_IN, Segment,
};

use crate::channel::{self, Broken};
use crate::sys::{self, nr};

const PAGE: u64 = 4096;
/// The least that is mapped for a bounce area.
const LEAST: u64 = 64 * 1024;
/// Words of memory that a note may have.
const OF_NOTE: usize = 16;

/// Serves the thread's calls until it goes home or ends. Where its channel breaks, it stops for the agent, which
/// has another one before it lets it go on.
pub fn serve(thread: &mut Thread) -> ! {
    loop {
        if serve_one(thread).is_err() {
            sys::breakpoint();
        }
    }
}

fn serve_one(thread: &mut Thread) -> Result<(), Broken> {
    let mut request: Request = channel::get(thread)?;
    let mut segments = [Segment::default(); MAX_SEGMENTS];
    let mut rebases = [Rebase::default(); MAX_REBASES];
    let segments = part(&mut segments, request.segments)?;
    let rebases = part(&mut rebases, request.rebases)?;
    for segment in segments.iter_mut() {
        *segment = channel::get(thread)?;
    }
    for rebase in rebases.iter_mut() {
        *rebase = channel::get(thread)?;
    }
    // It has been made; its answer has not arrived.
    let made = request.kind != KIND_NOTE && request.seq == thread.seq;
    let mut of_note = [0_u64; OF_NOTE];
    let fits = |offset: u32, length: u64| u64::from(offset) + length <= request.memory;
    let hold = request.memory <= MAX_MEMORY
        && segments.iter().all(|segment| fits(segment.offset, segment.length.into()))
        && rebases.iter().all(|rebase| fits(rebase.offset, u64::from(rebase.count) * 8));
    let has_room = match request.kind {
        KIND_NOTE => request.memory <= size_of_val(&of_note) as u64,
        _ => made || have_room(thread, request.memory),
    };
    if !hold || !has_room {
        return Err(Broken);
    }
    // What the last call gave stays where it is until the next one.
    let bounce = if request.kind == KIND_NOTE { of_note.as_mut_ptr() as u64 } else { thread.bounce };
    for segment in segments.iter().filter(|segment| segment.flags & SEGMENT_IN != 0) {
        if made {
            channel::pass_over(thread, segment.length.into())?;
            continue;
        }
        channel::get_memory(thread, bounce + u64::from(segment.offset), segment.length.into())
            .map_err(|_| Broken)?;
    }
    if made {
        return answer(thread, &request, segments);
    }
    for rebase in rebases.iter() {
        for word in 0..u64::from(rebase.count) {
            let at = (bounce + u64::from(rebase.offset) + word * 8) as *mut u64;
            // SAFETY: it lies in the bounce area, which is ours.
            unsafe {
                if at.read_unaligned() != 0 {
                    at.write_unaligned(at.read_unaligned().wrapping_add(bounce));
                }
            }
        }
    }
    for (index, argument) in request.args.iter_mut().enumerate() {
        if request.relative & 1 << index != 0 {
            *argument = argument.wrapping_add(bounce);
        }
    }
    take_mask(thread, request.mask);
    if request.kind == KIND_NOTE {
        if request.nr != NO_CALL {
            // SAFETY: the program's own call, as below.
            unsafe { sys::call(request.nr, request.args) };
        }
        return Ok(());
    }
    if request.kind == KIND_EXIT {
        return end(thread, &request);
    }
    thread.busy = 1;
    thread.seq = request.seq;
    thread.value = match request.kind {
        KIND_CALL => {
            // SAFETY: it is the program's own call, and what it may do is for the kernel to judge. Its
            // pointers lead into the bounce area.
            unsafe { sys::guarded(request.nr, request.args.as_ptr(), &raw const thread.cancel, request.seq) }
        }
        KIND_CLONE => clone(thread, &request),
        _ => return Err(Broken),
    };
    thread.busy = 0;
    answer(thread, &request, segments)
}

/// Says what the last call gave.
fn answer(thread: &mut Thread, request: &Request, segments: &[Segment]) -> Result<(), Broken> {
    let (value, bounce) = (thread.value, thread.bounce);
    channel::put(thread, &Reply { seq: request.seq, value, reserved: 0 })?;
    for segment in segments {
        channel::put_memory(thread, bounce + u64::from(segment.offset), segment.comes_back(value).into())
            .map_err(|_| Broken)?;
    }
    channel::flush(thread)
}

/// exit(2), which the shim hears of before, or exit_group(2).
fn end(thread: &mut Thread, request: &Request) -> Result<(), Broken> {
    if request.nr == nr::EXIT {
        channel::put(thread, &Reply { seq: request.seq, value: 0, reserved: 0 })?;
        channel::flush(thread)?;
        // SAFETY: the descriptor is this thread's own.
        unsafe { sys::call(nr::CLOSE, [thread.fd as u64, 0, 0, 0, 0, 0]) };
    }
    // SAFETY: it ends this thread, or all.
    unsafe { sys::call(request.nr, request.args) };
    Err(Broken)
}

/// The program's mask is the deputy's, so that what it blocks waits here, for others to see and for the calls
/// that take it, and so that exec(2) leaves it to the next program.
fn take_mask(thread: &mut Thread, mask: u64) {
    const SIG_SETMASK: u64 = 2;
    if thread.mask != mask {
        thread.mask = mask;
        // SAFETY: it reads the mask.
        unsafe { sys::call(nr::RT_SIGPROCMASK, [SIG_SETMASK, &raw const mask as u64, 0, 8, 0, 0]) };
    }
}

fn part<T>(array: &mut [T], count: u32) -> Result<&mut [T], Broken> {
    array.get_mut(..count as usize).ok_or(Broken)
}

/// A bounce area of at least so many octets.
fn have_room(thread: &mut Thread, octets: u64) -> bool {
    if octets <= thread.bounce_size {
        return true;
    }
    let size = octets.max(LEAST).next_multiple_of(PAGE);
    // SAFETY: the old area holds nothing any more; the new one is where the kernel finds room.
    unsafe {
        if thread.bounce_size != 0 {
            sys::call(nr::MUNMAP, [thread.bounce, thread.bounce_size, 0, 0, 0, 0]);
            thread.bounce_size = 0;
        }
        // PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
        let at = sys::call(nr::MMAP, [0, size, 3, 0x22, u64::MAX, 0]);
        if at < 0 {
            return false;
        }
        (thread.bounce, thread.bounce_size) = (at as u64, size);
    }
    true
}

/// The call that makes a thread or a process, as the shim has put it: flags in the first argument. The child
/// stops for the agent before its first instruction, and then serves on the slot that the request names.
fn clone(thread: &mut Thread, request: &Request) -> i64 {
    const CLONE_VM: u64 = 0x100;
    let flags = request.args[0];
    thread.makes = request.slot.into();
    if flags & CLONE_VM == 0 {
        let base = core::ptr::from_mut(thread) as u64;
        // SAFETY: without CLONE_VM it is fork(2): the child has a copy of this stack.
        let value = unsafe { sys::call(nr::CLONE, [flags, 0, 0, 0, 0, 0]) };
        if value == 0 {
            // SAFETY: its own copy of the slot; it never returns to the frames above.
            serve(unsafe { &mut *(base as *mut Thread) })
        }
        return value;
    }
    let process = thread.process as *const layout::Process;
    // SAFETY: the process's part outlives its threads.
    let base = unsafe { (*process).base };
    let slot = layout::slot(base, request.slot.into());
    // The thread that had the slot has ended away; here it may still have to hear of that. The agent clears its
    // id then.
    // SAFETY: the slot is mapped; the id is a word that the agent changes.
    while unsafe { core::ptr::read_volatile(&raw const (*(slot as *const Thread)).tid) } != 0 {
        // SAFETY: it only lets others run.
        unsafe { sys::call(nr::SCHED_YIELD, [0; 6]) };
    }
    // SAFETY: the shim has taken the slot for this child; its stack is nobody else's.
    unsafe { spawn(flags, slot + layout::SLOT - 64, slot, layout::ENTER_RESIDENT) }
}

/// clone(2) with a stack of its own; the child enters the blob with `command` on `slot`.
#[unsafe(naked)]
unsafe extern "C" fn spawn(flags: u64, stack: u64, slot: u64, command: u64) -> i64 {
    core::arch::naked_asm!(
        "push rbx",
        "push r12",
        "mov r12, rdx",
        "mov rbx, rcx",
        "mov eax, 56",
        "xor edx, edx",
        "xor r10d, r10d",
        "xor r8d, r8d",
        "syscall",
        "test rax, rax",
        "jz 2f",
        "pop r12",
        "pop rbx",
        "ret",
        "2:",
        "mov rdi, rbx",
        "mov rsi, r12",
        "jmp _start",
    )
}
