//! Octets of a connection to the HTTP port of a whole master.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela::http::fuzz::http_request(data));
