//! What each Linux system call of x86-64 needs when the process that makes it is away from home.
//!
//! One row a call ([`ROWS`], by number), in the terms of the man pages of section 2. The shim reads it
//! to know where a call runs and which memory its arguments point to; the agent makes the seccomp
//! filter from it. What a row cannot say (a request whose argument's shape is not known, an unknown
//! number) makes the process go home and make the call there: nothing breaks by moving.

mod commands;
mod ioctl;
mod rows;
#[cfg(test)]
mod tests;

pub use commands::clone_class;
pub use rows::ROWS;

/// Where a call runs when the process is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// On the remote node, natively: it touches only memory, time, or what the body has as the process
    /// had it at home. The filter lets it through where a [`Row`] says so; where only [`look_up`] does, for
    /// these arguments, it is trapped, and the shim makes it in the body.
    Local,
    /// On the remote node, in the shim, which emulates it. Its arguments are described for the case that
    /// home has to be asked.
    Shim,
    /// At home, by the deputy: arguments are carried there, results back.
    Home,
    /// Here and at home: at home as `Home` does, and the shim changes the body likewise
    /// (clone, exit, mmap of a file).
    Both,
    /// The process goes home, makes the call there, and may move again.
    GoHome,
}

/// How long the memory behind a pointer is, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Len {
    /// So many.
    Const(u32),
    /// As many as argument `.0` (from 0), a `size_t`, says.
    Arg(u8),
    /// As many as argument `.0`, an `int`, says: the kernel ignores its upper 32 bits. None if it is
    /// negative, and the kernel says what is wrong.
    Int(u8),
    /// The value of argument `.0`, an `int` as for `Int`, times `.1`.
    ArgTimes(u8, u32),
    /// The value of argument `.0`, a `size_t`, and `.1` (a message and its type, msgsnd(2)).
    ArgPlus(u8, u32),
    /// What argument `.0` points to, an `int` (`socklen_t`), says on entry; none if that is NULL or
    /// negative.
    IntAt(u8),
    /// A bit set of as many bits as argument `.0`, an `int`, says, in whole 64-bit words (select(2)).
    BitsOfArg(u8),
}

/// How much of an `Out` is worth carrying back after a call that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// All of it.
    All,
    /// As many octets as the call returned, and never more than there is room for (recv with MSG_TRUNC and
    /// getxattr with size 0 return more than they write).
    Ret,
    /// So many octets for each of what the call returned.
    RetTimes(u32),
}

/// What an argument is. A NULL pointer is carried as NULL, whatever it points to otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// A number, or a pointer that the kernel does not follow.
    Value,
    /// A file descriptor of the home's.
    Fd,
    /// Memory that the kernel reads.
    In(Len),
    /// Memory that the kernel writes, all of it or as far as [`Got`] says.
    Out(Len, Got),
    /// Memory that the kernel reads, or writes also when it fails, or writes only in part (poll, select,
    /// wait4): it is carried there, and back whole after every call.
    InOut(Len),
    /// A string that ends with NUL, at most `PATH_MAX`: a path, or a name.
    Path,
    /// An array of `struct iovec` whose memory the kernel reads; its number is argument `.0`.
    IovecIn(u8),
    /// An array of `struct iovec` whose memory the kernel writes; its number is argument `.0`, and the
    /// call returns how many octets.
    IovecOut(u8),
    /// A `struct msghdr` that the kernel reads (sendmsg).
    MsgIn,
    /// A `struct msghdr` that the kernel fills (recvmsg).
    MsgOut,
    /// An array of `struct mmsghdr` that the kernel reads, but for `msg_len`, which it writes; its number is
    /// argument `.0`.
    MmsgIn(u8),
    /// An array of `struct mmsghdr` that the kernel fills; its number is argument `.0`.
    MmsgOut(u8),
    /// A NULL-terminated array of strings (argv, envp).
    Strings,
    /// pselect6's last argument: a pointer and a size, in which the pointer leads to a signal mask.
    SigsetPair,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its number.
    pub nr: u16,
    /// Its name as in `<asm/unistd_64.h>`.
    pub name: &'static str,
    /// Where it runs.
    pub class: Class,
    /// What its arguments are; those that are left out are values.
    pub args: &'static [Arg],
}

/// Calls that say EINTR after any interruption, and not only after a handler (signal(7): epoll_wait, semop,
/// sigtimedwait, io_getevents and their kin). Where no handler is due, they are made again.
pub const SAYS_EINTR: [u64; 8] = [65, 128, 208, 220, 232, 281, 333, 441];

/// In place of nanosleep(2) or clock_nanosleep(2), a thread that is away goes on with the sleep that it, or its deputy, has
/// begun at home, and was interrupted in: the kernel there knows what is left of it (restart_syscall(2)). No call of the
/// kernel's has this number, and the filter catches it.
pub const GOES_ON: u64 = 0x3e5e_1a00;

/// Where a call with these arguments runs and what they are, for some of them decide (the request of ioctl,
/// the command of fcntl, the flags of mmap, …): `None` where the table does not know, and the process goes
/// home.
pub fn look_up(nr: u64, args: &[u64; 6]) -> Option<(Class, &'static [Arg])> {
    let row = ROWS.get(usize::try_from(nr).ok()?)?;
    if row.name.is_empty() {
        return None;
    }
    match commands::refine(row.nr, args) {
        commands::Refined::AsRow => Some((row.class, row.args)),
        commands::Refined::To(class, args) => Some((class, args)),
        commands::Refined::Unknown => None,
    }
}
