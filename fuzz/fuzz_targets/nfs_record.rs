//! A client's octets on a connection to the NFS port and to the portmapper's.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela::nfs::fuzz::connection(data));
