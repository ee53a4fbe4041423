//! `tesela serve`: all services around one site. The one place that knows them all.

mod control;
mod dhcp;
mod listen;
mod metrics;
mod own_agent;
mod roots;
mod tftp;
mod watch;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tesela_node_image::loaders;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::boot::{ApplyError, Beginning, CONTROL_PORT, NFS_PORT, Paths, Site, context};
use crate::cluster::{Cluster, DhcpMode, Mac};
use crate::control::{Agents, Control};
use crate::dhcp::{SqliteLeases, StartError, find_servers};
use crate::inventory::{self, Inventory, Timestamp};
use crate::keys::Keys;
use crate::nfs::union::UnionError;
use crate::{http, ndp, nfs, ports, sntp, web};

pub use listen::ListenError;
use roots::UnionRoots;

/// How often nodes are looked over for stages that overran their limit.
const OVERRUN_TICK: Duration = Duration::from_secs(1);
/// How long other DHCP servers are waited for.
const SCOUT_PATIENCE: Duration = Duration::from_secs(2);

/// RFC 1833.
const PORTMAPPER_PORT: u16 = 111;
/// RFC 1350.
const TFTP_PORT: u16 = 69;

/// What `serve` is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the files are.
    pub paths: Paths,
    /// The socket of the local tools.
    pub socket: PathBuf,
}

/// Why the master does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The cluster cannot be put in force.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The database cannot be used.
    #[error(transparent)]
    Inventory(#[from] inventory::Error),
    /// A socket cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// TFTP cannot start.
    #[error(transparent)]
    Tftp(#[from] crate::tftp::ServerError),
    /// The roots cannot be served.
    #[error(transparent)]
    Roots(#[from] UnionError),
    /// DHCP cannot start.
    #[error(transparent)]
    Dhcp(#[from] StartError),
    /// It cannot be seen whether another server gives addresses.
    #[error(transparent)]
    Scout(#[from] crate::dhcp::ScoutError),
    /// Another server gives the addresses.
    #[error(
        "another DHCP server answers on {interface}: {servers}; set `dhcp: proxy` to let it give the addresses, or stop it"
    )]
    OtherServer {
        /// Where.
        interface: String,
        /// Which.
        servers: String,
    },
    /// A directory cannot be made.
    #[error("cannot make {}: {source}", path.display())]
    State {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something of the machine's.
    #[error("{what}: {source}")]
    Machine {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The keys cannot be had.
    #[error(transparent)]
    Keys(#[from] crate::keys::Error),
}

/// Serves until SIGTERM or SIGINT. `ready` is called once everything listens.
pub async fn run(options: Options, ready: impl FnOnce(&Site)) -> Result<(), ServeError> {
    raise_file_limit()?;
    // From here on no signal ends the process by itself: whoever hears that it is ready may send any.
    let signals = Signals::take()?;
    // What stands against a start is told before anything is made that would be left behind.
    let beginning = Beginning::read(options.paths.clone())?;
    let cluster = beginning.cluster.clone();
    let (api_socket, socket_file) = listen::unix(&options.socket)?;
    crate::dhcp::check(&dhcp::config(&cluster))?;
    refuse_beside_another(&cluster).await?;

    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let address = cluster.master.address.addr();
    let at = |port: u16| SocketAddr::from((address, port));

    // Everything is bound before anything is answered: a node finds all services or none.
    let http_socket = listen::tcp("HTTP", at(cluster.master.http_port))?;
    let nfs_socket = listen::tcp("NFS", at(NFS_PORT))?;
    let control_socket = listen::tcp("the control channel", at(CONTROL_PORT))?;
    let tftp_server = crate::tftp::Server::bind(crate::tftp::Config {
        listen: at(TFTP_PORT),
        interface: Some(cluster.master.interface.clone()),
        ..Default::default()
    })
    .map_err(|error| match error {
        crate::tftp::ServerError::Bind { address, source } => {
            listen::explain("TFTP", ports::Protocol::Udp, address, source).into()
        }
        other => ServeError::Tftp(other),
    })?;

    let state = options.paths.state.clone();
    std::fs::create_dir_all(&state).map_err(|source| ServeError::State { path: state.clone(), source })?;
    let inventory = Arc::new(Inventory::open(&state.join("tesela.db"))?);
    let keys = Arc::new(Keys::open(&state.join("keys"), &cluster.name)?);
    let public = context::Keys {
        ssh_host_ca: keys.ssh_host_ca().to_owned(),
        ssh_user_ca: keys.ssh_user_ca().to_owned(),
        ca_sha256: keys.ca_fingerprint().to_string(),
    };
    let tokens = Arc::new(control::TokensOf(Arc::clone(&keys)));
    let site = Arc::new(Site::open(beginning, inventory, public, tokens)?);

    let agents = Agents::default();
    let roots = Arc::new(UnionRoots::open(&state, control::refresh(&site, &agents))?);
    let nfs_server = nfs::Server::new(roots.file_system(), nfs::Limits::default())
        .map_err(|source| ServeError::Machine { what: "NFS cannot start its threads", source })?;
    // Beside the inventory's database, where an ACK would wait for its history's commits.
    let leases = SqliteLeases::open_moving(&state.join("leases.db"), &state.join("tesela.db"));
    let leases = Arc::new(leases.map_err(StartError::from)?);
    dhcp::hold_known(&site, &*leases)?;
    site.serve_roots(Arc::clone(&roots) as _);
    let dhcp_server = dhcp::start(&site, leases)?;

    let beside = options.socket.parent().map(std::path::Path::to_owned).unwrap_or_default();
    own_agent::tell(&site, &keys, beside.join("member"));
    let control_metrics = crate::control::Metrics::default();
    let metrics =
        Arc::new(metrics::of(&site, &dhcp_server, &nfs_server, tftp_server.counters(), &control_metrics));
    let control = Arc::new(Control {
        tls: keys.server_config(address)?,
        keys,
        members: Arc::new(control::MembersOf(Arc::clone(&site))),
        agents: agents.clone(),
        metrics: control_metrics,
    });
    tasks.spawn(crate::control::serve(control, control_socket, stop.clone()));
    spawn_portmapper(at(NFS_PORT), &tasks, &stop);
    spawn_time(address, &tasks, &stop);
    spawn_no_router(&site, &tasks, &stop);
    tasks.spawn({
        let (server, stop) = (nfs_server, stop.clone());
        async move { server.serve(nfs_socket, stop).await }
    });
    tasks.spawn(told("TFTP", tftp_server.run(Arc::new(tftp::BySite(Arc::clone(&site))), stop.clone())));
    let router = http::router(http::Service { site: Arc::clone(&site), metrics });
    tasks.spawn(http::serve(http_socket, router, stop.clone()));
    let api = web::Api { site: Arc::clone(&site), agents, stop: stop.clone() };
    let api = axum::serve(api_socket, web::router(api));
    tasks.spawn(told("the API", api.with_graceful_shutdown(stop.clone().cancelled_owned()).into_future()));
    tasks.spawn(watch::templates(Arc::clone(&site), stop.clone()));
    tasks.spawn(watch::held_addresses(Arc::clone(&site), stop.clone()));
    tasks.spawn(watch_limits(Arc::clone(&site), Arc::clone(&dhcp_server), stop.clone()));

    site.inventory.event(None, None, None, format!("serves, generation {}", site.current().number));
    if let Err(missing) = loaders::complete() {
        site.inventory.event(None, None, None, missing.to_string());
    }
    ready(&site);
    signals.until_told_to_stop(&site).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    drop(dhcp_server);
    drop(socket_file);
    site.inventory.event(None, None, None, "stopped".into());
    site.inventory.flush();
    Ok(())
}

/// A node's NFS connection, its open files and its transfers are descriptors here: the usual limit of 1024,
/// which is kept low only for programs that use select(2), would end a boot of a few hundred nodes.
fn raise_file_limit() -> Result<(), ServeError> {
    getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
        .map_err(|error| ServeError::Machine {
            what: "the limit of open files cannot be raised",
            source: error.into(),
        })
}

/// Two servers that both give addresses would give the same one twice.
async fn refuse_beside_another(cluster: &Cluster) -> Result<(), ServeError> {
    if cluster.master.dhcp == DhcpMode::Proxy {
        return Ok(());
    }
    let interface = cluster.master.interface.clone();
    let found = tokio::task::spawn_blocking({
        let interface = interface.clone();
        move || find_servers(&interface, SCOUT_PATIENCE)
    })
    .await
    .map_err(|error| ServeError::Machine { what: "looking for other DHCP servers", source: error.into() })?;
    let servers: Vec<_> = found?
        .iter()
        .filter(|server| server.gives_addresses && server.address != cluster.master.address.addr())
        .map(|server| server.address.to_string())
        .collect();
    if servers.is_empty() {
        return Ok(());
    }
    Err(ServeError::OtherServer { interface, servers: servers.join(", ") })
}

/// A service that ends by itself is told; the others go on.
async fn told<E: std::fmt::Display>(service: &'static str, running: impl Future<Output = Result<(), E>>) {
    if let Err(error) = running.await {
        tracing::error!(service, %error, "the service ended");
    }
}

/// The portmapper's answer is for clients that ask for ports; nodes are told theirs. So one that runs
/// already stays.
fn spawn_portmapper(nfs: SocketAddr, tasks: &TaskTracker, stop: &CancellationToken) {
    let at = SocketAddr::from((nfs.ip(), PORTMAPPER_PORT));
    let sockets =
        listen::tcp("the portmapper", at).and_then(|tcp| Ok((tcp, listen::udp("the portmapper", at)?)));
    let started = sockets.map_err(|error| error.to_string()).and_then(|(tcp, udp)| {
        let server = nfs::Server::portmapper(nfs).map_err(|error| error.to_string())?;
        let (datagrams, stop_too) = (server.clone(), stop.clone());
        tasks.spawn(async move { datagrams.serve_datagrams(udp, stop_too).await });
        let stop = stop.clone();
        tasks.spawn(async move { server.serve(tcp, stop).await });
        Ok(())
    });
    if let Err(why) = started {
        tracing::warn!("{why}; NFS goes on without it, and nodes do not need it");
    }
}

/// Nodes take the time from whatever serves it here; another time server does as well.
fn spawn_time(address: Ipv4Addr, tasks: &TaskTracker, stop: &CancellationToken) {
    match listen::udp("SNTP", SocketAddr::from((address, tesela_runtime::sntp::PORT))) {
        Ok(socket) => {
            let stop = stop.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = told("SNTP", sntp::serve(socket)) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        Err(error) => tracing::warn!("{error}; nodes take the time from that"),
    }
}

/// iPXE waits for an IPv6 router unless it is told that there is none; nodes boot without, only later.
fn spawn_no_router(site: &Arc<Site>, tasks: &TaskTracker, stop: &CancellationToken) {
    let socket = match ndp::bind(&site.current().cluster.master.interface) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "no answers to router solicitations: iPXE will wait 17 s for an IPv6 router");
            return;
        }
    };
    let (site, stop) = (Arc::clone(site), stop.clone());
    tasks.spawn(async move {
        let in_loader = |mac| site.is_in_loader(Mac(mac));
        tokio::select! {
            () = told("router advertisements", ndp::serve(socket, in_loader)) => {}
            () = stop.cancelled() => {}
        }
    });
}

async fn watch_limits(site: Arc<Site>, dhcp_server: Arc<crate::dhcp::Server>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(OVERRUN_TICK);
    let mut dhcp_runs = true;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                site.inventory.mark_overruns();
                site.let_go_expired(Timestamp::now());
            }
            () = stop.cancelled() => return,
        }
        if dhcp_runs && !dhcp_server.is_running() {
            dhcp_runs = false;
            let why = "DHCP has ended by a fault of its own (the log says which); nodes that run go on, and \
                       for new boots the master has to be started again: `systemctl restart tesela`";
            tracing::error!("{why}");
            site.inventory.event(None, None, None, why.into());
        }
    }
}

/// SIGHUP applies cluster.yaml; SIGTERM and SIGINT end the service.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn take() -> Result<Self, ServeError> {
        let on = |kind| {
            signal(kind).map_err(|source| ServeError::Machine { what: "signals cannot be had", source })
        };
        Ok(Self {
            hangup: on(SignalKind::hangup())?,
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }

    async fn until_told_to_stop(mut self, site: &Arc<Site>) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    let applying = Arc::clone(site);
                    let told = match tokio::task::spawn_blocking(move || applying.apply()).await {
                        Ok(Ok(generation)) => format!("generation {} is in force (SIGHUP)", generation.number),
                        Ok(Err(error)) => format!("cluster.yaml was not applied (SIGHUP): {error}"),
                        Err(error) => format!("applying cluster.yaml failed (SIGHUP): {error}"),
                    };
                    site.inventory.event(None, None, None, told);
                }
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
            }
        }
    }
}
