//! System calls that nix does not have, and the memory of other processes.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use tesela_shim::kernel::CloneArgs;

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// These signals, and one that has no name.
pub fn signals_with(signals: SigSet, signal: i32) -> SigSet {
    let mut signals = *signals.as_ref();
    // SAFETY: it is a set of signals, before and after.
    unsafe {
        libc::sigaddset(&raw mut signals, signal);
        SigSet::from_sigset_t_unchecked(signals)
    }
}

/// Reads another process's memory; returns how many octets there were before the first hole.
pub fn read_memory(pid: Pid, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY: the local vector is `buffer`; the remote one is the other process's.
    let got = unsafe { libc::process_vm_readv(pid.as_raw(), &raw const local, 1, &raw const remote, 1, 0) };
    Ok(usize::try_from(checked(got as libc::c_long)?).unwrap_or(0))
}

/// Reads another process's memory, whatever its protection.
pub fn force_read(pid: Pid, address: u64, buffer: &mut [u8]) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    std::fs::File::open(format!("/proc/{pid}/mem"))?.read_exact_at(buffer, address)
}

/// Writes another process's memory, where it may write itself.
pub fn write_memory(pid: Pid, address: u64, buffer: &[u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: buffer.as_ptr().cast_mut().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY: the local vector is `buffer`, which is only read; the remote one is the other process's.
    let put = unsafe { libc::process_vm_writev(pid.as_raw(), &raw const local, 1, &raw const remote, 1, 0) };
    if usize::try_from(checked(put as libc::c_long)?) == Ok(buffer.len()) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EFAULT))
    }
}

/// A descriptor that the kernel has just made.
///
/// # Safety
/// Nobody else owns it.
unsafe fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the caller's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A copy of another process's descriptor.
pub fn take_fd(pid: Pid, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: both calls make a descriptor, which is owned from here on.
    unsafe {
        let pidfd = owned(checked(libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0))?)?;
        owned(checked(libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0))?)
    }
}

/// `struct ptrace_rseq_configuration`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RseqConfiguration {
    /// Its address; 0: none.
    pub address: u64,
    /// Its size.
    pub size: u32,
    /// The signature before an abort handler.
    pub signature: u32,
    /// Flags.
    pub flags: u32,
    pad: u32,
}

/// The stopped thread's rseq area.
pub fn rseq(tid: Pid) -> io::Result<RseqConfiguration> {
    const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
    let mut configuration = RseqConfiguration::default();
    let size = size_of::<RseqConfiguration>();
    // SAFETY: the kernel writes at most `size` octets.
    checked(unsafe {
        libc::ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid.as_raw(), size, &raw mut configuration)
    })?;
    Ok(configuration)
}

/// The stopped thread's signal mask.
pub fn signal_mask(tid: Pid) -> io::Result<u64> {
    const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
    let mut mask = 0_u64;
    // SAFETY: the kernel writes 8 octets.
    checked(unsafe { libc::ptrace(PTRACE_GETSIGMASK, tid.as_raw(), 8_usize, &raw mut mask) })?;
    Ok(mask)
}

/// Sets the stopped thread's signal mask.
pub fn set_signal_mask(tid: Pid, mask: u64) -> io::Result<()> {
    const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;
    // SAFETY: the kernel reads 8 octets.
    checked(unsafe { libc::ptrace(PTRACE_SETSIGMASK, tid.as_raw(), 8_usize, &raw const mask) })?;
    Ok(())
}

/// The register set of x87 and SSE, as fxsave lays it out.
pub const NT_PRFPREG: usize = 2;
/// All that xsave keeps, as it lays it out.
pub const NT_X86_XSTATE: usize = 0x202;

/// A register set of a stopped thread.
pub fn register_set(tid: Pid, kind: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0_u8; 16 * 1024];
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the kernel writes into the vector, and says how much.
    checked(unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid.as_raw(), kind, &raw mut vector) })?;
    buffer.truncate(vector.iov_len);
    Ok(buffer)
}

/// Sets it.
pub fn set_register_set(tid: Pid, kind: usize, registers: &[u8]) -> io::Result<()> {
    let vector = libc::iovec { iov_base: registers.as_ptr().cast_mut().cast(), iov_len: registers.len() };
    // SAFETY: the kernel reads the vector.
    checked(unsafe { libc::ptrace(libc::PTRACE_SETREGSET, tid.as_raw(), kind, &raw const vector) })?;
    Ok(())
}

/// The head of a thread's list of robust futexes, and its length.
pub fn robust_list(tid: Pid) -> io::Result<(u64, u64)> {
    let (mut head, mut length) = (0_u64, 0_u64);
    // SAFETY: the kernel writes both words.
    checked(unsafe {
        libc::syscall(libc::SYS_get_robust_list, tid.as_raw(), &raw mut head, &raw mut length)
    })?;
    Ok((head, length))
}

/// Sends a signal to a thread of a process.
pub fn tgkill(tgid: Pid, tid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: no memory.
    checked(unsafe { libc::syscall(libc::SYS_tgkill, tgid.as_raw(), tid.as_raw(), signal) })?;
    Ok(())
}

const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;
const UFFDIO_WAKE: u64 = 0x8010_aa02;
const UFFDIO_COPY: u64 = 0xc028_aa03;
const UFFDIO_ZEROPAGE: u64 = 0xc020_aa04;

fn ioctl(fd: &OwnedFd, request: u64, argument: *mut u64) -> io::Result<()> {
    // SAFETY: the callers' arrays are as long as the request's structure.
    checked(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, argument) }))?;
    Ok(())
}

/// A userfaultfd of another process's memory (userfaultfd(2), ioctl_userfaultfd(2)).
#[derive(Debug)]
pub struct Userfaultfd(pub OwnedFd);

impl Userfaultfd {
    /// Takes it into use. Forks of the process are not told of: it makes none before all pages are there.
    pub fn enable(&self) -> io::Result<()> {
        const UFFD_API: u64 = 0xaa;
        /// UFFD_FEATURE_EVENT_REMAP | _REMOVE | _UNMAP
        const FEATURES: u64 = 1 << 2 | 1 << 3 | 1 << 6;
        ioctl(&self.0, UFFDIO_API, [UFFD_API, FEATURES, 0].as_mut_ptr())
    }

    /// Faults on pages of the range that are missing are told from now on.
    pub fn register(&self, start: u64, length: u64) -> io::Result<()> {
        const MISSING: u64 = 1;
        ioctl(&self.0, UFFDIO_REGISTER, [start, length, MISSING, 0].as_mut_ptr())
    }

    /// And no longer.
    pub fn unregister(&self, start: u64, length: u64) -> io::Result<()> {
        ioctl(&self.0, UFFDIO_UNREGISTER, [start, length].as_mut_ptr())
    }

    /// Lets those go on that wait for a page of the range.
    pub fn wake(&self, start: u64, length: u64) -> io::Result<()> {
        ioctl(&self.0, UFFDIO_WAKE, [start, length].as_mut_ptr())
    }

    /// Puts pages into place. How many octets were put before the first that could not be, and why.
    pub fn copy(&self, to: u64, content: &[u8]) -> (u64, Option<io::Error>) {
        let mut request = [to, content.as_ptr() as u64, content.len() as u64, 0, 0];
        match ioctl(&self.0, UFFDIO_COPY, request.as_mut_ptr()) {
            Ok(()) => (content.len() as u64, None),
            Err(error) => (u64::try_from(request[4].cast_signed()).unwrap_or(0), Some(error)),
        }
    }

    /// Puts pages of zeros into place.
    pub fn zero(&self, start: u64, length: u64) -> io::Result<()> {
        ioctl(&self.0, UFFDIO_ZEROPAGE, [start, length, 0, 0].as_mut_ptr())
    }
}

/// The thread's nice value.
pub fn nice(tid: Pid) -> io::Result<i32> {
    Errno::clear();
    // SAFETY: no memory.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, tid.as_raw().cast_unsigned()) };
    // -1 is one, too.
    if nice == -1 && Errno::last_raw() != 0 { Err(io::Error::last_os_error()) } else { Ok(nice) }
}

/// Sets it.
pub fn set_nice(tid: Pid, nice: i32) -> io::Result<()> {
    // SAFETY: no memory.
    let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, tid.as_raw().cast_unsigned(), nice) };
    checked(set.into()).map(drop)
}

/// Lets a stopped thread go on with any signal, real-time ones included; 0: with none.
pub fn cont(tid: Pid, signal: i32) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: no memory.
    checked(unsafe { libc::ptrace(libc::PTRACE_CONT, tid.as_raw(), nothing, libc::c_long::from(signal)) })?;
    Ok(())
}

/// Lets a stopped thread go for good, with any signal; 0: with none.
pub fn detach(tid: Pid, signal: i32) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: no memory.
    checked(unsafe { libc::ptrace(libc::PTRACE_DETACH, tid.as_raw(), nothing, libc::c_long::from(signal)) })?;
    Ok(())
}

/// wait4(2), which knows real-time signals as well: who, and how; `None` where nobody is waited for (WNOHANG).
pub fn wait(pid: Option<Pid>, flags: libc::c_int) -> Result<Option<(Pid, libc::c_int)>, nix::errno::Errno> {
    let mut status = 0;
    // SAFETY: the kernel writes the status.
    let told = unsafe { libc::waitpid(pid.map_or(-1, Pid::as_raw), &raw mut status, flags) };
    let told = nix::errno::Errno::result(told)?;
    Ok((told != 0).then(|| (Pid::from_raw(told), status)))
}

/// The `siginfo_t`s of the signals that wait for a stopped thread, or for its whole process.
pub fn pending_signals(tid: Pid, of_process: bool) -> io::Result<Vec<Vec<u8>>> {
    const PTRACE_PEEKSIGINFO: libc::c_uint = 0x4209;
    const AT_ONCE: i32 = 32;
    /// `struct ptrace_peeksiginfo_args`; the flag is PTRACE_PEEKSIGINFO_SHARED.
    #[repr(C)]
    struct Arguments {
        off: u64,
        flags: u32,
        nr: i32,
    }
    let mut infos: Vec<Vec<u8>> = Vec::new();
    loop {
        let arguments = Arguments { off: infos.len() as u64, flags: of_process.into(), nr: AT_ONCE };
        let mut buffer = vec![0_u8; 128 * 32];
        // SAFETY: a siginfo_t has 128 octets, and there is room for as many as are asked for.
        let got = checked(unsafe {
            libc::ptrace(PTRACE_PEEKSIGINFO, tid.as_raw(), &raw const arguments, buffer.as_mut_ptr())
        })?;
        let got = usize::try_from(got).unwrap_or(0);
        if got == 0 {
            return Ok(infos);
        }
        infos.extend(buffer.chunks_exact(128).take(got).map(<[u8]>::to_vec));
    }
}

/// rt_sigqueueinfo(2) or rt_tgsigqueueinfo(2): with an origin that others may claim (`si_code` < 0, not
/// SI_TKILL).
pub fn queue_signal(tgid: Pid, thread: Option<Pid>, signal: i32, info: &[u8; 128]) -> io::Result<()> {
    let info = info.as_ptr();
    // SAFETY: the kernel reads a siginfo_t, which has 128 octets.
    checked(unsafe {
        match thread {
            Some(tid) => {
                libc::syscall(libc::SYS_rt_tgsigqueueinfo, tgid.as_raw(), tid.as_raw(), signal, info)
            }
            None => libc::syscall(libc::SYS_rt_sigqueueinfo, tgid.as_raw(), signal, info),
        }
    })?;
    Ok(())
}

/// Leaves a thread in its group stop, and hears when it ends.
pub fn listen(tid: Pid) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: no memory.
    checked(unsafe { libc::ptrace(libc::PTRACE_LISTEN, tid.as_raw(), nothing, nothing) })?;
    Ok(())
}

/// The `siginfo_t` of the signal for which a thread has stopped.
pub fn signal_info(tid: Pid) -> io::Result<Vec<u8>> {
    let mut info = vec![0_u8; 128];
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: a siginfo_t has 128 octets.
    checked(unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, tid.as_raw(), nothing, info.as_mut_ptr()) })?;
    Ok(info)
}

/// fork(2) into new namespaces, with an id of the caller's choice if that is not 0. `None` in the child.
///
/// # Safety
/// The caller has no other threads.
pub unsafe fn fork(namespaces: libc::c_int, id: i32) -> io::Result<Option<Pid>> {
    let set_tid = id;
    let arguments = CloneArgs {
        flags: u64::from(namespaces.cast_unsigned()),
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        set_tid: if id == 0 { 0 } else { &raw const set_tid as u64 },
        set_tid_size: u64::from(id != 0),
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM the child has a copy of everything.
    let child =
        checked(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) })?;
    Ok((child != 0).then(|| Pid::from_raw(i32::try_from(child).unwrap_or(0))))
}

/// Anonymous memory at this place.
///
/// # Safety
/// None for a place that is free; it fails for any other.
pub unsafe fn map_fixed(address: u64, length: u64) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping that replaces none.
    let at = unsafe { libc::mmap(address as *mut libc::c_void, length, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes memory code.
///
/// # Safety
/// Nobody writes there any more.
pub unsafe fn make_code(address: u64, length: u64) -> io::Result<()> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: the caller's.
    checked(libc::c_long::from(unsafe { libc::mprotect(address as *mut libc::c_void, length, protection) }))?;
    Ok(())
}

/// A copy of a descriptor with this number.
pub fn keep_as(fd: &OwnedFd, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() != number {
        // SAFETY: it makes a descriptor; one of that number that is open is not used again.
        checked(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), number) }))?;
    }
    Ok(())
}

/// Closes every descriptor outside of this range.
pub fn close_others(first: RawFd, end: RawFd) -> io::Result<()> {
    // SAFETY: the caller goes on in code that has no other descriptors.
    unsafe {
        if first > 0 {
            checked(libc::syscall(libc::SYS_close_range, 0, first - 1, 0))?;
        }
        checked(libc::syscall(libc::SYS_close_range, end, u32::MAX, 0))?;
    }
    Ok(())
}

/// Goes on in the blob.
///
/// # Safety
/// Entry, stack, command and slot are as the blob expects them. It does not return.
pub unsafe fn enter(entry: u64, stack: u64, command: u64, slot: u64) -> ! {
    // SAFETY: the caller's.
    unsafe {
        std::arch::asm!("mov rsp, {stack}", "jmp {entry}", stack = in(reg) stack, entry = in(reg) entry,
            in("rdi") command, in("rsi") slot, options(noreturn))
    }
}

/// kill(2), for real-time signals as well.
pub fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: no memory.
    checked(libc::c_long::from(unsafe { libc::kill(pid.as_raw(), signal) }))?;
    Ok(())
}

/// A connection that this program was started with.
pub fn inherited_socket(fd: RawFd) -> io::Result<std::net::TcpStream> {
    // SAFETY: fcntl(2) only asks; where the descriptor is open, whoever started this program has left it to us.
    unsafe {
        checked(libc::c_long::from(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC)))?;
        Ok(std::net::TcpStream::from_raw_fd(fd))
    }
}

/// Whether a signal waits for a stopped thread that it does not block.
pub fn has_signal(tid: Pid) -> io::Result<bool> {
    let set = |key| -> io::Result<u64> {
        u64::from_str_radix(&super::look::status(tid, key)?, 16).map_err(io::Error::other)
    };
    Ok((set("SigPnd")? | set("ShdPnd")?) & !set("SigBlk")? != 0)
}

/// The fastest way there and back that a TCP connection has seen of late (tcp(7), TCP_INFO).
pub fn fastest_round_trip(fd: i32) -> io::Result<std::time::Duration> {
    /// Of `tcpi_min_rtt` in `struct tcp_info` (include/uapi/linux/tcp.h): microseconds.
    const AT: usize = 148;
    let mut told = [0_u8; 256];
    let mut length = libc::socklen_t::try_from(told.len()).map_err(io::Error::other)?;
    let (buffer, size) = (told.as_mut_ptr().cast(), &raw mut length);
    // SAFETY: the kernel writes into the buffer, and says how much.
    checked(libc::c_long::from(unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, buffer, size)
    }))?;
    let microseconds = told[AT..].first_chunk().map_or(0, |octets| u32::from_ne_bytes(*octets));
    // A connection that has sent nothing has none.
    if length as usize <= AT || microseconds == u32::MAX {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(std::time::Duration::from_micros(microseconds.into()))
}

/// Whether somebody has the file open for writing, or mapped so; `None` where the file system does not say (NFS).
/// SIGIO is ignored by the caller's program: it comes where somebody opens the file at this moment.
pub fn has_writers(file: &std::fs::File) -> io::Result<Option<bool>> {
    // A lease to read is had where there is none who writes (fcntl(2), F_SETLEASE).
    let lease = |kind: libc::c_int| {
        // SAFETY: a number goes in.
        checked(libc::c_long::from(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) }))
    };
    match lease(libc::F_RDLCK) {
        Ok(_) => lease(libc::F_UNLCK).map(|_| Some(false)),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(Some(true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where in memory the page of a file is that is at this offset (proc_pid_pagemap(5)); `None`: that is not told.
pub fn frame(file: &std::fs::File, offset: u64) -> io::Result<Option<u64>> {
    use std::os::unix::fs::FileExt as _;
    const PAGE: u64 = super::look::PAGE;
    let length = usize::try_from(PAGE).map_err(io::Error::other)?;
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED | libc::MAP_POPULATE);
    // SAFETY: a new mapping, which nothing but the kernel looks at before it is gone again.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, file.as_raw_fd(), offset) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mut entry = [0; 8];
    let read = std::fs::File::open("/proc/self/pagemap")
        .and_then(|pagemap| pagemap.read_exact_at(&mut entry, at as u64 / PAGE * 8));
    // SAFETY: it was mapped above.
    checked(libc::c_long::from(unsafe { libc::munmap(at, length) }))?;
    read?;
    let entry = u64::from_le_bytes(entry);
    Ok(Some(super::look::frame(entry)).filter(|frame| super::look::is_there(entry) && *frame != 0))
}

/// SIGIO, which [`has_writers`] can bring on, does nothing.
pub fn ignore_leases() -> io::Result<()> {
    // SAFETY: no handler of ours runs.
    unsafe {
        nix::sys::signal::signal(nix::sys::signal::Signal::SIGIO, nix::sys::signal::SigHandler::SigIgn)?
    };
    Ok(())
}

/// Whether a memfd can be written no more but by the mappings that there are.
pub fn is_sealed(file: &std::fs::File) -> bool {
    // SAFETY: it only asks.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals > 0 && seals & (libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE) != 0
}
