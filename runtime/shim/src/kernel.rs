//! Structures of the kernel's own, of which no other crate has all that is needed here.

/// `struct clone_args` of clone3(2), as long as it has to be for `set_tid`.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct CloneArgs {
    /// `CLONE_…`.
    pub flags: u64,
    /// Where a descriptor of the child goes.
    pub pidfd: u64,
    /// Where its id goes in its own memory.
    pub child_tid: u64,
    /// Where its id goes in its maker's.
    pub parent_tid: u64,
    /// What its maker is told of its end by.
    pub exit_signal: u64,
    /// The lowest address of its stack.
    pub stack: u64,
    /// Octets of that.
    pub stack_size: u64,
    /// Its thread-local storage.
    pub tls: u64,
    /// The ids that it is to have, from the innermost namespace out.
    pub set_tid: u64,
    /// How many.
    pub set_tid_size: u64,
}
