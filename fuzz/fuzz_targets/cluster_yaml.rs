//! A cluster.yaml, read, planned, shown and added to.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela::cluster::fuzz::cluster_yaml(data));
