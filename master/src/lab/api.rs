//! What the lab's master says of its nodes, asked over its socket.

use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::Deserialize;

use crate::inventory::NodeState;

/// A node as `GET /v1/nodes` has it.
#[derive(Clone, Debug, Deserialize)]
pub struct Seen {
    pub name: String,
    pub address: Option<Ipv4Addr>,
    pub state: Option<NodeState>,
}

/// Every node of the cluster.
pub fn nodes(socket: &Path) -> Result<Vec<Seen>, Error> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"GET /v1/nodes HTTP/1.0\r\nHost: tesela\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(serde_json::from_str(body)?),
        _ => Err(Error::new(ErrorKind::InvalidData, answer.lines().next().unwrap_or("nothing").to_owned())),
    }
}
