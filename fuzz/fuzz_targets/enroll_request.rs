//! What a node sends to have its keys signed: token, certificate request, ssh host key.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela::keys::fuzz::enroll_request(data));
