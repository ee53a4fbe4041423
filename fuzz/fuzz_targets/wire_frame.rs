//! Frames and messages of the control channel.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela_runtime::wire::fuzz::frames(data));
