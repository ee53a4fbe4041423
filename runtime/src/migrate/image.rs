//! A process as it travels: everything of it but its memory's content, and what the two agents say to
//! each other about it.

use std::io;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::equal::{Equal, Named, Root};
use super::link::Keys;
use super::xstate::ExtendedState;

/// A connection is recognised by this.
pub type Token = [u8; 16];

/// A process, standing still.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Image {
    /// Its id at home.
    pub tgid: i32,
    /// Where the region is.
    pub base: u64,
    /// Descriptors from this one on are the agent's.
    pub first_fd: u64,
    /// Under whose ids it runs.
    pub uid: u32,
    /// And whose group's.
    pub gid: u32,
    /// personality(2).
    pub personality: u64,
    /// getpriority(2), of its first thread.
    pub nice: i32,
    /// As in `struct prctl_mm_map`, up to env_end.
    pub marks: [u64; 11],
    /// The auxiliary vector.
    pub auxv: Vec<u8>,
    /// Its mappings, but for the kernel's own.
    pub maps: Vec<Mapping>,
    /// The kernel's own: name, start, end.
    pub special: Vec<(String, u64, u64)>,
    /// SHA-256 of the vDSO's code.
    pub vdso: [u8; 32],
    /// What the processor has, as far as programs choose by it.
    pub processor: String,
    /// By signal number, from 0: handler, flags, restorer, mask.
    pub dispositions: Vec<[u64; 4]>,
    /// The leader first.
    pub threads: Vec<ThreadImage>,
    /// Signals that wait for the process: `siginfo_t`s.
    pub pending: Vec<Vec<u8>>,
    /// Ranges of memory that have content; what is outside of them is zero.
    pub content: Vec<(u64, u64)>,
    /// Parts of these that do not travel, for they are in files that both nodes have.
    pub equal: Vec<Equal>,
    /// It writes a file by a mapping, which others may read as soon as it has ended.
    pub files: bool,
    /// Pages that it needs at once: address and content.
    pub hot: Vec<(u64, ByteBuf)>,
}

/// A mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// First octet.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
    /// `PROT_…`.
    pub protection: u32,
    /// `MAP_GROWSDOWN` or 0.
    pub flags: u32,
    /// What it shows, where others see that, too.
    pub shared: Option<Part>,
    /// At home it shows a file that nobody writes; away it is a copy of that.
    pub copy: bool,
    /// It is kept out of swap.
    pub locked: bool,
}

impl Image {
    /// The ranges that show copies of files, in order.
    pub fn copies(&self) -> Vec<(u64, u64)> {
        self.maps.iter().filter(|map| map.copy).map(|map| (map.start, map.end)).collect()
    }
}

/// From where on a mapping shows memory that is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its number among what the group shares.
    pub object: u32,
    /// Octets from its beginning.
    pub offset: u64,
}

/// A thread, standing still.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ThreadImage {
    /// Its id at home.
    pub tid: i32,
    /// Its slot in the region.
    pub slot: u32,
    /// `struct user_regs_struct`, such that a call in which it was is made again.
    pub registers: Vec<u64>,
    /// What xsave keeps of it.
    pub state: ExtendedState,
    /// Its signal mask.
    pub mask: u64,
    /// Its alternate signal stack: address, size, flags.
    pub alternate: [u64; 3],
    /// `set_tid_address`.
    pub clear_tid: u64,
    /// `set_robust_list`: head and length.
    pub robust: [u64; 2],
    /// rseq: address, size, signature.
    pub rseq: (u64, u32, u32),
    /// Its name.
    pub name: [u8; 16],
    /// Signals that wait for it alone.
    pub pending: Vec<Vec<u8>>,
    /// Its channel, at the first move.
    pub channel: Option<Channel>,
}

/// A thread's channel-to-be.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Channel {
    /// By which the connection is recognised.
    pub token: Token,
    /// As the remote side has them.
    pub keys: Keys,
}

impl Channel {
    /// A new one, as the other side gets to know it, and our keys of it.
    ///
    /// # Errors
    /// Those of getrandom(2).
    pub fn new() -> io::Result<(Self, Keys)> {
        let keys = Keys::random()?;
        let mut token = Token::default();
        getrandom::fill(&mut token).map_err(io::Error::from)?;
        Ok((Self { token, keys: keys.turned() }, keys))
    }
}

/// What home says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToRemote {
    /// These are files of processes that are about to come: are there the same?
    Files(Vec<Named>),
    /// What the processes share that are going to be built: octets of each. The content comes by the connection.
    Share(Vec<u64>, Channel),
    /// Begin a body that is going to be built, while its process still runs. Its connections come.
    Room {
        /// Whose.
        tgid: i32,
        /// Where its region goes.
        base: u64,
    },
    /// Build the body. `pages`: the connection over which its memory comes.
    Build(Box<Image>, Channel),
    /// Let it go on.
    Resume,
    /// The process `parent` has made a thread or process `tid`, whose channel comes.
    Child {
        /// Whose control socket hears of it.
        parent: i32,
        /// The new id.
        tid: i32,
        /// Its slot.
        slot: u32,
        /// It is a process, and not another thread of `parent`.
        process: bool,
        /// Its channel.
        channel: Channel,
    },
    /// Send a signal on.
    Signal {
        /// To the process.
        tgid: i32,
        /// Or to one thread of it; 0: to the process.
        tid: i32,
        /// `siginfo_t`.
        info: Vec<u8>,
    },
    /// The process has ended or is another program now: the body goes.
    End {
        /// Which.
        tgid: i32,
    },
    /// Stop the process and send it home.
    Freeze {
        /// Which.
        tgid: i32,
    },
    /// The process is at home: the body goes.
    Taken {
        /// Which.
        tgid: i32,
    },
    /// Home is short of memory, and would give these ranges of its copy up.
    Forget {
        /// Whose.
        tgid: i32,
        /// Where they begin, and behind their last octet.
        ranges: Vec<(u64, u64)>,
    },
    /// It could not be taken: let it go on.
    Thaw {
        /// Which.
        tgid: i32,
    },
    /// All processes stand still: send what they share by this connection.
    Unshare(Channel),
    /// The thread has another channel, unless it has got a later one already.
    Channel {
        /// Its process.
        tgid: i32,
        /// Which.
        tid: i32,
        /// How many it has had before.
        generation: u32,
        /// The channel.
        channel: Channel,
    },
    /// The thread's deputy has ended: it gets no other channel.
    Over {
        /// Its id.
        tid: i32,
    },
    /// Nothing of this link's is away any more, or is to be.
    Bye,
}

/// What the remote node says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToHome {
    /// The listener for the channels.
    Listening {
        /// Its port.
        port: u16,
        /// By which another connection of the link is recognised there.
        token: Token,
        /// SHA-256 of the vDSO's code here.
        vdso: [u8; 32],
    },
    /// What the files are here that home has named.
    Files(Vec<Root>),
    /// The body stands ready.
    Built,
    /// It could not be built; nothing of it has run.
    Failed(String),
    /// What stood ready runs.
    Resumed,
    /// A signal has been handed on.
    Signalled {
        /// To which process.
        tgid: i32,
        /// Calls that are on their way home and that it interrupts: thread and number.
        calls: Vec<(i32, u64)>,
    },
    /// The body has ended by a signal.
    Ended {
        /// Which.
        tgid: i32,
        /// As wait(2) has it.
        status: i32,
    },
    /// All pages have come.
    Whole {
        /// Which.
        tgid: i32,
    },
    /// What processes use of the processors here: which, how many microseconds since it came, whether it runs or could.
    Used(Vec<(i32, u64, bool)>),
    /// What home has said it would give up is not counted on any more.
    Forgotten {
        /// Whose.
        tgid: i32,
    },
    /// These calls have to be let go before the process stands still.
    Cancel {
        /// Which.
        tgid: i32,
        /// Thread and number.
        calls: Vec<(i32, u64)>,
    },
    /// The process stands still.
    Frozen(Box<Image>, Channel),
    /// It does not.
    NotFrozen {
        /// Which.
        tgid: i32,
        /// Why.
        reason: String,
    },
    /// The process has to do something at home.
    Asks {
        /// Which.
        tgid: i32,
    },
    /// The channel of a thread is broken.
    Lost {
        /// Whose.
        tid: i32,
        /// How many it has had before.
        generation: u32,
    },
    /// The connection is broken by which a process's memory comes: this is to be another one.
    Pages {
        /// Whose.
        tgid: i32,
        /// So many records have come.
        received: u64,
        /// The connection.
        channel: Channel,
    },
    /// This side ends, and all that is here, for this reason.
    Ends(String),
}

impl std::fmt::Display for ToRemote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files(files) => write!(f, "{} files", files.len()),
            Self::Build(image, _) => write!(f, "build {}", image.tgid),
            Self::Room { tgid, base } => write!(f, "room for {tgid} at {base:#x}"),
            Self::Resume => f.write_str("resume"),
            Self::Child { parent, tid, slot, process, .. } => {
                let kind = if *process { "process" } else { "thread" };
                write!(f, "{kind} {tid} of {parent} in slot {slot}")
            }
            Self::Signal { tgid, tid, info } => {
                write!(f, "signal {} for {tgid}, thread {tid}", info.first().copied().unwrap_or(0))
            }
            Self::End { tgid } => write!(f, "end {tgid}"),
            Self::Freeze { tgid } => write!(f, "freeze {tgid}"),
            Self::Taken { tgid } => write!(f, "taken {tgid}"),
            Self::Forget { tgid, ranges } => {
                write!(f, "nothing may be kept of {tgid} in {} ranges", ranges.len())
            }
            Self::Thaw { tgid } => write!(f, "thaw {tgid}"),
            Self::Share(sizes, _) => write!(f, "share {sizes:?}"),
            Self::Unshare(_) => f.write_str("unshare"),
            Self::Channel { tid, generation, .. } => write!(f, "channel {generation} of {tid}"),
            Self::Over { tid } => write!(f, "no deputy {tid}"),
            Self::Bye => f.write_str("bye"),
        }
    }
}

impl std::fmt::Display for ToHome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listening { port, .. } => write!(f, "listening on {port}"),
            Self::Files(roots) => {
                write!(f, "{} of {} files are there", roots.iter().flatten().count(), roots.len())
            }
            Self::Built => f.write_str("built"),
            Self::Resumed => f.write_str("resumed"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
            Self::Signalled { tgid, calls } => write!(f, "signalled {tgid}, interrupting {calls:?}"),
            Self::Ended { tgid, status } => write!(f, "{tgid} ended with {status:#x}"),
            Self::Whole { tgid } => write!(f, "{tgid} is whole"),
            Self::Used(used) => write!(f, "used: {used:?}"),
            Self::Forgotten { tgid } => write!(f, "home need not keep the memory of {tgid}"),
            Self::Cancel { tgid, calls } => write!(f, "cancel {calls:?} of {tgid}"),
            Self::Frozen(image, _) => write!(f, "{} stands still", image.tgid),
            Self::NotFrozen { tgid, reason } => write!(f, "{tgid} does not stand still: {reason}"),
            Self::Asks { tgid } => write!(f, "{tgid} has to go home"),
            Self::Lost { tid, generation } => write!(f, "channel {generation} of {tid} is broken"),
            Self::Pages { tgid, received, .. } => write!(f, "the memory of {tgid} from record {received} on"),
            Self::Ends(reason) => write!(f, "it ends: {reason}"),
        }
    }
}
