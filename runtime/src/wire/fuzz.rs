//! The entry for fuzzing: what a stranger can send to the control port, and what the master answers.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame::{Deframer, FrameError, encode};
use super::{EnrollReply, EnrollRequest, ToMaster, ToNode};

/// Takes the first byte as the length of the pieces in which the rest arrives, as each kind of message.
///
/// # Panics
/// Where a message does not come back the same from its own frame, or depends on how its bytes arrived.
pub fn frames(data: &[u8]) {
    let Some((&step, bytes)) = data.split_first() else { return };
    let step = usize::from(step) + 1;
    fuzz_as::<EnrollRequest>(bytes, step);
    fuzz_as::<EnrollReply>(bytes, step);
    fuzz_as::<ToMaster>(bytes, step);
    fuzz_as::<ToNode>(bytes, step);
}

fn fuzz_as<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8], step: usize) {
    let messages = take::<T>(bytes, step);
    assert_eq!(messages, take::<T>(bytes, bytes.len().max(1)));
    for message in messages {
        match encode(&message) {
            Ok(frame) => assert_eq!(take::<T>(&frame, step), [message]),
            // JSON has shorter forms than the one that is written.
            Err(error) => assert!(matches!(error, FrameError::TooLong(_)), "{error}"),
        }
    }
}

fn take<T: DeserializeOwned>(bytes: &[u8], step: usize) -> Vec<T> {
    let mut deframer = Deframer::default();
    let mut messages = Vec::new();
    for piece in bytes.chunks(step) {
        deframer.push(piece);
        loop {
            match deframer.pop() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return messages,
            }
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use std::fs;

    #[test]
    fn the_corpus_holds() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/wire_frame");
        let files: Vec<_> = fs::read_dir(corpus).unwrap().collect();
        assert!(!files.is_empty());
        for file in files {
            super::frames(&fs::read(file.unwrap().path()).unwrap());
        }
    }
}
