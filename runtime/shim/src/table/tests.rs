//! The table against the numbers and structures of libc, and against itself.

use super::commands::{
    ARCH_PRCTL_NAMES, FCNTL_NAMES, MSGCTL_NAMES, PRCTL_NAMES, Refined, SEMCTL_NAMES, refine,
};
use super::ioctl::{REQUESTS, request};
use super::rows::number;
use super::*;

/// A constant of libc's in a register.
fn register(value: impl Into<i64>) -> u64 {
    value.into().cast_unsigned()
}

/// Numbers that have no call on x86-64.
const GAP: std::ops::RangeInclusive<u16> = 335..=423;

#[test]
fn a_row_is_found_by_its_number() {
    for (nr, row) in (0u16..).zip(&ROWS) {
        assert_eq!(row.nr, nr, "{}", row.name);
        assert_eq!(row.name.is_empty(), GAP.contains(&nr), "{nr}");
        assert!(row.name.is_empty() || number(row.name) == nr, "{} is there twice", row.name);
    }
}

#[test]
fn numbers_are_those_of_the_system() {
    macro_rules! known {
        ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
    }
    let known: &[(&str, libc::c_long)] = known! {
        SYS_read SYS_write SYS_open SYS_close SYS_stat SYS_fstat SYS_lstat SYS_poll SYS_lseek SYS_mmap
        SYS_mprotect SYS_munmap SYS_brk SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_ioctl
        SYS_pread64 SYS_pwrite64 SYS_readv SYS_writev SYS_access SYS_pipe SYS_select SYS_sched_yield
        SYS_mremap SYS_msync SYS_mincore SYS_madvise SYS_shmget SYS_shmat SYS_shmctl SYS_dup SYS_dup2
        SYS_pause SYS_nanosleep SYS_getitimer SYS_alarm SYS_setitimer SYS_getpid SYS_sendfile SYS_socket
        SYS_connect SYS_accept SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_shutdown SYS_bind
        SYS_listen SYS_getsockname SYS_getpeername SYS_socketpair SYS_setsockopt SYS_getsockopt SYS_clone
        SYS_fork SYS_vfork SYS_execve SYS_exit SYS_wait4 SYS_kill SYS_uname SYS_semget SYS_semop SYS_semctl
        SYS_shmdt SYS_msgget SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_fcntl SYS_flock SYS_fsync SYS_fdatasync
        SYS_truncate SYS_ftruncate SYS_getdents SYS_getcwd SYS_chdir SYS_fchdir SYS_rename SYS_mkdir
        SYS_rmdir SYS_creat SYS_link SYS_unlink SYS_symlink SYS_readlink SYS_chmod SYS_fchmod SYS_chown
        SYS_fchown SYS_lchown SYS_umask SYS_gettimeofday SYS_getrlimit SYS_getrusage SYS_sysinfo SYS_times
        SYS_ptrace SYS_getuid SYS_syslog SYS_getgid SYS_setuid SYS_setgid SYS_geteuid SYS_getegid
        SYS_setpgid SYS_getppid SYS_getpgrp SYS_setsid SYS_setreuid SYS_setregid SYS_getgroups
        SYS_setgroups SYS_setresuid SYS_getresuid SYS_setresgid SYS_getresgid SYS_getpgid SYS_setfsuid
        SYS_setfsgid SYS_getsid SYS_capget SYS_capset SYS_rt_sigpending SYS_rt_sigtimedwait
        SYS_rt_sigqueueinfo SYS_rt_sigsuspend SYS_sigaltstack SYS_utime SYS_mknod SYS_uselib
        SYS_personality SYS_ustat SYS_statfs SYS_fstatfs SYS_sysfs SYS_getpriority SYS_setpriority
        SYS_sched_setparam SYS_sched_getparam SYS_sched_setscheduler SYS_sched_getscheduler
        SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_rr_get_interval SYS_mlock
        SYS_munlock SYS_mlockall SYS_munlockall SYS_vhangup SYS_modify_ldt SYS_pivot_root SYS__sysctl
        SYS_prctl SYS_arch_prctl SYS_adjtimex SYS_setrlimit SYS_chroot SYS_sync SYS_acct SYS_settimeofday
        SYS_mount SYS_umount2 SYS_swapon SYS_swapoff SYS_reboot SYS_sethostname SYS_setdomainname SYS_iopl
        SYS_ioperm SYS_init_module SYS_delete_module SYS_quotactl SYS_nfsservctl SYS_getpmsg SYS_putpmsg
        SYS_afs_syscall SYS_tuxcall SYS_security SYS_gettid SYS_readahead SYS_setxattr SYS_lsetxattr
        SYS_fsetxattr SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr
        SYS_removexattr SYS_lremovexattr SYS_fremovexattr SYS_tkill SYS_time SYS_futex
        SYS_sched_setaffinity SYS_sched_getaffinity SYS_set_thread_area SYS_io_setup SYS_io_destroy
        SYS_io_getevents SYS_io_submit SYS_io_cancel SYS_get_thread_area SYS_lookup_dcookie
        SYS_epoll_create SYS_epoll_ctl_old SYS_epoll_wait_old SYS_remap_file_pages SYS_getdents64
        SYS_set_tid_address SYS_restart_syscall SYS_semtimedop SYS_fadvise64 SYS_timer_create
        SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete SYS_clock_settime
        SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_exit_group SYS_epoll_wait SYS_epoll_ctl
        SYS_tgkill SYS_utimes SYS_vserver SYS_mbind SYS_set_mempolicy SYS_get_mempolicy SYS_mq_open
        SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify SYS_mq_getsetattr SYS_kexec_load
        SYS_waitid SYS_add_key SYS_request_key SYS_keyctl SYS_ioprio_set SYS_ioprio_get SYS_inotify_init
        SYS_inotify_add_watch SYS_inotify_rm_watch SYS_migrate_pages SYS_openat SYS_mkdirat SYS_mknodat
        SYS_fchownat SYS_futimesat SYS_newfstatat SYS_unlinkat SYS_renameat SYS_linkat SYS_symlinkat
        SYS_readlinkat SYS_fchmodat SYS_faccessat SYS_pselect6 SYS_ppoll SYS_unshare SYS_set_robust_list
        SYS_get_robust_list SYS_splice SYS_tee SYS_sync_file_range SYS_vmsplice SYS_move_pages
        SYS_utimensat SYS_epoll_pwait SYS_signalfd SYS_timerfd_create SYS_eventfd SYS_fallocate
        SYS_timerfd_settime SYS_timerfd_gettime SYS_accept4 SYS_signalfd4 SYS_eventfd2 SYS_epoll_create1
        SYS_dup3 SYS_pipe2 SYS_inotify_init1 SYS_preadv SYS_pwritev SYS_rt_tgsigqueueinfo
        SYS_perf_event_open SYS_recvmmsg SYS_fanotify_init SYS_fanotify_mark SYS_prlimit64
        SYS_name_to_handle_at SYS_open_by_handle_at SYS_clock_adjtime SYS_syncfs SYS_sendmmsg SYS_setns
        SYS_getcpu SYS_process_vm_readv SYS_process_vm_writev SYS_kcmp SYS_finit_module SYS_sched_setattr
        SYS_sched_getattr SYS_renameat2 SYS_seccomp SYS_getrandom SYS_memfd_create SYS_kexec_file_load
        SYS_bpf SYS_execveat SYS_userfaultfd SYS_membarrier SYS_mlock2 SYS_copy_file_range SYS_preadv2
        SYS_pwritev2 SYS_pkey_mprotect SYS_pkey_alloc SYS_pkey_free SYS_statx SYS_rseq
        SYS_pidfd_send_signal SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register SYS_open_tree
        SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick SYS_pidfd_open SYS_clone3
        SYS_close_range SYS_openat2 SYS_pidfd_getfd SYS_faccessat2 SYS_process_madvise SYS_epoll_pwait2
        SYS_mount_setattr SYS_quotactl_fd SYS_landlock_create_ruleset SYS_landlock_add_rule
        SYS_landlock_restrict_self SYS_memfd_secret SYS_process_mrelease SYS_futex_waitv
        SYS_set_mempolicy_home_node SYS_fchmodat2 SYS_mseal
    };
    assert!(known.len() >= 360);
    for &(name, nr) in known {
        let name = name.trim_start_matches("SYS_");
        assert_eq!(i64::from(number(name)), nr, "{name}");
    }
    // Those that libc does not have: removed calls of old, and those newer than 6.1.
    for (nr, name) in [
        (174, "create_module"),
        (177, "get_kernel_syms"),
        (178, "query_module"),
        (333, "io_pgetevents"),
        (451, "cachestat"),
        (453, "map_shadow_stack"),
        (454, "futex_wake"),
        (455, "futex_wait"),
        (456, "futex_requeue"),
        (457, "statmount"),
        (458, "listmount"),
        (459, "lsm_get_self_attr"),
        (460, "lsm_set_self_attr"),
        (461, "lsm_list_modules"),
        (463, "setxattrat"),
        (464, "getxattrat"),
        (465, "listxattrat"),
        (466, "removexattrat"),
        (467, "open_tree_attr"),
        (468, "file_getattr"),
        (469, "file_setattr"),
    ] {
        assert_eq!(number(name), nr, "{name}");
    }
    assert_eq!(ROWS.iter().filter(|row| !row.name.is_empty()).count(), known.len() + 21);
}

#[test]
fn what_is_no_call_goes_home() {
    const X32: u64 = 0x4000_0000;
    for nr in [u64::from(*GAP.start()), ROWS.len() as u64, u64::MAX, X32 | 1] {
        assert_eq!(look_up(nr, &[0; 6]), None, "{nr}");
    }
    assert_eq!(look_up(39, &[0; 6]), Some((Class::Local, [].as_slice())));
}

/// The command or first arguments with which a call has another shape than its row.
fn refinements() -> impl Iterator<Item = (u16, [u64; 6])> {
    let by = |name: &str, at: usize, commands: Vec<u32>| {
        let nr = number(name);
        commands.into_iter().map(move |command| {
            let mut args = [0; 6];
            args[at] = u64::from(command);
            (nr, args)
        })
    };
    let numbers = |names: &[(&str, u32)]| names.iter().map(|(_, command)| *command).collect::<Vec<_>>();
    by("ioctl", 1, REQUESTS.iter().map(|(_, request, _)| *request).collect())
        .chain(by("fcntl", 1, numbers(FCNTL_NAMES)))
        .chain(by("prctl", 0, numbers(PRCTL_NAMES)))
        .chain(by("arch_prctl", 0, numbers(ARCH_PRCTL_NAMES)))
        .chain(by("semctl", 2, numbers(SEMCTL_NAMES)))
        .chain(by("msgctl", 1, numbers(MSGCTL_NAMES)))
        .chain(by("clock_gettime", 0, vec![0, 2, u32::MAX - 4, u32::MAX]))
        .chain(by("epoll_ctl", 1, vec![1, 2]))
        .chain(by("mmap", 3, vec![0x01, 0x02, 0x21, 0x22]))
        .chain((0..512).filter(|nr| !GAP.contains(nr)).map(|nr| (nr, [0; 6])))
}

#[test]
fn every_length_leads_to_a_number() {
    let shapes = refinements().filter_map(|(nr, args)| {
        look_up(u64::from(nr), &args).map(|(class, shape)| (ROWS[usize::from(nr)].name, class, shape))
    });
    for (name, class, shape) in ROWS.iter().map(|row| (row.name, row.class, row.args)).chain(shapes) {
        assert!(shape.len() <= 6, "{name}");
        if matches!(class, Class::Local | Class::GoHome) {
            assert!(shape.is_empty(), "{name}: nothing is carried");
        }
        let is_number = |at: u8| at < 6 && matches!(shape.get(usize::from(at)), None | Some(Arg::Value));
        for arg in shape {
            match *arg {
                Arg::In(len) | Arg::Out(len, _) | Arg::InOut(len) => match len {
                    Len::Const(size) => assert!(size > 0, "{name}"),
                    Len::Arg(at) | Len::Int(at) | Len::BitsOfArg(at) => assert!(is_number(at), "{name}"),
                    Len::ArgTimes(at, by) | Len::ArgPlus(at, by) => {
                        assert!(is_number(at) && by > 0, "{name}")
                    }
                    Len::IntAt(at) => {
                        assert_eq!(shape[usize::from(at)], Arg::InOut(Len::Const(4)), "{name}");
                    }
                },
                Arg::IovecIn(at) | Arg::IovecOut(at) | Arg::MmsgIn(at) | Arg::MmsgOut(at) => {
                    assert!(is_number(at), "{name}");
                }
                Arg::Value
                | Arg::Fd
                | Arg::Path
                | Arg::MsgIn
                | Arg::MsgOut
                | Arg::Strings
                | Arg::SigsetPair => {}
            }
        }
    }
}

/// The filter goes by the number alone, and what it lets through nobody refines.
#[test]
fn a_local_row_is_local_whatever_its_arguments() {
    for row in ROWS.iter().filter(|row| row.class == Class::Local) {
        for value in (0..64).map(|bit| 1 << bit).chain([0, 3, 5, u64::MAX]) {
            assert_eq!(refine(row.nr, &[value; 6]), Refined::AsRow, "{}", row.name);
        }
    }
}

/// What memory of a fixed size an argument is.
fn size(arg: Arg) -> Option<usize> {
    match arg {
        Arg::In(Len::Const(size)) | Arg::InOut(Len::Const(size)) | Arg::Out(Len::Const(size), _) => {
            usize::try_from(size).ok()
        }
        _ => None,
    }
}

#[test]
fn structures_are_as_large_as_the_systems() {
    macro_rules! sizes {
        ($($name:ident $at:literal $what:ty;)*) => { [$((stringify!($name), $at, size_of::<$what>())),*] };
    }
    let sizes: &[(&str, usize, usize)] = &sizes! {
        stat 1 libc::stat;                  fstat 1 libc::stat;             lstat 1 libc::stat;
        newfstatat 2 libc::stat;            statx 4 libc::statx;            statfs 1 libc::statfs;
        fstatfs 1 libc::statfs;             select 4 libc::timeval;         pselect6 4 libc::timespec;
        ppoll 2 libc::timespec;             getitimer 1 libc::itimerval;    setitimer 1 libc::itimerval;
        setitimer 2 libc::itimerval;        pipe 0 [libc::c_int; 2];        pipe2 0 [libc::c_int; 2];
        socketpair 3 [libc::c_int; 2];      wait4 1 libc::c_int;            wait4 3 libc::rusage;
        waitid 2 libc::siginfo_t;           waitid 4 libc::rusage;          uname 0 libc::utsname;
        getrlimit 1 libc::rlimit;           setrlimit 1 libc::rlimit;       prlimit64 2 libc::rlimit64;
        prlimit64 3 libc::rlimit64;         getrusage 1 libc::rusage;       sysinfo 0 libc::sysinfo;
        times 0 libc::tms;                  rt_sigqueueinfo 2 libc::siginfo_t;
        rt_tgsigqueueinfo 3 libc::siginfo_t; pidfd_send_signal 2 libc::siginfo_t;
        rt_sigtimedwait 1 libc::siginfo_t;  rt_sigtimedwait 2 libc::timespec;
        sigaltstack 0 libc::stack_t;        sigaltstack 1 libc::stack_t;    utime 1 libc::utimbuf;
        utimes 1 [libc::timeval; 2];        futimesat 2 [libc::timeval; 2]; utimensat 2 [libc::timespec; 2];
        sched_setparam 1 libc::sched_param; sched_getparam 1 libc::sched_param;
        sched_setscheduler 2 libc::sched_param; sched_rr_get_interval 1 libc::timespec;
        adjtimex 0 libc::timex;             clock_adjtime 1 libc::timex;    settimeofday 0 libc::timeval;
        settimeofday 1 [libc::c_int; 2];      semtimedop 3 libc::timespec;    timer_create 1 libc::sigevent;
        timer_settime 2 libc::itimerspec;   timer_settime 3 libc::itimerspec; timer_gettime 1 libc::itimerspec;
        timerfd_settime 2 libc::itimerspec; timerfd_settime 3 libc::itimerspec;
        timerfd_gettime 1 libc::itimerspec; clock_settime 1 libc::timespec; clock_gettime 1 libc::timespec;
        clock_getres 1 libc::timespec;      epoll_ctl 3 libc::epoll_event;  epoll_pwait2 3 libc::timespec;
        mq_open 3 libc::mq_attr;            mq_getsetattr 1 libc::mq_attr;  mq_getsetattr 2 libc::mq_attr;
        mq_timedsend 4 libc::timespec;      mq_timedreceive 3 libc::c_uint; mq_timedreceive 4 libc::timespec;
        recvmmsg 4 libc::timespec;          sendfile 2 libc::off_t;         splice 1 libc::off64_t;
        splice 3 libc::off64_t;             copy_file_range 1 libc::off64_t; copy_file_range 3 libc::off64_t;
        accept 2 libc::socklen_t;           getsockopt 4 libc::socklen_t;
    };
    for &(name, at, expected) in sizes {
        assert_eq!(size(ROWS[usize::from(number(name))].args[at]), Some(expected), "{name}, argument {at}");
    }
    let times = |name: &str, at: usize| match ROWS[usize::from(number(name))].args[at] {
        Arg::In(Len::ArgTimes(_, by)) | Arg::InOut(Len::ArgTimes(_, by)) => by as usize,
        Arg::Out(Len::ArgTimes(_, by), Got::RetTimes(got)) if by == got => by as usize,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(times("poll", 0), size_of::<libc::pollfd>());
    assert_eq!(times("ppoll", 0), size_of::<libc::pollfd>());
    assert_eq!(times("semop", 1), size_of::<libc::sembuf>());
    assert_eq!(times("semtimedop", 1), size_of::<libc::sembuf>());
    assert_eq!(times("getgroups", 1), size_of::<libc::gid_t>());
    for wait in ["epoll_wait", "epoll_pwait", "epoll_pwait2"] {
        assert_eq!(times(wait, 1), size_of::<libc::epoll_event>());
    }
}

/// `_IOC_SIZE` of a request that gives one.
fn encoded_size(request: u32) -> Option<usize> {
    (request >> 30 != 0).then_some((request >> 16 & 0x3fff) as usize)
}

#[test]
fn a_request_has_the_size_that_its_number_gives() {
    // The kernel takes an `int` for a `long`, a number for a pointer, or a larger structure.
    const EXCEPT: [&str; 17] = [
        "FS_IOC_GETFLAGS",
        "FS_IOC_SETFLAGS",
        "FS_IOC_GETVERSION",
        "FS_IOC_SETVERSION",
        "BLKBSZGET",
        "BLKBSZSET",
        "TIOCSIG",
        "FIFREEZE",
        "FITHAW",
        "FICLONE",
        "INOTIFY_IOC_SETNEXTWD",
        "TUNSETIFF",
        "TUNGETIFF",
        "TUNSETPERSIST",
        "TUNSETOWNER",
        "TUNSETGROUP",
        "TUNSETLINK",
    ];
    let mut checked = 0;
    for &(name, request, arg) in REQUESTS {
        let Some(encoded) = encoded_size(request) else { continue };
        assert_eq!(size(arg) != Some(encoded), EXCEPT.contains(&name), "{name}: {arg:?}, {encoded}");
        checked += 1;
    }
    assert!(checked > EXCEPT.len() + 20);
}

#[test]
fn requests_are_those_of_the_system() {
    macro_rules! known {
        ($($name:ident $what:ty;)*) => { [$((stringify!($name), libc::$name, size_of::<$what>())),*] };
    }
    // The kernel's `struct termios` is not libc's, which has more control characters; termios2 ends with the
    // two speeds.
    type Termios = [u8; size_of::<libc::termios2>() - 8];
    for (name, number, size_of_it) in known! {
        TCGETS Termios;                     TCSETS Termios;                 TCSETSW Termios;
        TCSETSF Termios;                    TCSBRK ();                      TCXONC ();
        TCFLSH ();                          TIOCEXCL ();                    TIOCNXCL ();
        TIOCSCTTY ();                       TIOCGPGRP libc::pid_t;          TIOCSPGRP libc::pid_t;
        TIOCOUTQ libc::c_int;               TIOCSTI libc::c_char;           TIOCGWINSZ libc::winsize;
        TIOCSWINSZ libc::winsize;           TIOCMGET libc::c_int;           TIOCMBIS libc::c_int;
        TIOCMBIC libc::c_int;               TIOCMSET libc::c_int;           FIONREAD libc::c_int;
        TIOCCONS ();                        FIONBIO libc::c_int;            TIOCNOTTY ();
        TIOCSETD libc::c_int;               TIOCGETD libc::c_int;           TIOCSBRK ();
        TIOCCBRK ();                        TIOCGSID libc::pid_t;           TCGETS2 libc::termios2;
        TCSETS2 libc::termios2;             TCSETSW2 libc::termios2;        TCSETSF2 libc::termios2;
        TIOCGPTN libc::c_uint;              TIOCSPTLCK libc::c_int;         TIOCGPTPEER ();
        FIONCLEX ();                        FIOCLEX ();                     FIOASYNC libc::c_int;
        FICLONERANGE libc::file_clone_range; BLKSSZGET libc::c_int;         SIOCGIFNAME libc::ifreq;
        SIOCGIFFLAGS libc::ifreq;           SIOCGIFADDR libc::ifreq;        SIOCGIFNETMASK libc::ifreq;
        SIOCGIFMTU libc::ifreq;             SIOCGIFHWADDR libc::ifreq;      SIOCGIFINDEX libc::ifreq;
        SIOCGARP libc::arpreq;              SIOCSARP libc::arpreq;          TUNSETIFF libc::ifreq;
        EPIOCSPARAMS libc::epoll_params;    EPIOCGPARAMS libc::epoll_params;
        NS_GET_USERNS ();                   NS_GET_OWNER_UID libc::uid_t;
    } {
        let &(_, request, arg) = REQUESTS.iter().find(|(known, ..)| *known == name).expect(name);
        assert_eq!(libc::Ioctl::from(request), number, "{name}");
        assert_eq!(size(arg).unwrap_or(0), size_of_it, "{name}");
    }
}

#[test]
fn commands_are_those_of_the_system() {
    macro_rules! same {
        ($names:ident: $($name:ident)*) => {
            for (name, expected) in [$((stringify!($name), libc::$name)),*] {
                let found = $names.iter().find(|(known, _)| *known == name).map(|(_, command)| *command);
                assert_eq!(found.map(i64::from), Some(i64::from(expected)), "{name}");
            }
        };
    }
    same! { FCNTL_NAMES:
        F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_GETLK F_SETLK F_SETLKW F_SETOWN F_GETOWN
        F_OFD_GETLK F_OFD_SETLK F_OFD_SETLKW F_SETLEASE F_GETLEASE F_NOTIFY
        F_DUPFD_CLOEXEC F_SETPIPE_SZ F_GETPIPE_SZ F_ADD_SEALS F_GET_SEALS
    }
    same! { PRCTL_NAMES:
        PR_SET_PDEATHSIG PR_GET_PDEATHSIG PR_GET_DUMPABLE PR_SET_DUMPABLE PR_GET_KEEPCAPS PR_SET_KEEPCAPS
        PR_SET_NAME PR_GET_NAME PR_GET_SECCOMP PR_CAPBSET_READ PR_CAPBSET_DROP PR_GET_TSC PR_GET_SECUREBITS
        PR_SET_SECUREBITS PR_SET_TIMERSLACK PR_GET_TIMERSLACK PR_SET_CHILD_SUBREAPER PR_GET_CHILD_SUBREAPER
        PR_SET_NO_NEW_PRIVS PR_GET_NO_NEW_PRIVS PR_GET_TID_ADDRESS PR_SET_THP_DISABLE PR_GET_THP_DISABLE
        PR_CAP_AMBIENT PR_GET_SPECULATION_CTRL PR_SET_SPECULATION_CTRL
        PR_GET_MDWE PR_SET_MEMORY_MERGE PR_GET_MEMORY_MERGE PR_SET_VMA PR_SET_PTRACER
    }
    same! { SEMCTL_NAMES:
        IPC_RMID IPC_SET IPC_STAT IPC_INFO GETPID GETVAL GETNCNT GETZCNT SETVAL SEM_STAT SEM_INFO SEM_STAT_ANY
    }
    same! { MSGCTL_NAMES: IPC_RMID IPC_SET IPC_STAT IPC_INFO MSG_STAT MSG_INFO }

    let size_of_last = |name: &str, args: [u64; 6]| {
        look_up(u64::from(number(name)), &args).and_then(|(_, shape)| size(*shape.last()?))
    };
    let fcntl = |command: libc::c_int| size_of_last("fcntl", [0, register(command), 0, 0, 0, 0]);
    assert_eq!(fcntl(libc::F_GETLK), Some(size_of::<libc::flock>()));
    assert_eq!(fcntl(libc::F_SETLKW), Some(size_of::<libc::flock>()));
    assert_eq!(fcntl(libc::F_OFD_SETLK), Some(size_of::<libc::flock64>()));
    let semctl = |command: libc::c_int| size_of_last("semctl", [0, 0, register(command), 0, 0, 0]);
    assert_eq!(semctl(libc::IPC_STAT), Some(size_of::<libc::semid_ds>()));
    assert_eq!(semctl(libc::SEM_INFO), Some(size_of::<libc::seminfo>()));
    let msgctl = |command: libc::c_int| size_of_last("msgctl", [0, register(command), 0, 0, 0, 0]);
    assert_eq!(msgctl(libc::IPC_SET), Some(size_of::<libc::msqid_ds>()));
    assert_eq!(msgctl(libc::MSG_INFO), Some(size_of::<libc::msginfo>()));
}

fn class(name: &str, args: [u64; 6]) -> Option<Class> {
    look_up(u64::from(number(name)), &args).map(|(class, _)| class)
}

#[test]
fn a_command_is_an_int() {
    let sign_extended = 0xffff_ffff_8004_5430;
    assert_eq!(class("ioctl", [0, sign_extended, 0, 0, 0, 0]), Some(Class::Home), "TIOCGPTN");
    assert_eq!(
        request(0x5413),
        Refined::To(Class::Home, &[Arg::Fd, Arg::Value, Arg::Out(Len::Const(8), Got::All)])
    );
    assert_eq!(class("ioctl", [0, 0x8912, 0, 0, 0, 0]), None, "SIOCGIFCONF");
    assert_eq!(class("fcntl", [3, 0xdead_0000_0000_0003, 0, 0, 0, 0]), Some(Class::Home), "F_GETFL");
    assert_eq!(class("fcntl", [3, 12, 0, 0, 0, 0]), None, "F_GETLK64 of 32-bit programs");
}

#[test]
fn mmap_goes_by_its_flags() {
    use libc::{
        MAP_ANONYMOUS, MAP_FIXED, MAP_HUGETLB, MAP_LOCKED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED,
        MAP_SHARED_VALIDATE, MAP_STACK,
    };
    for (flags, expected) in [
        (MAP_PRIVATE | MAP_ANONYMOUS, Class::Local),
        (MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE | MAP_FIXED, Class::Local),
        (MAP_PRIVATE, Class::Both),
        (MAP_PRIVATE | MAP_FIXED, Class::Both),
        (MAP_SHARED, Class::GoHome),
        (MAP_SHARED_VALIDATE, Class::GoHome),
        (MAP_SHARED | MAP_ANONYMOUS, Class::GoHome),
        (MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, Class::GoHome),
        (MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, Class::GoHome),
    ] {
        assert_eq!(class("mmap", [0, 4096, 3, register(flags), 0, 0]), Some(expected), "{flags:#x}");
    }
}

#[test]
fn clone_goes_by_its_flags() {
    use libc::{
        CLONE_FILES, CLONE_FS, CLONE_NEWNET, CLONE_NEWUSER, CLONE_SIGHAND, CLONE_THREAD, CLONE_VFORK,
    };
    use libc::{CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS, CLONE_VM, SIGCHLD};
    for (flags, expected) in [
        (SIGCHLD, Class::Both),
        (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD, Class::Both),
        (CLONE_VM | CLONE_VFORK | SIGCHLD, Class::Both),
        (CLONE_VM | SIGCHLD, Class::GoHome),
        (CLONE_NEWNS | SIGCHLD, Class::GoHome),
        (CLONE_NEWCGROUP, Class::GoHome),
        (CLONE_NEWUTS, Class::GoHome),
        (CLONE_NEWIPC, Class::GoHome),
        (CLONE_NEWUSER, Class::GoHome),
        (CLONE_NEWPID, Class::GoHome),
        (CLONE_NEWNET, Class::GoHome),
    ] {
        assert_eq!(class("clone", [register(flags), 0, 0, 0, 0, 0]), Some(expected), "{flags:#x}");
    }
    assert_eq!(clone_class(0x80), Class::GoHome, "CLONE_NEWTIME, which clone takes for a signal");
    assert_eq!(class("clone", [0x80, 0, 0, 0, 0, 0]), Some(Class::Both));
}

#[test]
fn clocks_of_cpu_time_are_those_of_the_body() {
    let id = |clock: libc::clockid_t| [register(clock), 0, 0, 0, 0, 0];
    for clock in [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME, libc::CLOCK_TAI] {
        assert_eq!(class("clock_gettime", id(clock)), Some(Class::Local), "{clock}");
        assert_eq!(class("timer_create", id(clock)), Some(Class::Home), "{clock}");
    }
    let of_thread_7: libc::clockid_t = !7 << 3 | 6;
    for clock in [libc::CLOCK_PROCESS_CPUTIME_ID, libc::CLOCK_THREAD_CPUTIME_ID, of_thread_7] {
        assert_eq!(class("clock_gettime", id(clock)), Some(Class::Shim), "{clock}");
        assert_eq!(class("timer_create", id(clock)), Some(Class::GoHome), "{clock}");
    }
    let of_descriptor_7: libc::clockid_t = !7 << 3 | 3;
    assert_eq!(class("clock_gettime", id(of_descriptor_7)), Some(Class::Home));

    assert_eq!(class("setitimer", id(libc::ITIMER_REAL)), Some(Class::Home));
    assert_eq!(class("setitimer", id(libc::ITIMER_PROF)), Some(Class::Local));
    assert_eq!(class("getrusage", id(libc::RUSAGE_SELF)), Some(Class::Shim));
    assert_eq!(class("getrusage", id(libc::RUSAGE_CHILDREN)), Some(Class::Home));
}

#[test]
fn arguments_that_are_not_looked_at_are_not_carried() {
    let garbage = 0xdead_beef;
    let shape = |name: &str, args: [u64; 6]| look_up(u64::from(number(name)), &args).unwrap().1;
    assert_eq!(shape("accept", [3, 0, garbage, 0, 0, 0]), [Arg::Fd]);
    assert_eq!(shape("recvfrom", [3, 1, 1, 0, 0, garbage]).len(), 2);
    assert_eq!(shape("epoll_ctl", [3, register(libc::EPOLL_CTL_DEL), 4, garbage, 0, 0]).len(), 3);
    assert_eq!(shape("mq_open", [1, register(libc::O_RDWR), 0, garbage, 0, 0]), [Arg::Path]);
    assert_eq!(shape("mq_open", [1, register(libc::O_RDWR | libc::O_CREAT), 0, 1, 0, 0]).len(), 4);
}

#[test]
fn what_cannot_be_done_from_afar_goes_home() {
    let scheduler = |policy: libc::c_int| class("sched_setscheduler", [0, register(policy), 1, 0, 0, 0]);
    assert_eq!(scheduler(libc::SCHED_FIFO), Some(Class::GoHome));
    assert_eq!(scheduler(libc::SCHED_RR | libc::SCHED_RESET_ON_FORK), Some(Class::GoHome));
    assert_eq!(scheduler(libc::SCHED_BATCH | libc::SCHED_RESET_ON_FORK), Some(Class::Both));
    assert_eq!(class("sendto", [3, 1, 1, register(libc::MSG_ZEROCOPY), 0, 0]), Some(Class::GoHome));
    assert_eq!(class("sendto", [3, 1, 1, register(libc::MSG_NOSIGNAL), 0, 0]), Some(Class::Home));
    let option = |level: libc::c_int, name: libc::c_int| {
        class("setsockopt", [3, register(level), register(name), 1, 4, 0])
    };
    assert_eq!(option(libc::SOL_SOCKET, libc::SO_REUSEADDR), Some(Class::Home));
    assert_eq!(option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER), None);
    assert_eq!(option(libc::IPPROTO_TCP, libc::TCP_NODELAY), Some(Class::Home));
    assert_eq!(option(libc::IPPROTO_IPV6, libc::IPV6_TCLASS), Some(Class::Home));
    assert_eq!(option(libc::IPPROTO_SCTP, 1), None);
    assert_eq!(class("prctl", [register(libc::PR_SET_SECCOMP), 2, 0, 0, 0, 0]), None);
    assert_eq!(class("prlimit64", [0, 7, 0, 1, 0, 0]), Some(Class::Home));
    assert_eq!(class("prlimit64", [0, 7, 1, 0, 0, 0]), Some(Class::Both));
    assert_eq!(class("personality", [0xffff_ffff, 0, 0, 0, 0, 0]), Some(Class::Home));
    assert_eq!(class("personality", [0, 0, 0, 0, 0, 0]), Some(Class::Both));
    assert_eq!(class("mq_notify", [3, 0, 0, 0, 0, 0]), Some(Class::Home));
    assert_eq!(class("mq_notify", [3, 1, 0, 0, 0, 0]), Some(Class::GoHome));
}
