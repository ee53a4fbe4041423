//! What the agent needs of the kernel, and what does not work without it.

use super::Finding;

const WHAT: &str = "kernel";

/// Something that a kernel can be built or set without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// userfaultfd(2): a guest's pages come when they are wanted.
    Userfaultfd,
    /// seccomp(2) with filters that trap: a guest's system calls are caught.
    Seccomp,
    /// The kinds of namespaces(7) that a guest lives in.
    Namespaces,
    /// ptrace(2): `kernel.yama.ptrace_scope` 3 refuses it to root, too.
    Ptrace,
    /// `process_vm_readv(2)`.
    CrossMemory,
    /// `pidfd_getfd(2)`.
    Pidfd,
    /// `PR_SET_MM_MAP` (prctl(2)): a guest's memory looks as at home.
    MemoryMarks,
    /// `/proc/PID/pagemap`.
    Pagemap,
    /// `/dev/fuse`, fuse(4).
    Fuse,
}

impl Feature {
    /// All, in the order in which they are told.
    pub const ALL: [Self; 9] = [
        Self::Userfaultfd,
        Self::Seccomp,
        Self::Namespaces,
        Self::Ptrace,
        Self::CrossMemory,
        Self::Pidfd,
        Self::MemoryMarks,
        Self::Pagemap,
        Self::Fuse,
    ];

    /// Its name, what does not work without it, and the mend.
    fn told(self) -> (&'static str, &'static str, &'static str) {
        const NO_GUESTS: &str = "no process of another node can run here";
        const NO_LEAVE: &str = "no process of this node can leave it";
        const NEITHER: &str = "no process can leave this node or come to it";
        match self {
            Self::Userfaultfd => ("userfaultfd", NO_GUESTS, "boot a kernel with CONFIG_USERFAULTFD"),
            Self::Seccomp => ("seccomp filters", NO_GUESTS, "boot a kernel with CONFIG_SECCOMP_FILTER"),
            Self::Namespaces => (
                "namespaces",
                NO_GUESTS,
                "boot a kernel with CONFIG_PID_NS, NET_NS, IPC_NS and UTS_NS; and none of /proc/sys/user/max_*_namespaces \
                 may be 0",
            ),
            Self::Ptrace => {
                ("ptrace", NEITHER, "set kernel.yama.ptrace_scope below 3, which takes another boot")
            }
            Self::CrossMemory => {
                ("process_vm_readv", NEITHER, "boot a kernel with CONFIG_CROSS_MEMORY_ATTACH")
            }
            Self::Pidfd => ("pidfd_getfd", NEITHER, "boot Linux 5.6 or later"),
            Self::MemoryMarks => ("PR_SET_MM_MAP", NO_GUESTS, "boot a kernel with CONFIG_CHECKPOINT_RESTORE"),
            Self::Pagemap => ("/proc/PID/pagemap", NO_LEAVE, "boot a kernel with CONFIG_PROC_PAGE_MONITOR"),
            Self::Fuse => (
                "/dev/fuse",
                "/hpc is not shown; all else works",
                "`modprobe fuse`, or boot a kernel with CONFIG_FUSE_FS",
            ),
        }
    }
}

/// `missing`: those that are not there, each with how that was seen.
pub fn features(release: &str, missing: &[(Feature, String)]) -> Vec<Finding> {
    if missing.is_empty() {
        let all = Feature::ALL.map(|feature| feature.told().0).join(", ");
        return vec![Finding::ok(WHAT, format!("{release} has all that moving needs: {all}"))];
    }
    let told = missing.iter().map(|(feature, seen)| {
        let (name, without, mend) = feature.told();
        let found = Finding::fail(WHAT, format!("{release} has no {name} ({seen}): {without}"), mend);
        if *feature == Feature::Fuse { found.at_most_warn() } else { found }
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_what_does_not_work() {
        let whole = features("6.1", &[]);
        assert_eq!((whole.len(), whole[0].verdict), (1, Verdict::Ok));
        let missing: Vec<_> = Feature::ALL.map(|feature| (feature, "seen".to_owned())).into();
        let told = features("6.1", &missing);
        assert_eq!(told.len(), Feature::ALL.len());
        assert_eq!(
            told[0],
            Finding::fail(
                "kernel",
                "6.1 has no userfaultfd (seen): no process of another node can run here",
                "boot a kernel with CONFIG_USERFAULTFD"
            )
        );
        let warns: Vec<_> = told.iter().filter(|found| found.verdict == Verdict::Warn).collect();
        assert!(matches!(&warns[..], [fuse] if fuse.finding.contains("/dev/fuse")));
    }
}
