//! A client's request, and its packets to a session's port.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela::tftp::fuzz::fuzz(data));
