//! An answer to stage1's SNTP client.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela_node_image::stage1::fuzz::sntp(data));
