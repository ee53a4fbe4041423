//! Datagrams to stage1's DHCP client.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tesela_node_image::stage1::fuzz::dhcp(data));
