//! Arbitrary octets against the parsers and a session, for the fuzz target `tftp_packet`.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::content::{Content, Source};
use super::options::{Bounds, Requested};
use super::packet::{Mode, Request};
use super::path::normalise;
use super::session::{Action, Session};

/// Reads the octets as a request; what follows its first 64 goes to the session as packets that each have
/// their length and a delay before them. Panics where the session asks for what its caller cannot send.
pub fn fuzz(data: &[u8]) {
    let (request, mut rest) = data.split_at(data.len().min(64));
    let (mode, options) = match Request::parse(request) {
        Ok(request) => {
            if let Ok(path) = normalise(request.path) {
                assert!(path.split('/').all(|component| !matches!(component, "" | "." | "..")), "{path:?}");
            }
            (request.mode, request.options)
        }
        Err(_) => (Mode::Octet, Requested { windowsize: Some(8), ..Requested::default() }),
    };
    let size = usize::from(*request.first().unwrap_or(&0)) * 64;
    let text: Vec<u8> = b"\r\nx\n".iter().copied().cycle().take(size).collect();
    let Ok(mut source) = Source::new(Content::from(Bytes::from(text)), mode) else { return };
    let (terms, offer) = options.negotiate(Bounds { block_size: 1468, window: 64 }, source.size());
    let mut now = Instant::now();
    let mut session = Session::new(terms, source.size(), offer.is_some(), now);
    let mut scratch = Vec::new();
    let mut perform = |action: Action| match action {
        Action::Wait => {}
        Action::Offer => assert!(offer.is_some(), "an offer of nothing"),
        Action::Blocks { first, count } => {
            assert!((1..=terms.window).contains(&count), "{count} blocks");
            for block in (first..).take(count.into()) {
                let octets = source.blocks(block, 1, terms.block_size, &mut scratch);
                assert!(octets.is_ok_and(|octets| octets.len() <= terms.block_size.into()), "block {block}");
            }
        }
    };
    perform(session.start(now));
    while let [length, delay, after @ ..] = rest {
        let (packet, after) = after.split_at(after.len().min(usize::from(*length) % 16));
        rest = after;
        now += Duration::from_micros(1 << (delay % 25));
        perform(session.expire(now));
        perform(session.receive(packet, now));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_corpus() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/tftp_packet");
        let files: Vec<_> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty());
        for file in files {
            super::fuzz(&fs::read(file).unwrap());
        }
    }
}
