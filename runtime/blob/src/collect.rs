//! What only the process itself can say of itself, asked in it before it moves.

use tesela_shim::layout::{CODE, Disposition, Process, SLOT, Thread};

use crate::sys::{self, nr};

const PR_GET_TID_ADDRESS: u64 = 40;
const PR_GET_NAME: u64 = 16;

/// The thread's alternate stack, tid address and name; and in the first thread the process's dispositions.
pub fn collect(thread: &mut Thread) {
    let mut stack = [0_u64; 3];
    // SAFETY: they write what they are given.
    unsafe {
        sys::call(nr::SIGALTSTACK, [0, stack.as_mut_ptr() as u64, 0, 0, 0, 0]);
        sys::call(nr::PRCTL, [PR_GET_TID_ADDRESS, &raw mut thread.clear_tid as u64, 0, 0, 0, 0]);
        sys::call(nr::PRCTL, [PR_GET_NAME, thread.name.as_mut_ptr() as u64, 0, 0, 0, 0]);
    }
    [thread.alt_sp, thread.alt_flags, thread.alt_size] = stack;
    thread.alt_flags &= 0xffff_ffff;
    if thread.slot == 0 {
        // SAFETY: the agent has set it; nobody else is at work in the process.
        let process = unsafe { &mut *(thread.process as *mut Process) };
        dispositions(process);
        [process.call_begin, process.call_end, process.call_cancel] = sys::labels();
        // SAFETY: where nothing is asked for, nothing is changed.
        process.brk = unsafe { sys::call(nr::BRK, [0; 6]) } as u64;
        process.base = core::ptr::from_mut(thread) as u64 - CODE;
        debug_assert!(process.base % SLOT == 0);
    }
}

fn dispositions(process: &mut Process) {
    for (signal, disposition) in process.dispositions.iter_mut().enumerate().skip(1) {
        *disposition = Disposition::default();
        // SAFETY: it writes the four words of the kernel's `struct sigaction`.
        unsafe {
            sys::call(nr::RT_SIGACTION, [signal as u64, 0, core::ptr::from_mut(disposition) as u64, 8, 0, 0]);
        }
    }
}

/// Takes the channels' descriptors, in the order of the slots, from the socket in the first slot; and puts
/// them where the program has none: from `Process::first_fd` on.
pub fn adopt(thread: &mut Thread) {
    // SAFETY: the agent has set it; nobody else is at work in the process.
    let process = unsafe { &*(thread.process as *const Process) };
    let first = core::ptr::from_mut(thread) as u64;
    for index in 0..u64::from(thread.adopt) {
        let (_, received) = receive_fd(thread.socket, &mut []);
        // F_DUPFD_CLOEXEC
        // SAFETY: it makes a descriptor and touches none that is there.
        let kept = unsafe { sys::call(nr::FCNTL, [received as u64, 1030, process.first_fd, 0, 0, 0]) };
        // SAFETY: the one that was just received.
        unsafe { sys::call(nr::CLOSE, [received as u64, 0, 0, 0, 0, 0]) };
        let other = (first + index * SLOT) as *mut Thread;
        // SAFETY: slots are in a row, and their threads are stopped. For slot 0 it is `thread` itself.
        unsafe { (*other).fd = kept as i32 };
    }
    // SAFETY: ours.
    unsafe { sys::call(nr::CLOSE, [thread.socket as u64, 0, 0, 0, 0, 0]) };
}

/// One message of a UNIX socket, and the descriptor that came with it (-1: none).
pub fn receive_fd(socket: i32, content: &mut [u8]) -> (i64, i32) {
    let mut octet = [0_u8];
    let mut vector = if content.is_empty() {
        [octet.as_mut_ptr() as u64, 1]
    } else {
        [content.as_mut_ptr() as u64, content.len() as u64]
    };
    let mut control = [0_u64; 3];
    let mut message =
        [0_u64, 0, vector.as_mut_ptr() as u64, 1, control.as_mut_ptr() as u64, size_of_val(&control) as u64, 0];
    const MSG_CMSG_CLOEXEC: u64 = 0x4000_0000;
    // SAFETY: `struct msghdr`, `struct iovec` and room for one `struct cmsghdr` with a descriptor.
    let got = loop {
        let got = unsafe {
            sys::call(nr::RECVMSG, [socket as u64, message.as_mut_ptr() as u64, MSG_CMSG_CLOEXEC, 0, 0, 0])
        };
        if got != sys::EINTR {
            break got;
        }
    };
    // cmsg_len 20, SOL_SOCKET 1, SCM_RIGHTS 1
    let fd = if got >= 0 && control[0] == 20 && control[1] == 1 | 1 << 32 { control[2] as i32 } else { -1 };
    (got, fd)
}
