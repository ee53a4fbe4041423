//! The way of a connection's octets through the server, without sockets: for fuzzing.

use super::fs::Caller;
use super::memory::Memory;
use super::mount::Mounts;
use super::output::Output;
use super::record::RecordReader;
use super::rpc::{Call, Ids, Refusal};
use super::service::{Programs, Service};
use super::{Counters, FileSystem};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Takes what a client sent over a connection to the NFS port, and to the portmapper's, and checks that
/// every call gets one reply that is framed as it has to be. The first octet says in how large pieces
/// it arrives.
///
/// # Panics
/// If the server does something that it must never do.
pub fn connection(data: &[u8]) {
    let Some((step, stream)) = data.split_first() else { return };
    let fs: Arc<dyn FileSystem> = Arc::new(Memory::new(1 << 20, false));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 2049));
    for programs in [Programs::Nfs { fs, mounts: Mounts::default() }, Programs::Portmapper(address)] {
        let counters = Arc::<Counters>::default();
        let (calls, output) =
            serve(&Service::new(programs, Arc::clone(&counters)), usize::from(*step), stream);
        assert_eq!(counters.faults.load(Relaxed), 0, "a panic while a call was carried out");
        assert_eq!(replies(output), calls, "every call gets one reply");
    }
}

fn serve(service: &Service, step: usize, stream: &[u8]) -> (usize, Output) {
    let mut reader = RecordReader::default();
    let (mut calls, mut output) = (0, Output::default());
    for piece in stream.chunks(step * 16 + 1) {
        reader.space().extend_from_slice(piece);
        loop {
            let record = match reader.take() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(_) => return (calls, output),
            };
            let judged = match Call::parse(&record) {
                Err(Refusal::NotACall) => return (calls, output),
                Err(Refusal::Answer(xid, denial)) => Err((xid, denial)),
                Ok(call) => match (service.judge(&call), Ids::decode(call.credential)) {
                    (Err(denial), _) => Err((call.xid, denial)),
                    (Ok(_), Err(_)) => Err((call.xid, super::rpc::Denial::BadCredential)),
                    (Ok(task), Ok(ids)) => Ok((task, ids, call.arguments)),
                },
            };
            calls += 1;
            output.message(|out| match judged {
                Ok((task, ids, arguments)) => {
                    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
                    let who = Caller { address, uid: ids.uid, gid: ids.gid, groups: ids.groups };
                    service.run(task, &who, arguments, out).unwrap_or_default()
                }
                Err((xid, denial)) => {
                    service.deny(xid, denial, out);
                    None
                }
            });
        }
    }
    (calls, output)
}

/// Counts the replies in an output.
fn replies(mut output: Output) -> usize {
    let mut reader = RecordReader::default();
    let mut count = 0;
    while !output.is_empty() {
        let mut slices = [std::io::IoSlice::new(&[])];
        output.slices(&mut slices);
        reader.space().extend_from_slice(&slices[0]);
        let written = slices[0].len();
        output.advance(written);
        while let Some(reply) = reader.take().expect("a reply is no longer than a record") {
            assert!(reply.len().is_multiple_of(4) && reply[4..8] == [0, 0, 0, 1], "a reply is one");
            count += 1;
        }
    }
    assert!(!reader.is_within_record(), "the last reply is whole");
    count
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_holds() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/nfs_record");
        let mut seen = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            super::connection(&std::fs::read(entry.unwrap().path()).unwrap());
            seen += 1;
        }
        assert!(seen > 0, "the corpus is there");
    }
}
