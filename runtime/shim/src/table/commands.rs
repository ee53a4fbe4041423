//! Calls whose arguments decide where they run: the command of fcntl, the flags of mmap, ….
//!
//! The kernel takes commands as `int`, so the upper half of the register does not count.

use super::Arg::{Fd, In, InOut, Out, Path, Value};
use super::Got::{All, Ret};
use super::Len::{Arg, Const};
use super::rows::number;
use super::{Class, ioctl};

/// What the arguments of a call change about its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refined {
    /// Nothing.
    AsRow,
    /// This holds instead.
    To(Class, &'static [super::Arg]),
    /// The table does not know the command: the process goes home.
    Unknown,
}

use Refined::{AsRow, To, Unknown};

const ACCEPT: u16 = number("accept");
const ACCEPT4: u16 = number("accept4");
const ARCH_PRCTL: u16 = number("arch_prctl");
const CLOCK_GETTIME: u16 = number("clock_gettime");
const CLONE: u16 = number("clone");
const EPOLL_CTL: u16 = number("epoll_ctl");
const FCNTL: u16 = number("fcntl");
const GETITIMER: u16 = number("getitimer");
const GETRUSAGE: u16 = number("getrusage");
const GETSOCKOPT: u16 = number("getsockopt");
const IOCTL: u16 = number("ioctl");
const MMAP: u16 = number("mmap");
const MQ_NOTIFY: u16 = number("mq_notify");
const MQ_OPEN: u16 = number("mq_open");
const MSGCTL: u16 = number("msgctl");
const PERSONALITY: u16 = number("personality");
const PRCTL: u16 = number("prctl");
const PRLIMIT64: u16 = number("prlimit64");
const RECVFROM: u16 = number("recvfrom");
const SCHED_SETSCHEDULER: u16 = number("sched_setscheduler");
const SEMCTL: u16 = number("semctl");
const SENDMMSG: u16 = number("sendmmsg");
const SENDMSG: u16 = number("sendmsg");
const SENDTO: u16 = number("sendto");
const SETITIMER: u16 = number("setitimer");
const SETPRIORITY: u16 = number("setpriority");
const SETSOCKOPT: u16 = number("setsockopt");
const TIMER_CREATE: u16 = number("timer_create");

/// What these arguments change about the row of call `nr`.
pub fn refine(nr: u16, args: &[u64; 6]) -> Refined {
    match nr {
        IOCTL => ioctl::request(int(args[1])),
        FCNTL => fcntl(int(args[1])),
        PRCTL => prctl(int(args[0])),
        ARCH_PRCTL => arch_prctl(int(args[0])),
        SEMCTL => semctl(int(args[2])),
        MSGCTL => msgctl(int(args[1])),
        GETSOCKOPT | SETSOCKOPT => socket_option(int(args[1]), int(args[2])),
        MMAP => mmap(int(args[3])),
        CLONE => match clone_class(args[0] & !CSIGNAL) {
            Class::Both => AsRow,
            class => To(class, &[]),
        },
        CLOCK_GETTIME => clock_gettime(int(args[0])),
        TIMER_CREATE if is_cpu_clock(int(args[0])) => GO_HOME,
        GETITIMER | SETITIMER if matches!(int(args[0]), ITIMER_VIRTUAL | ITIMER_PROF) => {
            To(Class::Local, &[])
        }
        GETRUSAGE if !matches!(int(args[0]), RUSAGE_SELF | RUSAGE_THREAD) => {
            To(Class::Home, &[Value, Out(Const(144), All)])
        }
        PRLIMIT64 if args[2] == 0 => To(Class::Home, &[Value, Value, Value, Out(Const(16), All)]),
        // 0xffffffff asks and changes nothing.
        PERSONALITY if int(args[0]) == u32::MAX => To(Class::Home, &[]),
        // The members of a group or of a user are at home.
        SETPRIORITY if int(args[0]) != PRIO_PROCESS => To(Class::Home, &[]),
        SCHED_SETSCHEDULER if !is_normal_policy(int(args[1])) => GO_HOME,
        // The network would send from the deputy's memory, which the next call writes to.
        SENDTO if int(args[3]) & MSG_ZEROCOPY != 0 => GO_HOME,
        SENDMSG if int(args[2]) & MSG_ZEROCOPY != 0 => GO_HOME,
        SENDMMSG if int(args[3]) & MSG_ZEROCOPY != 0 => GO_HOME,
        // Arguments that are not looked at may be anything.
        ACCEPT | ACCEPT4 if args[1] == 0 => To(Class::Home, &[Fd]),
        RECVFROM if args[4] == 0 => To(Class::Home, &[Fd, Out(Arg(2), Ret)]),
        EPOLL_CTL if int(args[1]) == EPOLL_CTL_DEL => To(Class::Home, &[Fd, Value, Fd]),
        MQ_OPEN if int(args[1]) & O_CREAT == 0 => To(Class::Home, &[Path]),
        // Taking back is easy; notice by a thread needs memory that the structure points to.
        MQ_NOTIFY if args[1] == 0 => To(Class::Home, &[Fd]),
        _ => AsRow,
    }
}

const GO_HOME: Refined = To(Class::GoHome, &[]);

/// A register as the `int` that the kernel takes it for.
fn int(argument: u64) -> u32 {
    (argument & 0xffff_ffff) as u32
}

const MSG_ZEROCOPY: u32 = 0x0400_0000;
const EPOLL_CTL_DEL: u32 = 2;
const O_CREAT: u32 = 0o100;
const PRIO_PROCESS: u32 = 0;
const RUSAGE_SELF: u32 = 0;
const RUSAGE_THREAD: u32 = 1;
const ITIMER_VIRTUAL: u32 = 1;
const ITIMER_PROF: u32 = 2;

const MAP_TYPE: u32 = 0x0f;
const MAP_PRIVATE: u32 = 0x02;
const MAP_ANONYMOUS: u32 = 0x20;
const MAP_LOCKED: u32 = 0x2000;
const MAP_HUGETLB: u32 = 0x4_0000;

/// What is private can be had in the body. What is shared, locked, or from the home's pool of huge pages is
/// mapped at home.
fn mmap(flags: u32) -> Refined {
    if flags & MAP_TYPE != MAP_PRIVATE || flags & (MAP_LOCKED | MAP_HUGETLB) != 0 {
        GO_HOME
    } else if flags & MAP_ANONYMOUS != 0 {
        To(Class::Local, &[])
    } else {
        AsRow
    }
}

/// The signal at exit, in the flags of clone.
const CSIGNAL: u64 = 0xff;
const CLONE_VM: u64 = 0x100;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_THREAD: u64 = 0x1_0000;
/// TIME (clone3 only), NS, CGROUP, UTS, IPC, USER, PID, NET.
const CLONE_NAMESPACES: u64 = 0x80 | 0x2_0000 | 0x7e00_0000;

/// Where a clone with these flags runs, clone3's as they are in its structure: not away if it makes a
/// namespace, nor if the child is to be a process of its own in the same memory for longer than a vfork.
pub fn clone_class(flags: u64) -> Class {
    let shares_memory = flags & CLONE_VM != 0 && flags & (CLONE_VFORK | CLONE_THREAD) == 0;
    if flags & CLONE_NAMESPACES != 0 || shares_memory { Class::GoHome } else { Class::Both }
}

const CLOCK_PROCESS_CPUTIME_ID: u32 = 2;
const CLOCK_THREAD_CPUTIME_ID: u32 = 3;
/// The highest id of a clock of the whole system, CLOCK_TAI.
const CLOCK_LAST: u32 = 11;
/// Set in the ids of clocks of one process, thread or device, whose lowest three bits tell which.
const CLOCK_DYNAMIC: u32 = 0x8000_0000;
/// Those bits for a device's clock; the rest of the id is a file descriptor.
const CLOCKFD: u32 = 3;

fn is_cpu_clock(clock: u32) -> bool {
    matches!(clock, CLOCK_PROCESS_CPUTIME_ID | CLOCK_THREAD_CPUTIME_ID)
        || clock & CLOCK_DYNAMIC != 0 && clock & 7 != CLOCKFD
}

/// The shim adds to a clock of CPU time; a device's is at home.
fn clock_gettime(clock: u32) -> Refined {
    if is_cpu_clock(clock) {
        AsRow
    } else if clock <= CLOCK_LAST {
        To(Class::Local, &[])
    } else {
        To(Class::Home, &[Value, Out(Const(16), All)])
    }
}

/// SCHED_OTHER, SCHED_BATCH and SCHED_IDLE, with or without SCHED_RESET_ON_FORK.
fn is_normal_policy(policy: u32) -> bool {
    matches!(policy & !0x4000_0000, 0 | 3 | 5)
}

// Options of getsockopt(2) and setsockopt(2) are memory of the length that the call says. Not so here:
const SO_ATTACH_FILTER: u32 = 26; // a pointer to a program; asked for, it counts instructions
const SO_ATTACH_REUSEPORT_CBPF: u32 = 51; // likewise
const SO_ZEROCOPY: u32 = 60; // sends from the memory where it is
const TCP_ZEROCOPY_RECEIVE: u32 = 35; // maps what arrived
const PACKET_FANOUT_DATA: u32 = 22; // a pointer to a program
const MPTCP_FULL_INFO: u32 = 4; // pointers to arrays

fn socket_option(level: u32, option: u32) -> Refined {
    let known = match level {
        // SOL_SOCKET
        1 => !matches!(option, SO_ATTACH_FILTER | SO_ATTACH_REUSEPORT_CBPF | SO_ZEROCOPY),
        // SOL_IP without iptables, arptables, ebtables and IPVS, but with SO_ORIGINAL_DST
        0 => option < 64 || option == 80,
        // SOL_IPV6 without ip6tables
        41 => !matches!(option, 64 | 65 | 68 | 69),
        // SOL_TCP
        6 => option != TCP_ZEROCOPY_RECEIVE,
        // SOL_PACKET
        263 => option != PACKET_FANOUT_DATA,
        // SOL_MPTCP
        284 => option < MPTCP_FULL_INFO,
        // SOL_UDP, AF_VSOCK, SOL_ICMPV6, SOL_UDPLITE, SOL_RAW, SOL_NETLINK, SOL_ALG, SOL_TLS
        17 | 40 | 58 | 136 | 255 | 270 | 279 | 282 => true,
        _ => false,
    };
    if known { AsRow } else { Unknown }
}

/// Makes a function from a command to what it refines its call to, and with it, for the tests, the commands'
/// names.
macro_rules! commands {
    (
        $(#[$doc:meta])*
        $function:ident, $names:ident:
        $($command:literal $name:ident $class:ident [$($arg:expr),*])*
    ) => {
        $(#[$doc])*
        fn $function(command: u32) -> Refined {
            match command {
                $($command => To(Class::$class, &[$($arg),*]),)*
                _ => Unknown,
            }
        }

        #[cfg(test)]
        pub(super) const $names: &[(&str, u32)] = &[$((stringify!($name), $command)),*];
    };
}

commands! {
    /// fcntl(2). Locks are the home's, whose process holds them.
    fcntl, FCNTL_NAMES:
    0    F_DUPFD            Home  [Fd]
    1    F_GETFD            Home  [Fd]
    2    F_SETFD            Home  [Fd]
    3    F_GETFL            Home  [Fd]
    4    F_SETFL            Home  [Fd]
    5    F_GETLK            Home  [Fd, Value, InOut(Const(32))]
    6    F_SETLK            Home  [Fd, Value, In(Const(32))]
    7    F_SETLKW           Home  [Fd, Value, In(Const(32))]
    8    F_SETOWN           Home  [Fd]
    9    F_GETOWN           Home  [Fd]
    10   F_SETSIG           Home  [Fd]
    11   F_GETSIG           Home  [Fd]
    15   F_SETOWN_EX        Home  [Fd, Value, In(Const(8))]
    16   F_GETOWN_EX        Home  [Fd, Value, Out(Const(8), All)]
    17   F_GETOWNER_UIDS    Home  [Fd, Value, Out(Const(8), All)]
    36   F_OFD_GETLK        Home  [Fd, Value, InOut(Const(32))]
    37   F_OFD_SETLK        Home  [Fd, Value, In(Const(32))]
    38   F_OFD_SETLKW       Home  [Fd, Value, In(Const(32))]
    1024 F_SETLEASE         Home  [Fd]
    1025 F_GETLEASE         Home  [Fd]
    1026 F_NOTIFY           Home  [Fd]
    1027 F_DUPFD_QUERY      Home  [Fd, Value, Fd]
    1028 F_CREATED_QUERY    Home  [Fd]
    1030 F_DUPFD_CLOEXEC    Home  [Fd]
    1031 F_SETPIPE_SZ       Home  [Fd]
    1032 F_GETPIPE_SZ       Home  [Fd]
    1033 F_ADD_SEALS        Home  [Fd]
    1034 F_GET_SEALS        Home  [Fd]
    1035 F_GET_RW_HINT      Home  [Fd, Value, Out(Const(8), All)]
    1036 F_SET_RW_HINT      Home  [Fd, Value, In(Const(8))]
    1037 F_GET_FILE_RW_HINT Home  [Fd, Value, Out(Const(8), All)]
    1038 F_SET_FILE_RW_HINT Home  [Fd, Value, In(Const(8))]
}

commands! {
    /// prctl(2). Not here, so that the process goes home: what would make the body another one (seccomp,
    /// syscall user dispatch, PR_SET_TSC, PR_SET_MM, MDWE, core scheduling) and what x86-64 does not have.
    prctl, PRCTL_NAMES:
    1  PR_SET_PDEATHSIG          Home  []
    2  PR_GET_PDEATHSIG          Home  [Value, Out(Const(4), All)]
    3  PR_GET_DUMPABLE           Home  []
    4  PR_SET_DUMPABLE           Home  []
    7  PR_GET_KEEPCAPS           Home  []
    8  PR_SET_KEEPCAPS           Home  []
    13 PR_GET_TIMING             Home  []
    14 PR_SET_TIMING             Home  []
    15 PR_SET_NAME               Both  [Value, Path]
    16 PR_GET_NAME               Home  [Value, Out(Const(16), All)]
    21 PR_GET_SECCOMP            Home  []
    23 PR_CAPBSET_READ           Home  []
    24 PR_CAPBSET_DROP           Home  []
    25 PR_GET_TSC                Home  [Value, Out(Const(4), All)]
    27 PR_GET_SECUREBITS         Home  []
    28 PR_SET_SECUREBITS         Home  []
    29 PR_SET_TIMERSLACK         Both  []
    30 PR_GET_TIMERSLACK         Home  []
    36 PR_SET_CHILD_SUBREAPER    Home  []
    37 PR_GET_CHILD_SUBREAPER    Home  [Value, Out(Const(4), All)]
    38 PR_SET_NO_NEW_PRIVS       Home  []
    39 PR_GET_NO_NEW_PRIVS       Home  []
    40 PR_GET_TID_ADDRESS        Local []
    41 PR_SET_THP_DISABLE        Both  []
    42 PR_GET_THP_DISABLE        Home  []
    47 PR_CAP_AMBIENT            Home  []
    52 PR_GET_SPECULATION_CTRL   Home  []
    53 PR_SET_SPECULATION_CTRL   Both  []
    57 PR_SET_IO_FLUSHER         Home  []
    58 PR_GET_IO_FLUSHER         Home  []
    66 PR_GET_MDWE               Home  []
    67 PR_SET_MEMORY_MERGE       Both  []
    68 PR_GET_MEMORY_MERGE       Home  []
    77 PR_TIMER_CREATE_RESTORE_IDS Home []
    0x4155_5856 PR_GET_AUXV      Home  [Value, Out(Arg(2), Ret)]
    0x5356_4d41 PR_SET_VMA       Local []
    0x5961_6d61 PR_SET_PTRACER   Home  []
}

commands! {
    /// arch_prctl(2). The segment bases are the body's; the features of the CPU that the process may use are
    /// the home's, and to ask for more is to be done there.
    arch_prctl, ARCH_PRCTL_NAMES:
    0x1001 ARCH_SET_GS               Local []
    0x1002 ARCH_SET_FS               Local []
    0x1003 ARCH_GET_FS               Local []
    0x1004 ARCH_GET_GS               Local []
    0x1011 ARCH_GET_CPUID            Home  []
    0x1021 ARCH_GET_XCOMP_SUPP       Home  [Value, Out(Const(8), All)]
    0x1022 ARCH_GET_XCOMP_PERM       Home  [Value, Out(Const(8), All)]
    0x1024 ARCH_GET_XCOMP_GUEST_PERM Home  [Value, Out(Const(8), All)]
    0x3001 ARCH_CET_STATUS           Home  [Value, Out(Const(24), All)]
    0x4001 ARCH_GET_UNTAG_MASK       Home  [Value, Out(Const(8), All)]
    0x4003 ARCH_GET_MAX_TAG_BITS     Home  [Value, Out(Const(8), All)]
    0x5005 ARCH_SHSTK_STATUS         Home  [Value, Out(Const(8), All)]
}

commands! {
    /// semctl(2). GETALL and SETALL have as many values as the set has semaphores, which only home knows.
    semctl, SEMCTL_NAMES:
    0  IPC_RMID     Home  []
    1  IPC_SET      Home  [Value, Value, Value, In(Const(104))]
    2  IPC_STAT     Home  [Value, Value, Value, Out(Const(104), All)]
    3  IPC_INFO     Home  [Value, Value, Value, Out(Const(40), All)]
    11 GETPID       Home  []
    12 GETVAL       Home  []
    14 GETNCNT      Home  []
    15 GETZCNT      Home  []
    16 SETVAL       Home  []
    18 SEM_STAT     Home  [Value, Value, Value, Out(Const(104), All)]
    19 SEM_INFO     Home  [Value, Value, Value, Out(Const(40), All)]
    20 SEM_STAT_ANY Home  [Value, Value, Value, Out(Const(104), All)]
}

commands! {
    /// msgctl(2).
    msgctl, MSGCTL_NAMES:
    0  IPC_RMID     Home  []
    1  IPC_SET      Home  [Value, Value, In(Const(120))]
    2  IPC_STAT     Home  [Value, Value, Out(Const(120), All)]
    3  IPC_INFO     Home  [Value, Value, Out(Const(32), All)]
    11 MSG_STAT     Home  [Value, Value, Out(Const(120), All)]
    12 MSG_INFO     Home  [Value, Value, Out(Const(32), All)]
    13 MSG_STAT_ANY Home  [Value, Value, Out(Const(120), All)]
}
