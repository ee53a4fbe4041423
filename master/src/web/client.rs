//! Asks the running master over its socket: the other end of the API, for the command line and the lab.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use axum::http::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::views::NodeView;
use crate::inventory::Machine;

/// What can go wrong on the way to the master.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum Error {
    /// There is no socket, or nobody listens on it.
    #[error("no master answers at {}: {source}", path.display())]
    #[diagnostic(help("start it with `tesela serve`, or say where its socket is with --socket"))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not the caller's to open.
    #[error("only root and the service's own user may ask the master at {}", .0.display())]
    #[diagnostic(help("run it as root, with sudo"))]
    NotAllowed(PathBuf),
    /// It ended before the answer did.
    #[error("the connection to the master broke: {0}")]
    Broken(#[from] std::io::Error),
    /// It is not what was asked for.
    #[error("the master's answer cannot be read: {0}")]
    Answer(String),
    /// The cluster.yaml does not hold: its problems, laid out as they are.
    #[error("{0}")]
    DoesNotHold(String),
    /// What the master said.
    #[error("{0}")]
    Refused(String),
}

/// How the master answers where a cluster.yaml does not hold.
pub(super) const DOES_NOT_HOLD: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;

/// A request to the master on `socket`; the answer is JSON.
///
/// # Errors
/// [`Error`].
pub fn get<T: DeserializeOwned>(socket: &Path, target: &str) -> Result<T, Error> {
    parse(&body(send(socket, "GET", target, b"")?)?)
}

/// The same, with a JSON body.
///
/// # Errors
/// [`Error`].
pub fn post<T: DeserializeOwned>(socket: &Path, target: &str, body_of: &impl Serialize) -> Result<T, Error> {
    let json = serde_json::to_vec(body_of).map_err(|e| Error::Answer(e.to_string()))?;
    parse(&body(send(socket, "POST", target, &json)?)?)
}

/// The octets that the master answers.
///
/// # Errors
/// [`Error`].
pub fn raw(socket: &Path, target: &str) -> Result<Vec<u8>, Error> {
    body(send(socket, "GET", target, b"")?)
}

/// Calls `each` with every line of an answer that does not end by itself.
///
/// # Errors
/// [`Error`]; what `each` fails with comes back as [`Error::Broken`].
pub fn lines(
    socket: &Path,
    target: &str,
    mut each: impl FnMut(&str) -> std::io::Result<()>,
) -> Result<(), Error> {
    let (reader, _) = send(socket, "GET", target, b"")?;
    for line in reader.lines() {
        each(&line?)?;
    }
    Ok(())
}

/// Every node of the cluster with where its boot is.
///
/// # Errors
/// [`Error`].
pub fn nodes(socket: &Path) -> Result<Vec<NodeView>, Error> {
    get(socket, "/v1/nodes")
}

/// The machines that were seen and are no node, in the order of arrival.
///
/// # Errors
/// [`Error`].
pub fn unknown(socket: &Path) -> Result<Vec<Machine>, Error> {
    get(socket, "/v1/machines")
}

/// A value as a part of a target: all but unreserved characters (RFC 3986 section 2.3) escaped.
pub fn escape(value: &str) -> String {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~/".contains(&octet);
    value.bytes().fold(String::new(), |text, octet| match plain(octet) {
        true => text + char::from(octet).encode_utf8(&mut [0; 4]),
        false => format!("{text}%{octet:02X}"),
    })
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(json).map_err(|e| Error::Answer(e.to_string()))
}

type Answer = (BufReader<UnixStream>, Option<u64>);

/// Sends one request (HTTP/1.0, so that the answer is never chunked) and reads the head of the answer.
fn send(socket: &Path, method: &str, target: &str, json: &[u8]) -> Result<Answer, Error> {
    let mut stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        std::io::ErrorKind::PermissionDenied => Error::NotAllowed(socket.into()),
        _ => Error::Connect { path: socket.into(), source },
    })?;
    // In one piece: a master that refuses without a look at the body closes as soon as it has answered.
    let head = format!(
        "{method} {target} HTTP/1.0\r\nHost: tesela\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        json.len()
    );
    stream.write_all(&[head.as_bytes(), json].concat())?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status: u16 = line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| Error::Answer(format!("`{}` is no HTTP status line", line.trim_end())))?;
    let mut length = None;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        }
    }
    if status >= 400 {
        let text = body((reader, length))?;
        let text = String::from_utf8_lossy(&text).trim_end().to_owned();
        let does_not_hold = status == DOES_NOT_HOLD.as_u16();
        return Err(if does_not_hold { Error::DoesNotHold(text) } else { Error::Refused(text) });
    }
    Ok((reader, length))
}

fn body((mut reader, length): Answer) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    match length {
        Some(length) => {
            reader.take(length).read_to_end(&mut out)?;
        }
        None => {
            reader.read_to_end(&mut out)?;
        }
    }
    Ok(out)
}
