//! ICMPv6 messages to the answerer of router solicitations.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela::ndp::fuzz(data));
