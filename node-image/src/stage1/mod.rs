//! What the first program on a node decides, without any I/O: the kernel command line, the modules to
//! load, the DHCP exchange. The program itself is `src/bin/stage1`.

pub mod cmdline;
pub mod dhcp;
pub mod modules;
