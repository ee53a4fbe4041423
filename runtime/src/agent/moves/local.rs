//! The node's own users at the agent's socket: who they are, and what they ask.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::places::Places;
use super::{MoveError, Moves};
use crate::wire::local::{Answer, MAX_REQUEST, Request, line};

/// How long a user may take to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at a time.
const CONNECTIONS: usize = 256;
/// Of which one user has at the most so many.
const OF_ONE: usize = 32;

/// Listens for everyone; a socket that an agent before us has left is replaced.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Serves for ever.
pub async fn serve(moves: Arc<Moves>, listener: UnixListener) {
    let places = Places::new(CONNECTIONS, OF_ONE);
    loop {
        let permit = places.next().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or memory (accept(2)): some come free as connections end.
                tracing::warn!(%error, "the agent's socket cannot accept");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let caller = match stream.peer_cred() {
            Ok(caller) => caller.uid(),
            Err(error) => {
                tracing::debug!(%error, "a user who is gone");
                continue;
            }
        };
        let (moves, place) = (Arc::clone(&moves), places.take(permit, caller));
        tokio::spawn(async move {
            let done = match &place {
                Some(_) => conversation(&moves, caller, stream).await,
                None => say(stream, &too_many(caller)).await,
            };
            if let Err(error) = done {
                tracing::debug!(caller, %error, "a user has not got his answer");
            }
        });
    }
}

fn too_many(caller: u32) -> Answer {
    let reason = format!(
        "user {caller} has {OF_ONE} requests under way, and more at a time are not taken: ask again when one is done"
    );
    Answer::Failed { reason }
}

async fn conversation(moves: &Moves, caller: u32, mut stream: UnixStream) -> io::Result<()> {
    let mut request = Vec::new();
    let mut reader = BufReader::new((&mut stream).take((MAX_REQUEST + 1) as u64));
    let answer = match timeout(PATIENCE, reader.read_until(b'\n', &mut request)).await?? {
        0 => return Ok(()),
        length if length > MAX_REQUEST => {
            Answer::Failed { reason: format!("a request has at most {MAX_REQUEST} octets") }
        }
        _ => answer(moves, caller, &request).await,
    };
    say(stream, &answer).await
}

async fn say(mut stream: UnixStream, answer: &Answer) -> io::Result<()> {
    let answer = line(answer)?;
    timeout(PATIENCE, stream.write_all(&answer)).await?
}

async fn answer(moves: &Moves, caller: u32, request: &[u8]) -> Answer {
    // Which processes became other programs before this was asked for is heard of first.
    yield_now().await;
    let (caller, request) = match serde_json::from_slice(request) {
        Ok(Request::As { uid, request }) if caller == 0 => (uid, Ok(*request)),
        request => (caller, request),
    };
    let answered = match request {
        Ok(Request::Migrate { pid, to }) => moves.migrate(caller, pid, &to).await,
        Ok(Request::Show { pid }) => moves.show(pid),
        Ok(Request::Lock { pid, locked }) => moves.lock(caller, pid, locked),
        Ok(Request::List {}) => moves.list(),
        Ok(Request::Bring {}) => moves.bring(caller).await,
        Ok(Request::Expel {}) => moves.expel(caller).await,
        Ok(Request::Settings {}) => moves.settings(),
        Ok(Request::Set(change)) => moves.set(caller, &change).await,
        Ok(Request::Hint { pid, hint }) => moves.hint(caller, pid, hint),
        Ok(Request::Costs {}) => Ok(moves.balancer().told_costs()),
        Ok(Request::Map {}) => moves.map(),
        Ok(Request::SetMap { map }) => moves.set_map(caller, map.as_deref()),
        Ok(Request::As { .. }) => Err(MoveError::OnlyRoot { what: "ask in the name of another user" }),
        Ok(Request::Nodes {}) => moves.nodes(),
        Err(error) => return Answer::Failed { reason: format!("not a request: {error}") },
    };
    answered.unwrap_or_else(|error| Answer::Failed { reason: error.to_string() })
}
