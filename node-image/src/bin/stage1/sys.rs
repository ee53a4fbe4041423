//! The kernel's calls that nix lacks.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

/// `LOOP_CTL_GET_FREE`, `LOOP_CONFIGURE` and the flags of linux/loop.h.
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// Loads a kernel module.
///
/// # Errors
/// Those of finit_module(2); `EEXIST` where it is loaded already.
pub fn load_module(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call, and the parameter string is NUL-terminated.
    check_long(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) })
}

/// An interface's settings, by the ioctls of netdevice(7).
pub struct Interface<'a> {
    socket: BorrowedFd<'a>,
    name: &'a str,
}

impl<'a> Interface<'a> {
    /// The interface of this name; `socket` is any socket of the internet family.
    pub fn new(socket: BorrowedFd<'a>, name: &'a str) -> Self {
        Self { socket, name }
    }

    /// Brings it up.
    pub fn up(&self) -> io::Result<()> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS has filled this member of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        #[expect(clippy::cast_possible_truncation, reason = "IFF_UP is 1")]
        let up = libc::IFF_UP as libc::c_short;
        request.ifr_ifru.ifru_flags = flags | up;
        self.ioctl(libc::SIOCSIFFLAGS, &mut request)
    }

    /// Takes it down.
    pub fn down(&self) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_flags = 0;
        self.ioctl(libc::SIOCSIFFLAGS, &mut request)
    }

    /// Sets its address and network mask.
    pub fn set_address(&self, address: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_addr = socket_address(address);
        self.ioctl(libc::SIOCSIFADDR, &mut request)?;
        request.ifr_ifru.ifru_netmask = socket_address(mask);
        self.ioctl(libc::SIOCSIFNETMASK, &mut request)
    }

    /// Sets its MTU in octets.
    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_mtu = i32::from(mtu);
        self.ioctl(libc::SIOCSIFMTU, &mut request)
    }

    /// Makes `gateway` the default route.
    pub fn add_default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        // SAFETY: rtentry is plain data, and all zeros is the value that route(8) starts from.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = socket_address(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        // SAFETY: SIOCADDRT reads an rtentry; its device pointer is null, which means any device.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCADDRT as _, &raw mut route) })
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: ifreq is plain data, for which all zeros is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last octet stays zero: the kernel's names are shorter than the array.
        for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(self.name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request
    }

    fn ioctl(&self, code: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: the codes used here read or write one ifreq.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), code as _, std::ptr::from_mut(request)) })
    }
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: sockaddr is plain data, for which all zeros is a value.
    let mut general: libc::sockaddr = unsafe { std::mem::zeroed() };
    general.sa_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or(2);
    // sockaddr_in: two octets of port, then the address.
    for (to, from) in general.sa_data[2..6].iter_mut().zip(address.octets()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    general
}

/// Puts a file behind a free read-only loop device; gives the device's path, and the device itself,
/// open: it is cleared when its last user goes, so mount it before letting go.
///
/// # Errors
/// Those of the ioctls of loop(4) and of opening its devices.
pub fn attach_loop(file: &File) -> io::Result<(PathBuf, File)> {
    let control = File::open("/dev/loop-control")?;
    // SAFETY: LOOP_CTL_GET_FREE takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    check(number)?;
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let device = File::open(&path)?;
    // SAFETY: loop_config is plain data, and all zeros is its default.
    let mut config: LoopConfig = unsafe { std::mem::zeroed() };
    config.fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    config.flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
    // SAFETY: LOOP_CONFIGURE reads a struct loop_config, which LoopConfig lays out.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) })?;
    Ok((path, device))
}

/// `struct loop_config` of linux/loop.h, with `struct loop_info64` written out as far as it is used.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info_head: [u64; 5],
    info_numbers: [u32; 3],
    flags: u32,
    info_tail: [u8; 64 + 64 + 32 + 16],
    reserved: [u64; 8],
}

/// Whether the root file system is the kernel's initramfs, whose files can go once nobody needs them.
pub fn root_is_initramfs() -> bool {
    const RAMFS_MAGIC: libc::c_long = 0x8584_58f6;
    // SAFETY: statfs is plain data, for which all zeros is a value.
    let mut status: libc::statfs = unsafe { std::mem::zeroed() };
    let root: &CStr = c"/";
    // SAFETY: a NUL-terminated path and a statfs to write.
    let result = unsafe { libc::statfs(root.as_ptr(), &raw mut status) };
    result == 0 && matches!(status.f_type, RAMFS_MAGIC | libc::TMPFS_MAGIC)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn check_long(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
