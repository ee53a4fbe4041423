//! A thread under ptrace(2): stopped, looked at, made to do a system call or to enter the blob.
//!
//! Every function is for the one thread of this program that has seized it.

use std::io;

use libc::user_regs_struct;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::sys;

/// A seized thread.
#[derive(Debug)]
pub struct Tracee {
    /// Its id.
    pub tid: Pid,
    /// Signals that came while it was being stopped, and have to be delivered when it goes on.
    pub held: Vec<i32>,
}

impl From<TraceError> for io::Error {
    fn from(error: TraceError) -> Self {
        match error {
            TraceError::Ended => Self::from_raw_os_error(libc::ESRCH),
            TraceError::System(error) => error.into(),
            TraceError::Io(error) => error,
            TraceError::Astray(_) => Self::other(error),
        }
    }
}

/// Why a thread does not do what it is told.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It has ended.
    #[error("it ended meanwhile")]
    Ended,
    /// The kernel refuses.
    #[error("{0}")]
    System(#[from] Errno),
    /// The kernel refuses.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It stopped elsewhere than it was told to.
    #[error("it stopped by {0} where it should not")]
    Astray(String),
}

fn options() -> ptrace::Options {
    use ptrace::Options;
    Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
}

/// Signals that would end or confuse the code that runs for us are blocked meanwhile: all but SIGTRAP.
const ALL_BUT_TRAP: u64 = !(1 << 4);

impl Tracee {
    /// Seizes a running thread, and tells of its children, its exec and its end.
    ///
    /// # Errors
    /// [`TraceError`]: another tracer has it, or it is gone.
    pub fn seize(tid: Pid) -> Result<Self, TraceError> {
        ptrace::seize(tid, options())?;
        Ok(Self { tid, held: Vec::new() })
    }

    /// From here on it cannot do without its tracer: it dies with it, and so do those that it makes.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn bind(&self) -> Result<(), TraceError> {
        Ok(ptrace::setoptions(self.tid, options() | ptrace::Options::PTRACE_O_EXITKILL)?)
    }

    /// A thread that the kernel has seized by itself, for its maker was.
    pub fn inherited(tid: Pid) -> Self {
        Self { tid, held: Vec::new() }
    }

    /// Stops it, wherever it is.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn stop(&mut self) -> Result<(), TraceError> {
        ptrace::interrupt(self.tid)?;
        self.wait_stopped()
    }

    /// Waits until it stands still.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn wait_stopped(&mut self) -> Result<(), TraceError> {
        match self.wait()? {
            WaitStatus::PtraceEvent(..) => Ok(()),
            WaitStatus::Stopped(_, signal) => {
                self.held.push(signal as i32);
                Ok(())
            }
            other => Err(TraceError::Astray(format!("{other:?}"))),
        }
    }

    fn wait(&self) -> Result<WaitStatus, TraceError> {
        loop {
            match waitpid(self.tid, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => return Err(TraceError::Ended),
                Ok(status) => return Ok(status),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Its registers.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn registers(&self) -> Result<user_regs_struct, TraceError> {
        Ok(ptrace::getregs(self.tid)?)
    }

    /// Sets them.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn set_registers(&self, registers: &user_regs_struct) -> Result<(), TraceError> {
        Ok(ptrace::setregs(self.tid, *registers)?)
    }

    /// Its registers such that a call in which it was interrupted is made again.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn settled_registers(&self) -> Result<user_regs_struct, TraceError> {
        Ok(settled(self.registers()?))
    }

    /// Blocks what would disturb [`Tracee::call`] and [`Tracee::enter`]; returns the mask that was.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn quiet(&self) -> Result<u64, TraceError> {
        let mask = sys::signal_mask(self.tid)?;
        sys::set_signal_mask(self.tid, ALL_BUT_TRAP)?;
        Ok(mask)
    }

    /// Makes it do a system call by the instruction at `at`. The registers are left as the call leaves them.
    ///
    /// # Errors
    /// [`TraceError`]; the call's own error is its value.
    pub fn call(&self, at: u64, nr: i64, args: [u64; 6]) -> Result<i64, TraceError> {
        let mut registers = self.registers()?;
        registers.rip = at;
        registers.rax = nr.cast_unsigned();
        registers.orig_rax = u64::MAX;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = args;
        self.set_registers(&registers)?;
        loop {
            ptrace::step(self.tid, None)?;
            match self.wait()? {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => break,
                // An interruption that was asked for earlier.
                WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_STOP) => {}
                other => return Err(TraceError::Astray(format!("{other:?}"))),
            }
        }
        Ok(self.registers()?.rax.cast_signed())
    }

    /// The same, where an error of the call is one.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn must_call(&self, at: u64, nr: i64, args: [u64; 6]) -> Result<u64, TraceError> {
        let value = self.call(at, nr, args)?;
        match u64::try_from(value) {
            Ok(value) => Ok(value),
            Err(_) => Err(Errno::from_raw(i32::try_from(-value).unwrap_or(0)).into()),
        }
    }

    /// Makes it go on in the blob, on `stack`.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn enter(&self, entry: u64, stack: u64, command: u64, slot: u64) -> Result<(), TraceError> {
        let mut registers = self.registers()?;
        (registers.rip, registers.rsp) = (entry, stack);
        (registers.rdi, registers.rsi, registers.orig_rax) = (command, slot, u64::MAX);
        self.set_registers(&registers)?;
        Ok(ptrace::cont(self.tid, None)?)
    }

    /// Waits until it has done what [`Tracee::enter`] told it.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn finished(&self) -> Result<(), TraceError> {
        loop {
            match self.wait()? {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => return Ok(()),
                WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_STOP) => ptrace::cont(self.tid, None)?,
                other => return Err(TraceError::Astray(format!("{other:?}"))),
            }
        }
    }

    /// Waits until it has ended, having been killed.
    pub fn await_end(self) {
        while !matches!(self.wait(), Err(TraceError::Ended | TraceError::System(_))) {}
    }

    /// Lets it go on, with `signal` if that is not 0.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn resume(&self, signal: i32) -> Result<(), TraceError> {
        Ok(ptrace::cont(self.tid, Signal::try_from(signal).ok())?)
    }

    /// Lets it go for good, with what it was held from.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn detach(self) -> Result<(), TraceError> {
        let mut held = self.held.into_iter();
        let first = held.next().and_then(|signal| Signal::try_from(signal).ok());
        for signal in held {
            sys::tgkill(self.tid, self.tid, signal)?;
        }
        Ok(ptrace::detach(self.tid, first)?)
    }
}

/// The kernel's words for a call that was interrupted and is made again (include/linux/errno.h).
pub const RESTART: std::ops::RangeInclusive<i64> = -516..=-512;

/// Registers of a thread that was interrupted in a system call, such that it makes the call again. What would
/// go on where it was (`restart_syscall`: nanosleep, poll) begins anew, and nanosleep goes on at home.
pub fn settled(mut registers: user_regs_struct) -> user_regs_struct {
    const RESTART_BLOCK: i64 = -516;
    const SYS_RESTART: u64 = libc::SYS_restart_syscall as u64;
    let in_call = registers.orig_rax.cast_signed() >= 0;
    let value = registers.rax.cast_signed();
    // -515 is ENOIOCTLCMD, which is not for us.
    if in_call && RESTART.contains(&value) && value != -515 {
        let call = registers.orig_rax;
        let sleeps = matches!(call.cast_signed(), libc::SYS_nanosleep | libc::SYS_clock_nanosleep);
        registers.rax = if value == RESTART_BLOCK && sleeps { SYS_RESTART } else { call };
        registers.rip -= 2;
    }
    registers.orig_rax = u64::MAX;
    registers
}
