//! Threads and processes that the program makes while it is away: the deputy makes them at home first, so
//! that they have an id there, and then the body makes them here with the same.

use tesela_shim::kernel::CloneArgs;
use tesela_shim::layout::{
    self, CONTROL, CONTROL_BORN, CONTROL_CHANNEL, CONTROL_CHILD, CONTROL_CHILD_SOCKET, CONTROL_PAGES, Control, Early, FRAME_AT, MAKING, NEW,
    OVER, PROCESS_AT, Process, SLOT, SLOTS, STACK_AT, STATE_AT, Thread,
};
use tesela_shim::wire::KIND_CLONE;

use crate::channel;
use crate::collect::receive_fd;
use crate::frame::{self, Context};
use crate::handler::{Outcome, Over, exchange, process_of, set_state};
use crate::marshal::Message;
use crate::sys::{self, nr};
use crate::user;

const VM: u64 = 0x100;
const FS: u64 = 0x200;
const FILES: u64 = 0x400;
const SIGHAND: u64 = 0x800;
const VFORK: u64 = 0x4000;
const PARENT: u64 = 0x8000;
const THREAD: u64 = 0x1_0000;
const SYSVSEM: u64 = 0x4_0000;
const SETTLS: u64 = 0x8_0000;
const PARENT_SETTID: u64 = 0x10_0000;
const CHILD_CLEARTID: u64 = 0x20_0000;
const CHILD_SETTID: u64 = 0x100_0000;
/// What a program may ask for; anything else is made at home.
const KNOWN: u64 =
    VM | FS | FILES | SIGHAND | VFORK | PARENT | THREAD | SYSVSEM | SETTLS | PARENT_SETTID | CHILD_CLEARTID
        | CHILD_SETTID | 0x40_0000; // CLONE_DETACHED, which means nothing

/// What the program asks for, in whichever call.
#[derive(Clone, Copy, Default)]
struct Wish {
    flags: u64,
    exit_signal: u64,
    /// The child's stack pointer; 0: where the parent's is.
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
}

fn wish(call: u64, args: [u64; 6]) -> Option<Wish> {
    match call {
        nr::FORK => Some(Wish { exit_signal: 17, ..Wish::default() }),
        nr::VFORK => Some(Wish { flags: VM | VFORK, exit_signal: 17, ..Wish::default() }),
        nr::CLONE => Some(Wish {
            flags: args[0] & 0xffff_ff00,
            exit_signal: args[0] & 0xff,
            stack: args[1],
            parent_tid: args[2],
            child_tid: args[3],
            tls: args[4],
        }),
        _ => {
            const WITHOUT_SET_TID: u64 = 64;
            let mut given = CloneArgs::default();
            if args[1] < WITHOUT_SET_TID || args[1] > size_of::<CloneArgs>() as u64 + 8 {
                return None;
            }
            user::copy(&raw mut given as u64, args[0], args[1].min(size_of::<CloneArgs>() as u64)).ok()?;
            (given.set_tid_size == 0).then_some(Wish {
                flags: given.flags,
                exit_signal: given.exit_signal,
                stack: if given.stack == 0 { 0 } else { given.stack + given.stack_size },
                parent_tid: given.parent_tid,
                child_tid: given.child_tid,
                tls: given.tls,
            })
        }
    }
}

/// clone, clone3, fork and vfork.
pub fn make(thread: &mut Thread, context: &mut Context, call: u64, args: [u64; 6]) -> Outcome {
    let Some(wish) = wish(call, args).filter(|wish| wish.flags & !KNOWN == 0) else { return Outcome::GoHome };
    let process = process_of(thread);
    // Others may be at it, and the agent has to do something for them: it must not wait for this thread to
    // come to the edge.
    set_state(thread, MAKING);
    lock(thread);
    let outcome = make_locked(thread, process, context, wish);
    unlock(process);
    outcome
}

fn make_locked(thread: &mut Thread, process: &mut Process, context: &mut Context, wish: Wish) -> Outcome {
    let shares = wish.flags & VM != 0;
    if !shares && process.whole == 0 {
        // A copy of this memory has no pager of its own: so all of it comes first.
        say(thread, CONTROL_PAGES);
        process.whole = 1;
    }
    let slot = if shares {
        let Some(slot) = take_slot(process) else { return Outcome::GoHome };
        slot
    } else {
        u64::from(thread.slot)
    };
    let home_flags = if wish.flags & THREAD != 0 {
        VM | FS | FILES | SIGHAND | THREAD | SYSVSEM
    } else {
        // Not in one memory at home: the deputies serve two bodies.
        (wish.flags & (FS | FILES | PARENT)) | wish.exit_signal
    };
    let mut message = Message::new(nr::CLONE, [home_flags, 0, 0, 0, 0, 0], KIND_CLONE);
    message.request.slot = slot as u32;
    let tid = match exchange(thread, context, &mut message) {
        Outcome::Returns(tid @ 1..) => tid,
        other => {
            if shares {
                free_slot(process, slot);
            }
            return other;
        }
    };
    let (control, fd) = message_for(thread, CONTROL_CHILD, tid as i32);
    if fd < 0 {
        // Home could not connect it: it has ended before it began.
        if shares {
            free_slot(process, slot);
        }
        return Outcome::Returns(tid);
    }
    let socket = if wish.flags & THREAD != 0 {
        process.control
    } else {
        message_for(thread, CONTROL_CHILD_SOCKET, tid as i32).1
    };
    let child = Child { slot, tid: tid as i32, fd, socket, control };
    if shares {
        prepare(thread, context, &wish, &child);
    }
    make_here(thread, context, &wish, &child)
}

/// What a child gets.
struct Child {
    slot: u64,
    tid: i32,
    fd: i32,
    socket: i32,
    control: Control,
}

/// Tells the agent and waits for its answer. The caller holds the lock.
fn say(thread: &mut Thread, kind: u32) {
    let process = process_of(thread);
    send_control(process, &Control { kind, tid: process.tgid, ..Control::default() });
    message_for(thread, kind, process.tgid);
}

/// Says something to the agent.
pub fn send_control(process: &Process, message: &Control) {
    let at = core::ptr::from_ref(message) as u64;
    // SAFETY: it reads the message. MSG_NOSIGNAL
    unsafe { sys::call(nr::SENDTO, [process.control as u64, at, CONTROL as u64, 0x4000, 0, 0]) };
}

/// A process that has just been made says where it is.
fn say_born(process: &Process) {
    send_control(process, &Control { kind: CONTROL_BORN, tid: process.tgid, ..Control::default() });
}

/// What the agent has made for the child of this id. The caller holds the lock.
fn message_for(thread: &mut Thread, kind: u32, tid: i32) -> (Control, i32) {
    let early = core::mem::take(&mut thread.earlies) as usize;
    // Those that are not the one follow it.
    let mut early = thread.early.into_iter().take(early).map(|early| (early.control, early.fd));
    let process = process_of(thread);
    loop {
        let (message, fd) = early.next().unwrap_or_else(|| hear(process));
        if message.kind == kind && message.tid == tid {
            early.for_each(|next| keep(thread, next));
            return (message, fd);
        }
        if message.kind == CONTROL_CHANNEL {
            give_channel(process, &message, fd);
        }
    }
}

/// The agent's next message, and what comes with it. The caller holds the lock.
fn hear(process: &Process) -> (Control, i32) {
    let mut message = Control::default();
    let octets = &raw mut message as *mut u8;
    // SAFETY: the message's own octets.
    let (got, fd) = receive_fd(process.control, unsafe { core::slice::from_raw_parts_mut(octets, CONTROL) });
    if got <= 0 {
        // The agent is gone, and so are we.
        sys::trap();
    }
    (message, fd)
}

/// Keeps what comes before it is asked for: of the child that this thread makes.
fn keep(thread: &mut Thread, (control, fd): (Control, i32)) {
    if let Some(place) = thread.early.get_mut(thread.earlies as usize) {
        *place = Early { control, fd, reserved: 0 };
        thread.earlies += 1;
    }
}

/// Waits until this thread has another channel. Any of those that wait may hear of it, and only one listens.
pub fn await_channel(thread: &mut Thread) -> Result<(), Over> {
    let process = process_of(thread);
    send_control(process, &Control { kind: CONTROL_CHANNEL, tid: thread.tid, ..Control::default() });
    let held = sys::look(&process.lock) == holder(thread);
    loop {
        let turn = sys::look(&process.turn);
        match sys::look(&thread.broken) {
            0 => return Ok(()),
            OVER => return Err(Over),
            _ => {}
        }
        if held || try_lock(thread) {
            let (message, fd) = hear(process);
            if message.kind == CONTROL_CHANNEL {
                give_channel(process, &message, fd);
            } else {
                keep(thread, (message, fd));
            }
            if !held {
                unlock(process);
            }
        } else {
            sys::wait(&process.turn, turn);
        }
    }
}

/// The thread that waits for this channel goes on. The caller holds the lock.
fn give_channel(process: &Process, message: &Control, fd: i32) {
    let at = layout::slot(process.base, message.slot.min(SLOTS - 1));
    // SAFETY: the slot's thread waits, and reads no more of this than whether it is still to wait.
    let thread = unsafe { &mut *(at as *mut Thread) };
    if thread.tid != message.tid || sys::look(&thread.broken) == 0 {
        close(fd);
        return;
    }
    close(thread.fd);
    thread.fd = fd;
    channel::open(thread, message.send, message.receive);
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    // SAFETY: a reference is valid to write.
    unsafe { core::ptr::write_volatile(&raw mut thread.broken, if fd < 0 { OVER } else { 0 }) };
    next_turn(process);
}

fn close(fd: i32) {
    if fd >= 0 {
        // SAFETY: a channel's, or what came with a message.
        unsafe { sys::call(nr::CLOSE, [fd as u64, 0, 0, 0, 0, 0]) };
    }
}

/// Those that wait look again.
fn next_turn(process: &Process) {
    // SAFETY: the word is valid, aligned, and only changed atomically.
    let turn = unsafe { core::sync::atomic::AtomicU32::from_ptr((&raw const process.turn).cast_mut()) };
    turn.fetch_add(1, core::sync::atomic::Ordering::SeqCst);
    sys::wake_all(&process.turn);
}

/// A child in this memory finds in its slot what it begins with.
fn prepare(thread: &Thread, context: &Context, wish: &Wish, new: &Child) {
    let process = process_of(thread);
    let base = layout::slot(process.base, new.slot);
    let is_thread = wish.flags & THREAD != 0;
    // SAFETY: the slot is the child's, which does not run yet; the frame is as long as its parts.
    unsafe {
        let child = &mut *(base as *mut Thread);
        *child = *thread;
        (child.slot, child.tid, child.fd) = (new.slot as u32, new.tid, new.fd);
        set_channel(child, &new.control);
        child.state = NEW;
        child.clear_tid = if wish.flags & CHILD_CLEARTID != 0 { wish.child_tid } else { 0 };
        if is_thread || wish.flags & VFORK == 0 {
            (child.alt_sp, child.alt_size, child.alt_flags) = (0, 0, 2);
        }
        if !is_thread {
            let own = (base + PROCESS_AT) as *mut Process;
            *own = *process;
            ((*own).tgid, (*own).control, (*own).lock) = (new.tid, new.socket, 0);
            child.process = own as u64;
        }
        let frame = (base + FRAME_AT) as *mut Context;
        let state = base + FRAME_AT + STATE_AT;
        *frame = *context;
        core::ptr::copy_nonoverlapping(
            context.fpstate as *const u8,
            state as *mut u8,
            frame::fpstate_size(context.fpstate) as usize,
        );
        ((*frame).fpstate, (*frame).rax) = (state, 0);
        if wish.stack != 0 {
            (*frame).rsp = wish.stack;
        }
        ((*frame).stack_sp, (*frame).stack_flags, (*frame).stack_size) = (base + STACK_AT, 0, SLOT - STACK_AT);
        child.context = frame as u64;
    }
}

fn set_channel(child: &mut Thread, given: &Control) {
    channel::open(child, given.send, given.receive);
    (child.seq, child.noted, child.earlies, child.broken, child.freeze) = (0, 0, 0, 0, 0);
}

fn make_here(thread: &mut Thread, context: &mut Context, wish: &Wish, child: &Child) -> Outcome {
    let process = process_of(thread);
    let shares = wish.flags & VM != 0;
    let is_thread = wish.flags & THREAD != 0;
    let set_tid = child.tid;
    let base = layout::slot(process.base, child.slot);
    let args = CloneArgs {
        // Children are the reaper's here: their parent waits for them at home.
        flags: (wish.flags & !0x40_0000) | if is_thread { 0 } else { PARENT },
        child_tid: wish.child_tid,
        parent_tid: wish.parent_tid,
        stack: if shares { base + STACK_AT } else { 0 },
        stack_size: if shares { SLOT - STACK_AT - 64 } else { 0 },
        tls: wish.tls,
        set_tid: &raw const set_tid as u64,
        set_tid_size: 1,
        ..CloneArgs::default()
    };
    // SAFETY: the child in this memory begins on its own slot, the one with a copy of it on a copy of this
    // stack.
    let made = unsafe { clone3(&raw const args, base) };
    if made == 0 {
        // The copy. It is another process on the same slot.
        // SAFETY: the parent's descriptors.
        unsafe {
            sys::call(nr::CLOSE, [thread.fd as u64, 0, 0, 0, 0, 0]);
            sys::call(nr::CLOSE, [process.control as u64, 0, 0, 0, 0, 0]);
        }
        (thread.tid, thread.fd) = (set_tid, child.fd);
        set_channel(thread, &child.control);
        (process.tgid, process.control, process.forwarded) = (set_tid, child.socket, 0);
        process.slots = [0; 8];
        process.slots[child.slot as usize / 64] = 1 << (child.slot % 64);
        if wish.stack != 0 {
            context.rsp = wish.stack;
        }
        say_born(process);
        return Outcome::Returns(0);
    }
    if !is_thread {
        // SAFETY: the child has its own.
        unsafe {
            sys::call(nr::CLOSE, [child.fd as u64, 0, 0, 0, 0, 0]);
            sys::call(nr::CLOSE, [child.socket as u64, 0, 0, 0, 0, 0]);
        }
    }
    if made < 0 {
        // At home there is a child already, and here there cannot be: nothing that the program could do.
        sys::trap();
    }
    Outcome::Returns(child.tid.into())
}

/// clone3(2); a child with a stack of its own enters its program by the frame in its slot.
#[unsafe(naked)]
unsafe extern "C" fn clone3(args: *const CloneArgs, slot: u64) -> i64 {
    core::arch::naked_asm!(
        "mov r8, rsi",
        "mov r9, rsp",
        "mov esi, 80",
        "mov eax, 435",
        "syscall",
        "test rax, rax",
        "jnz 2f",
        "cmp rsp, r9",
        "je 2f", // a copy, on a copy of this stack
        "mov rdi, r8",
        "jmp {born}",
        "2:",
        "ret",
        born = sym born,
    )
}

extern "C" fn born(slot: u64) -> ! {
    // SAFETY: the slot is this new thread's, and its parent has put the frame there.
    unsafe {
        let thread = &mut *(slot as *mut Thread);
        let process = process_of(thread);
        if process.tgid == thread.tid {
            say_born(process);
        }
        set_state(thread, layout::RUNNING);
        frame::enter((slot + FRAME_AT) as *const Context)
    }
}

/// What the lock is while this thread holds it.
fn holder(thread: &Thread) -> u32 {
    thread.slot + 1
}

fn lock(thread: &Thread) {
    let process = process_of(thread);
    while !try_lock(thread) {
        let turn = sys::look(&process.turn);
        if sys::look(&process.lock) != 0 {
            sys::wait(&process.turn, turn);
        }
    }
}

fn try_lock(thread: &Thread) -> bool {
    use core::sync::atomic::Ordering::SeqCst;
    // SAFETY: the word is valid, aligned, and only changed atomically.
    let word = unsafe { core::sync::atomic::AtomicU32::from_ptr(&raw mut process_of(thread).lock) };
    word.compare_exchange(0, holder(thread), SeqCst, SeqCst).is_ok()
}

fn unlock(process: &mut Process) {
    // SAFETY: the word is valid, aligned, and only changed atomically.
    let word = unsafe { core::sync::atomic::AtomicU32::from_ptr(&raw mut process.lock) };
    word.store(0, core::sync::atomic::Ordering::SeqCst);
    next_turn(process);
}

/// A slot that no living thread has.
fn take_slot(process: &mut Process) -> Option<u64> {
    const ESRCH: i64 = -3;
    for slot in 1..SLOTS {
        let (word, bit) = (slot as usize / 64, 1_u64 << (slot % 64));
        if process.slots[word] & bit == 0 {
            process.slots[word] |= bit;
            return Some(slot);
        }
        // SAFETY: the slot has been a thread's; its id is never changed while it lives. Signal 0 asks only.
        let gone = unsafe {
            let thread = &*(layout::slot(process.base, slot) as *const Thread);
            let tgid = (*(thread.process as *const Process)).tgid;
            sys::call(nr::TGKILL, [tgid as u64, thread.tid as u64, 0, 0, 0, 0]) == ESRCH
        };
        if gone {
            return Some(slot);
        }
    }
    None
}

fn free_slot(process: &mut Process, slot: u64) {
    process.slots[slot as usize / 64] &= !(1 << (slot % 64));
}
