//! What a node's own users ask its agent, by the UNIX socket `agent.sock`: one line of JSON, and one in answer.
//!
//! Who asks is known by the socket (SO_PEERCRED, unix(7)).

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Where the agent listens on a node.
pub const SOCKET: &str = "/run/tesela/agent.sock";
/// The longest request, in octets.
pub const MAX_REQUEST: usize = 4096;
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
        /// A node's name, number or address, or `home`.
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
    /// Whether guests are let in.
    Block {
        /// Whether none are.
        blocked: bool,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Show`].
    Shown(Shown),
    /// To [`Request::Lock`] and [`Request::Block`].
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
