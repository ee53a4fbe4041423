//! Archives that an image is made of.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela_node_image::image::fuzz_archive(data));
