//! System calls, and the few routines that the compiler takes for granted.

use core::arch::{asm, global_asm, naked_asm};

/// A system call. The result is the kernel's: an error is its number, negative.
///
/// # Safety
/// That of the call with these arguments.
pub unsafe fn call(nr: u64, a: [u64; 6]) -> i64 {
    let result;
    // SAFETY: the kernel changes rax, rcx and r11 only, and memory as the call says.
    unsafe {
        asm!("syscall", inlateout("rax") nr => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
             in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _,
             options(nostack));
    }
    result
}

/// Numbers of the calls that the blob makes for itself.
pub mod nr {
    pub const MMAP: u64 = 9;
    pub const MPROTECT: u64 = 10;
    pub const MUNMAP: u64 = 11;
    pub const BRK: u64 = 12;
    pub const RT_SIGACTION: u64 = 13;
    pub const RT_SIGPROCMASK: u64 = 14;
    pub const RT_SIGRETURN: u64 = 15;
    pub const PREAD64: u64 = 17;
    pub const SCHED_YIELD: u64 = 24;
    pub const MREMAP: u64 = 25;
    pub const MLOCK2: u64 = 325;
    pub const PAUSE: u64 = 34;
    pub const NANOSLEEP: u64 = 35;
    pub const GETPID: u64 = 39;
    pub const SENDTO: u64 = 44;
    pub const RECVFROM: u64 = 45;
    pub const RECVMSG: u64 = 47;
    pub const CLONE: u64 = 56;
    pub const FORK: u64 = 57;
    pub const VFORK: u64 = 58;
    pub const EXIT: u64 = 60;
    pub const FCNTL: u64 = 72;
    pub const SETGROUPS: u64 = 116;
    pub const SETRESUID: u64 = 117;
    pub const SETRESGID: u64 = 119;
    pub const CAPSET: u64 = 126;
    pub const RT_SIGPENDING: u64 = 127;
    pub const RT_SIGTIMEDWAIT: u64 = 128;
    pub const RT_SIGSUSPEND: u64 = 130;
    pub const SIGALTSTACK: u64 = 131;
    pub const PERSONALITY: u64 = 135;
    pub const PRCTL: u64 = 157;
    pub const ARCH_PRCTL: u64 = 158;
    pub const GETTID: u64 = 186;
    pub const FUTEX: u64 = 202;
    pub const PSELECT6: u64 = 270;
    pub const PPOLL: u64 = 271;
    pub const EPOLL_PWAIT: u64 = 281;
    pub const EPOLL_PWAIT2: u64 = 441;
    pub const SET_TID_ADDRESS: u64 = 218;
    pub const RESTART_SYSCALL: u64 = 219;
    pub const CLOCK_NANOSLEEP: u64 = 230;
    pub const EXECVE: u64 = 59;
    pub const EXIT_GROUP: u64 = 231;
    pub const EXECVEAT: u64 = 322;
    pub const TGKILL: u64 = 234;
    pub const SET_ROBUST_LIST: u64 = 273;
    pub const CLOSE: u64 = 3;
    pub const DUP2: u64 = 33;
    pub const DUP3: u64 = 292;
    pub const SECCOMP: u64 = 317;
    pub const USERFAULTFD: u64 = 323;
    pub const RSEQ: u64 = 334;
    pub const CLONE3: u64 = 435;
    pub const CLOSE_RANGE: u64 = 436;
}

/// EBADF, negative.
pub const EBADF: i64 = -9;
/// EINTR, negative.
pub const EINTR: i64 = -4;
/// EFAULT, negative.
pub const EFAULT: i64 = -14;
/// EINVAL, negative.
pub const EINVAL: i64 = -22;
/// ENOMEM, negative.
pub const ENOMEM: i64 = -12;

/// Stops where the agent sees it, or ends the process where no agent looks.
pub fn trap() -> ! {
    loop {
        breakpoint();
    }
}

/// Stops once where the agent sees it.
pub fn breakpoint() {
    // SAFETY: int3 has no effect but its signal.
    unsafe { asm!("int3", options(nostack)) }
}

/// Waits while `*word` is `value`; it may return early.
pub fn wait(word: &u32, value: u32) {
    let address = core::ptr::from_ref(word) as u64;
    // SAFETY: FUTEX_WAIT | FUTEX_PRIVATE_FLAG reads the word only. It returns at once if it has changed.
    unsafe { call(nr::FUTEX, [address, 128, u64::from(value), 0, 0, 0]) };
}

/// Wakes all that wait.
pub fn wake_all(word: &u32) {
    let address = core::ptr::from_ref(word) as u64;
    // SAFETY: FUTEX_WAKE | FUTEX_PRIVATE_FLAG.
    unsafe { call(nr::FUTEX, [address, 129, i32::MAX as u64, 0, 0, 0]) };
}

/// A word that another thread or the agent changes meanwhile.
pub fn look(word: &u32) -> u32 {
    // SAFETY: a reference is valid to read.
    unsafe { core::ptr::read_volatile(word) }
}

/// Makes a call of the program's, unless `*cancel` is `seq`: then it is -513 (ERESTARTNOINTR), for a signal that
/// comes before a call begins is no reason not to make it.
///
/// The agent knows the three labels: interrupted between the first two, the call has not begun, and is
/// made to go on at the third.
///
/// # Safety
/// That of the call with these arguments.
#[unsafe(naked)]
pub unsafe extern "C" fn guarded(nr: u64, args: *const u64, cancel: *const u64, seq: u64) -> i64 {
    naked_asm!(
        "mov rax, rdi",
        ".globl tesela_call_begin",
        "tesela_call_begin:",
        "cmp [rdx], rcx",
        "je tesela_call_cancel",
        "mov r11, rsi",
        "mov rdi, [r11]",
        "mov rsi, [r11 + 8]",
        "mov rdx, [r11 + 16]",
        "mov r10, [r11 + 24]",
        "mov r8, [r11 + 32]",
        "mov r9, [r11 + 40]",
        "syscall",
        ".globl tesela_call_end",
        "tesela_call_end:",
        "ret",
        ".globl tesela_call_cancel",
        "tesela_call_cancel:",
        "mov rax, -513",
        "ret",
    )
}

unsafe extern "C" {
    static tesela_call_begin: u8;
    static tesela_call_end: u8;
    static tesela_call_cancel: u8;
}

/// The labels of [`guarded`]: begin, end, cancel.
pub fn labels() -> [u64; 3] {
    [&raw const tesela_call_begin, &raw const tesela_call_end, &raw const tesela_call_cancel].map(|at| at as u64)
}

global_asm!(
    // void *memcpy(rdi, rsi, rdx)
    ".globl memcpy",
    "memcpy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    // void *memmove(rdi, rsi, rdx)
    ".globl memmove",
    "memmove:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "cmp rdi, rsi",
    "jbe 2f",
    "lea r8, [rsi + rcx]",
    "cmp rdi, r8",
    "jae 2f",
    "lea rdi, [rdi + rcx - 1]",
    "lea rsi, [rsi + rcx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    "2:",
    "rep movsb",
    "ret",
    // void *memset(rdi, esi, rdx)
    ".globl memset",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    // int memcmp(rdi, rsi, rdx), and bcmp
    ".globl bcmp",
    ".globl memcmp",
    "bcmp:",
    "memcmp:",
    "xor eax, eax",
    "2:",
    "test rdx, rdx",
    "jz 3f",
    "movzx eax, byte ptr [rdi]",
    "movzx ecx, byte ptr [rsi]",
    "sub eax, ecx",
    "jnz 3f",
    "inc rdi",
    "inc rsi",
    "dec rdx",
    "jmp 2b",
    "3:",
    "ret",
);
