//! Calls in which a thread was interrupted, and with which its kernel goes on where it was (restart_syscall(2)): those that
//! wait for a time, nanosleep, clock_nanosleep, poll and futex. What is left of it only that kernel knows.
//!
//! At home a thread is left to its kernel. One that goes away in a sleep has its deputy go on with it ([`GOES_ON`]); in
//! any other call it begins anew, as in all on its way home.

use libc::user_regs_struct;
use nix::unistd::Pid;
use tesela_shim::table::GOES_ON;

use super::sys;

const RESTART_SYSCALL: u64 = libc::SYS_restart_syscall.cast_unsigned();
/// ERESTART_RESTARTBLOCK, the kernel's word for it.
pub const INTERRUPTED: u64 = i64::cast_unsigned(-516);
/// No memory of a program's is below.
const LOWEST: u64 = 4096;

/// Whether a stopped thread's kernel goes on with a call: it was interrupted in it, or is about to go on.
pub fn goes_on(tid: Pid, registers: &user_regs_struct) -> bool {
    if registers.orig_rax.cast_signed() >= 0 {
        return registers.rax == INTERRUPTED;
    }
    registers.rax == RESTART_SYSCALL && is_at_call(tid, registers.rip)
}

/// Settled registers ([`super::tracee::settled`]) of a thread that stays at home and goes on with a call, or was to do so
/// from away.
pub fn at_home(tid: Pid, mut registers: user_regs_struct, goes_on: bool) -> user_regs_struct {
    if goes_on || (registers.rax == GOES_ON && is_at_call(tid, registers.rip)) {
        registers.rax = RESTART_SYSCALL;
    }
    registers
}

/// Settled registers of a thread that leaves home, and goes on with a call.
pub fn away(tid: Pid, mut registers: user_regs_struct) -> user_regs_struct {
    let r = &registers;
    registers.rax = match r.rax.cast_signed() {
        libc::SYS_nanosleep if r.rsi == 0 => GOES_ON,
        libc::SYS_clock_nanosleep if r.r10 == 0 && passes(r.rdi) => GOES_ON,
        // Only its arguments say which call it is. Where there is no memory in the first place it is a sleep, by poll(2) as
        // well, and it makes no difference which.
        libc::SYS_restart_syscall => match (r.rdi, r.rsi) {
            (clock @ ..LOWEST, 0) if passes(clock) => GOES_ON,
            (..LOWEST, 0) => libc::SYS_clock_nanosleep.cast_unsigned(),
            _ if is_futex(tid, r) => libc::SYS_futex.cast_unsigned(),
            (_, 0) => GOES_ON,
            (_, LOWEST..) => libc::SYS_nanosleep.cast_unsigned(),
            _ => libc::SYS_poll.cast_unsigned(),
        },
        _ => r.rax,
    };
    registers
}

/// Settled registers of a thread of a body, where it is one of the calls that are made here, and nobody goes on with it.
pub fn anew(tid: Pid, mut registers: user_regs_struct) -> user_regs_struct {
    let r = &registers;
    if r.rax == RESTART_SYSCALL && is_at_call(tid, r.rip) {
        let call = match (r.rdi, r.rsi) {
            (..LOWEST, 0) => libc::SYS_clock_nanosleep,
            _ if is_futex(tid, r) => libc::SYS_futex,
            _ => libc::SYS_nanosleep,
        };
        registers.rax = call.cast_unsigned();
    }
    registers
}

/// A clock that goes on whether a process runs or not.
fn passes(clock: u64) -> bool {
    matches!(
        libc::c_int::try_from(clock & 0xffff_ffff),
        Ok(libc::CLOCK_REALTIME | libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME)
    )
}

/// Whether these are the arguments of futex(2) that waits until a time.
fn is_futex(tid: Pid, registers: &user_regs_struct) -> bool {
    const FUTEX_WAIT: u64 = 0;
    const FUTEX_WAIT_BITSET: u64 = 9;
    const FUTEX_PRIVATE_FLAG: u64 = 128;
    const FUTEX_CLOCK_REALTIME: u64 = 256;
    let command = registers.rsi & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
    let (mut word, mut time) = ([0; 4], [0; 16]);
    let read = |at, octets: &mut [u8]| sys::read_memory(tid, at, octets).is_ok_and(|got| got == octets.len());
    if !matches!(command, FUTEX_WAIT | FUTEX_WAIT_BITSET)
        || !registers.rdi.is_multiple_of(4)
        || !read(registers.rdi, &mut word)
        || !read(registers.r10, &mut time)
    {
        return false;
    }
    let half = |at: usize| time[at..].first_chunk().map_or(-1, |octets| i64::from_ne_bytes(*octets));
    u64::from(u32::from_ne_bytes(word)) == registers.rdx & 0xffff_ffff
        && half(0) >= 0
        && (0..1_000_000_000).contains(&half(8))
}

/// Whether it stands before a `syscall` instruction.
fn is_at_call(tid: Pid, rip: u64) -> bool {
    let mut octets = [0; 2];
    sys::read_memory(tid, rip, &mut octets).is_ok() && octets == [0x0f, 0x05]
}

#[cfg(test)]
mod tests {
    use super::super::tracee::settled;
    use super::*;

    static SYSCALL: [u8; 2] = [0x0f, 0x05];

    /// A thread that was interrupted in a call, and stands behind it.
    fn stopped(call: i64, rdi: u64, rsi: u64, rdx: u64, r10: u64) -> user_regs_struct {
        let rip = SYSCALL.as_ptr() as u64 + 2;
        let (orig_rax, rax) = (call.cast_unsigned(), INTERRUPTED);
        // SAFETY: integers only.
        let none: user_regs_struct = unsafe { std::mem::zeroed() };
        user_regs_struct { orig_rax, rax, rip, rdi, rsi, rdx, r10, ..none }
    }

    #[test]
    fn a_kernel_goes_on_with_what_it_remembers() {
        let own = Pid::this();
        let sleeps = stopped(libc::SYS_clock_nanosleep, 1, 0, LOWEST, 0);
        assert!(goes_on(own, &sleeps));
        assert!(!goes_on(own, &user_regs_struct { rax: i64::cast_unsigned(-512), ..sleeps }));
        let call = settled(sleeps);
        assert_eq!(
            (call.rax, call.rip),
            (libc::SYS_clock_nanosleep.cast_unsigned(), SYSCALL.as_ptr() as u64)
        );
        assert_eq!(at_home(own, call, false).rax, call.rax);
        let again = at_home(own, call, true);
        assert_eq!(again.rax, RESTART_SYSCALL);
        // Stopped again before it has done so.
        assert!(goes_on(own, &again));
        // It was in its own code, whatever it computed there.
        let computes = user_regs_struct { orig_rax: u64::MAX, rip: call.rip + 1, ..sleeps };
        for rax in [INTERRUPTED, RESTART_SYSCALL, GOES_ON] {
            let computes = user_regs_struct { rax, ..computes };
            assert!(!goes_on(own, &computes));
            assert_eq!((settled(computes).rip, at_home(own, computes, false).rax), (computes.rip, rax));
            assert_eq!(anew(own, computes).rax, rax);
        }
    }

    #[test]
    fn a_deputy_goes_on_with_a_sleep_and_nothing_else() {
        let own = Pid::this();
        let (word, time) = (7_u32, [600_i64, 5]);
        let (futex, time) = (&raw const word as u64, &raw const time as u64);
        let restarted = libc::SYS_restart_syscall;
        let goes = GOES_ON.cast_signed();
        for (call, [rdi, rsi, rdx, r10], leaves) in [
            (libc::SYS_nanosleep, [time, 0, 0, 0], goes),
            (libc::SYS_nanosleep, [time, time, 0, 0], libc::SYS_nanosleep),
            (libc::SYS_clock_nanosleep, [1, 0, time, 0], goes),
            (libc::SYS_clock_nanosleep, [1, 0, time, time], libc::SYS_clock_nanosleep),
            (libc::SYS_clock_nanosleep, [2, 0, time, 0], libc::SYS_clock_nanosleep),
            (libc::SYS_poll, [futex, 1, 600, 0], libc::SYS_poll),
            (libc::SYS_futex, [futex, 0, 7, time], libc::SYS_futex),
            // It had been interrupted before.
            (restarted, [1, 0, 0x4c_3010, 0], goes),
            (restarted, [2, 0, time, 0], libc::SYS_clock_nanosleep),
            (restarted, [0, 0, 0xffff_ffff, 1], goes),
            (restarted, [time, 0, 0, 0], goes),
            (restarted, [time, time, 0, 0], libc::SYS_nanosleep),
            (restarted, [futex, 0, 7, time], libc::SYS_futex),
            (restarted, [futex, 128, 7, time], libc::SYS_futex),
            (restarted, [futex, 256 | 9, 7, time], libc::SYS_futex),
            (restarted, [futex, 128, 8, time], libc::SYS_poll),
            (restarted, [futex, 128, 7, 0], libc::SYS_poll),
            (restarted, [futex, 3, 600_000, 0], libc::SYS_poll),
        ] {
            let stopped = stopped(call, rdi, rsi, rdx, r10);
            assert!(goes_on(own, &stopped));
            let gone = away(own, settled(stopped));
            assert_eq!(gone.rax.cast_signed(), leaves, "{call} {rdi:#x} {rsi:#x} {rdx:#x} {r10:#x}");
            if leaves == goes {
                assert_eq!(at_home(own, gone, false).rax, RESTART_SYSCALL);
            }
        }
        // A body's own: none of these is poll there.
        for ([rdi, rsi, rdx, r10], begins) in [
            ([1, 0, time, time], libc::SYS_clock_nanosleep),
            ([time, time, 0, 0], libc::SYS_nanosleep),
            ([futex, 128 | 256 | 9, 7, time], libc::SYS_futex),
        ] {
            let body = anew(own, settled(stopped(restarted, rdi, rsi, rdx, r10)));
            assert_eq!(body.rax.cast_signed(), begins);
        }
    }
}
