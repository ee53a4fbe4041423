//! What the first program on a node decides, without any I/O: the kernel command line, the modules to
//! load, the packets of DHCP and SNTP, the answers of HTTP. The program itself is `src/bin/stage1`.

pub mod cmdline;
pub mod dhcp;
pub mod fuzz;
pub mod http;
pub mod modules;

pub use tesela_runtime::sntp;
