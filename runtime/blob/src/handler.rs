//! The shim's heart: what happens when the program makes a system call that the filter catches.

use tesela_shim::layout::{
    ASKING, CONTROL_ASKS, CONTROL_GONE, CONTROL_PARKED, Control, ENDING, IN_CALL, LOST, MAKING, PARKED, Process, RUNNING, SLOT, Thread,
};
use tesela_shim::table::{self, Arg, Class, GOES_ON};
use tesela_shim::wire::{KIND_CALL, KIND_CLONE, KIND_EXIT, KIND_NOTE};

use crate::channel::{self, CarryError};
use crate::frame::Context;
use crate::marshal::{MarshalError, Message};
use crate::sys::{self, nr};
use crate::{children, signals};

/// Calls that are local by their arguments, and that the filter lets the shim make: clock_gettime,
/// getitimer, setitimer, arch_prctl.
const OF_ITSELF: [u64; 4] = [228, 36, 38, 158];

/// What becomes of a call.
pub enum Outcome {
    /// It returns this.
    Returns(i64),
    /// It is made again: at once, or once the signals have been handled that wait.
    Again,
    /// It goes on at home where it was interrupted.
    GoesOn,
    /// The frame has been changed, and is what the program goes on with.
    Framed,
    /// The process goes home first.
    GoHome,
}

/// The answer to SIGSYS (`SA_SIGINFO`): every signal is blocked but those of a fault.
pub extern "C" fn on_sigsys(_signal: i32, _info: *mut u64, context: *mut Context) {
    let thread = this_thread();
    // SAFETY: the kernel's frame, which is ours until we return.
    let context = unsafe { &mut *context };
    let call = context.rax;
    let args = [context.rdi, context.rsi, context.rdx, context.r8[2], context.r8[0], context.r8[1]];
    thread.context = core::ptr::from_mut(context) as u64;
    match dispatch(thread, context, call, args) {
        Outcome::Returns(value) => context.rax = value as u64,
        Outcome::Again => again(context, call),
        Outcome::GoesOn => again(context, GOES_ON),
        Outcome::Framed => {}
        Outcome::GoHome => {
            again(context, call);
            go_home(thread);
        }
    }
    finish(thread);
}

/// The slot at whose stack this runs.
pub fn this_thread() -> &'static mut Thread {
    let here = 0_u8;
    let slot = (&raw const here as u64) & !(SLOT - 1);
    // SAFETY: the shim runs on its slots' stacks only, and a slot is one thread's.
    unsafe { &mut *(slot as *mut Thread) }
}

/// The part that the thread's process has for all its threads.
pub fn process_of(thread: &Thread) -> &'static mut Process {
    // SAFETY: it outlives the threads; what threads change in it together they change one word at a time.
    unsafe { &mut *(thread.process as *mut Process) }
}

/// Back to the `syscall` instruction, which is two octets long.
fn again(context: &mut Context, call: u64) {
    context.rip -= 2;
    context.rax = call;
}

fn dispatch(thread: &mut Thread, context: &mut Context, call: u64, args: [u64; 6]) -> Outcome {
    if call == GOES_ON {
        return forward(thread, context, nr::RESTART_SYSCALL, [0; 6], &[]);
    }
    let Some((class, spec)) = table::look_up(call, &args) else { return Outcome::GoHome };
    // Whoever waits for its end may look into the file next.
    if process_of(thread).files != 0 && matches!(call, nr::EXIT_GROUP | nr::EXECVE | nr::EXECVEAT) {
        return Outcome::GoHome;
    }
    match class {
        Class::Shim => signals::emulate(thread, context, call, args)
            .unwrap_or_else(|| forward(thread, context, call, args, spec)),
        Class::Home => own_descriptors(thread, call, args)
            .map_or_else(|args| signals::forward_masked(thread, context, call, args, spec), Outcome::Returns),
        Class::Both => both(thread, context, call, args),
        // The filter lets a local call through that is one by its number; these are by their arguments.
        // SAFETY: the program's own call.
        Class::Local if OF_ITSELF.contains(&call) => Outcome::Returns(unsafe { sys::call(call, args) }),
        Class::Local | Class::GoHome => Outcome::GoHome,
    }
}

fn both(thread: &mut Thread, context: &mut Context, call: u64, args: [u64; 6]) -> Outcome {
    match call {
        nr::CLONE | nr::FORK | nr::VFORK | nr::CLONE3 => children::make(thread, context, call, args),
        nr::EXIT | nr::EXIT_GROUP => exit(thread, call, args),
        nr::MMAP => map_file(thread, context, args),
        _ => Outcome::GoHome,
    }
}

/// The descriptors of the channels are not there for the program: `Ok` is the answer, `Err` the call as it
/// is to be made.
fn own_descriptors(thread: &Thread, call: u64, mut args: [u64; 6]) -> Result<i64, [u64; 6]> {
    let first = process_of(thread).first_fd;
    let ours = |fd: u64| (fd & 0xffff_ffff) >= first && (fd & 0xffff_ffff) < 1 << 31;
    match call {
        nr::CLOSE if ours(args[0]) => Ok(sys::EBADF),
        nr::DUP2 | nr::DUP3 if ours(args[0]) || ours(args[1]) => Ok(sys::EBADF),
        nr::CLOSE_RANGE if args[0] & 0xffff_ffff >= first => Ok(0),
        nr::CLOSE_RANGE => {
            args[1] = (args[1] & 0xffff_ffff).min(first - 1);
            Err(args)
        }
        _ => Err(args),
    }
}

/// Makes the call at home.
pub fn forward(thread: &mut Thread, context: &mut Context, call: u64, args: [u64; 6], spec: &[Arg]) -> Outcome {
    let mut message = Message::new(call, args, KIND_CALL);
    match message.describe(spec) {
        Ok(()) => {}
        Err(MarshalError::Fault) => return Outcome::Returns(sys::EFAULT),
        Err(MarshalError::TooMuch) => return Outcome::GoHome,
    }
    exchange(thread, context, &mut message)
}

/// Sends a message and takes its answer, unless a signal waits that the program has to handle first.
pub fn exchange(thread: &mut Thread, context: &Context, message: &mut Message) -> Outcome {
    set_state(thread, IN_CALL);
    // From here on the agent that sends on a signal knows that a call is on its way, and cancels it. A
    // signal that came before is seen here.
    // The same holds for an agent that wants the thread to stand still.
    if signals::due(thread, context) != 0 || sys::look(&thread.freeze) != 0 {
        set_state(thread, RUNNING);
        return Outcome::Again;
    }
    message.number(thread);
    let done = loop {
        match message.send(thread).and_then(|()| message.receive(thread)) {
            Err(CarryError::Broken) => anew(thread).unwrap_or_else(|Over| wait_for_end(thread)),
            done => break done,
        }
    };
    set_state(thread, if message.request.kind == KIND_CLONE { MAKING } else { RUNNING });
    process_of(thread).forwarded += 1;
    thread.noted = 0;
    match done {
        Ok(value @ -516..=-512) => signals::interrupted(thread, context, message.request.nr, value),
        Ok(sys::EINTR) if table::SAYS_EINTR.contains(&message.request.nr) && signals::waiting(context) == 0 => {
            Outcome::Again
        }
        Ok(value) => Outcome::Returns(value),
        Err(_) => Outcome::Returns(sys::EFAULT),
    }
}

/// Writes the thread's state so that the agent reads it in this order.
pub fn set_state(thread: &mut Thread, state: u32) {
    // SAFETY: a reference is valid to write.
    unsafe { core::ptr::write_volatile(&raw mut thread.state, state) };
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

/// The deputy has ended, and the thread's own end is due.
#[derive(Debug)]
pub struct Over;

/// Waits for another channel in place of one that is broken. What was not answered has to be said again, after the
/// notes that were said last, for nobody knows whether they have arrived.
fn anew(thread: &mut Thread) -> Result<(), Over> {
    let before = thread.state;
    set_state(thread, LOST);
    loop {
        children::await_channel(thread)?;
        if signals::note_again(thread).is_ok() {
            set_state(thread, before);
            return Ok(());
        }
    }
}

fn wait_for_end(thread: &Thread) -> ! {
    loop {
        sys::wait(&thread.futex, sys::look(&thread.futex));
    }
}

/// Asks to be taken home, where the call at which the program stands can be made. It is, or is told to go on.
fn go_home(thread: &mut Thread) {
    set_state(thread, ASKING);
    thread.freeze = 1;
    let asks = Control { kind: CONTROL_ASKS, tid: thread.tid, ..Control::default() };
    children::send_control(process_of(thread), &asks);
}

/// Before the program goes on: the agent may want the thread to wait here.
fn finish(thread: &mut Thread) {
    if sys::look(&thread.freeze) != 0 {
        set_state(thread, PARKED);
        let parked = Control { kind: CONTROL_PARKED, tid: thread.tid, ..Control::default() };
        children::send_control(process_of(thread), &parked);
        while sys::look(&thread.freeze) != 0 {
            sys::wait(&thread.freeze, 1);
        }
    }
    set_state(thread, RUNNING);
}

/// Tells home, which ends as the program wants, and then ends here.
fn exit(thread: &mut Thread, call: u64, args: [u64; 6]) -> Outcome {
    let mut message = Message::new(call, args, KIND_EXIT);
    set_state(thread, ENDING);
    message.number(thread);
    // Until it is answered, or the deputy has ended; the end of all of them is answered by none but the agent.
    while message.send(thread).and_then(|()| message.receive(thread)).is_err() && anew(thread).is_ok() {}
    if call == nr::EXIT {
        let gone = Control { kind: CONTROL_GONE, tid: thread.tid, ..Control::default() };
        children::send_control(process_of(thread), &gone);
        // SAFETY: it ends this thread only, natively, as robust lists and pthread_join(3) want it. The
        // descriptor is this thread's own.
        unsafe {
            sys::call(nr::CLOSE, [thread.fd as u64, 0, 0, 0, 0, 0]);
            sys::call(nr::EXIT, args);
        }
    }
    // The end of the deputy is the end of all: the agent sees it.
    wait_for_end(thread)
}

/// A private mapping of a file: anonymous memory with the file's content, which the deputy reads. What it cannot read
/// (a device's, or nothing that can be mapped) is for the kernel to judge at home.
fn map_file(thread: &mut Thread, context: &mut Context, args: [u64; 6]) -> Outcome {
    const CHUNK: u64 = 1 << 20;
    const MAP_ANONYMOUS: u64 = 0x20;
    let [address, length, protection, flags, fd, offset] = args;
    // SAFETY: the program's own call, but for the file; the filter lets it through.
    let at = unsafe {
        sys::call(nr::MMAP, [address, length, protection | 3, flags | MAP_ANONYMOUS, u64::MAX, 0])
    };
    if at < 0 {
        return Outcome::Returns(at);
    }
    let spec = [Arg::Fd, Arg::Out(table::Len::Arg(2), table::Got::Ret), Arg::Value, Arg::Value];
    let mut done = 0;
    while done < length {
        let part = CHUNK.min(length - done);
        let call = [fd, at as u64 + done, part, offset + done, 0, 0];
        match forward(thread, context, nr::PREAD64, call, &spec) {
            Outcome::Returns(0) => break,
            Outcome::Returns(got @ 1..) => done += got as u64,
            other => {
                // SAFETY: what was just mapped.
                unsafe { sys::call(nr::MUNMAP, [at as u64, length, 0, 0, 0, 0]) };
                return if let Outcome::Returns(_) = other { Outcome::GoHome } else { other };
            }
        }
    }
    if protection & 3 != 3 {
        // SAFETY: what was just mapped.
        unsafe { sys::call(nr::MPROTECT, [at as u64, length, protection, 0, 0, 0]) };
    }
    Outcome::Returns(at)
}

/// A change that home has to know, and that is not waited for.
pub fn note(thread: &mut Thread, call: u64, args: [u64; 6], spec: &[Arg]) {
    // Over another channel it is said again with the others.
    let told = put_note(thread, call, args, spec).and_then(|()| Ok(channel::flush(thread)?));
    if let Err(CarryError::Broken) = told
        && let Err(Over) = anew(thread)
    {
        wait_for_end(thread);
    }
}

/// The same, to be sent with what follows.
pub fn put_note(thread: &mut Thread, call: u64, args: [u64; 6], spec: &[Arg]) -> Result<(), CarryError> {
    let mut message = Message::new(call, args, KIND_NOTE);
    match message.describe(spec) {
        Ok(()) => message.put(thread),
        Err(_) => Err(CarryError::Fault),
    }
}
