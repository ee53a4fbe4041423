//! What depmod(8) left in an image, and the list of modules that an initramfs has.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela_node_image::stage1::fuzz::kernel_modules(data));
