//! The blob: the code that the agent maps into a process that moves, at home and away.
//!
//! It stands alone: no library, no thread-local storage, no memory but the region that
//! `tesela_shim::layout` describes, and it runs at whatever address it is put. Everything that it knows of
//! its thread is in the slot at the base of its stack.
//!
//! - [`handler`]: the shim proper, the body's answer to SIGSYS; with [`marshal`], [`signals`], [`children`].
//! - [`resident`]: the deputy's loop.
//! - [`restore`]: how a body is built, from inside.
//! - [`collect`]: what only the process itself can say of itself, before it moves.
//!
//! What it does with an argument that leads nowhere is what the kernel does: EFAULT ([`user`]).
#![no_std]
#![no_main]

mod channel;
mod children;
mod collect;
mod frame;
mod handler;
mod marshal;
mod resident;
mod restore;
mod signals;
mod sys;
mod user;

use tesela_shim::layout::{self, Thread};

core::arch::global_asm!(
    // The agent starts a thread here: command in rdi, the thread's slot in rsi, the stack set.
    ".globl _start",
    "_start:",
    "and rsp, -16",
    "call {enter}",
    "int3",
    "ud2",
    enter = sym enter,
);

extern "C" fn enter(command: u64, thread: *mut Thread) {
    // SAFETY: the agent names a slot of this process, which nobody else uses while it waits for us.
    let thread = unsafe { &mut *thread };
    match command {
        layout::ENTER_COLLECT => collect::collect(thread),
        layout::ENTER_ADOPT => collect::adopt(thread),
        layout::ENTER_RESIDENT => resident::serve(thread),
        layout::ENTER_RESTORE => restore::restore(thread),
        _ => {}
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::trap()
}
