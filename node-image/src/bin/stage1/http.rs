//! As much of an HTTP/1.1 client as the master's own server needs: bodies with a length, one a connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Duration;

use tesela_runtime::port::connect_privileged;

use crate::error::BootError;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the master may send nothing.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);
const HEAD_LIMIT: u64 = 16 * 1024;

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

    fn exchange(&self, request: &[u8]) -> io::Result<Reply> {
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

struct Reply {
    length: Option<u64>,
    body: BufReader<TcpStream>,
}

impl Reply {
    fn read(stream: BufReader<TcpStream>) -> io::Result<Self> {
        let mut head = stream.take(HEAD_LIMIT);
        let mut line = String::new();
        head.read_line(&mut line)?;
        let status = line.split(' ').nth(1).unwrap_or_default();
        if !status.starts_with('2') {
            let answer = line.trim();
            return Err(io::Error::other(format!("the master answered `{answer}`")));
        }
        let mut length = None;
        loop {
            line.clear();
            if head.read_line(&mut line)? == 0 {
                return Err(io::Error::other("the answer ends within its head"));
            }
            let field = line.trim_end();
            if field.is_empty() {
                return Ok(Self { length, body: head.into_inner() });
            }
            if let Some((name, value)) = field.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok();
            }
        }
    }

    fn copy(self, sink: &mut dyn Write) -> io::Result<u64> {
        let length = self.length.ok_or_else(|| io::Error::other("the answer has no Content-Length"))?;
        let copied = io::copy(&mut self.body.take(length), sink)?;
        if copied == length {
            return Ok(copied);
        }
        Err(io::Error::other(format!("the connection ended after {copied} of {length} octets")))
    }
}
