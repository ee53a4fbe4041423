//! The kernel command line of a node.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela_node_image::stage1::fuzz::cmdline(data));
