//! What moving is compared with: octets copied, and messages to and fro, over one connection and under the
//! cipher that a process that is away has, and nothing else.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tesela_shim::seal::{Direction, HEADER, MAX_CONTENT, TAG, sealed_length};
use tesela_shim::wire::{Reply, Request};

use super::away::Link;

const LOOK: Duration = Duration::from_millis(500);

/// Seconds that it takes to copy so many octets into fresh memory.
pub fn copy(link: &Link, octets: u64) -> f64 {
    let [mut here, mut there] = link.connect();
    let size = usize::try_from(octets).unwrap();
    let source: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut direction = Direction::new([1; 32]);
            let mut records = Vec::new();
            for records_content in source.chunks(8 * MAX_CONTENT) {
                records.clear();
                for content in records_content.chunks(MAX_CONTENT) {
                    seal(&mut direction, content, &mut records);
                }
                here.write_all(&records).unwrap();
            }
        });
        let mut direction = Direction::new([1; 32]);
        let mut copied: Vec<u8> = Vec::with_capacity(size);
        let mut record = Vec::new();
        while copied.len() < size {
            copied.extend_from_slice(receive(&mut there, &mut direction, &mut record).unwrap());
        }
        assert_eq!(copied.last(), source.last());
    });
    begun.elapsed().as_secs_f64()
}

/// Nanoseconds of a message as long as a call without memory, and one as long as its answer.
pub fn ping_pong(link: &Link) -> f64 {
    let [mut here, mut there] = link.connect();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut calls, mut answers) = (Direction::new([1; 32]), Direction::new([2; 32]));
            let (mut record, mut sealed) = (Vec::new(), Vec::new());
            // Until the other end is closed.
            while receive(&mut here, &mut calls, &mut record).is_ok() {
                sealed.clear();
                seal(&mut answers, &[0; size_of::<Reply>()], &mut sealed);
                here.write_all(&sealed).unwrap();
            }
        });
        let (mut calls, mut answers) = (Direction::new([1; 32]), Direction::new([2; 32]));
        let (mut record, mut sealed) = (Vec::new(), Vec::new());
        let (begun, mut count) = (Instant::now(), 0_u32);
        while begun.elapsed() < LOOK {
            sealed.clear();
            seal(&mut calls, &[0; size_of::<Request>()], &mut sealed);
            there.write_all(&sealed).unwrap();
            receive(&mut there, &mut answers, &mut record).unwrap();
            count += 1;
        }
        let taken = begun.elapsed();
        drop(there);
        taken.as_secs_f64() * 1e9 / f64::from(count)
    })
}

fn seal(direction: &mut Direction, content: &[u8], records: &mut Vec<u8>) {
    let at = records.len();
    records.extend_from_slice(&[0; HEADER]);
    records.extend_from_slice(content);
    records.extend_from_slice(&[0; TAG]);
    direction.seal(&mut records[at..], content.len());
}

fn receive<'a>(
    stream: &mut TcpStream,
    direction: &mut Direction,
    record: &'a mut Vec<u8>,
) -> io::Result<&'a [u8]> {
    // As a resident loop does it: one read for a whole record where it is there.
    record.resize(HEADER + MAX_CONTENT + TAG, 0);
    let mut got = stream.peek(record)?;
    if got == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let length = sealed_length(header).unwrap();
    stream.read_exact(&mut record[..length])?;
    got = length;
    Ok(direction.open(&mut record[..got]).unwrap())
}
