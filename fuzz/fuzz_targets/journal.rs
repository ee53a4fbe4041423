//! The journal of a node's writes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela::nfs::union::fuzz_journal(data));
