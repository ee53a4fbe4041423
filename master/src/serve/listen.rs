//! Sockets of the services, with errors that say who has the port.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};

use crate::ports;

/// A socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Someone else has the port.
    #[error("{service} cannot have {protocol} port {port}: {holder} has it; stop that{hint}")]
    Taken {
        /// Which service.
        service: &'static str,
        /// TCP or UDP.
        protocol: &'static str,
        /// The port.
        port: u16,
        /// Who has it.
        holder: String,
        /// What else would help.
        hint: &'static str,
    },
    /// Anything else.
    #[error("{service} cannot listen on {at}: {source}")]
    Failed {
        /// Which service.
        service: &'static str,
        /// Where.
        at: String,
        /// Why.
        source: io::Error,
    },
    /// A master runs already.
    #[error("another master answers at {}; stop that one first", .0.display())]
    Running(PathBuf),
}

/// A listening TCP socket for tokio.
pub(super) fn tcp(service: &'static str, at: SocketAddr) -> Result<tokio::net::TcpListener, ListenError> {
    let listen = || -> io::Result<tokio::net::TcpListener> {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
        // After a crash, connections of before must not keep us from the port.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&at.into())?;
        socket.listen(1024)?;
        tokio::net::TcpListener::from_std(socket.into())
    };
    listen().map_err(|source| explain(service, ports::Protocol::Tcp, at, source))
}

/// A UDP socket for tokio.
pub(super) fn udp(service: &'static str, at: SocketAddr) -> Result<tokio::net::UdpSocket, ListenError> {
    let bind = || -> io::Result<tokio::net::UdpSocket> {
        let socket = std::net::UdpSocket::bind(at)?;
        socket.set_nonblocking(true)?;
        tokio::net::UdpSocket::from_std(socket)
    };
    bind().map_err(|source| explain(service, ports::Protocol::Udp, at, source))
}

/// The error of a service that cannot have its port.
pub(super) fn explain(
    service: &'static str,
    protocol: ports::Protocol,
    at: SocketAddr,
    source: io::Error,
) -> ListenError {
    match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::Taken {
            service,
            protocol: match protocol {
                ports::Protocol::Tcp => "TCP",
                ports::Protocol::Udp => "UDP",
            },
            port: at.port(),
            holder: ports::who_holds(protocol, at.port()).unwrap_or_else(|| "another program".into()),
            hint: if service == "HTTP" { ", or set `master: ports: {http: …}`" } else { "" },
        },
        _ => ListenError::Failed { service, at: at.to_string(), source },
    }
}

/// The name of a socket, which goes when this is dropped.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "the socket stays behind");
        }
    }
}

/// The socket of the local tools: only its owner and root may open it.
pub(super) fn unix(path: &Path) -> Result<(tokio::net::UnixListener, SocketFile), ListenError> {
    let failed = |source| ListenError::Failed { service: "the API", at: path.display().to_string(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    // One that nobody answers on is left from a crash.
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(ListenError::Running(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)?;
        }
        Err(_) => {}
    }
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = tokio::net::UnixListener::bind(path);
    nix::sys::stat::umask(before);
    Ok((listener.map_err(failed)?, SocketFile(path.to_owned())))
}
