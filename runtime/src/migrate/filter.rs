//! The seccomp filter of a body, as classic BPF.
//!
//! ```text
//! not x86-64                                   kill
//! local by the table                           allow
//! mmap with MAP_ANONYMOUS and MAP_PRIVATE      allow
//! a sleep until a time, by a clock of a         allow
//! process, or that says what is left of it
//! made by the blob, and one of its own calls   allow
//! everything else                              SIGSYS, to the shim
//! ```
//! What the blob's own calls can do is nothing that the program gains by jumping there: they send and
//! receive on descriptors that lead to the agent and to the deputy only, and change the caller itself.

use tesela_shim::layout::CODE;
use tesela_shim::table::{Class, ROWS};

/// One instruction: `struct sock_filter`.
pub type Instruction = libc::sock_filter;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const ALLOW: u32 = 0x7fff_0000;
const TRAP: u32 = 0x0003_0000;
const KILL: u32 = 0x8000_0000;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const IP: u32 = 8;
const fn argument(index: u32) -> u32 {
    16 + index * 8
}

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// What the shim calls for itself.
const OWN: [libc::c_long; 26] = [
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_futex,
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_tgkill,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_close,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    // Local by their arguments, which the shim has looked at.
    libc::SYS_clock_gettime,
    libc::SYS_getitimer,
    libc::SYS_setitimer,
    libc::SYS_arch_prctl,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
];

const fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// The filter for a region at `base`.
pub fn filter(base: u64) -> Vec<Instruction> {
    let mut program = vec![
        plain(LOAD, ARCH),
        jump(EQUAL, AUDIT_ARCH_X86_64, 1, 0),
        plain(RETURN, KILL),
        plain(LOAD, NR),
        // x32's calls have bit 30.
        jump(AT_LEAST, 0x4000_0000, 0, 1),
        plain(RETURN, KILL),
    ];
    for nr in local() {
        program.push(jump(EQUAL, nr, 0, 1));
        program.push(plain(RETURN, ALLOW));
    }
    // mmap: MAP_PRIVATE and MAP_ANONYMOUS, of the types no other, and without MAP_LOCKED and MAP_HUGETLB.
    program.extend([
        jump(EQUAL, number(libc::SYS_mmap), 0, 5),
        plain(LOAD, argument(3)),
        plain(AND, 0x4_202f),
        jump(EQUAL, 0x22, 0, 1),
        plain(RETURN, ALLOW),
        plain(LOAD, NR),
    ]);
    // Sleeps with room for what is left of them, with TIMER_ABSTIME, or by a clock that is not everybody's.
    program.push(jump(EQUAL, number(libc::SYS_nanosleep), 0, 6));
    program.extend(allow_with(1));
    program.extend([
        jump(EQUAL, number(libc::SYS_clock_nanosleep), 0, 13),
        plain(LOAD, argument(0)),
        jump(EQUAL, clock(libc::CLOCK_REALTIME), 2, 0),
        jump(EQUAL, clock(libc::CLOCK_MONOTONIC), 1, 0),
        jump(EQUAL, clock(libc::CLOCK_BOOTTIME), 0, 7),
        plain(LOAD, argument(1)),
        plain(AND, 1),
        jump(EQUAL, 0, 0, 4),
    ]);
    program.extend(allow_with(3));
    let [low, high] = [base, base >> 32].map(|half| u32::try_from(half & 0xffff_ffff).unwrap_or(0));
    let within = u32::try_from(CODE).unwrap_or(0).wrapping_neg();
    program.extend([
        plain(LOAD, IP + 4),
        jump(EQUAL, high, 1, 0),
        plain(RETURN, TRAP),
        plain(LOAD, IP),
        // The region is aligned to CODE, a power of two.
        plain(AND, within),
        jump(EQUAL, low, 1, 0),
        plain(RETURN, TRAP),
        plain(LOAD, NR),
    ]);
    for nr in OWN.map(number) {
        program.push(jump(EQUAL, nr, 0, 1));
        program.push(plain(RETURN, ALLOW));
    }
    program.push(plain(RETURN, TRAP));
    program
}

/// Allows a call in which this argument is not 0, and goes on with the next one. The last but one allows it.
const fn allow_with(index: u32) -> [Instruction; 6] {
    [
        plain(LOAD, argument(index)),
        jump(EQUAL, 0, 0, 2),
        plain(LOAD, argument(index) + 4),
        jump(EQUAL, 0, 1, 0),
        plain(RETURN, ALLOW),
        plain(LOAD, NR),
    ]
}

fn clock(id: libc::clockid_t) -> u32 {
    u32::try_from(id).unwrap_or(u32::MAX)
}

fn number(nr: libc::c_long) -> u32 {
    u32::try_from(nr).unwrap_or(u32::MAX)
}

/// The calls that need no look at their arguments.
fn local() -> Vec<u32> {
    let refined = [libc::SYS_mmap].map(number);
    ROWS.iter()
        .filter(|row| row.class == Class::Local && !row.name.is_empty())
        .map(|row| u32::from(row.nr))
        .filter(|nr| !refined.contains(nr))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x5f00_0000_0000;

    /// What the kernel makes of a call: classic BPF on `struct seccomp_data`.
    fn judged(nr: libc::c_long, ip: u64, args: [u64; 6]) -> u32 {
        let mut data = [number(nr).to_ne_bytes(), AUDIT_ARCH_X86_64.to_ne_bytes()].concat();
        data.extend([ip].iter().chain(&args).flat_map(|word| word.to_ne_bytes()));
        let word = |at: u32| {
            let at = usize::try_from(at).unwrap();
            u32::from_ne_bytes(data[at..at + 4].try_into().unwrap())
        };
        let (program, mut next, mut value) = (filter(BASE), 0, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[next];
            let jump = |is| usize::from(if is { jt } else { jf });
            next += 1;
            match code {
                LOAD => value = word(k),
                AND => value &= k,
                EQUAL => next += jump(value == k),
                AT_LEAST => next += jump(value >= k),
                RETURN => return k,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn what_the_program_does_itself_is_let_through() {
        let (memory, high) = (0x7ffc_0000_1000, 1 << 32);
        for (nr, args, verdict) in [
            (libc::SYS_getpid, [0; 6], ALLOW),
            (libc::SYS_restart_syscall, [0; 6], ALLOW),
            (libc::SYS_read, [0; 6], TRAP),
            (libc::c_long::try_from(tesela_shim::table::GOES_ON).unwrap(), [0; 6], TRAP),
            (libc::SYS_mmap, [0, 4096, 3, 0x22, u64::MAX, 0], ALLOW),
            (libc::SYS_mmap, [0, 4096, 3, 0x02, 3, 0], TRAP),
            (libc::SYS_nanosleep, [memory, 0, 0, 0, 0, 0], TRAP),
            (libc::SYS_nanosleep, [memory, memory, 0, 0, 0, 0], ALLOW),
            (libc::SYS_nanosleep, [memory, high, 0, 0, 0, 0], ALLOW),
            // Of a clock: for a time, until one, with room, and of the processor's time.
            (libc::SYS_clock_nanosleep, [0, 0, memory, 0, 0, 0], TRAP),
            (libc::SYS_clock_nanosleep, [1, 0, memory, 0, 0, 0], TRAP),
            (libc::SYS_clock_nanosleep, [7, 0, memory, 0, 0, 0], TRAP),
            (libc::SYS_clock_nanosleep, [1, 1, memory, 0, 0, 0], ALLOW),
            (libc::SYS_clock_nanosleep, [1, 0, memory, memory, 0, 0], ALLOW),
            (libc::SYS_clock_nanosleep, [1, 0, memory, high, 0, 0], ALLOW),
            (libc::SYS_clock_nanosleep, [2, 0, memory, 0, 0, 0], ALLOW),
            (0x4000_0000, [0; 6], KILL),
        ] {
            assert_eq!(judged(nr, 0x40_1000, args), verdict, "{nr} {args:x?}");
        }
        for nr in [libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_sendto] {
            assert_eq!(judged(nr, BASE + 64, [0; 6]), ALLOW, "of the blob's own: {nr}");
            assert_eq!(judged(nr, BASE + CODE, [0; 6]), TRAP, "{nr}");
        }
        assert_eq!(judged(libc::SYS_read, BASE + 64, [0; 6]), TRAP);
    }
}
