//! HTTP for machines that boot: loaders, scripts, kernels, images, and what stage1 reports.
//!
//! Everything has a `Content-Length` (iPXE is slow by orders of magnitude without one), HEAD answers as
//! GET would (UEFI HTTP Boot asks first), files on disk answer ranges (RFC 9110 section 14). Nothing that
//! is served here is secret but for the one-time token in a node's own script.

#[cfg(test)]
mod connection_tests;
pub mod fuzz;
mod metrics;
mod report;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, State};
use axum::http::{Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tower_http::services::ServeFile;

use crate::boot::{self, File, FileError, Site};
use crate::places::Places;
use crate::render::{Content, RenderedFile};

pub use metrics::Metrics;

/// A machine that has not sent its request after so long is cut off.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections at once: a whole room that powers on, several times over.
const CONNECTIONS: usize = 4096;
/// Connections of one address at once; firmware and loaders open one or a few.
const CONNECTIONS_EACH: usize = 64;
/// What a connection holds of a file that the machine has not taken yet; hyper would hold 400 KiB for each of a
/// room of them.
const BUFFER: usize = 64 * 1024;
/// A machine that takes nothing of what it is sent for so long is cut off.
const TAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a shutdown waits for what is being sent.
const DRAIN: Duration = Duration::from_secs(10);
/// How long no connection is accepted after an error that says the host is out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The longest report.
const REPORT_LIMIT: usize = 16 * 1024;

/// What the handlers share.
#[derive(Clone)]
pub struct Service {
    /// The seam.
    pub site: Arc<Site>,
    /// What `/metrics` tells.
    pub metrics: Arc<dyn Metrics>,
}

/// All routes.
pub fn router(service: Service) -> Router {
    Router::new()
        .route("/report", post(report::report).layer(DefaultBodyLimit::max(REPORT_LIMIT)))
        .route("/metrics", get(metrics::metrics))
        .route("/nodes/{node}/rendered.tar", get(rendered))
        .fallback(any(file))
        .with_state(service)
}

/// Serves until `stop`; what is under way then is finished.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Places::new(CONNECTIONS, CONNECTIONS_EACH);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = places.take(peer.ip().to_canonical()) else {
                    tracing::debug!(%peer, "HTTP connection refused: too many");
                    continue;
                };
                if let Err(error) = prepare(&stream) {
                    tracing::debug!(%peer, %error, "a socket option was refused");
                }
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    connection(stream, peer, router, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::info!("HTTP connections that did not end in {} s are cut", DRAIN.as_secs());
    }
}

/// A machine that lost its power, or takes nothing, does not keep its place for ever.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(TAKE_TIMEOUT))?;
    socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(TAKE_TIMEOUT))
}

async fn connection<S>(stream: S, peer: SocketAddr, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    // A client that has said all may close its half of the connection before the answer.
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).half_close(true).max_buf_size(BUFFER);
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "HTTP connection closed");
    }
}

async fn file(
    State(service): State<Service>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request<Body>,
) -> Response {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")]).into_response();
    }
    let path = match normalise(request.uri().path()) {
        Some(path) => path,
        None => return (StatusCode::BAD_REQUEST, "the path leaves the served tree\n").into_response(),
    };
    let query = decode(request.uri().query().unwrap_or_default()).unwrap_or_default();
    let peer = peer.ip().to_canonical();
    let site = Arc::clone(&service.site);
    let wanted = path.clone();
    // It may read the image's description from the disk.
    let found =
        tokio::task::spawn_blocking(move || site.file(&boot::Request { path: &wanted, query: &query, peer }))
            .await;
    let found = match found {
        Ok(found) => found,
        Err(error) => Err(FileError::Ours(error.to_string())),
    };
    let answer = match found {
        Ok(File::Made(bytes)) => {
            let script = !path.starts_with("images/");
            let kind = if script { "text/plain; charset=utf-8" } else { "application/octet-stream" };
            ([(header::CONTENT_TYPE, kind)], bytes).into_response()
        }
        Ok(File::OnDisk(path)) => match ServeFile::new(&path).oneshot(request).await {
            Ok(response) => response.into_response(),
            Err(never) => match never {},
        },
        Err(FileError::NotFound) => (StatusCode::NOT_FOUND, "there is no such file\n").into_response(),
        Err(error @ FileError::Refused(_)) => (StatusCode::FORBIDDEN, format!("{error}\n")).into_response(),
        Err(error @ FileError::Ours(_)) => {
            tracing::error!(%peer, path, "{error}");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
        }
    };
    if answer.status().is_success() {
        service.site.fetched(peer, &format!("{path} by HTTP"));
    }
    answer
}

/// Whether a request comes from a port that only root of a machine can have. Without it any user of a
/// node could speak for it: they have the same address.
fn is_by_root(peer: SocketAddr) -> bool {
    peer.port() < 1024
}

async fn rendered(
    State(service): State<Service>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(name): Path<String>,
) -> Response {
    if !is_by_root(peer) {
        return (StatusCode::FORBIDDEN, "these files are for root of the node: ask from a port below 1024\n")
            .into_response();
    }
    let generation = service.site.current();
    let Some(node) = generation.node(&name) else { return StatusCode::NOT_FOUND.into_response() };
    if service.site.address_of(node).map(IpAddr::V4) != Some(peer.ip().to_canonical()) {
        return (StatusCode::FORBIDDEN, "these files go to the node's own address only\n").into_response();
    }
    match service
        .site
        .rendered(node)
        .map_err(|e| e.to_string())
        .and_then(|f| archive(&f).map_err(|e| e.to_string()))
    {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/x-tar")], bytes).into_response(),
        Err(error) => {
            tracing::error!(node = name, "{error}");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
        }
    }
}

fn archive(files: &[RenderedFile]) -> io::Result<Bytes> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in files {
        let path = file.path.trim_start_matches('/');
        let mut head = tar::Header::new_gnu();
        head.set_mode(file.mode);
        // Left out they are no numbers, and nobody could unpack the file as its owner's.
        head.set_uid(0);
        head.set_gid(0);
        match &file.content {
            Content::File(content) => {
                head.set_size(content.len() as u64);
                tar.append_data(&mut head, path, &content[..])?;
            }
            Content::Link(target) => {
                head.set_entry_type(tar::EntryType::Symlink);
                head.set_size(0);
                tar.append_link(&mut head, path, target)?;
            }
        }
    }
    Ok(tar.into_inner()?.into())
}

/// A path of the served tree: decoded, without empty and `.` components; `None` if it has `..` or NUL.
///
/// shim asks for `//grubx64.efi`, and a redirection would break it.
pub fn normalise(path: &str) -> Option<String> {
    let decoded = decode(path)?;
    let mut out = Vec::new();
    for component in decoded.split('/') {
        match component {
            "" | "." => {}
            ".." => return None,
            name if name.contains(['\0', '\\']) => return None,
            name => out.push(name),
        }
    }
    Some(out.join("/"))
}

/// Percent-decoding (RFC 3986 section 2.1); `None` where it is not well-formed or not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        if octet == b'%' {
            let digit = |octet: Option<u8>| char::from(octet?).to_digit(16);
            let value = 16 * digit(octets.next())? + digit(octets.next())?;
            out.push(u8::try_from(value).ok()?);
        } else {
            out.push(octet);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_tree() {
        assert_eq!(normalise("//grubx64.efi").as_deref(), Some("grubx64.efi"));
        assert_eq!(normalise("/images/./base//kernel").as_deref(), Some("images/base/kernel"));
        assert_eq!(normalise("/grub/node/52%3a54%3A00").as_deref(), Some("grub/node/52:54:00"));
        for path in [
            "/../etc/passwd",
            "/images/%2e%2e/keys",
            "/a/%2E%2e/b",
            "/a%00b",
            "/a%2",
            "/a%zz",
            "/..\\x",
            "/%ff",
        ] {
            assert_eq!(normalise(path), None, "{path}");
        }
    }

    #[test]
    fn an_archive_holds_files_and_links_of_root() {
        let files = [
            RenderedFile {
                path: "/etc/hostname".into(),
                content: Content::File((*b"n1\n").into()),
                mode: 0o644,
            },
            RenderedFile {
                path: "/etc/localtime".into(),
                content: Content::Link("/usr/x".into()),
                mode: 0o777,
            },
        ];
        let bytes = archive(&files).unwrap();
        let mut tar = tar::Archive::new(&bytes[..]);
        let described = |entry: io::Result<tar::Entry<'_, _>>| {
            let entry = entry.unwrap();
            let head = entry.header();
            let path = entry.path().unwrap().display().to_string();
            (path, head.mode().unwrap(), head.uid().unwrap(), head.gid().unwrap())
        };
        let entries: Vec<_> = tar.entries().unwrap().map(described).collect();
        assert_eq!(entries, [("etc/hostname".into(), 0o644, 0, 0), ("etc/localtime".into(), 0o777, 0, 0)]);
    }
}
