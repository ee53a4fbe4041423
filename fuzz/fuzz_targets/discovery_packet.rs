//! Datagrams between nodes that look for each other.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela_runtime::discovery::fuzz::datagrams(data));
