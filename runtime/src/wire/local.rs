//! What a node's own users ask its agent, by the UNIX socket `agent.sock`: one line of JSON, and one in answer.
//!
//! Who asks is known by the socket (SO_PEERCRED, unix(7)).

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::discovery::NodeId;
use crate::load::Load;

/// Where the agent listens on a node.
pub const SOCKET: &str = "/run/tesela/agent.sock";
/// The longest request, in octets.
pub const MAX_REQUEST: usize = 32 * 1024;
/// The longest answer: a list of many thousand processes.
const MAX_ANSWER: u64 = 64 << 20;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Move a process.
    Migrate {
        /// Its id.
        pid: i32,
        /// A node's name, number or address, `home`, or `balance`: where the load asks.
        to: String,
    },
    /// What is known of a process, by openMosix's names.
    Show {
        /// Its id.
        pid: i32,
    },
    /// Whether a process may be sent to another node.
    Lock {
        /// Its id.
        pid: i32,
        /// Whether it stays from now on.
        locked: bool,
    },
    /// What is away, and what is here from elsewhere.
    List {},
    /// Fetch home all processes of this node.
    Bring {},
    /// Send home all guests of this node, and let none in from now on.
    Expel {},
    /// The nodes of the cluster.
    Nodes {},
    /// Something in the name of a user; only root can.
    As {
        /// The user's id.
        uid: u32,
        /// What he asks.
        request: Box<Request>,
    },
    /// How this node takes part, and how it measures.
    Settings {},
    /// What moves and calls cost, as this node has measured.
    Costs {},
    /// The map that was set by hand.
    Map {},
    /// Set it, for as long as the node is up, or take it away.
    SetMap {
        /// As a file of openMosix has it; none: the others are found by discovery.
        map: Option<String>,
    },
    /// Change that, for as long as the node is up.
    Set(Change),
    /// What a process is like, for the choice of those that move.
    Hint {
        /// Its id.
        pid: i32,
        /// What it is like.
        hint: Hint,
    },
}

/// A change of a [`Settings`], by openMosix's names. Each that is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// Nothing leaves this node by itself.
    pub stay: Option<bool>,
    /// Its own processes do not leave it by themselves.
    pub lstay: Option<bool>,
    /// It lets no guests in.
    pub block: Option<bool>,
    /// It tells nobody of its load.
    pub quiet: Option<bool>,
    /// The speed of one of its processors; 0: as it was measured.
    pub speed: Option<u32>,
    /// Another standard for all speeds that this node shows and takes ([`crate::load::STANDARD_SPEED`]).
    pub yard: Option<u32>,
    /// Interval, slow and fast decay.
    pub decay: Option<Decay>,
    /// Whether it shares its load at all.
    pub share: Option<ByHand>,
    /// Whether it does so now: what the agent has found, as its pool says.
    pub sharing: Option<bool>,
}

/// Whether a node shares its load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByHand {
    /// As its pool says.
    #[default]
    Pool,
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// How this node takes part, and how it measures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Nothing leaves this node by itself.
    pub stay: bool,
    /// Its own processes do not leave it by themselves.
    pub lstay: bool,
    /// It lets no guests in.
    pub block: bool,
    /// It tells nobody of its load.
    pub quiet: bool,
    /// The speed of one of its processors; 0: as it was measured.
    pub speed: u32,
    /// The yardstick: what a standard processor's speed is.
    pub yard: u32,
    /// How old statistics of processes fade.
    pub decay: Decay,
    /// Whether it shares its load at all.
    pub share: ByHand,
    /// Whether it does so now. One that does not lets no guests in, and nothing leaves it by itself.
    pub sharing: bool,
}

impl Settings {
    /// Takes over what a change says.
    pub fn change(&mut self, change: &Change) {
        let Change { stay, lstay, block, quiet, speed, yard, decay, share, sharing } = *change;
        self.stay = stay.unwrap_or(self.stay);
        self.lstay = lstay.unwrap_or(self.lstay);
        self.block = block.unwrap_or(self.block);
        self.quiet = quiet.unwrap_or(self.quiet);
        self.speed = speed.unwrap_or(self.speed);
        self.yard = yard.unwrap_or(self.yard);
        self.decay = decay.unwrap_or(self.decay);
        self.share = share.unwrap_or(self.share);
        self.sharing = sharing.unwrap_or(self.sharing);
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stay: false,
            lstay: false,
            block: false,
            quiet: false,
            speed: 0,
            yard: crate::load::STANDARD_SPEED,
            decay: Decay::default(),
            share: ByHand::default(),
            sharing: true,
        }
    }
}

/// How old statistics of processes fade: after each interval so many thousandths of them are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decay {
    /// Seconds.
    pub interval: u32,
    /// Thousandths, of most processes.
    pub slow: u16,
    /// Thousandths, of those that are said to change fast.
    pub fast: u16,
}

impl Decay {
    /// What is kept after so many seconds, where so many thousandths are kept after an interval.
    pub fn kept(self, thousandths: u16, seconds: f64) -> f64 {
        (f64::from(thousandths.min(1000)) / 1000.0).powf(seconds / f64::from(self.interval.max(1)))
    }
}

impl Default for Decay {
    fn default() -> Self {
        Self { interval: 1, slow: 975, fast: 926 }
    }
}

/// What a process is like (openMosix's `/proc/hpc/decay`, table 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// Its statistics begin anew.
    Clear,
    /// It computes: its system calls do not keep it at home.
    Cpujob,
    /// It does input and output: it is best at home.
    Iojob,
    /// Its statistics fade slowly.
    Slow,
    /// Its statistics fade fast.
    Fast,
    /// Its statistics do not fade.
    None,
}

/// A node that this one knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its name, where cluster.yaml gives it one.
    pub name: Option<String>,
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it is alive.
    pub up: bool,
    /// How old what it tells of itself is, in milliseconds; none: it has told nothing yet, or is quiet.
    pub age_ms: Option<u64>,
    /// What it tells of itself.
    pub load: Option<Load>,
    /// Whether its word to all (multicast) has been heard of late; none: it need not have been yet.
    #[serde(default)]
    pub multicast: Option<bool>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Show`].
    Shown(Shown),
    /// To [`Request::Lock`], [`Request::Hint`] and [`Request::SetMap`].
    Done {},
    /// To [`Request::Bring`] and [`Request::Expel`].
    Moved {
        /// How many processes, with those that were made by others of them not counted.
        count: usize,
    },
    /// To [`Request::Migrate`].
    At {
        /// The process's id.
        pid: i32,
        /// The node where it runs.
        node: String,
        /// The node that is its home.
        home: String,
    },
    /// To [`Request::List`].
    Listed {
        /// Processes of this node that run elsewhere.
        away: Vec<Moved>,
        /// Processes of other nodes that run here.
        guests: Vec<Moved>,
    },
    /// To [`Request::Nodes`], in the order of numbers.
    Nodes {
        /// This node's own number.
        own: NodeId,
        /// All that are there, this one among them.
        nodes: Vec<Node>,
        /// Those of the cluster that are not there, as far as their addresses are known.
        gone: Vec<Node>,
    },
    /// To [`Request::Costs`].
    Costs {
        /// What any move takes, in microseconds.
        move_us: u64,
        /// KiB that a move sends in a second.
        kib_per_second: u64,
        /// What a call that is made at home takes more, in microseconds.
        call_us: u64,
    },
    /// To [`Request::Map`].
    Map {
        /// As a file of openMosix has it.
        map: Option<String>,
    },
    /// To [`Request::Settings`] and [`Request::Set`].
    Settings(Settings),
    /// It was not done.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What is known of a process, by openMosix's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The process's id.
    pub pid: i32,
    /// The node where it runs.
    #[serde(rename = "where")]
    pub place: String,
    /// The node that is its home.
    pub home: String,
    /// The node to which it is being sent; none: none.
    pub goto: Option<String>,
    /// How often it was sent to another node.
    pub nmigs: u64,
    /// It may not be sent to another node.
    pub lock: bool,
    /// Why it cannot move, as far as can be told before it is stopped.
    pub cantmove: Option<String>,
}

/// A process that does not run at its home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Its id at home.
    pub pid: i32,
    /// Its id on this node.
    #[serde(default)]
    pub here: i32,
    /// The other node: where it runs, or of a guest its home.
    pub node: String,
    /// Its user's id.
    pub uid: u32,
    /// The name of its program.
    pub name: String,
}

/// Asks the agent. Blocks until it has answered: a move takes as long as it takes.
///
/// # Errors
/// Those of the socket; `InvalidData` where what comes is no answer.
pub fn ask(socket: &Path, request: &Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    match stream.write_all(&line(request)?) {
        // One that takes no more requests says so without hearing this one.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        asked => asked?,
    }
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the agent ends the connection without an answer",
        ));
    }
    Ok(serde_json::from_str(&answer)?)
}

/// A message as it travels.
///
/// # Errors
/// Those of JSON.
pub fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut octets = serde_json::to_vec(message)?;
    octets.push(b'\n');
    Ok(octets)
}
