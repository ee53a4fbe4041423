//! Records the NFS calls of a boot, for `bench-fleet` to make them again:
//! `target/release/record-boot > tests/data/boot.calls`.
//!
//! One node of configs/lab.yaml boots for the first time, becomes a member, and has its first visitor, who
//! makes a user: that is what a boot lacks, files that are made, changed, renamed and removed. QEMU writes
//! down what goes over its network card; what is in there of NFS is written out, a line a call
//! ([`tesela_tests::calls`]).
#![expect(clippy::unwrap_used, reason = "what fails here fails the recording")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::{Buf as _, BytesMut};
use tesela_tests::calls::RecordedCall;
use tesela_tests::lab::tesela;
use tesela_tests::nfs::{MOUNT, NFS, opaque};

const STATE: &str = "/var/tmp/tesela-record";
const CAPTURE: &str = "/var/tmp/tesela-record/boot.pcap";
const PORT: u16 = 2049;
/// Octets of `struct virtio_net_hdr_mrg_rxbuf`.
const VNET_HEADER: usize = 12;

fn main() {
    capture();
    let streams = streams(&fs::read(CAPTURE).unwrap());
    let mut calls = 0;
    for call in calls_of(&streams) {
        println!("{call}");
        calls += 1;
    }
    eprintln!("{calls} calls");
}

fn lab(words: &[&str]) -> Command {
    let mut command = Command::new(tesela());
    command.args(["--state", STATE, "lab"]).args(words);
    command
}

/// Boots a node that never was here before.
fn capture() {
    lab(&["down"]).output().unwrap();
    let nodes = Path::new(STATE).join("lab/master/nodes");
    if nodes.exists() {
        fs::remove_dir_all(nodes).unwrap();
    }
    let socket = Path::new(STATE).join("lab/machines/n1/qmp.sock");
    let mut up = lab(&["up", "--nodes", "1", "--firmware", "bios"]);
    let mut up = up.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(up.stderr.take().unwrap()).lines().map(Result::unwrap);
    // Its firmware runs, and so QEMU listens; its root is long to come. Without it the words would end.
    let runs = said.by_ref().inspect(|line| eprintln!("{line}")).any(|line| line.starts_with("n1: "));
    assert!(runs, "the machine does not start");
    qmp(
        &socket,
        &format!(
            r#"{{"execute": "object-add", "arguments": {{"qom-type": "filter-dump", "id": "record", "netdev": "net0", "file": "{CAPTURE}"}}}}"#
        ),
    );
    said.for_each(|line| eprintln!("{line}"));
    assert!(up.wait().unwrap().success(), "`tesela lab up` failed");
    qmp(&socket, r#"{"execute": "object-del", "arguments": {"id": "record"}}"#);
    lab(&["down"]).output().unwrap();
}

/// Sends a command to QEMU.
fn qmp(socket: &Path, command: &str) {
    let mut stream = UnixStream::connect(socket).unwrap();
    writeln!(stream, r#"{{"execute": "qmp_capabilities"}}"#).unwrap();
    writeln!(stream, "{command}").unwrap();
    // A greeting, and an answer each; events may come between.
    let mut answers = 0;
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        assert!(!line.contains("\"error\""), "QEMU: {line}");
        answers += usize::from(line.contains("\"return\""));
        if answers == 2 {
            return;
        }
    }
    panic!("QEMU closed its socket");
}

/// What a connection of the node's carried: what the node sent, and what it was sent.
#[derive(Default)]
struct Stream {
    sent: Direction,
    received: Direction,
}

/// Segments by their place behind the SYN; what was sent twice is there once.
#[derive(Default)]
struct Direction {
    first: Option<u32>,
    segments: BTreeMap<u32, Vec<u8>>,
}

impl Direction {
    fn octets(&self) -> BytesMut {
        let mut octets = BytesMut::new();
        for (at, segment) in &self.segments {
            let Some(known) = octets.len().checked_sub(*at as usize) else { break };
            octets.extend_from_slice(segment.get(known..).unwrap_or_default());
        }
        octets
    }
}

/// The TCP connections with the NFS port in a capture (pcap, little-endian, Ethernet), by the node's port
/// in the order of their beginning.
fn streams(capture: &[u8]) -> Vec<Stream> {
    let mut streams: Vec<(u16, Stream)> = Vec::new();
    let mut rest = &capture[24..];
    while rest.len() >= 16 {
        rest.advance(8);
        let length = rest.get_u32_le() as usize;
        rest.advance(4);
        if rest.len() < length {
            break;
        }
        let (frame, after) = rest.split_at(length);
        rest = after;
        let Some((from, to, sequence, syn, data)) = segment(frame) else { continue };
        let (node, sends) = if to == PORT { (from, true) } else { (to, false) };
        if from != PORT && to != PORT {
            continue;
        }
        if syn && sends {
            streams.push((node, Stream::default()));
        }
        let Some((_, stream)) = streams.iter_mut().rev().find(|(port, _)| *port == node) else { continue };
        let direction = if sends { &mut stream.sent } else { &mut stream.received };
        if syn {
            direction.first = Some(sequence.wrapping_add(1));
        } else if let (Some(first), false) = (direction.first, data.is_empty()) {
            let known = direction.segments.entry(sequence.wrapping_sub(first)).or_default();
            if known.len() < data.len() {
                *known = data.to_vec();
            }
        }
    }
    streams.into_iter().map(|(_, stream)| stream).collect()
}

/// Ports, sequence number, SYN and data of an Ethernet frame that holds TCP over IPv4, behind the header of
/// a virtual card, which QEMU writes down with it.
fn segment(frame: &[u8]) -> Option<(u16, u16, u32, bool, &[u8])> {
    let word = |octets: &[u8], at: usize| Some(u16::from_be_bytes(octets.get(at..at + 2)?.try_into().ok()?));
    let frame = frame.get(VNET_HEADER..)?;
    if word(frame, 12)? != 0x0800 || *frame.get(23)? != 6 {
        return None;
    }
    let packet = &frame[14..];
    let packet = packet.get(..usize::from(word(packet, 2)?))?;
    let segment = packet.get(usize::from(packet[0] & 15) * 4..)?;
    let sequence = u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?);
    let data = segment.get(usize::from(*segment.get(12)? >> 4) * 4..)?;
    Some((word(segment, 0)?, word(segment, 2)?, sequence, segment[13] & 2 != 0, data))
}

/// The records of a stream (RFC 5531, section 11), as far as they are whole.
fn records(mut octets: BytesMut) -> Vec<BytesMut> {
    let mut records = Vec::new();
    while octets.len() >= 4 {
        let length = (octets.get_u32() & !(1 << 31)) as usize;
        if octets.len() < length {
            break;
        }
        records.push(octets.split_to(length));
    }
    records
}

/// The calls of NFS in their order, with the status of each.
fn calls_of(streams: &[Stream]) -> Vec<RecordedCall> {
    let mut paths: HashMap<Vec<u8>, String> = HashMap::new();
    let mut calls = Vec::new();
    for stream in streams {
        let mut replies: HashMap<u32, BytesMut> =
            records(stream.received.octets()).into_iter().map(|mut reply| (reply.get_u32(), reply)).collect();
        for mut call in records(stream.sent.octets()) {
            let xid = call.get_u32();
            // CALL, version 2 of RPC
            call.advance(8);
            let (program, procedure) = ((call.get_u32(), call.get_u32()), call.get_u32());
            for _credential_and_verifier in 0..2 {
                call.advance(4);
                opaque(&mut call);
            }
            // A call that was sent again has one reply.
            let Some(mut results) = replies.remove(&xid).filter(|results| results.len() >= 24) else {
                continue;
            };
            // REPLY, MSG_ACCEPTED, an empty verifier, SUCCESS
            results.advance(20);
            let status = results.get_u32();
            if program == MOUNT && procedure == 1 && status == 0 {
                paths.insert(opaque(&mut results), String::new());
            }
            if program != NFS || procedure == 0 {
                continue;
            }
            let Some(mut call) =
                RecordedCall::from_wire(procedure, call, |handle| paths.get(handle).cloned())
            else {
                eprintln!("a call of procedure {procedure} with a handle that no reply gave");
                continue;
            };
            call.status = status;
            if status == 0 {
                call.handles(&mut results, |path, handle| {
                    paths.insert(handle, path);
                });
                if let Some((from, Some(to))) = call.moved() {
                    rename(&mut paths, from, to);
                }
            }
            calls.push(call);
        }
    }
    calls
}

/// Puts the paths of an object and of what is below it where it was moved to.
fn rename(paths: &mut HashMap<Vec<u8>, String>, from: &str, to: &str) {
    for path in paths.values_mut() {
        if let Some(below) = path.strip_prefix(from)
            && (below.is_empty() || below.starts_with('/'))
        {
            *path = format!("{to}{below}");
        }
    }
}
