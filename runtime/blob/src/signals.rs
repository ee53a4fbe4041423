//! Signals in the body: what the program sets is kept here, and its handlers are called as the kernel
//! would.
//!
//! SIGSYS must never be blocked, and its frame must lie on our own stack: so the kernel is told of
//! neither the program's masks as they are nor its alternate stack, and every signal that the program
//! handles comes to [`on_signal`] first.

use tesela_shim::layout::{Disposition, Process, RUNNING, Thread, WAITING};
use tesela_shim::table::{Arg, GOES_ON, Got, Len};
use tesela_shim::wire::NO_CALL;

use crate::frame::{self, Context};
use crate::channel::{self, CarryError};
use crate::handler::{Outcome, forward, note, process_of, put_note, set_state, this_thread};
use crate::sys::{self, nr};
use crate::user::{self, Fault};

const SIGBUS: u64 = 7;
const SIGKILL: u64 = 9;
const SIGSEGV: u64 = 11;
const SIGSTOP: u64 = 19;
const SIGSYS: u64 = 31;

const SIG_DFL: u64 = 0;
const SIG_IGN: u64 = 1;
const SA_SIGINFO: u64 = 4;
const SA_RESTORER: u64 = 0x0400_0000;
const SA_ONSTACK: u64 = 0x0800_0000;
const SA_RESTART: u64 = 0x1000_0000;
const SA_NODEFER: u64 = 0x4000_0000;
const SA_RESETHAND: u64 = 0x8000_0000;
const SA_NOCLDSTOP: u64 = 1;
const SA_NOCLDWAIT: u64 = 2;

const SS_DISABLE: u64 = 2;
const SS_ONSTACK: u64 = 1;

/// rt_sigaction(2), whose new disposition alone travels.
const SIGACTION: [Arg; 2] = [Arg::Value, Arg::In(Len::Const(32))];

const fn bit(signal: u64) -> u64 {
    1 << (signal - 1)
}

/// Never blocked in the kernel: SIGSYS is how calls come to us, and the other two how faults do.
const OPEN: u64 = bit(SIGSYS) | bit(SIGSEGV) | bit(SIGBUS);

/// The mask that the kernel gets for a mask of the program's.
pub const fn for_kernel(mask: u64) -> u64 {
    mask & !OPEN
}

/// Installs the kernel's disposition for one of the program's; `false` where the kernel refuses.
pub fn install(process: &Process, signal: u64) -> i64 {
    let disposition = process.dispositions[signal as usize];
    let handled = disposition.handler > SIG_IGN;
    let ours = Disposition {
        handler: on_signal as *const () as u64,
        flags: SA_SIGINFO | SA_ONSTACK | SA_RESTORER | (disposition.flags & (SA_RESTART | SA_NOCLDSTOP | SA_NOCLDWAIT)),
        restorer: frame::restorer(),
        mask: !OPEN,
    };
    let kernel = match signal {
        SIGSYS => Disposition { handler: crate::handler::on_sigsys as *const () as u64, ..ours },
        SIGSEGV | SIGBUS => ours,
        _ if handled => ours,
        _ => Disposition { restorer: frame::restorer(), flags: disposition.flags | SA_RESTORER, ..disposition },
    };
    // SAFETY: the kernel reads the four words; the handlers are ours.
    unsafe { sys::call(nr::RT_SIGACTION, [signal, &raw const kernel as u64, 0, 8, 0, 0]) }
}

/// Signals that wait here.
fn pending() -> u64 {
    let mut set = 0_u64;
    // SAFETY: it writes the set.
    unsafe { sys::call(nr::RT_SIGPENDING, [&raw mut set as u64, 8, 0, 0, 0, 0]) };
    set
}

/// Signals that wait until the mask of the frame is in force again, and that the program handles.
pub fn waiting(context: &Context) -> u64 {
    pending() & !context.mask
}

/// The same, and those that the call on its way home takes.
pub fn due(thread: &Thread, context: &Context) -> u64 {
    pending() & (!context.mask | thread.takes)
}

/// The mask with which a call waits, if it is one that has its own.
fn own_mask(call: u64, args: [u64; 6]) -> Option<u64> {
    let read = |at: u64| if at == 0 { None } else { user::read::<u64>(at).ok() };
    match call {
        nr::PSELECT6 => read(read(args[5])?),
        nr::PPOLL => read(args[3]),
        nr::EPOLL_PWAIT | nr::EPOLL_PWAIT2 => read(args[4]),
        _ => None,
    }
}

/// Makes the call at home. Where it waits with a mask of its own, what that lets through interrupts it: the program
/// handles it, and finds it blocked again when the call returns.
pub fn forward_masked(
    thread: &mut Thread,
    context: &mut Context,
    call: u64,
    args: [u64; 6],
    spec: &[Arg],
) -> Outcome {
    const SIG_BLOCK: u64 = 0;
    const SIG_UNBLOCK: u64 = 1;
    let opened = own_mask(call, args).map_or(0, |mask| context.mask & !for_kernel(mask));
    thread.takes = opened;
    let outcome = forward(thread, context, call, args, spec);
    thread.takes = 0;
    if matches!(outcome, Outcome::Again) && pending() & opened != 0 {
        // A handler is called from within ([`on_signal`]); without one the kernel does here what is to be done.
        waiting_for(thread, context, call, nr::RT_SIGPROCMASK, [SIG_UNBLOCK, &raw const opened as u64, 0, 8, 0, 0]);
        // SAFETY: it reads the mask.
        unsafe { sys::call(nr::RT_SIGPROCMASK, [SIG_BLOCK, &raw const opened as u64, 0, 8, 0, 0]) };
    }
    outcome
}

/// What becomes of a call that the deputy was interrupted in, with the kernel's own word for it.
pub fn interrupted(thread: &Thread, context: &Context, call: u64, value: i64) -> Outcome {
    const ERESTARTSYS: i64 = -512;
    const ERESTARTNOINTR: i64 = -513;
    const ERESTART_RESTARTBLOCK: i64 = -516;
    let set = waiting(context);
    let process = process_of(thread);
    let handled = (1..=64).find(|signal| {
        set & bit(*signal) != 0 && process.dispositions[*signal as usize].handler > SIG_IGN
    });
    match handled {
        None if value == ERESTART_RESTARTBLOCK
            && matches!(call, nr::NANOSLEEP | nr::CLOCK_NANOSLEEP | nr::RESTART_SYSCALL) =>
        {
            Outcome::GoesOn
        }
        None => Outcome::Again,
        Some(_) if value == ERESTARTNOINTR => Outcome::Again,
        Some(signal) if value == ERESTARTSYS && process.dispositions[signal as usize].flags & SA_RESTART != 0 => {
            Outcome::Again
        }
        Some(_) => Outcome::Returns(sys::EINTR),
    }
}

/// The calls of the class `Shim`; `None` for those that the shim leaves to home.
pub fn emulate(thread: &mut Thread, context: &mut Context, call: u64, args: [u64; 6]) -> Option<Outcome> {
    let done = match call {
        nr::RT_SIGACTION => sigaction(thread, args),
        nr::RT_SIGPROCMASK => sigprocmask(thread, context, args),
        nr::SIGALTSTACK => sigaltstack(thread, context, args),
        nr::RT_SIGRETURN => return Some(sigreturn(thread, context)),
        nr::RT_SIGSUSPEND => return Some(sigsuspend(thread, context, args)),
        nr::RT_SIGPENDING => return Some(sigpending(thread, context, args)),
        nr::RT_SIGTIMEDWAIT => return Some(sigtimedwait(thread, context, args)),
        nr::PAUSE => return Some(suspend(thread, context, call, context.mask)),
        nr::NANOSLEEP => return sleep(thread, context, call, args[0], args),
        nr::CLOCK_NANOSLEEP => return sleep(thread, context, call, args[2], args),
        _ => return None,
    };
    Some(Outcome::Returns(done.unwrap_or(sys::EFAULT)))
}

fn sigaction(thread: &mut Thread, args: [u64; 6]) -> Result<i64, Fault> {
    let [signal, new, old, size, ..] = args;
    if !(1..=64).contains(&signal) || size != 8 || (new != 0 && (signal == SIGKILL || signal == SIGSTOP)) {
        return Ok(sys::EINVAL);
    }
    let process = process_of(thread);
    let place = signal as usize;
    let before = process.dispositions[place];
    if new != 0 {
        process.dispositions[place] = user::read::<Disposition>(new)?;
        if signal != SIGSYS {
            let refused = install(process, signal);
            if refused < 0 {
                process.dispositions[place] = before;
                return Ok(refused);
            }
        }
        // Others see it at home: what is ignored there is ignored, and children of exec(2) inherit it.
        thread.noted |= bit(signal);
        note(thread, nr::RT_SIGACTION, [signal, new, 0, 8, 0, 0], &SIGACTION);
    }
    if old != 0 {
        user::write(old, before)?;
    }
    Ok(0)
}

/// Says again, over a new channel, what was said in notes since the last answer: of no more signals, for what other
/// threads change meanwhile comes by their channels, and may be there already.
pub fn note_again(thread: &mut Thread) -> Result<(), CarryError> {
    let noted = thread.noted;
    for signal in (1..=64).filter(|signal| noted & bit(*signal) != 0) {
        let disposition = process_of(thread).dispositions[signal as usize];
        let args = [signal, &raw const disposition as u64, 0, 8, 0, 0];
        put_note(thread, nr::RT_SIGACTION, args, &SIGACTION)?;
    }
    // The mask.
    put_note(thread, NO_CALL, [0; 6], &[])?;
    Ok(channel::flush(thread)?)
}

fn sigprocmask(thread: &mut Thread, context: &mut Context, args: [u64; 6]) -> Result<i64, Fault> {
    let [how, new, old, size, ..] = args;
    if size != 8 {
        return Ok(sys::EINVAL);
    }
    let before = thread.mask;
    if new != 0 {
        let set = user::read::<u64>(new)?;
        let mask = match how {
            0 => before | set,
            1 => before & !set,
            2 => set,
            _ => return Ok(sys::EINVAL),
        };
        set_mask(thread, context, mask);
    }
    if old != 0 {
        user::write(old, before)?;
    }
    Ok(0)
}

/// The program's mask from now on. Home hears of it with the next call; of what it unblocks at once, for a
/// signal may be waiting there.
fn set_mask(thread: &mut Thread, context: &mut Context, mask: u64) {
    let mask = mask & !(bit(SIGKILL) | bit(SIGSTOP));
    let opened = thread.mask & !mask;
    thread.mask = mask;
    context.mask = for_kernel(mask);
    if opened != 0 {
        note(thread, NO_CALL, [0; 6], &[]);
    }
}

fn sigaltstack(thread: &mut Thread, context: &Context, args: [u64; 6]) -> Result<i64, Fault> {
    const MINSIGSTKSZ: u64 = 2048;
    const EPERM: i64 = -1;
    let [new, old, ..] = args;
    let on = on_alternate(thread, context.rsp);
    let flags = if thread.alt_size == 0 { SS_DISABLE } else if on { SS_ONSTACK } else { 0 };
    let before = [thread.alt_sp, flags, thread.alt_size];
    if new != 0 {
        let [sp, flags, size] = user::read::<[u64; 3]>(new)?;
        if on {
            return Ok(EPERM);
        }
        let flags = flags & 0xffff_ffff;
        if flags & SS_DISABLE != 0 {
            (thread.alt_sp, thread.alt_size, thread.alt_flags) = (0, 0, SS_DISABLE);
        } else if flags & !(SS_ONSTACK | 1 << 31) != 0 {
            return Ok(sys::EINVAL);
        } else if size < MINSIGSTKSZ {
            return Ok(sys::ENOMEM);
        } else {
            (thread.alt_sp, thread.alt_size, thread.alt_flags) = (sp, size, flags);
        }
    }
    if old != 0 {
        user::write(old, before)?;
    }
    Ok(0)
}

fn on_alternate(thread: &Thread, rsp: u64) -> bool {
    thread.alt_size != 0 && rsp > thread.alt_sp && rsp - thread.alt_sp <= thread.alt_size
}

/// What waits here, and what waits at home.
fn sigpending(thread: &mut Thread, context: &mut Context, args: [u64; 6]) -> Outcome {
    const SPEC: [Arg; 1] = [Arg::Out(Len::Const(8), Got::All)];
    let mut home = 0_u64;
    match forward(thread, context, nr::RT_SIGPENDING, [&raw mut home as u64, 8, 0, 0, 0, 0], &SPEC) {
        Outcome::Returns(0) => {}
        other => return other,
    }
    let size = args[1].min(8);
    let all = home | (pending() & context.mask);
    match user::copy(args[0], &raw const all as u64, size) {
        Ok(()) if args[1] <= 8 => Outcome::Returns(0),
        Ok(()) => Outcome::Returns(sys::EINVAL),
        Err(Fault) => Outcome::Returns(sys::EFAULT),
    }
}

/// Waits under another mask until a handler is due; it is called, and then the old mask is back.
fn sigsuspend(thread: &mut Thread, context: &mut Context, args: [u64; 6]) -> Outcome {
    let Ok(mask) = user::read::<u64>(args[0]) else { return Outcome::Returns(sys::EFAULT) };
    let opened = thread.mask & !mask;
    let before = thread.mask;
    if opened != 0 {
        // The deputy takes the mask with which we wait, so that what waits at home comes.
        thread.mask = mask;
        note(thread, NO_CALL, [0; 6], &[]);
        thread.mask = before;
    }
    suspend(thread, context, nr::RT_SIGSUSPEND, for_kernel(mask))
}

/// The handler is called from within, on this stack ([`on_signal`]).
fn suspend(thread: &mut Thread, context: &mut Context, call: u64, mask: u64) -> Outcome {
    let value = waiting_for(thread, context, call, nr::RT_SIGSUSPEND, [&raw const mask as u64, 8, 0, 0, 0, 0]);
    Outcome::Returns(value)
}

/// A wait for a signal, in which the agent can take the thread away: it waits again there.
fn waiting_for(thread: &mut Thread, context: &mut Context, call: u64, wait: u64, args: [u64; 6]) -> i64 {
    let kept = (context.rip, context.rax);
    (context.rip, context.rax) = (context.rip - 2, call);
    set_state(thread, WAITING);
    // SAFETY: the caller's call, on the caller's memory.
    let value = unsafe { sys::call(wait, args) };
    set_state(thread, RUNNING);
    (context.rip, context.rax) = kept;
    value
}

/// A sleep whose program does not ask what is left of it. The deputy sleeps in its place, for over a move only the kernel
/// at home knows that (`None`); here it sleeps where a move loses nothing that would be noticed.
fn sleep(
    thread: &mut Thread,
    context: &mut Context,
    call: u64,
    request: u64,
    args: [u64; 6],
) -> Option<Outcome> {
    /// Signals wait for so long.
    const SHORT_NS: u64 = 10_000_000;
    let Ok([seconds, nanoseconds]) = user::read::<[u64; 2]>(request) else {
        return Some(Outcome::Returns(sys::EFAULT));
    };
    let is_short = seconds == 0 && nanoseconds <= SHORT_NS;
    is_short.then(|| Outcome::Returns(waiting_for(thread, context, call, call, args)))
}

/// Takes one that has come here; or else home takes the next, for there it waits when it is blocked.
fn sigtimedwait(thread: &mut Thread, context: &mut Context, args: [u64; 6]) -> Outcome {
    const SPEC: [Arg; 4] = [
        Arg::In(Len::Const(8)),
        Arg::Out(Len::Const(128), Got::All),
        Arg::In(Len::Const(16)),
        Arg::Value,
    ];
    const AT_ONCE: [u64; 2] = [0; 2];
    let [set, info, _, size, ..] = args;
    if size != 8 {
        return Outcome::Returns(sys::EINVAL);
    }
    let Ok(wanted) = user::read::<u64>(set) else { return Outcome::Returns(sys::EFAULT) };
    // One that comes here from now on ends the call at home.
    thread.takes = for_kernel(wanted);
    let mut raw = [0_u64; 16];
    let poll = [&raw const thread.takes as u64, raw.as_mut_ptr() as u64, AT_ONCE.as_ptr() as u64, 8, 0, 0];
    // SAFETY: it reads the set and the time, and writes the siginfo_t.
    let got = unsafe { sys::call(nr::RT_SIGTIMEDWAIT, poll) };
    if got <= 0 {
        let outcome = forward(thread, context, nr::RT_SIGTIMEDWAIT, args, &SPEC);
        thread.takes = 0;
        return outcome;
    }
    thread.takes = 0;
    let raw = take_info(process_of(thread), got as u64).unwrap_or(raw);
    if info != 0 && user::write(info, raw).is_err() {
        return Outcome::Returns(sys::EFAULT);
    }
    Outcome::Returns(got)
}

/// What the agent has left of a signal that it has sent on.
fn take_info(process: &mut Process, signal: u64) -> Option<[u64; 16]> {
    let place = process.infos.get_mut(signal as usize)?;
    let info = *place;
    // si_signo is the first of its words.
    (info[0] & 0xffff_ffff == signal).then(|| {
        place[0] = 0;
        info
    })
}

/// The handler of every signal that the program handles, and of faults.
pub extern "C" fn on_signal(signal: i32, info: *mut [u64; 16], context: *mut Context) {
    // SAFETY: the kernel's frame, which is ours until we return.
    let (context, info) = unsafe { (&mut *context, &mut *info) };
    let signal = signal as u64;
    if matches!(signal, SIGSEGV | SIGBUS)
        && let Some(landing) = user::fault_fixup(context.rip)
    {
        context.rip = landing;
        return;
    }
    let thread = this_thread();
    let process = process_of(thread);
    let disposition = process.dispositions[signal as usize];
    if disposition.handler <= SIG_IGN {
        by_default(signal);
        return;
    }
    let info = take_info(process, signal).unwrap_or(*info);
    // A handler that interrupts a wait of ours (sigsuspend) is called in place of the program's call.
    let outer = thread.context as *mut Context;
    let within = in_own_slot(thread, context.rsp) && !outer.is_null();
    if within {
        // SAFETY: the frame in which the program stands while we wait for it.
        let outer = unsafe { &mut *outer };
        (outer.rip, outer.rax) = (outer.rip + 2, sys::EINTR as u64);
        set_state(thread, RUNNING);
        if call_handler(thread, outer, signal, &info, disposition).is_err() {
            by_default(SIGSEGV);
        }
        // SAFETY: the program goes on in its handler; nothing below that frame is used again.
        unsafe { frame::enter(outer) }
    }
    if call_handler(thread, context, signal, &info, disposition).is_err() {
        by_default(SIGSEGV);
    }
}

fn in_own_slot(thread: &Thread, rsp: u64) -> bool {
    let base = core::ptr::from_ref(thread) as u64;
    (base..base + tesela_shim::layout::SLOT).contains(&rsp)
}

/// A fault that the program does not handle: with the kernel's own disposition it comes again, and kills.
fn by_default(signal: u64) {
    let kernel = Disposition { handler: SIG_DFL, flags: SA_RESTORER, restorer: frame::restorer(), mask: 0 };
    // SAFETY: the kernel reads the four words. Sent by somebody and not a fault, it has to be sent again.
    unsafe {
        sys::call(nr::RT_SIGACTION, [signal, &raw const kernel as u64, 0, 8, 0, 0]);
        let (process, thread) = (sys::call(nr::GETPID, [0; 6]), sys::call(nr::GETTID, [0; 6]));
        sys::call(nr::TGKILL, [process as u64, thread as u64, signal, 0, 0, 0]);
    }
}

/// Puts a signal frame on the program's stack, and makes `context` go on in its handler.
fn call_handler(
    thread: &mut Thread,
    context: &mut Context,
    signal: u64,
    info: &[u64; 16],
    disposition: Disposition,
) -> Result<(), Fault> {
    const RED_ZONE: u64 = 128;
    // DF, TF, RF: as the kernel clears them for a handler.
    const CLEARED: u64 = 0x400 | 0x100 | 0x1_0000;
    let alternate = disposition.flags & SA_ONSTACK != 0 && thread.alt_size != 0 && !on_alternate(thread, context.rsp);
    let top = if alternate { thread.alt_sp + thread.alt_size } else { context.rsp - RED_ZONE };
    // SAFETY: the kernel's frame has an extended state.
    let state = unsafe { frame::fpstate_size(context.fpstate) };
    let state_at = (top - state) & !63;
    let frame_at = ((state_at - (8 + size_of::<Context>() as u64 + 128)) & !15) - 8;
    let (context_at, info_at) = (frame_at + 8, frame_at + 8 + size_of::<Context>() as u64);
    user::copy(state_at, context.fpstate, state)?;
    let mut seen = *context;
    if seen.rax == GOES_ON && user::read::<[u8; 2]>(seen.rip) == Ok([0x0f, 0x05]) {
        (seen.rip, seen.rax) = (seen.rip + 2, sys::EINTR as u64);
    }
    seen.fpstate = state_at;
    seen.mask = thread.mask;
    (seen.stack_sp, seen.stack_size) = (thread.alt_sp, thread.alt_size);
    seen.stack_flags = if thread.alt_size == 0 { SS_DISABLE } else { thread.alt_flags };
    user::write(context_at, seen)?;
    user::write(info_at, *info)?;
    user::write(frame_at, disposition.restorer)?;
    context.rip = disposition.handler;
    context.rsp = frame_at;
    (context.rdi, context.rsi, context.rdx, context.rax) = (signal, info_at, context_at, 0);
    context.rflags &= !CLEARED;
    let own = if disposition.flags & SA_NODEFER != 0 { 0 } else { bit(signal) };
    thread.mask |= disposition.mask | own;
    context.mask = for_kernel(thread.mask);
    if disposition.flags & SA_RESETHAND != 0 {
        let process = process_of(thread);
        process.dispositions[signal as usize] = Disposition::default();
        install(process, signal);
    }
    Ok(())
}

/// rt_sigreturn(2): the frame that the handler returns to lies at the program's stack pointer.
fn sigreturn(thread: &mut Thread, context: &mut Context) -> Outcome {
    let Ok(seen) = user::read::<ContextOctets>(context.rsp) else {
        by_default(SIGSEGV);
        return Outcome::Framed;
    };
    // SAFETY: as many octets, and any of them are a context.
    let seen: Context = unsafe { core::mem::transmute(seen) };
    // SAFETY: the kernel's own frame has an extended state; the program's copy is as long.
    let state = unsafe { frame::fpstate_size(context.fpstate) };
    if seen.fpstate != 0 && user::copy(context.fpstate, seen.fpstate, state).is_err() {
        by_default(SIGSEGV);
        return Outcome::Framed;
    }
    let kept = *context;
    *context = seen;
    (context.flags, context.link, context.fpstate, context.segments) =
        (kept.flags, kept.link, kept.fpstate, kept.segments);
    (context.stack_sp, context.stack_flags, context.stack_size) =
        (kept.stack_sp, kept.stack_flags, kept.stack_size);
    (context.trap, context.reserved) = (kept.trap, kept.reserved);
    (thread.alt_sp, thread.alt_size) = (seen.stack_sp, seen.stack_size);
    thread.alt_flags = seen.stack_flags & 0xffff_ffff;
    if thread.alt_flags & SS_DISABLE != 0 {
        thread.alt_size = 0;
    }
    set_mask(thread, context, seen.mask);
    Outcome::Framed
}

/// A context as words, so that it has a default.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct ContextOctets([[u64; 19]; 2]);

const _: () = assert!(size_of::<ContextOctets>() == size_of::<Context>());
