//! Kernel, initramfs and root image of a node.

pub mod image;
pub mod index;
pub mod initramfs;
pub mod kernel;
pub mod loaders;
pub mod rooted;
pub mod stage1;
mod sys;
