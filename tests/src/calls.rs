//! The NFS calls of a boot that was recorded: `record-boot` writes them, `bench-fleet` makes them again.
//!
//! A line each: `STATUS PROCEDURE PATH OTHER ARGUMENTS`, with tabs between. PATH is the object, or the
//! place (directory and name) that the call begins with; OTHER is the second place of RENAME and LINK;
//! ARGUMENTS is the rest of them as XDR, in hexadecimal, without the data of a WRITE.

use std::fmt;
use std::io;

use bytes::{Buf, BytesMut};

use crate::nfs::procedure::{
    CREATE, LINK, LOOKUP, MKDIR, MKNOD, READDIRPLUS, REMOVE, RENAME, RMDIR, SYMLINK, WRITE,
};
use crate::nfs::{Args, opaque};

/// A call with its handles as paths from the node's root, which itself is the empty path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedCall {
    /// `nfsstat3` of its reply.
    pub status: u32,
    /// Its procedure.
    pub procedure: u32,
    /// The object or place that it begins with.
    pub path: String,
    /// The second place of RENAME and LINK.
    pub other: String,
    /// The arguments that follow.
    pub arguments: Vec<u8>,
}

/// Whether a procedure's arguments begin with a directory and a name in it.
fn begins_with_place(procedure: u32) -> bool {
    matches!(procedure, LOOKUP | CREATE | MKDIR | SYMLINK | MKNOD | REMOVE | RMDIR | RENAME)
}

fn has_second_place(procedure: u32) -> bool {
    matches!(procedure, RENAME | LINK)
}

/// The path of a name in a directory.
pub fn join(directory: &str, name: &[u8]) -> String {
    format!("{directory}/{}", String::from_utf8_lossy(name))
}

impl RecordedCall {
    /// Reads the arguments of a call on the wire; `path_of` knows the handles. `None` where it does not.
    pub fn from_wire(
        procedure: u32,
        mut arguments: BytesMut,
        path_of: impl Fn(&[u8]) -> Option<String>,
    ) -> Option<Self> {
        let mut place = |named: bool| {
            let directory = path_of(&opaque(&mut arguments))?;
            Some(if named { join(&directory, &opaque(&mut arguments)) } else { directory })
        };
        let path = place(begins_with_place(procedure))?;
        let other = if has_second_place(procedure) { place(true)? } else { String::new() };
        if procedure == WRITE {
            // Offset, count and how stable; the data follow.
            arguments.truncate(16);
        }
        Some(Self { status: 0, procedure, path, other, arguments: arguments.to_vec() })
    }

    /// The arguments for the wire; `handle_of` gives the handle of a path. `None` where there is none.
    ///
    /// # Errors
    /// Those of `handle_of`.
    pub fn to_wire(
        &self,
        mut handle_of: impl FnMut(&str) -> io::Result<Option<Vec<u8>>>,
    ) -> io::Result<Option<Args>> {
        let mut args = Args::new();
        let second = has_second_place(self.procedure).then_some((&self.other, true));
        for (path, named) in std::iter::once((&self.path, begins_with_place(self.procedure))).chain(second) {
            let (directory, name) =
                if named { path.rsplit_once('/').unwrap_or(("", path)) } else { (path.as_str(), "") };
            let Some(handle) = handle_of(directory)? else { return Ok(None) };
            args = args.opaque(&handle);
            if named {
                args = args.opaque(name.as_bytes());
            }
        }
        args = args.raw(&self.arguments);
        if self.procedure == WRITE
            && let Some(count) = self.arguments.get(8..12)
        {
            let count = count.iter().fold(0, |count, octet| count << 8 | usize::from(*octet));
            args = args.opaque(&vec![b'x'; count]);
        }
        Ok(Some(args))
    }

    /// Tells `learn` the paths and handles that the results of a call that succeeded give away.
    pub fn handles(&self, results: &mut BytesMut, mut learn: impl FnMut(String, Vec<u8>)) {
        match self.procedure {
            LOOKUP => learn(self.path.clone(), opaque(results)),
            CREATE | MKDIR | SYMLINK | MKNOD => {
                let handle_follows = results.get_u32() == 1;
                if handle_follows {
                    learn(self.path.clone(), opaque(results));
                }
            }
            READDIRPLUS => {
                skip_attributes(results);
                results.advance(8);
                while results.get_u32() == 1 {
                    results.advance(8);
                    let name = opaque(results);
                    results.advance(8);
                    skip_attributes(results);
                    if results.get_u32() == 1 {
                        let handle = opaque(results);
                        if name != b"." && name != b".." {
                            learn(join(&self.path, &name), handle);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// Where objects are after the call: paths that are gone, or were moved, as `(from, to)`.
    pub fn moved(&self) -> Option<(&str, Option<&str>)> {
        match self.procedure {
            REMOVE | RMDIR => Some((&self.path, None)),
            RENAME => Some((&self.path, Some(&self.other))),
            _ => None,
        }
    }

    /// Reads a line.
    pub fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split('\t').collect();
        let [status, procedure, path, other, hex] = words[..] else { return None };
        let octet = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        Some(Self {
            status: status.parse().ok()?,
            procedure: procedure.parse().ok()?,
            path: path.to_owned(),
            other: other.to_owned(),
            arguments: (0..hex.len()).step_by(2).map(octet).collect::<Option<_>>()?,
        })
    }
}

impl fmt::Display for RecordedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}\t{}\t{}\t", self.status, self.procedure, self.path, self.other)?;
        self.arguments.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// Passes over a `post_op_attr`.
fn skip_attributes(results: &mut BytesMut) {
    if results.get_u32() == 1 {
        results.advance(84);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_survives_the_line_and_the_wire() {
        let paths = |handle: &[u8]| (handle == b"h1").then(|| "/etc".to_owned());
        let wire = Args::new().opaque(b"h1").opaque(b"a").opaque(b"h1").opaque(b"b").0;
        let call = RecordedCall::from_wire(RENAME, BytesMut::from(&wire[..]), paths).unwrap();
        assert_eq!(call.to_string(), "0\t14\t/etc/a\t/etc/b\t");
        assert_eq!(call.moved(), Some(("/etc/a", Some("/etc/b"))));
        let again = RecordedCall::parse(&call.to_string()).unwrap();
        assert_eq!(again, call);
        let handles = |path: &str| Ok((path == "/etc").then(|| b"h1".to_vec()));
        assert_eq!(again.to_wire(handles).unwrap().unwrap().0, wire);
        assert!(again.to_wire(|_| Ok(None)).unwrap().is_none());
    }

    #[test]
    fn the_data_of_a_write_are_counted_and_not_kept() {
        let wire = Args::new().opaque(b"h").u64(4096).u32(3).u32(2).opaque(b"abc").0;
        let call = RecordedCall::from_wire(WRITE, BytesMut::from(&wire[..]), |_| Some("/f".into())).unwrap();
        assert_eq!(call.arguments.len(), 16);
        let again = call.to_wire(|_| Ok(Some(b"h".to_vec()))).unwrap().unwrap().0;
        assert_eq!(again, Args::new().opaque(b"h").u64(4096).u32(3).u32(2).opaque(b"xxx").0);
    }

    #[test]
    fn handles_are_learnt_from_a_page_of_a_directory() {
        let entry = |args: Args, name: &[u8], handle: &[u8]| {
            args.u32(1).u64(7).opaque(name).u64(1).u32(1).raw(&[0; 84]).u32(1).opaque(handle)
        };
        let page = entry(entry(Args::new().u32(0).u64(0), b".", b"d"), b"x", b"h").u32(0).u32(1);
        let call = RecordedCall::parse("0\t17\t/d\t\t").unwrap();
        let mut learnt = Vec::new();
        call.handles(&mut BytesMut::from(&page.0[..]), |path, handle| learnt.push((path, handle)));
        assert_eq!(learnt, [("/d/x".to_owned(), b"h".to_vec())]);
    }
}
