//! The index of an image's build.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela_node_image::index::fuzz(data));
