//! As much of an HTTP/1.1 client as the master's own server needs: one request a connection.

use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Duration;

use tesela_node_image::stage1::http::Reply;
use tesela_runtime::port::connect_privileged;

use crate::error::BootError;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the master may send nothing.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

/// The master's HTTP server.
#[derive(Clone, Copy, Debug)]
pub struct Http {
    /// Its address.
    pub master: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

impl Http {
    /// Writes the body at `path` into `sink`; gives its length in octets.
    pub fn get(&self, path: &str, sink: &mut dyn Write) -> Result<u64, BootError> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.master);
        self.exchange(request.as_bytes())
            .and_then(|reply| reply.copy(sink))
            .map_err(|error| self.error(path, error))
    }

    /// Posts JSON; the answer's body is not read.
    pub fn post(&self, path: &str, json: &str) -> Result<(), BootError> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{json}",
            self.master,
            json.len()
        );
        self.exchange(request.as_bytes()).map(drop).map_err(|error| self.error(path, error))
    }

    fn exchange(&self, request: &[u8]) -> io::Result<Reply<BufReader<TcpStream>>> {
        // The master takes a node's word from no port that others than root can have.
        let mut stream = connect_privileged(SocketAddrV4::new(self.master, self.port), CONNECT_LIMIT)?;
        stream.set_read_timeout(Some(SILENCE_LIMIT))?;
        stream.write_all(request)?;
        Reply::read(BufReader::with_capacity(256 * 1024, stream))
    }

    fn error(&self, path: &str, error: io::Error) -> BootError {
        let master = format!("{}:{}", self.master, self.port);
        BootError::Http { master, path: path.to_owned(), problem: error.to_string() }
    }
}
