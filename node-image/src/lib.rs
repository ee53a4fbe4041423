//! Kernel, initramfs and root image of a node.

pub mod index;
pub mod initramfs;
pub mod kernel;
pub mod rooted;
pub mod stage1;
