//! How a body is built: in a fresh process that the agent has made for it, from the agent's plan.
//!
//! The process has the region, the plan behind it, and a control socket; everything else of its memory is
//! the agent's and goes. Nothing here is undone when a step fails: the agent is told, ends the process, and
//! the one at home goes on as if nothing had been asked.

use tesela_shim::layout::{
    self, CONTROL, CONTROL_FAILED, CONTROL_MAPPED, CONTROL_READY, Control, FRAME_AT, Map, Plan, Process, REGION, SLOT,
    Thread,
};

use crate::children::send_control;
use crate::collect::receive_fd;
use crate::frame::{self, Context};
use crate::handler::process_of;
use crate::signals;
use crate::sys::{self, nr};

/// MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE
const PRIVATE: u64 = 0x02 | 0x20 | 0x4000 | 0x10_0000;
/// MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE
const SHARED: u64 = 0x01 | 0x4000 | 0x10_0000;
/// MAP_LOCKED
const LOCKED: u64 = 0x2000;
/// MREMAP_MAYMOVE | MREMAP_FIXED
const MOVE: u64 = 3;

/// Builds the body and enters the program. `first` is the leader's slot.
pub fn restore(first: &mut Thread) {
    let process = process_of(first);
    // SAFETY: the agent has put the plan there, and it is ours alone until the threads are made.
    let plan = unsafe { &mut *((process.base + REGION) as *mut Plan) };
    if let Err(error) = build(process, plan) {
        plan.error = error;
        send_control(process, &Control { kind: CONTROL_FAILED, tid: process.tgid, ..Control::default() });
        sys::trap();
    }
    open_gate(plan);
    enter_program(first, plan);
}

fn checked(value: i64) -> Result<u64, i64> {
    u64::try_from(value).map_err(|_| value)
}

fn build(process: &mut Process, plan: &mut Plan) -> Result<(), i64> {
    plan.step = 1;
    // Signals wait until the program is entered, by a frame that has its mask.
    let all = signals::for_kernel(u64::MAX);
    const SIG_SETMASK: u64 = 2;
    // SAFETY: it reads the mask.
    unsafe { checked(sys::call(nr::RT_SIGPROCMASK, [SIG_SETMASK, &raw const all as u64, 0, 8, 0, 0]))? };
    for [start, length] in plan.unmap {
        if length != 0 {
            // SAFETY: the agent's own memory, which nobody uses any more.
            unsafe { checked(sys::call(nr::MUNMAP, [start, length, 0, 0, 0, 0]))? };
        }
    }
    plan.step = 2;
    // By way of a place that is free, for the old and the new ones may overlap.
    for (index, [from, to, length]) in plan.special.into_iter().enumerate() {
        if length != 0 && from != to {
            let aside = plan.aside + index as u64 * (1 << 20);
            // SAFETY: the kernel's own pages for the vDSO; the place is free.
            unsafe { checked(sys::call(nr::MREMAP, [from, length, length, MOVE, aside, 0]))? };
        }
    }
    for (index, [from, to, length]) in plan.special.into_iter().enumerate() {
        if length != 0 && from != to {
            let aside = plan.aside + index as u64 * (1 << 20);
            // SAFETY: as before; the plan's maps leave the place free.
            unsafe { checked(sys::call(nr::MREMAP, [aside, length, length, MOVE, to, 0]))? };
        }
    }
    plan.step = 3;
    let maps = core::ptr::from_ref(plan) as u64 + size_of::<Plan>() as u64;
    // SAFETY: the maps follow the plan.
    let maps = unsafe { core::slice::from_raw_parts(maps as *const Map, plan.maps as usize) };
    for map in maps {
        let flags = if map.fd < 0 { PRIVATE } else { SHARED } | u64::from(map.flags) & !LOCKED;
        let (length, protection) = (map.end - map.start, map.protection.into());
        // SAFETY: a free place, for FIXED_NOREPLACE would fail otherwise.
        unsafe { checked(sys::call(nr::MMAP, [map.start, length, protection, flags, map.fd as u64, map.offset]))? };
        if u64::from(map.flags) & LOCKED != 0 {
            // A page at a time as they come: now they would be zero.
            const ONFAULT: u64 = 1;
            // SAFETY: it changes no content.
            unsafe { checked(sys::call(nr::MLOCK2, [map.start, length, ONFAULT, 0, 0, 0]))? };
        }
    }
    for map in maps.iter().filter(|map| map.fd >= 0) {
        // SAFETY: the agent's; several maps may have had the same.
        unsafe { sys::call(nr::CLOSE, [map.fd as u64, 0, 0, 0, 0, 0]) };
    }
    plan.step = 4;
    memory_marks(plan)?;
    plan.step = 5;
    // O_CLOEXEC | O_NONBLOCK
    // SAFETY: it makes a descriptor.
    plan.userfaultfd = unsafe { sys::call(nr::USERFAULTFD, [0x8_0000 | 0x800, 0, 0, 0, 0, 0]) };
    checked(plan.userfaultfd)?;
    agree(process, CONTROL_MAPPED)?;
    plan.step = 6;
    for signal in 1..=64 {
        if signal != 9 && signal != 19 {
            // 32 and 33 are the C library's, and the kernel takes them from anybody.
            checked(signals::install(process, signal))?;
        }
    }
    plan.step = 7;
    for number in 1..plan.threads {
        let slot = layout::slot(process.base, number);
        // SAFETY: the slot is the new thread's.
        let tid = unsafe { (*(slot as *const Thread)).tid };
        // SAFETY: the same, and it begins on the slot's stack.
        unsafe { checked(spawn(slot, tid))? };
    }
    plan.step = 8;
    agree(process, CONTROL_READY)
}

/// What `/proc/PID` and brk(2) know of the program: `struct prctl_mm_map`.
fn memory_marks(plan: &Plan) -> Result<(), i64> {
    #[repr(C)]
    struct MemoryMap {
        marks: [u64; 11],
        auxv: u64,
        auxv_size: u32,
        exe_fd: u32,
    }
    let map = MemoryMap { marks: plan.mm, auxv: plan.auxv, auxv_size: plan.auxv_size as u32, exe_fd: u32::MAX };
    const PR_SET_MM: u64 = 35;
    const PR_SET_MM_MAP: u64 = 14;
    let size = size_of::<MemoryMap>() as u64;
    // SAFETY: it reads the structure.
    unsafe {
        checked(sys::call(nr::PRCTL, [PR_SET_MM, PR_SET_MM_MAP, &raw const map as u64, size, 0, 0]))?;
        checked(sys::call(nr::PERSONALITY, [plan.personality, 0, 0, 0, 0, 0]))?;
    }
    Ok(())
}

fn agree(process: &Process, kind: u32) -> Result<(), i64> {
    let mut message = Control { kind, tid: process.tgid, ..Control::default() };
    send_control(process, &message);
    // SAFETY: the message's own octets.
    let octets = unsafe { core::slice::from_raw_parts_mut((&raw mut message).cast(), CONTROL) };
    let (got, _) = receive_fd(process.control, octets);
    if got == CONTROL as i64 && message.kind == kind { Ok(()) } else { Err(sys::EINTR) }
}

/// A thread of the program's, with the id that it has at home; it goes on in [`thread_begins`].
unsafe fn spawn(slot: u64, tid: i32) -> i64 {
    // VM | FS | FILES | SIGHAND | THREAD | SYSVSEM
    let args: [u64; 10] = [
        0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000,
        0,
        0,
        0,
        0,
        slot + layout::STACK_AT,
        SLOT - layout::STACK_AT - 64,
        0,
        &raw const tid as u64,
        1,
    ];
    // SAFETY: the caller's.
    unsafe { spawn_routine(args.as_ptr(), slot) }
}

#[unsafe(naked)]
unsafe extern "C" fn spawn_routine(args: *const u64, slot: u64) -> i64 {
    core::arch::naked_asm!(
        "mov r8, rsi",
        "mov esi, 80",
        "mov eax, 435",
        "syscall",
        "test rax, rax",
        "jnz 2f",
        "mov rdi, r8",
        "jmp {begins}",
        "2:",
        "ret",
        begins = sym thread_begins,
    )
}

extern "C" fn thread_begins(slot: u64) -> ! {
    // SAFETY: the slot is this thread's; the plan is read only from here on, but for the count.
    let (thread, plan) = unsafe {
        let thread = &mut *(slot as *mut Thread);
        let plan = (process_of(thread).base + REGION) as *const Plan;
        (thread, &*plan)
    };
    while sys::look(&plan.gate) == 0 {
        sys::wait(&plan.gate, 0);
    }
    enter_program(thread, plan)
}

fn open_gate(plan: &mut Plan) {
    // SAFETY: a reference is valid to write. FUTEX_WAKE | FUTEX_PRIVATE_FLAG wakes all.
    unsafe {
        core::ptr::write_volatile(&raw mut plan.gate, 1);
        sys::call(nr::FUTEX, [&raw const plan.gate as u64, 129, i32::MAX as u64, 0, 0, 0]);
    }
}

/// The last steps of each thread: what is a thread's own, its rights, the filter, and the program.
fn enter_program(thread: &mut Thread, plan: &Plan) -> ! {
    const PR_SET_NAME: u64 = 15;
    const PR_SET_NO_NEW_PRIVS: u64 = 38;
    const PR_SET_KEEPCAPS: u64 = 8;
    const PR_SET_DUMPABLE: u64 = 4;
    const ARCH_SET_GS: u64 = 0x1001;
    const ARCH_SET_FS: u64 = 0x1002;
    const SECCOMP_SET_MODE_FILTER: u64 = 1;
    /// `_LINUX_CAPABILITY_VERSION_3`, and the calling thread.
    const CAPABILITY: [u32; 2] = [0x2008_0522, 0];
    /// CAP_CHECKPOINT_RESTORE alone, number 40, effective and permitted: it gives children their ids.
    const RIGHTS: [u32; 6] = [0, 0, 0, 1 << 8, 1 << 8, 0];
    let (uid, gid) = (u64::from(plan.uid), u64::from(plan.gid));
    // SAFETY: each changes this thread only, as its man page says; the program's addresses are read by the
    // kernel when it needs them.
    let done = unsafe {
        [
            sys::call(nr::PRCTL, [PR_SET_NAME, thread.name.as_ptr() as u64, 0, 0, 0, 0]),
            sys::call(nr::SET_TID_ADDRESS, [thread.clear_tid, 0, 0, 0, 0, 0]).min(0),
            if thread.robust == 0 {
                0
            } else {
                sys::call(nr::SET_ROBUST_LIST, [thread.robust, thread.robust_size, 0, 0, 0, 0])
            },
            if thread.rseq == 0 {
                0
            } else {
                let signature = u64::from(thread.rseq_signature);
                sys::call(nr::RSEQ, [thread.rseq, thread.rseq_size.into(), 0, signature, 0, 0])
            },
            sys::call(nr::PRCTL, [PR_SET_KEEPCAPS, 1, 0, 0, 0, 0]),
            sys::call(nr::SETGROUPS, [0, 0, 0, 0, 0, 0]),
            sys::call(nr::SETRESGID, [gid, gid, gid, 0, 0, 0]),
            sys::call(nr::SETRESUID, [uid, uid, uid, 0, 0, 0]),
            sys::call(nr::CAPSET, [CAPABILITY.as_ptr() as u64, RIGHTS.as_ptr() as u64, 0, 0, 0, 0]),
            sys::call(nr::PRCTL, [PR_SET_DUMPABLE, 0, 0, 0, 0, 0]),
            sys::call(nr::PRCTL, [PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0]),
            sys::call(nr::ARCH_PRCTL, [ARCH_SET_FS, thread.fs, 0, 0, 0, 0]),
            sys::call(nr::ARCH_PRCTL, [ARCH_SET_GS, thread.gs, 0, 0, 0, 0]),
            sys::call(nr::SECCOMP, [SECCOMP_SET_MODE_FILTER, 0, plan.filter, 0, 0, 0]),
        ]
    };
    if let Some(step) = done.iter().position(|value| *value < 0) {
        report(plan, 100 + step as u64, done[step]);
        sys::trap();
    }
    crate::handler::set_state(thread, layout::RUNNING);
    let base = core::ptr::from_ref(thread) as u64;
    // SAFETY: the agent has put there the state in which the thread was at home.
    unsafe { frame::enter((base + FRAME_AT) as *const Context) }
}

/// Leaves word of a step that failed where the agent looks when the body has ended.
fn report(plan: &Plan, step: u64, error: i64) {
    let plan = core::ptr::from_ref(plan).cast_mut();
    // SAFETY: the plan is mapped writable; the last to write is as good as any.
    unsafe {
        core::ptr::write_volatile(&raw mut (*plan).step, step);
        core::ptr::write_volatile(&raw mut (*plan).error, error);
    }
}
