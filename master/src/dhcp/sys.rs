//! The system calls that std, socket2 and nix have no fitting wrapper for: recvmmsg and sendmmsg with
//! IP_PKTINFO, and packet sockets.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Datagrams taken or sent by one call.
pub(super) const BATCH: usize = 64;
/// Octets kept of a datagram; a DHCP message in an Ethernet frame has at most 1472.
const LONGEST: usize = 2048;
/// Room for one IP_PKTINFO control message, aligned as the kernel wants it.
const CONTROL_WORDS: usize = 4;

/// ETH_P_IP and ETH_P_ARP (linux/if_ether.h).
pub(super) const ETHERTYPE_IP: u16 = 0x0800;
/// See [`ETHERTYPE_IP`].
pub(super) const ETHERTYPE_ARP: u16 = 0x0806;

/// Buffers for one call of recvmmsg.
pub(super) struct Batch {
    buffers: Box<[[u8; LONGEST]]>,
    received: Vec<(usize, SocketAddrV4)>,
}

impl Batch {
    pub fn new() -> Self {
        Self { buffers: vec![[0; LONGEST]; BATCH].into_boxed_slice(), received: Vec::with_capacity(BATCH) }
    }

    /// Takes what is there, without waiting. Returns how many datagrams that was.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.received.clear();
        // SAFETY: these are plain C structures for which all zeros is a valid value.
        let (mut names, mut vectors, mut headers): (
            [libc::sockaddr_in; BATCH],
            [libc::iovec; BATCH],
            [libc::mmsghdr; BATCH],
        ) = unsafe { (zeroed(), zeroed(), zeroed()) };
        for (i, buffer) in self.buffers.iter_mut().enumerate() {
            vectors[i] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: LONGEST };
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = len_of::<libc::sockaddr_in>();
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
        }
        // SAFETY: each of the BATCH headers points to a name, a vector and a buffer that outlive the call,
        // with their true lengths.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count_of(BATCH),
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = match usize::try_from(count) {
            Ok(count) => count,
            Err(_) => {
                let error = io::Error::last_os_error();
                return if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) };
            }
        };
        for (header, name) in headers.iter().zip(&names).take(count) {
            let source = SocketAddrV4::new(
                Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr)),
                u16::from_be(name.sin_port),
            );
            // A datagram that was cut cannot be a good one: it is handed on as empty, and counted so.
            let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            let length = usize::try_from(header.msg_len).unwrap_or(0).min(LONGEST);
            self.received.push((if cut { 0 } else { length }, source));
        }
        Ok(count)
    }

    /// What the last [`Batch::receive`] took.
    pub fn datagrams(&self) -> impl Iterator<Item = (&[u8], SocketAddrV4)> {
        self.received
            .iter()
            .zip(&self.buffers)
            .map(|((length, source), buffer)| (&buffer[..*length], *source))
    }
}

/// Sends UDP datagrams from this address. Returns how many the kernel did not take.
pub(super) fn send_udp(socket: BorrowedFd<'_>, from: Ipv4Addr, datagrams: &[(SocketAddrV4, &[u8])]) -> usize {
    let control = pktinfo(from);
    datagrams
        .chunks(BATCH)
        .map(|chunk| {
            // SAFETY: as in `Batch::receive`.
            let mut names: [libc::sockaddr_in; BATCH] = unsafe { zeroed() };
            for (name, (to, _)) in names.iter_mut().zip(chunk) {
                #[expect(clippy::cast_possible_truncation, reason = "AF_INET is 2")]
                let family = libc::AF_INET as libc::sa_family_t;
                name.sin_family = family;
                name.sin_port = to.port().to_be();
                name.sin_addr.s_addr = u32::from(*to.ip()).to_be();
            }
            let payloads = chunk.iter().map(|(_, payload)| *payload);
            send_all(socket, &names[..chunk.len()], payloads, Some(&control))
        })
        .sum()
}

/// Sends packets of this ethertype, each to a hardware address. Returns how many the kernel did not take.
pub(super) fn send_packets(
    socket: BorrowedFd<'_>,
    interface: u32,
    ethertype: u16,
    packets: &[([u8; 6], &[u8])],
) -> usize {
    packets
        .chunks(BATCH)
        .map(|chunk| {
            let mut names = [link_address(interface, ethertype); BATCH];
            for (name, (to, _)) in names.iter_mut().zip(chunk) {
                name.sll_addr[..6].copy_from_slice(to);
            }
            let payloads = chunk.iter().map(|(_, payload)| *payload);
            send_all(socket, &names[..chunk.len()], payloads, None)
        })
        .sum()
}

fn send_all<'p, Name>(
    socket: BorrowedFd<'_>,
    names: &[Name],
    payloads: impl Iterator<Item = &'p [u8]>,
    control: Option<&[u64; CONTROL_WORDS]>,
) -> usize {
    // SAFETY: as in `Batch::receive`.
    let (mut vectors, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
        unsafe { (zeroed(), zeroed()) };
    let count = names.len();
    for (i, (name, payload)) in names.iter().zip(payloads).enumerate() {
        vectors[i] = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
        let header = &mut headers[i].msg_hdr;
        header.msg_name = std::ptr::from_ref(name).cast_mut().cast();
        header.msg_namelen = len_of::<Name>();
        header.msg_iov = &raw mut vectors[i];
        header.msg_iovlen = 1;
        if let Some(control) = control {
            header.msg_control = std::ptr::from_ref(control).cast_mut().cast();
            header.msg_controllen = size_of::<[u64; CONTROL_WORDS]>();
        }
    }
    let mut failed = 0;
    let mut done = 0;
    while done < count {
        let rest = &mut headers[done..count];
        // SAFETY: each header points to a name, a vector, a payload and a control message that outlive
        // the call, with their true lengths; sendmmsg reads them and writes only `msg_len`.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), count_of(rest.len()), 0) };
        match usize::try_from(sent) {
            Ok(sent) => done += sent,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                // The error is the first one's; the others may still go.
                failed += 1;
                done += 1;
            }
        }
    }
    failed
}

/// A control message IP_PKTINFO (ip(7)) that sets the source address.
fn pktinfo(from: Ipv4Addr) -> [u64; CONTROL_WORDS] {
    let mut control = [0_u64; CONTROL_WORDS];
    // SAFETY: plain C structure, all zeros is valid.
    let mut info: libc::in_pktinfo = unsafe { zeroed() };
    info.ipi_spec_dst.s_addr = u32::from(from).to_be();
    let header = control.as_mut_ptr().cast::<libc::cmsghdr>();
    // SAFETY: `control` has CMSG_SPACE(12) = 32 octets, aligned to 8 as cmsghdr is, so header and data lie
    // inside it.
    unsafe {
        (*header).cmsg_level = libc::IPPROTO_IP;
        (*header).cmsg_type = libc::IP_PKTINFO;
        (*header).cmsg_len = libc::CMSG_LEN(len_of::<libc::in_pktinfo>()) as usize;
        libc::CMSG_DATA(header).cast::<libc::in_pktinfo>().write_unaligned(info);
    }
    control
}

/// A packet socket (packet(7)) of the network layer: the kernel adds and strips the Ethernet header. It
/// receives packets of `ethertype` from this interface; none where that is `None`.
pub(super) fn packet_socket(interface: u32, ethertype: Option<u16>) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Some(ethertype) = ethertype {
        let name = link_address(interface, ethertype);
        // SAFETY: `name` is a sockaddr_ll of that length, read by the call only.
        let result = unsafe { libc::bind(fd, (&raw const name).cast(), len_of::<libc::sockaddr_ll>()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(socket)
}

/// The next packet of a packet socket that another machine sent: its length and its sender. `None` where
/// there is none now.
pub(super) fn receive_packet(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<Option<(usize, [u8; 6])>> {
    const PACKET_OUTGOING: u8 = 4;
    loop {
        let mut name = link_address(0, 0);
        let mut length = len_of::<libc::sockaddr_ll>();
        // SAFETY: buffer and name are writable for the lengths given.
        let count = unsafe {
            libc::recvfrom(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
                (&raw mut name).cast(),
                &raw mut length,
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        };
        if name.sll_pkttype != PACKET_OUTGOING {
            let [a, b, c, d, e, f, ..] = name.sll_addr;
            return Ok(Some((count, [a, b, c, d, e, f])));
        }
    }
}

fn link_address(interface: u32, ethertype: u16) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        #[expect(clippy::cast_possible_truncation, reason = "AF_PACKET is 17")]
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        sll_protocol: ethertype.to_be(),
        // The kernel's own indices are positive ints.
        sll_ifindex: i32::try_from(interface).unwrap_or(0),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    }
}

/// A number of messages, at most [`BATCH`].
fn count_of(messages: usize) -> libc::c_uint {
    #[expect(clippy::cast_possible_truncation, reason = "at most BATCH")]
    let count = messages as libc::c_uint;
    count
}

/// The length of a C structure, as socket calls want it.
fn len_of<T>() -> libc::socklen_t {
    #[expect(clippy::cast_possible_truncation, reason = "socket structures are shorter than 4 GB")]
    let length = size_of::<T>() as libc::socklen_t;
    length
}
