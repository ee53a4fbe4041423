//! The program's memory, where any address may lead nowhere.
//!
//! A fault in one of these routines does not kill: the handler of SIGSEGV and SIGBUS sees where it was
//! ([`fault_fixup`]) and makes it go on at its landing place, which says EFAULT.

use core::arch::naked_asm;

/// The address led nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// PATH_MAX, and what a string of argv or the environment may have at the most (MAX_ARG_STRLEN).
pub const LONGEST_STRING: u64 = 128 * 1024;

#[unsafe(naked)]
unsafe extern "C" fn copy_routine(to: u64, from: u64, length: u64) -> u64 {
    naked_asm!(
        "mov rcx, rdx",
        "xor eax, eax",
        ".globl tesela_copy_begin",
        "tesela_copy_begin:",
        "rep movsb",
        ".globl tesela_copy_end",
        "tesela_copy_end:",
        "ret",
    )
}

#[unsafe(naked)]
unsafe extern "C" fn length_routine(from: u64, limit: u64) -> u64 {
    naked_asm!(
        "xor ecx, ecx",
        ".globl tesela_length_begin",
        "tesela_length_begin:",
        "cmp rcx, rsi",
        "jae 2f",
        "cmp byte ptr [rdi + rcx], 0",
        "je 2f",
        "inc rcx",
        "jmp tesela_length_begin",
        "2:",
        "mov rax, rcx",
        ".globl tesela_length_end",
        "tesela_length_end:",
        "ret",
        ".globl tesela_user_fault",
        "tesela_user_fault:",
        "mov rax, -1",
        "ret",
    )
}

unsafe extern "C" {
    static tesela_copy_begin: u8;
    static tesela_copy_end: u8;
    static tesela_length_begin: u8;
    static tesela_length_end: u8;
    static tesela_user_fault: u8;
}

/// Where a fault at `rip` goes on, if it was in one of the routines.
pub fn fault_fixup(rip: u64) -> Option<u64> {
    let at = |label: *const u8| label as u64;
    let within = (at(&raw const tesela_copy_begin)..at(&raw const tesela_copy_end)).contains(&rip)
        || (at(&raw const tesela_length_begin)..at(&raw const tesela_length_end)).contains(&rip);
    within.then_some(at(&raw const tesela_user_fault))
}

/// Copies from or to the program's memory.
pub fn copy(to: u64, from: u64, length: u64) -> Result<(), Fault> {
    // SAFETY: one of the two is ours and `length` long (the callers'), and the other may fault.
    match unsafe { copy_routine(to, from, length) } {
        0 => Ok(()),
        _ => Err(Fault),
    }
}

/// A value of the program's.
pub fn read<T: Copy + Default>(from: u64) -> Result<T, Fault> {
    let mut value = T::default();
    copy(&raw mut value as u64, from, size_of::<T>() as u64)?;
    Ok(value)
}

/// Changes a value of the program's.
pub fn write<T: Copy>(to: u64, value: T) -> Result<(), Fault> {
    copy(to, &raw const value as u64, size_of::<T>() as u64)
}

/// Octets of a string before its NUL; `limit` where there is none before that.
pub fn string_length(from: u64, limit: u64) -> Result<u64, Fault> {
    // SAFETY: it only reads, and may fault.
    match unsafe { length_routine(from, limit) } {
        u64::MAX => Err(Fault),
        length => Ok(length),
    }
}
