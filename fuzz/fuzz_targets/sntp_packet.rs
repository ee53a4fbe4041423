//! Datagrams to the SNTP port.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela::sntp::fuzz(data));
