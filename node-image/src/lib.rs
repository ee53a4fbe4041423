//! Kernel, initramfs and root image of a node.

pub mod index;
pub mod stage1;
