//! The rows: every call of x86-64 up to Linux 6.18.
//!
//! What decides the class:
//!
//! - The body has its memory, its threads with their ids, the user's ids, and the node's clocks. Calls about these are `Local`. It has no files, no network and no children: calls
//!   about those are `Home`.
//! - A call that changes what both have (limits, nice value, name) is `Both`; the shim does in the body what
//!   concerns memory, CPU and sleeping.
//! - A call is `GoHome` that changes what a body is built from (credentials, namespaces, filters), that ties
//!   memory to the home (shared mappings, locked memory, rings), whose memory cannot be described here
//!   (structures that hold pointers or their own length), or that only administrators and debuggers make.
//! - `Out` is for memory that the kernel fills wholly or up to what it returns. Where it may leave a part
//!   alone (a status if no child ended, an address that is shorter than its buffer), `InOut` keeps the
//!   rest as it was.
//!
//! A row whose class is `Local` is so for all arguments, so that a seccomp filter can go by the number.

use super::Arg::{
    Fd, In, InOut, IovecIn, IovecOut, MmsgIn, MmsgOut, MsgIn, MsgOut, Out, Path, SigsetPair, Strings, Value,
};
use super::Got::{All, Ret, RetTimes};
use super::Len::{Arg, ArgPlus, ArgTimes, BitsOfArg, Const, Int, IntAt};
use super::{Class, Row};

/// One more than the highest number.
const COUNT: usize = 470;

/// The rows by number: `ROWS[nr].nr == nr`. Where there is no call, the name is empty.
pub static ROWS: [Row; COUNT] = by_number(LISTED);

/// What select(2) takes three of.
const FD_SET: super::Arg = InOut(BitsOfArg(0));

macro_rules! rows {
    ($($nr:literal $name:ident $class:ident [$($arg:expr),*])*) => {
        &[$(Row { nr: $nr, name: stringify!($name), class: Class::$class, args: &[$($arg),*] }),*]
    };
}

const LISTED: &[Row] = rows! {
    0   read                    Home    [Fd, Out(Arg(2), Ret)]
    1   write                   Home    [Fd, In(Arg(2))]
    2   open                    Home    [Path]
    3   close                   Home    [Fd]
    4   stat                    Home    [Path, Out(Const(144), All)]
    5   fstat                   Home    [Fd, Out(Const(144), All)]
    6   lstat                   Home    [Path, Out(Const(144), All)]
    7   poll                    Home    [InOut(ArgTimes(1, 8))]
    8   lseek                   Home    [Fd]

    // Memory. mmap is refined: what is given here holds for a private mapping of a file.
    9   mmap                    Both    [Value, Value, Value, Value, Fd]
    10  mprotect                Local   []
    11  munmap                  Local   []
    12  brk                     Local   []

    // The shim keeps dispositions, mask and alternate stack, for SIGSYS must stay its own.
    13  rt_sigaction            Shim    [Value, In(Const(32)), Out(Const(32), All)]
    14  rt_sigprocmask          Shim    [Value, In(Arg(3)), Out(Arg(3), All)]
    15  rt_sigreturn            Shim    []

    16  ioctl                   Home    [Fd]
    17  pread64                 Home    [Fd, Out(Arg(2), Ret)]
    18  pwrite64                Home    [Fd, In(Arg(2))]
    19  readv                   Home    [Fd, IovecOut(2)]
    20  writev                  Home    [Fd, IovecIn(2)]
    21  access                  Home    [Path]
    22  pipe                    Home    [Out(Const(8), All)]
    23  select                  Home    [Value, FD_SET, FD_SET, FD_SET, InOut(Const(16))]
    24  sched_yield             Local   []
    25  mremap                  Local   []
    // Only shared mappings of files have anything to write back, and those are at home.
    26  msync                   GoHome  []
    27  mincore                 Local   []
    28  madvise                 Local   []
    29  shmget                  GoHome  []
    30  shmat                   GoHome  []
    31  shmctl                  GoHome  []
    32  dup                     Home    [Fd]
    33  dup2                    Home    [Fd, Fd]

    // Sleeping, until a signal that has been sent on ends it. A pause may last for ever, so the shim makes it,
    // from where the thread can be taken home. The timer of real time runs at home, where its signal arrives;
    // those of CPU time run where it is used (refined).
    34  pause                   Shim    []
    // What is left of a sleep is known where it was begun: without room for it the shim decides ([`super::GOES_ON`]).
    35  nanosleep               Shim    [In(Const(16)), Value]
    36  getitimer               Home    [Value, Out(Const(32), All)]
    37  alarm                   Home    []
    38  setitimer               Home    [Value, In(Const(32)), Out(Const(32), All)]
    39  getpid                  Local   []

    40  sendfile                Home    [Fd, Fd, InOut(Const(8))]
    41  socket                  Home    []
    42  connect                 Home    [Fd, In(Int(2))]
    43  accept                  Home    [Fd, InOut(IntAt(2)), InOut(Const(4))]
    44  sendto                  Home    [Fd, In(Arg(2)), Value, Value, In(Int(5))]
    45  recvfrom                Home    [Fd, Out(Arg(2), Ret), Value, Value, InOut(IntAt(5)), InOut(Const(4))]
    46  sendmsg                 Home    [Fd, MsgIn]
    47  recvmsg                 Home    [Fd, MsgOut]
    48  shutdown                Home    [Fd]
    49  bind                    Home    [Fd, In(Int(2))]
    50  listen                  Home    [Fd]
    51  getsockname             Home    [Fd, InOut(IntAt(2)), InOut(Const(4))]
    52  getpeername             Home    [Fd, InOut(IntAt(2)), InOut(Const(4))]
    53  socketpair              Home    [Value, Value, Value, Out(Const(8), All)]
    54  setsockopt              Home    [Fd, Value, Value, In(Int(4))]
    // Some options are asked for with a value that the kernel reads first (IP_MSFILTER).
    55  getsockopt              Home    [Fd, Value, Value, InOut(IntAt(4)), InOut(Const(4))]

    // The shim reads clone3's structure and asks `clone_class` of its flags; clone is refined by them.
    56  clone                   Both    []
    57  fork                    Both    []
    58  vfork                   Both    []
    59  execve                  Home    [Path, Strings, Strings]
    60  exit                    Both    []
    61  wait4                   Home    [Value, InOut(Const(4)), Value, InOut(Const(144))]
    62  kill                    Home    []
    63  uname                   Home    [Out(Const(390), All)]

    64  semget                  Home    []
    65  semop                   Home    [Value, In(ArgTimes(2, 6))]
    66  semctl                  Home    []
    67  shmdt                   GoHome  []
    68  msgget                  Home    []
    // A message is its type, a long, and as many octets as the call says.
    69  msgsnd                  Home    [Value, In(ArgPlus(2, 8))]
    70  msgrcv                  Home    [Value, InOut(ArgPlus(2, 8))]
    71  msgctl                  Home    []

    72  fcntl                   Home    [Fd]
    73  flock                   Home    [Fd]
    74  fsync                   Home    [Fd]
    75  fdatasync               Home    [Fd]
    76  truncate                Home    [Path]
    77  ftruncate               Home    [Fd]
    78  getdents                Home    [Fd, Out(Int(2), Ret)]
    79  getcwd                  Home    [Out(Arg(1), Ret)]
    80  chdir                   Home    [Path]
    81  fchdir                  Home    [Fd]
    82  rename                  Home    [Path, Path]
    83  mkdir                   Home    [Path]
    84  rmdir                   Home    [Path]
    85  creat                   Home    [Path]
    86  link                    Home    [Path, Path]
    87  unlink                  Home    [Path]
    88  symlink                 Home    [Path, Path]
    89  readlink                Home    [Path, Out(Int(2), Ret)]
    90  chmod                   Home    [Path]
    91  fchmod                  Home    [Fd]
    92  chown                   Home    [Path]
    93  fchown                  Home    [Fd]
    94  lchown                  Home    [Path]
    95  umask                   Home    []

    96  gettimeofday            Local   []
    // Home has the limits that count for files and children, the body those for memory and CPU time.
    97  getrlimit               Home    [Value, Out(Const(16), All)]
    // CPU time: what was used at home until the move and what the body has used since.
    98  getrusage               Shim    [Value, Out(Const(144), All)]
    99  sysinfo                 Home    [Out(Const(112), All)]
    100 times                   Shim    [Out(Const(32), All)]
    101 ptrace                  GoHome  []

    // The body has the same ids; when they change, it has to be built anew.
    102 getuid                  Local   []
    103 syslog                  Home    [Value, InOut(Int(2))]
    104 getgid                  Local   []
    105 setuid                  GoHome  []
    106 setgid                  GoHome  []
    107 geteuid                 Local   []
    108 getegid                 Local   []
    109 setpgid                 Home    []
    110 getppid                 Home    []
    111 getpgrp                 Home    []
    112 setsid                  Home    []
    113 setreuid                GoHome  []
    114 setregid                GoHome  []
    115 getgroups               Home    [Value, Out(ArgTimes(0, 4), RetTimes(4))]
    116 setgroups               GoHome  []
    117 setresuid               GoHome  []
    118 getresuid               Local   []
    119 setresgid               GoHome  []
    120 getresgid               Local   []
    121 getpgid                 Home    []
    122 setfsuid                GoHome  []
    123 setfsgid                GoHome  []
    124 getsid                  Home    []
    // The data are two parts of 12 octets in every version but the first.
    125 capget                  Home    [InOut(Const(8)), InOut(Const(24))]
    126 capset                  GoHome  []

    // A signal acts, and until then pends, in the body, under the mask that the shim keeps.
    127 rt_sigpending           Shim    [Out(Arg(1), All)]
    128 rt_sigtimedwait         Shim    [In(Arg(3)), Out(Const(128), All), In(Const(16))]
    129 rt_sigqueueinfo         Home    [Value, Value, In(Const(128))]
    130 rt_sigsuspend           Shim    [In(Arg(1))]
    131 sigaltstack             Shim    [In(Const(24)), Out(Const(24), All)]

    132 utime                   Home    [Path, In(Const(16))]
    133 mknod                   Home    [Path]
    134 uselib                  GoHome  []
    135 personality             Both    []
    136 ustat                   Home    [Value, Out(Const(32), All)]
    137 statfs                  Home    [Path, Out(Const(120), All)]
    138 fstatfs                 Home    [Fd, Out(Const(120), All)]
    139 sysfs                   GoHome  []

    // Scheduling. A process that has a real-time policy stays (refined), and so does one that binds itself to
    // CPUs of the home until it has done so.
    140 getpriority             Home    []
    141 setpriority             Both    []
    142 sched_setparam          Home    [Value, In(Const(4))]
    143 sched_getparam          Home    [Value, Out(Const(4), All)]
    144 sched_setscheduler      Both    [Value, Value, In(Const(4))]
    145 sched_getscheduler      Home    []
    146 sched_get_priority_max  Local   []
    147 sched_get_priority_min  Local   []
    148 sched_rr_get_interval   Home    [Value, Out(Const(16), All)]
    149 mlock                   GoHome  []
    150 munlock                 Local   []
    151 mlockall                GoHome  []
    152 munlockall              Local   []
    153 vhangup                 Home    []
    154 modify_ldt              GoHome  []
    155 pivot_root              GoHome  []
    156 _sysctl                 GoHome  []
    157 prctl                   Home    []
    158 arch_prctl              Home    []
    159 adjtimex                Home    [InOut(Const(208))]
    160 setrlimit               Both    [Value, In(Const(16))]
    161 chroot                  Home    [Path]
    162 sync                    Home    []
    163 acct                    Home    [Path]
    164 settimeofday            Home    [In(Const(16)), In(Const(8))]
    165 mount                   GoHome  []
    166 umount2                 Home    [Path]
    167 swapon                  Home    [Path]
    168 swapoff                 Home    [Path]
    169 reboot                  GoHome  []
    170 sethostname             Home    [In(Int(1))]
    171 setdomainname           Home    [In(Int(1))]
    172 iopl                    GoHome  []
    173 ioperm                  GoHome  []
    174 create_module           GoHome  []
    175 init_module             GoHome  []
    176 delete_module           Home    [Path]
    177 get_kernel_syms         GoHome  []
    178 query_module            GoHome  []
    179 quotactl                GoHome  []
    180 nfsservctl              GoHome  []
    181 getpmsg                 GoHome  []
    182 putpmsg                 GoHome  []
    183 afs_syscall             GoHome  []
    184 tuxcall                 GoHome  []
    185 security                GoHome  []
    186 gettid                  Local   []

    187 readahead               Home    [Fd]
    188 setxattr                Home    [Path, Path, In(Arg(3))]
    189 lsetxattr               Home    [Path, Path, In(Arg(3))]
    190 fsetxattr               Home    [Fd, Path, In(Arg(3))]
    191 getxattr                Home    [Path, Path, Out(Arg(3), Ret)]
    192 lgetxattr               Home    [Path, Path, Out(Arg(3), Ret)]
    193 fgetxattr               Home    [Fd, Path, Out(Arg(3), Ret)]
    194 listxattr               Home    [Path, Out(Arg(2), Ret)]
    195 llistxattr              Home    [Path, Out(Arg(2), Ret)]
    196 flistxattr              Home    [Fd, Out(Arg(2), Ret)]
    197 removexattr             Home    [Path, Path]
    198 lremovexattr            Home    [Path, Path]
    199 fremovexattr            Home    [Fd, Path]
    200 tkill                   Home    []

    // The thread ids are those of the home, so that robust and PI futexes hold.
    201 time                    Local   []
    202 futex                   Local   []
    203 sched_setaffinity       GoHome  []
    204 sched_getaffinity       Local   []
    205 set_thread_area         GoHome  []
    206 io_setup                GoHome  []
    207 io_destroy              GoHome  []
    208 io_getevents            GoHome  []
    209 io_submit               GoHome  []
    210 io_cancel               GoHome  []
    211 get_thread_area         GoHome  []
    212 lookup_dcookie          GoHome  []
    213 epoll_create            Home    []
    214 epoll_ctl_old           GoHome  []
    215 epoll_wait_old          GoHome  []
    216 remap_file_pages        GoHome  []
    217 getdents64              Home    [Fd, Out(Int(2), Ret)]
    218 set_tid_address         Local   []
    // The kernel makes a program call it after a stop in nanosleep or futex; of a call at home the deputy
    // takes care.
    219 restart_syscall         Local   []
    220 semtimedop              Home    [Value, In(ArgTimes(2, 6)), Value, In(Const(16))]
    221 fadvise64               Home    [Fd]

    222 timer_create            Home    [Value, In(Const(64)), InOut(Const(4))]
    223 timer_settime           Home    [Value, Value, In(Const(32)), Out(Const(32), All)]
    224 timer_gettime           Home    [Value, Out(Const(32), All)]
    225 timer_getoverrun        Home    []
    226 timer_delete            Home    []
    227 clock_settime           Home    [Value, In(Const(16))]
    // Clocks of CPU time go on from what was used at home; the others are refined.
    228 clock_gettime           Shim    [Value, Out(Const(16), All)]
    229 clock_getres            Home    [Value, Out(Const(16), All)]
    230 clock_nanosleep         Shim    [Value, Value, In(Const(16)), Value]
    231 exit_group              Both    []

    232 epoll_wait              Home    [Fd, Out(ArgTimes(2, 12), RetTimes(12))]
    233 epoll_ctl               Home    [Fd, Value, Fd, In(Const(12))]
    234 tgkill                  Home    []
    235 utimes                  Home    [Path, In(Const(32))]
    236 vserver                 GoHome  []
    237 mbind                   GoHome  []
    238 set_mempolicy           GoHome  []
    239 get_mempolicy           GoHome  []
    240 mq_open                 Home    [Path, Value, Value, In(Const(64))]
    241 mq_unlink               Home    [Path]
    242 mq_timedsend            Home    [Fd, In(Arg(2)), Value, Value, In(Const(16))]
    243 mq_timedreceive         Home    [Fd, Out(Arg(2), Ret), Value, Out(Const(4), All), In(Const(16))]
    244 mq_notify               GoHome  []
    245 mq_getsetattr           Home    [Fd, In(Const(64)), Out(Const(64), All)]
    246 kexec_load              GoHome  []
    247 waitid                  Home    [Value, Value, InOut(Const(128)), Value, InOut(Const(144))]
    248 add_key                 GoHome  []
    249 request_key             GoHome  []
    250 keyctl                  GoHome  []
    251 ioprio_set              Home    []
    252 ioprio_get              Home    []
    253 inotify_init            Home    []
    254 inotify_add_watch       Home    [Fd, Path]
    255 inotify_rm_watch        Home    [Fd]
    256 migrate_pages           GoHome  []

    257 openat                  Home    [Fd, Path]
    258 mkdirat                 Home    [Fd, Path]
    259 mknodat                 Home    [Fd, Path]
    260 fchownat                Home    [Fd, Path]
    261 futimesat               Home    [Fd, Path, In(Const(32))]
    262 newfstatat              Home    [Fd, Path, Out(Const(144), All)]
    263 unlinkat                Home    [Fd, Path]
    264 renameat                Home    [Fd, Path, Fd, Path]
    265 linkat                  Home    [Fd, Path, Fd, Path]
    266 symlinkat               Home    [Path, Fd, Path]
    267 readlinkat              Home    [Fd, Path, Out(Int(3), Ret)]
    268 fchmodat                Home    [Fd, Path]
    269 faccessat               Home    [Fd, Path]
    270 pselect6                Home    [Value, FD_SET, FD_SET, FD_SET, InOut(Const(16)), SigsetPair]
    271 ppoll                   Home    [InOut(ArgTimes(1, 8)), Value, InOut(Const(16)), In(Arg(4))]
    272 unshare                 GoHome  []
    273 set_robust_list         Local   []
    274 get_robust_list         Local   []
    275 splice                  Home    [Fd, InOut(Const(8)), Fd, InOut(Const(8))]
    276 tee                     Home    [Fd, Fd]
    277 sync_file_range         Home    [Fd]
    // The pipe would hold the deputy's pages, which the next call writes to.
    278 vmsplice                GoHome  []
    279 move_pages              GoHome  []
    280 utimensat               Home    [Fd, Path, In(Const(32))]
    281 epoll_pwait             Home    [Fd, Out(ArgTimes(2, 12), RetTimes(12)), Value, Value, In(Arg(5))]
    282 signalfd                GoHome  []
    283 timerfd_create          Home    []
    284 eventfd                 Home    []
    285 fallocate               Home    [Fd]
    286 timerfd_settime         Home    [Fd, Value, In(Const(32)), Out(Const(32), All)]
    287 timerfd_gettime         Home    [Fd, Out(Const(32), All)]
    288 accept4                 Home    [Fd, InOut(IntAt(2)), InOut(Const(4))]
    289 signalfd4               GoHome  []
    290 eventfd2                Home    []
    291 epoll_create1           Home    []
    292 dup3                    Home    [Fd, Fd]
    293 pipe2                   Home    [Out(Const(8), All)]
    294 inotify_init1           Home    []
    295 preadv                  Home    [Fd, IovecOut(2)]
    296 pwritev                 Home    [Fd, IovecIn(2)]
    297 rt_tgsigqueueinfo       Home    [Value, Value, Value, In(Const(128))]
    298 perf_event_open         GoHome  []
    299 recvmmsg                Home    [Fd, MmsgOut(2), Value, Value, InOut(Const(16))]
    300 fanotify_init           Home    []
    301 fanotify_mark           Home    [Fd, Value, Value, Fd, Path]
    302 prlimit64               Both    [Value, Value, In(Const(16)), Out(Const(16), All)]
    303 name_to_handle_at       GoHome  []
    304 open_by_handle_at       GoHome  []
    305 clock_adjtime           Home    [Value, InOut(Const(208))]
    306 syncfs                  Home    [Fd]
    307 sendmmsg                Home    [Fd, MmsgIn(2)]
    308 setns                   GoHome  []
    309 getcpu                  Local   []
    310 process_vm_readv        GoHome  []
    311 process_vm_writev       GoHome  []
    312 kcmp                    GoHome  []
    313 finit_module            GoHome  []
    // The policy is in a structure, so that no row can tell a real-time one.
    314 sched_setattr           GoHome  []
    315 sched_getattr           Home    [Value, InOut(Int(2))]
    316 renameat2               Home    [Fd, Path, Fd, Path]
    317 seccomp                 GoHome  []
    318 getrandom               Local   []
    319 memfd_create            Home    [Path]
    320 kexec_file_load         GoHome  []
    321 bpf                     GoHome  []
    322 execveat                Home    [Fd, Path, Strings, Strings]
    323 userfaultfd             GoHome  []
    // A body is to be registered for the expedited kinds before it runs: nothing tells which the process was.
    324 membarrier              Local   []
    325 mlock2                  GoHome  []
    326 copy_file_range         Home    [Fd, InOut(Const(8)), Fd, InOut(Const(8))]
    327 preadv2                 Home    [Fd, IovecOut(2)]
    328 pwritev2                Home    [Fd, IovecIn(2)]
    329 pkey_mprotect           GoHome  []
    330 pkey_alloc              GoHome  []
    331 pkey_free               GoHome  []
    332 statx                   Home    [Fd, Path, Value, Value, Out(Const(256), All)]
    333 io_pgetevents           GoHome  []
    334 rseq                    Local   []

    // uretprobe and uprobe (335, 336) are the kernel's own: no program may call them.
    424 pidfd_send_signal       Home    [Fd, Value, In(Const(128))]
    425 io_uring_setup          GoHome  []
    426 io_uring_enter          GoHome  []
    427 io_uring_register       GoHome  []
    428 open_tree               GoHome  []
    429 move_mount              GoHome  []
    430 fsopen                  GoHome  []
    431 fsconfig                GoHome  []
    432 fsmount                 GoHome  []
    433 fspick                  GoHome  []
    434 pidfd_open              Home    []
    435 clone3                  Both    []
    436 close_range             Home    []
    437 openat2                 Home    [Fd, Path, In(Arg(3))]
    438 pidfd_getfd             GoHome  []
    439 faccessat2              Home    [Fd, Path]
    440 process_madvise         GoHome  []
    441 epoll_pwait2            Home    [Fd, Out(ArgTimes(2, 12), RetTimes(12)), Value, In(Const(16)), In(Arg(5))]
    442 mount_setattr           GoHome  []
    443 quotactl_fd             GoHome  []
    444 landlock_create_ruleset GoHome  []
    445 landlock_add_rule       GoHome  []
    446 landlock_restrict_self  GoHome  []
    447 memfd_secret            GoHome  []
    448 process_mrelease        Home    [Fd]
    449 futex_waitv             Local   []
    450 set_mempolicy_home_node GoHome  []

    // Newer than 6.1, so that a node may lack them that the home has: none is `Local`.
    451 cachestat               Home    [Fd, In(Const(16)), Out(Const(40), All)]
    452 fchmodat2               Home    [Fd, Path]
    453 map_shadow_stack        GoHome  []
    454 futex_wake              GoHome  []
    455 futex_wait              GoHome  []
    456 futex_requeue           GoHome  []
    457 statmount               GoHome  []
    458 listmount               GoHome  []
    459 lsm_get_self_attr       GoHome  []
    460 lsm_set_self_attr       GoHome  []
    461 lsm_list_modules        GoHome  []
    462 mseal                   GoHome  []
    463 setxattrat              GoHome  []
    464 getxattrat              GoHome  []
    465 listxattrat             Home    [Fd, Path, Value, Out(Arg(4), Ret)]
    466 removexattrat           Home    [Fd, Path, Value, Path]
    467 open_tree_attr          GoHome  []
    468 file_getattr            Home    [Fd, Path, Out(Arg(3), All)]
    469 file_setattr            Home    [Fd, Path, In(Arg(3))]
};

/// Puts each row in the place of its number.
const fn by_number(listed: &[Row]) -> [Row; COUNT] {
    let mut rows = [Row { nr: 0, name: "", class: Class::GoHome, args: &[] }; COUNT];
    let mut nr = 0;
    while (nr as usize) < COUNT {
        rows[nr as usize].nr = nr;
        nr += 1;
    }
    let mut index = 0;
    while index < listed.len() {
        let row = listed[index];
        assert!(rows[row.nr as usize].name.is_empty(), "two calls with one number");
        rows[row.nr as usize] = row;
        index += 1;
    }
    rows
}

/// The number of a call, for constants: a name that is not in the table does not compile.
pub(super) const fn number(name: &str) -> u16 {
    let mut index = 0;
    while index < LISTED.len() {
        if equal(LISTED[index].name.as_bytes(), name.as_bytes()) {
            return LISTED[index].nr;
        }
        index += 1;
    }
    panic!("no such call")
}

const fn equal(one: &[u8], other: &[u8]) -> bool {
    let mut index = 0;
    while index < one.len() && index < other.len() && one[index] == other[index] {
        index += 1;
    }
    index == one.len() && index == other.len()
}
