//! The signal frame, as the kernel lays it out (asm/sigcontext.h, asm/ucontext.h).

use core::arch::asm;

pub use tesela_shim::layout::Context;
use tesela_shim::layout::{MAGIC1, SOFTWARE};

/// The legacy area alone, where there is no more.
const LEGACY: u64 = 512;

/// Octets of the extended state at `address`, its end mark included.
///
/// # Safety
/// A frame's extended state that the kernel made, or a copy.
pub unsafe fn fpstate_size(address: u64) -> u64 {
    let software = (address + SOFTWARE) as *const u32;
    // SAFETY: the legacy area is always there.
    let (magic, size) = unsafe { (software.read_unaligned(), software.add(1).read_unaligned()) };
    if magic == MAGIC1 { u64::from(size) } else { LEGACY }
}

/// Goes on where the frame says: the registers, the mask and the alternate stack become the frame's.
///
/// # Safety
/// The frame describes a state that the thread may be in.
pub unsafe fn enter(context: *const Context) -> ! {
    // SAFETY: rt_sigreturn(2) takes the frame at the stack pointer and does not return.
    unsafe { asm!("mov rsp, {}", "mov eax, 15", "syscall", "ud2", in(reg) context, options(noreturn)) }
}

core::arch::global_asm!(
    ".globl tesela_restorer",
    "tesela_restorer:",
    "mov eax, 15",
    "syscall",
    "ud2"
);

unsafe extern "C" {
    static tesela_restorer: u8;
}

/// What our own handlers return to.
pub fn restorer() -> u64 {
    (&raw const tesela_restorer) as u64
}
