//! A thread under ptrace(2): stopped, looked at, made to do a system call or to enter the blob.
//!
//! Every function is for the one thread of this program that has seized it.

use std::io;

use libc::user_regs_struct;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;
use tesela_shim::table::SAYS_EINTR;

use super::{restart, sys};

/// A seized thread.
#[derive(Debug)]
pub struct Tracee {
    /// Its id.
    pub tid: Pid,
    /// Where a `syscall` instruction of its vDSO is; 0: not known yet.
    pub site: u64,
    /// Signals that came while it was being stopped, and have to be delivered when it goes on: `siginfo_t`s.
    pub held: Vec<Vec<u8>>,
    /// It was stopped in a call that the kernel here can go on with where it was (restart_syscall(2)).
    pub goes_on: bool,
}

/// What wait(2) tells of a traced thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// It has ended.
    Ended,
    /// It has stopped for a signal that is about to be delivered.
    Signal(i32),
    /// It has stopped for a `PTRACE_EVENT_…`, of which PTRACE_EVENT_STOP has a signal.
    Event {
        /// Which.
        event: i32,
        /// SIGTRAP, or the signal that has stopped the whole process.
        signal: i32,
    },
}

/// What the kernel has to tell next, of one traced thread or of any; `None`: nothing, and none was waited for.
///
/// # Errors
/// Those of waitpid(2): ECHILD.
pub fn next_happening(tid: Option<Pid>, flags: libc::c_int) -> Result<Option<(Pid, Happening)>, Errno> {
    loop {
        let (pid, status) = match sys::wait(tid, flags | libc::__WALL) {
            Ok(Some(told)) => told,
            Ok(None) => return Ok(None),
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error),
        };
        let happening = if libc::WIFSTOPPED(status) {
            match status >> 16 {
                0 => Happening::Signal(libc::WSTOPSIG(status)),
                event => Happening::Event { event, signal: libc::WSTOPSIG(status) },
            }
        } else {
            Happening::Ended
        };
        return Ok(Some((pid, happening)));
    }
}

impl From<TraceError> for io::Error {
    fn from(error: TraceError) -> Self {
        match error {
            TraceError::Ended => Self::from_raw_os_error(libc::ESRCH),
            TraceError::System(error) => error.into(),
            TraceError::Io(error) => error,
            TraceError::Call { .. } | TraceError::Astray(_) => Self::other(error),
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
    /// The kernel refuses a call that it was made to do.
    #[error("its call {nr} with {args:x?}: {error}")]
    Call {
        /// The call's number.
        nr: i64,
        /// Its arguments.
        args: [u64; 6],
        /// What the kernel says.
        error: Errno,
    },
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
        | Options::PTRACE_O_EXITKILL
}

/// Signals that would end or confuse the code that runs for us are blocked meanwhile: all but SIGTRAP.
const ALL_BUT_TRAP: u64 = !(1 << 4);

impl Tracee {
    /// Seizes a running thread. What it makes meanwhile is not seized with it.
    ///
    /// # Errors
    /// [`TraceError`]: another tracer has it, or it is gone.
    pub fn seize(tid: Pid) -> Result<Self, TraceError> {
        ptrace::seize(tid, ptrace::Options::empty())?;
        Ok(Self { tid, site: 0, held: Vec::new(), goes_on: false })
    }

    /// From here on it cannot do without its tracer: it dies with it, and so do those that it makes, which
    /// are seized with it.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn bind(&self) -> Result<(), TraceError> {
        Ok(ptrace::setoptions(self.tid, options())?)
    }

    /// A thread that the kernel has seized by itself, for its maker was.
    pub fn inherited(tid: Pid) -> Self {
        Self { tid, site: 0, held: Vec::new(), goes_on: false }
    }

    /// Stops it, wherever it is. `true`: its whole process had been stopped before (job control).
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn stop(&mut self) -> Result<bool, TraceError> {
        ptrace::interrupt(self.tid)?;
        self.wait_stopped()
    }

    /// Waits until it stands still; as [`Tracee::stop`].
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn wait_stopped(&mut self) -> Result<bool, TraceError> {
        match self.wait()? {
            Happening::Signal(_) => {
                self.held.push(sys::signal_info(self.tid)?);
                Ok(false)
            }
            Happening::Event { signal, .. } => Ok(signal != libc::SIGTRAP),
            Happening::Ended => Err(TraceError::Ended),
        }
    }

    fn wait(&self) -> Result<Happening, TraceError> {
        match next_happening(Some(self.tid), 0)? {
            None | Some((_, Happening::Ended)) => Err(TraceError::Ended),
            Some((_, happening)) => Ok(happening),
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

    /// Its registers such that a call in which it was interrupted goes on, if it makes no call that waits before: a sleep
    /// ends when it would have.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn registers_to_go_on(&self) -> Result<user_regs_struct, TraceError> {
        let registers = self.registers()?;
        let goes_on = restart::goes_on(self.tid, &registers);
        Ok(restart::at_home(self.tid, settled(registers), goes_on))
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

    /// Makes it do a system call. The registers are left as the call leaves them.
    ///
    /// # Errors
    /// [`TraceError`]; the call's own error is its value.
    pub fn call(&self, nr: i64, args: [u64; 6]) -> Result<i64, TraceError> {
        let mut registers = self.registers()?;
        registers.rip = self.site;
        registers.rax = nr.cast_unsigned();
        registers.orig_rax = u64::MAX;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = args;
        self.set_registers(&registers)?;
        loop {
            ptrace::step(self.tid, None)?;
            match self.wait()? {
                Happening::Signal(libc::SIGTRAP) => break,
                // An interruption that was asked for earlier.
                Happening::Event { event: libc::PTRACE_EVENT_STOP, .. } => {}
                other => return Err(TraceError::Astray(format!("{other:?}"))),
            }
        }
        Ok(self.registers()?.rax.cast_signed())
    }

    /// The same, where an error of the call is one.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn must_call(&self, nr: i64, args: [u64; 6]) -> Result<u64, TraceError> {
        let value = self.call(nr, args)?;
        match u64::try_from(value) {
            Ok(value) => Ok(value),
            Err(_) => {
                let error = Errno::from_raw(i32::try_from(-value).unwrap_or(0));
                Err(TraceError::Call { nr, args, error })
            }
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
                Happening::Signal(libc::SIGTRAP) => return Ok(()),
                Happening::Event { event: libc::PTRACE_EVENT_STOP, .. } => ptrace::cont(self.tid, None)?,
                other => return Err(TraceError::Astray(format!("{other:?}"))),
            }
        }
    }

    /// Waits until it has ended, having been killed.
    pub fn await_end(self) {
        while !matches!(self.wait(), Err(TraceError::Ended | TraceError::System(_))) {}
    }

    /// Sends itself a signal as it was once sent: to the process `tgid`, or where it was meant for this thread, to
    /// this. `scratch` is memory of its own. All signals are blocked meanwhile.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn requeue(&self, scratch: u64, tgid: Pid, info: &[u8]) -> Result<(), TraceError> {
        let word = |at: usize| {
            info.get(at..at + 4).and_then(|octets| octets.try_into().ok()).map(i32::from_ne_bytes)
        };
        let (Some(signal), Some(code)) = (word(0), word(8)) else { return Ok(()) };
        sys::write_memory(self.tid, scratch, info)?;
        let [tgid, tid, signal] =
            [tgid.as_raw(), self.tid.as_raw(), signal].map(|id| u64::from(id.cast_unsigned()));
        // The kernel takes another's word for who has sent a signal from the thread itself alone.
        if tid != tgid || code == libc::SI_TKILL {
            self.must_call(libc::SYS_rt_tgsigqueueinfo, [tgid, tid, signal, scratch, 0, 0])?;
        } else {
            self.must_call(libc::SYS_rt_sigqueueinfo, [tgid, signal, scratch, 0, 0, 0])?;
        }
        Ok(())
    }

    /// Lets it go for good. What it was held from is delivered, if it still stands where it was stopped.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn detach(self) -> Result<(), TraceError> {
        let signal = |info: &Vec<u8>| info.first_chunk().map_or(0, |octets| i32::from_ne_bytes(*octets));
        Ok(sys::detach(self.tid, self.held.first().map_or(0, signal))?)
    }
}

/// The kernel's words for a call that was interrupted and is made again (include/linux/errno.h).
const RESTART: std::ops::RangeInclusive<i64> = -516..=-512;

/// Whether this value of a call says that it was interrupted, and may be made again.
pub fn is_interrupted(call: u64, value: i64) -> bool {
    let eintr = -i64::from(libc::EINTR);
    // -515 is ENOIOCTLCMD, which is not for us.
    (RESTART.contains(&value) && value != -515) || (value == eintr && SAYS_EINTR.contains(&call))
}

/// Registers of a thread that was interrupted in a system call, such that it makes the call again. What would
/// go on where it was begins anew (but see [`restart`]).
pub fn settled(mut registers: user_regs_struct) -> user_regs_struct {
    let in_call = registers.orig_rax.cast_signed() >= 0;
    if in_call && is_interrupted(registers.orig_rax, registers.rax.cast_signed()) {
        registers.rax = registers.orig_rax;
        registers.rip -= 2;
    }
    registers.orig_rax = u64::MAX;
    registers
}
