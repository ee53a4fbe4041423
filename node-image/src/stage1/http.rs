//! An answer of HTTP/1.1 as the master's own server gives it: a body with a length, one a connection.
//!
//! Limits: no `Transfer-Encoding`, no redirection, a head of at most 16 KiB.

use std::io::{self, BufRead, Write};

const HEAD_LIMIT: u64 = 16 * 1024;

/// An answer of success whose head was read.
#[derive(Debug)]
pub struct Reply<R> {
    length: Option<u64>,
    body: R,
}

impl<R: BufRead> Reply<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// An answer that is no success, with its status line; a head that is none, too long or cut; what
    /// reading fails with.
    pub fn read(stream: R) -> io::Result<Self> {
        let mut head = stream.take(HEAD_LIMIT);
        let status = line(&mut head)?;
        let code = status.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).unwrap_or_default();
        if code.len() != 3 || !code.starts_with('2') {
            let told: String =
                status.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
            return Err(io::Error::other(format!("the master answered `{told}`")));
        }
        let mut length = None;
        loop {
            let field = line(&mut head)?;
            if field.is_empty() {
                return Ok(Self { length, body: head.into_inner() });
            }
            if let Some((name, value)) = field.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                let value = value.trim().parse();
                length = Some(value.map_err(|_| io::Error::other(format!("the answer has `{field}`")))?);
            }
        }
    }

    /// Copies the body; gives its length in octets.
    ///
    /// # Errors
    /// No length; a body that is cut; what reading or writing fails with.
    pub fn copy(self, sink: &mut dyn Write) -> io::Result<u64> {
        let length = self.length.ok_or_else(|| io::Error::other("the answer has no Content-Length"))?;
        let copied = io::copy(&mut self.body.take(length), sink)?;
        if copied == length {
            return Ok(copied);
        }
        Err(io::Error::other(format!("the connection ended after {copied} of {length} octets")))
    }
}

/// A line of the head without its end.
fn line(head: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    head.read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(whole) => Ok(whole.strip_suffix('\r').unwrap_or(whole).to_owned()),
        None => Err(io::Error::other("the answer ends within its head")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Result<String, String> {
        let mut body = Vec::new();
        let reply = Reply::read(text.as_bytes()).and_then(|reply| reply.copy(&mut body));
        reply.map(|_| String::from_utf8(body).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_body_is_as_long_as_its_head_says() {
        assert_eq!(answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabc"), Ok("ab".into()));
        assert!(
            answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc").unwrap_err().contains("after 3 of 4")
        );
        assert!(answer("HTTP/1.1 200 OK\r\n\r\nabc").unwrap_err().contains("no Content-Length"));
        assert!(
            answer("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").unwrap_err().contains("Content-Length: x")
        );
    }

    #[test]
    fn what_is_no_success_is_told() {
        assert!(answer("HTTP/1.1 403 Forbidden\r\n\r\n").unwrap_err().contains("`HTTP/1.1 403 Forbidden`"));
        assert!(answer("SSH-2.0-x\r\n").unwrap_err().contains("SSH-2.0-x"));
        for cut in ["", "HTTP/1.1 200 OK", "HTTP/1.1 200 OK\r\nContent-Le"] {
            assert!(answer(cut).unwrap_err().contains("within its head"), "{cut:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(4000));
        assert!(answer(&long).unwrap_err().contains("within its head"));
    }
}
