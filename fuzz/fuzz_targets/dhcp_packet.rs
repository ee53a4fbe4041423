//! Datagrams to the DHCP server, and packets that it sees on the wire.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela::dhcp::fuzz::fuzz(data));
