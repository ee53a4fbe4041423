//! The region of a moving process's memory that is ours, and the structures in it.
//!
//! ```text
//! base                          the blob: code, constants, data
//! base + CODE                   slot 0, of the first thread
//! base + CODE + n * SLOT        slot n
//! base + CODE + SLOTS * SLOT    end of the slots; behind it, while a body is built, the agent's plan for it
//! ```
//! The region lies at the same address in the body and in the deputy, and a thread has the same slot in
//! both. Slots are aligned to their size, so that the shim finds its own by its stack pointer.

use crate::seal::Direction;

/// Octets that the blob may have.
pub const CODE: u64 = SLOT;
/// Octets of a slot.
pub const SLOT: u64 = 256 * 1024;
/// Threads that a process that moves may have, those included that it makes later.
pub const SLOTS: u64 = 512;
/// Octets of the region, without a plan behind it.
pub const REGION: u64 = CODE + SLOTS * SLOT;

/// Where in a slot its [`Process`] is, which is used if the thread is the first of one.
pub const PROCESS_AT: u64 = 0x1000;
/// Where in a slot the record that is sent next grows.
pub const OUT_AT: u64 = 0x5000;
/// Where in a slot the record that is received is.
pub const IN_AT: u64 = 0xf000;
/// Where in a slot the signal frame is with which a thread enters its program.
pub const FRAME_AT: u64 = 0x19000;
/// Octets of that: a ucontext and an extended state, of which AMX alone takes 11,008.
pub const FRAME: u64 = 0x5000;
/// Where in a slot its stack begins, which ends with the slot.
pub const STACK_AT: u64 = FRAME_AT + FRAME;

/// What the blob is asked for at its entry (first argument; the second is the slot's [`Thread`]).
pub const ENTER_COLLECT: u64 = 1;
/// See [`ENTER_COLLECT`]: takes the channels' descriptors from `Thread::socket`.
pub const ENTER_ADOPT: u64 = 2;
/// See [`ENTER_COLLECT`]: the resident loop; it does not return.
pub const ENTER_RESIDENT: u64 = 3;
/// See [`ENTER_COLLECT`]: builds the body; it does not return.
pub const ENTER_RESTORE: u64 = 4;

/// The thread runs its program.
pub const RUNNING: u32 = 0;
/// The thread has sent a call home and waits for the answer.
pub const IN_CALL: u32 = 1;
/// The thread stands at the edge of its program for the agent, and begins nothing.
pub const PARKED: u32 = 2;
/// The thread is being built.
pub const NEW: u32 = 3;
/// The thread waits in the shim for a signal; its frame is such that the call is made again.
pub const WAITING: u32 = 4;
/// The thread makes another one, or a process, for which it may have to wait (vfork).
pub const MAKING: u32 = 5;
/// The thread ends, and never stands still again.
pub const ENDING: u32 = 6;
/// The thread asks to be taken home; it is [`PARKED`] next.
pub const ASKING: u32 = 7;
/// The thread waits in the shim for another channel, for its own is broken, and then goes on with what it was at.
pub const LOST: u32 = 8;

/// Octets of what the body says to the agent on its control socket, and of what it hears.
pub const CONTROL: usize = 80;
/// Said: the body is mapped, and its userfaultfd can be taken. Heard: it has been.
pub const CONTROL_MAPPED: u32 = 1;
/// Said: all threads are there. Heard: go on.
pub const CONTROL_READY: u32 = 2;
/// Said: let all pages come. Heard: they are there.
pub const CONTROL_PAGES: u32 = 3;
/// Heard: the channel of the child `tid`, whose descriptor comes with it; without one, the child does not begin.
pub const CONTROL_CHILD: u32 = 4;
/// Said: building failed.
pub const CONTROL_FAILED: u32 = 5;
/// Heard after [`CONTROL_CHILD`], where the child is a process: its own control socket comes with it.
pub const CONTROL_CHILD_SOCKET: u32 = 6;
/// Said: the thread `tid` stands still for the agent.
pub const CONTROL_PARKED: u32 = 7;
/// Said: the thread `tid` ends.
pub const CONTROL_GONE: u32 = 8;
/// Said: the process `tid`, a child of one that is here, begins. The message's credentials tell the agent its
/// id in the agent's own namespace.
pub const CONTROL_BORN: u32 = 9;

/// Said: the channel of the thread `tid` is broken. Heard: another one, whose descriptor comes with it; without
/// one, the deputy has ended.
pub const CONTROL_CHANNEL: u32 = 10;
/// Said: the process has to go home, to do something there.
pub const CONTROL_ASKS: u32 = 11;

/// A message of the control socket.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Control {
    /// `CONTROL_…`.
    pub kind: u32,
    /// The child.
    pub tid: i32,
    /// The key with which the shim sends.
    pub send: [u8; 32],
    /// The key with which it receives.
    pub receive: [u8; 32],
    /// The slot of the thread whose channel it is ([`CONTROL_CHANNEL`]).
    pub slot: u64,
}

const _: () = assert!(size_of::<Control>() == CONTROL);

/// A message of the agent's that is kept until it is asked for.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Early {
    /// The message.
    pub control: Control,
    /// The descriptor that came with it.
    pub fd: i32,
    /// Zero.
    pub reserved: u32,
}

/// A thread's part, at the beginning of its slot.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Thread {
    /// Address of the process's part.
    pub process: u64,
    /// Its number.
    pub slot: u32,
    /// Its id at home, which it has away, too. In a deputy 0 once it has ended.
    pub tid: i32,
    /// The channel's descriptor in this process; -1: none.
    pub fd: i32,
    /// [`RUNNING`] …: written by the shim, read by the agent.
    pub state: u32,
    /// Not 0: park where the program would go on. Written by the agent.
    pub freeze: u32,
    /// Never changes: who waits for it waits for its end.
    pub futex: u32,
    /// The last call that was sent (shim) or received (deputy).
    pub seq: u64,
    /// Deputy: what that returned, for a shim that has not heard of it.
    pub value: i64,
    /// Deputy: the call with this number is not to be begun.
    pub cancel: u64,
    /// Deputy: not 0 while a call is carried out.
    pub busy: u64,
    /// Deputy: the slot that the child which is being made has in its body.
    pub makes: u64,
    /// What is sent.
    pub send: Direction,
    /// What is received.
    pub receive: Direction,
    /// Received octets that are not used yet begin here, in the IN record.
    pub in_from: u32,
    /// And end here; they are sealed from `in_open` on.
    pub in_to: u32,
    /// Opened octets begin here.
    pub plain_from: u32,
    /// And end here.
    pub plain_to: u32,
    /// Octets of content in the OUT record.
    pub out: u32,
    /// Not 0: the channel is of no more use; [`OVER`]: and there will be no other.
    pub broken: u32,
    /// The bounce area (deputy).
    pub bounce: u64,
    /// Its octets.
    pub bounce_size: u64,
    /// The program's signal mask, in which SIGSYS may be (no mask of the body's kernel has it). In the deputy:
    /// the one that the kernel has.
    pub mask: u64,
    /// Signals whose dispositions the thread has changed, and told home of in notes that may not have arrived.
    pub noted: u64,
    /// Blocked signals that the call on its way home takes all the same: sigtimedwait(2), and what waits with a mask
    /// of its own (pselect(2)).
    pub takes: u64,
    /// The program's alternate signal stack.
    pub alt_sp: u64,
    /// Its octets.
    pub alt_size: u64,
    /// Its `ss_flags`.
    pub alt_flags: u64,
    /// The signal frame's ucontext in which the program's registers are while the thread is in the shim.
    pub context: u64,
    /// For a new thread: fs base.
    pub fs: u64,
    /// gs base.
    pub gs: u64,
    /// `set_tid_address`.
    pub clear_tid: u64,
    /// `set_robust_list`: the head.
    pub robust: u64,
    /// And its length.
    pub robust_size: u64,
    /// The rseq area; 0: none.
    pub rseq: u64,
    /// Its size.
    pub rseq_size: u32,
    /// And signature.
    pub rseq_signature: u32,
    /// The thread's name, which ends with NUL.
    pub name: [u8; 16],
    /// Deputy, [`ENTER_ADOPT`]: the socket that the descriptors come by.
    pub socket: i32,
    /// How many descriptors.
    pub adopt: u32,
    /// What the agent has said of a child before home has (body), with the descriptors that came with it.
    pub early: [Early; 2],
    /// How many of these there are.
    pub earlies: u32,
}

/// [`Thread::broken`]: the deputy has ended.
pub const OVER: u32 = 2;

/// A disposition as rt_sigaction(2) has it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Disposition {
    /// SIG_DFL, SIG_IGN, or the handler's address.
    pub handler: u64,
    /// `SA_…`.
    pub flags: u64,
    /// What the handler returns to.
    pub restorer: u64,
    /// Blocked while it runs.
    pub mask: u64,
}

/// A process's part, in the slot of its first thread.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Process {
    /// By signal number; 0 is none.
    pub dispositions: [Disposition; 65],
    /// What the program is to see of a signal that the agent has sent on, by number; not there where
    /// `si_signo` is 0.
    pub infos: [[u64; 16]; 65],
    /// The region's address.
    pub base: u64,
    /// The blob's addresses, which ENTER_COLLECT and ENTER_RESTORE fill in: a call of the program's is
    /// made between these two; interrupted before, it has not begun.
    pub call_begin: u64,
    /// Just behind the `syscall` instruction.
    pub call_end: u64,
    /// Where a call that is not to be made goes on.
    pub call_cancel: u64,
    /// The end of its heap (brk(2)), which ENTER_COLLECT fills in.
    pub brk: u64,
    /// The shim's answer to signals: the handler of every signal that the program handles.
    pub on_signal: u64,
    /// Slots that are taken, a bit each.
    pub slots: [u64; 8],
    /// Descriptors from this one on are ours, at home.
    pub first_fd: u64,
    /// The socket to the agent of the remote node (body).
    pub control: i32,
    /// Held by the thread that makes another one, or that listens to the agent (body): its slot, and one more.
    pub lock: u32,
    /// Forwarded calls.
    pub forwarded: u64,
    /// The process's id at home.
    pub tgid: i32,
    /// Not 0: all pages of the body are there.
    pub whole: i32,
    /// Changes where the lock has come free, or a thread has got its channel (body).
    pub turn: u32,
    /// Not 0: it writes a file by a mapping (body), and goes home to end or to become another program.
    pub files: u32,
}

const _: () = assert!(size_of::<Thread>() as u64 <= PROCESS_AT);
const _: () = assert!(PROCESS_AT + size_of::<Process>() as u64 <= OUT_AT);

/// What a body is built from: at the end of the region, followed by its maps.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Plan {
    /// Octets of plan and maps, in whole pages.
    pub size: u64,
    /// How many [`Map`]s follow.
    pub maps: u64,
    /// How many threads, in slots 0 to n-1, the first of which is the leader.
    pub threads: u64,
    /// What is unmapped first: start and octets.
    pub unmap: [[u64; 2]; 8],
    /// The vDSO and its data: where they are, where they have to be, octets.
    pub special: [[u64; 3]; 4],
    /// A free place for them on the way.
    pub aside: u64,
    /// `struct prctl_mm_map`: start_code, end_code, start_data, end_data, start_brk, brk, start_stack,
    /// arg_start, arg_end, env_start, env_end.
    pub mm: [u64; 11],
    /// The user id that the guest runs under.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// Address of the seccomp filter's `struct sock_fprog`.
    pub filter: u64,
    /// Address of the auxiliary vector.
    pub auxv: u64,
    /// Octets of it.
    pub auxv_size: u64,
    /// Personality.
    pub personality: u64,
    /// The descriptor of the body's userfaultfd, for the agent to take.
    pub userfaultfd: i64,
    /// What failed, negative, and at which step; 0: nothing.
    pub error: i64,
    /// The step that was begun last.
    pub step: u64,
    /// Threads wait for it to become 1.
    pub gate: u32,
    /// Threads that stand before it.
    pub waiting: u32,
}

/// One mapping of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Map {
    /// First octet.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
    /// `PROT_…`.
    pub protection: u32,
    /// `MAP_GROWSDOWN` and `MAP_LOCKED`, or 0.
    pub flags: u32,
    /// The descriptor of what is shared; -1: it is the body's own.
    pub fd: i64,
    /// From where on that is shown.
    pub offset: u64,
}

/// The address of a slot's thread part.
pub const fn slot(base: u64, number: u64) -> u64 {
    base + CODE + number * SLOT
}

/// `struct ucontext`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Context {
    /// `UC_…`.
    pub flags: u64,
    /// Unused.
    pub link: u64,
    /// `uc_stack.ss_sp`.
    pub stack_sp: u64,
    /// `uc_stack.ss_flags`, in the lower half.
    pub stack_flags: u64,
    /// `uc_stack.ss_size`.
    pub stack_size: u64,
    /// r8 to r15.
    pub r8: [u64; 8],
    /// And on: rdi.
    pub rdi: u64,
    /// rsi.
    pub rsi: u64,
    /// rbp.
    pub rbp: u64,
    /// rbx.
    pub rbx: u64,
    /// rdx.
    pub rdx: u64,
    /// rax.
    pub rax: u64,
    /// rcx.
    pub rcx: u64,
    /// rsp.
    pub rsp: u64,
    /// rip.
    pub rip: u64,
    /// eflags.
    pub rflags: u64,
    /// cs, gs, fs, ss, 16 bits each.
    pub segments: u64,
    /// err, trapno, oldmask, cr2.
    pub trap: [u64; 4],
    /// The extended state's address.
    pub fpstate: u64,
    /// Reserved.
    pub reserved: [u64; 8],
    /// Blocked signals.
    pub mask: u64,
}

/// Where in the extended state the kernel says how long it is (`struct _fpx_sw_bytes`).
pub const SOFTWARE: u64 = 464;
/// `FP_XSTATE_MAGIC1`.
pub const MAGIC1: u32 = 0x4650_5853;
/// `FP_XSTATE_MAGIC2`, which follows the extended state.
pub const MAGIC2: u32 = 0x4650_5845;
/// Where behind [`FRAME_AT`] the extended state is.
pub const STATE_AT: u64 = 0x200;

const _: () = assert!(size_of::<Context>() == 304);
