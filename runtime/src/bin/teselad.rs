//! The agent. `teselad [--config FILE]` is a member until SIGTERM or SIGINT; `teselad [--config FILE]
//! report STAGE` tells the master once how far the boot has come.
//!
//! `teselad join MASTER --token TOKEN` has a machine that the master does not boot become a member
//! ([`tesela_runtime::enroll::join`]).
//!
//! The agent runs itself as `teselad home PID` and `teselad guest`: the two sides of a process that is away.
//! Each has the connection to the other as descriptor 3, and its keys on the standard input.
//!
//! Exit status 0, 1 (failed), 2 (wrong usage).

use std::io::Write;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::SigSet;
use tesela_runtime::agent::moves::Moves;
use tesela_runtime::agent::{self, Config};
use tesela_runtime::discovery::Neighbours;
use tesela_runtime::enroll::join::{self, JoinToken};
use tesela_runtime::hpc;
use tesela_runtime::migrate;
use tesela_runtime::wire::CONTROL_PORT;
use tokio::signal::unix::{Signal, SignalKind, signal};

const USAGE: &str = "\
usage: teselad [--config FILE] [report STAGE | home PID | guest]
       teselad [--config FILE] join MASTER[:PORT] --token TOKEN
`tesela node token NODE` on the master prints the words behind join.";

/// How long joining waits for a word that only tells how far the boot has come.
const REPORT_PATIENCE: Duration = Duration::from_secs(2);

enum Task {
    Member,
    Report(String),
    Home(i32),
    Guest,
    Join(SocketAddrV4, JoinToken),
}

fn main() -> ExitCode {
    if std::env::args().skip(1).any(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let (path, task) = match arguments(std::env::args().skip(1)) {
        Ok(Some(words)) => words,
        Ok(None) => return fail(USAGE, 2),
        Err(problem) => return fail(&format!("{problem}\n{USAGE}"), 2),
    };
    // Whoever starts it may have some for himself, and they would be so in all that it starts.
    if let Err(error) = SigSet::empty().thread_set_mask() {
        return fail(&format!("cannot let signals through: {error}"), 1);
    }
    if let Err(error) = migrate::ignore_leases() {
        return fail(&format!("cannot ignore SIGIO: {error}"), 1);
    }
    match task {
        Task::Home(pid) => return side(|| migrate::home_side(pid)),
        Task::Guest => return side(migrate::guest_side),
        Task::Join(master, token) => return join(master, &token, &path),
        Task::Member | Task::Report(_) => {}
    }
    let done = Config::read(&path).map_err(|error| error.to_string()).and_then(|config| match task {
        Task::Report(stage) => agent::report::report(&config, &stage)
            .map_err(|error| format!("cannot report to {}:{}: {error}", config.master, config.http_port)),
        Task::Member | Task::Home(_) | Task::Guest | Task::Join(..) => {
            member(&config, &path).map_err(|error| error.to_string())
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => fail(&problem, 1),
    }
}

/// `Ok(None)`: something is missing, or too much.
fn arguments(mut words: impl Iterator<Item = String>) -> Result<Option<(PathBuf, Task)>, String> {
    let mut path = PathBuf::from(Config::PATH);
    let mut task = Task::Member;
    let (mut joins, mut token) = (None, None);
    while let Some(word) = words.next() {
        let mut value = || words.next();
        let known = match word.as_str() {
            "--config" => value().map(|word| path = word.into()),
            "--token" => value().map(|word| token = Some(word)),
            "join" => value().map(|word| joins = Some(word)),
            "report" => value().map(|word| task = Task::Report(word)),
            "home" => value().and_then(|word| word.parse().ok()).map(|pid| task = Task::Home(pid)),
            "guest" => {
                task = Task::Guest;
                Some(())
            }
            _ => None,
        };
        if known.is_none() {
            return Ok(None);
        }
    }
    let task = match (joins, token) {
        (Some(master), Some(token)) => Task::Join(address(&master)?, token.parse()?),
        (None, None) => task,
        _ => return Ok(None),
    };
    Ok(Some((path, task)))
}

fn address(word: &str) -> Result<SocketAddrV4, String> {
    let plain = |_| word.parse().map(|address| SocketAddrV4::new(address, CONTROL_PORT));
    word.parse().or_else(plain).map_err(|_| format!("`{word}` is no IPv4 address of a master"))
}

fn join(master: SocketAddrV4, token: &JoinToken, path: &Path) -> ExitCode {
    match join::join(master, token, path, Path::new(join::KEYS)) {
        Ok(Config { cluster, node, .. }) => {
            println!(
                "this machine is {node} of {cluster}; to start its agent: systemctl enable --now teselad"
            );
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error.to_string(), 1),
    }
}

/// One side of a process that is away.
fn side(serve: impl FnOnce() -> Result<(), migrate::SideError>) -> ExitCode {
    log();
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), 1),
    }
}

fn log() {
    let level = std::env::var("TESELA_LOG").ok().and_then(|level| level.parse().ok());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_max_level(level.unwrap_or(tracing::Level::INFO))
        .init();
}

fn member(config: &Config, path: &Path) -> std::io::Result<()> {
    log();
    if let Err(error) = migrate::go_first() {
        tracing::warn!(%error, "the agent has no turn before programs");
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        if !config.is_masters() {
            agent::power::allow_waking(config.own_address());
            report_agent(config).await;
        }
        let neighbours = agent::neighbours(config).await;
        let member = agent::run(config, neighbours.as_deref(), async {
            tokio::select! {
                () = received(&mut terminate) => {}
                () = received(&mut interrupt) => {}
            }
            agent::power::send_guests_home(config.socket()).await;
        });
        let discovery = async {
            match &neighbours {
                Some(neighbours) => neighbours.serve().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = member => {}
            () = moves(config, path, neighbours.clone()) => {}
            () = discovery => {}
        }
        if let Some(neighbours) = &neighbours {
            neighbours.leave().await;
        }
        Ok(())
    })
}

/// Migration, for as long as the agent runs. Where it cannot be, the node is a member all the same.
async fn moves(config: &Config, path: &Path, neighbours: Option<Arc<Neighbours>>) {
    match Moves::listen(config, path, neighbours).await {
        Ok((moves, listeners)) => {
            tokio::join!(moves.serve(listeners), tree(config));
        }
        Err(error) => {
            tracing::error!(%error, "no process can move from here or to here");
            std::future::pending().await
        }
    }
}

/// Shows openMosix's tree for as long as the agent runs.
async fn tree(config: &Config) {
    let Some(place) = config.hpc.clone() else { return };
    let (socket, shown) = (config.socket(), place.clone());
    let mounted = tokio::task::spawn_blocking(move || hpc::mount(&shown, socket)).await;
    match mounted.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        Ok(tree) => {
            std::future::pending::<()>().await;
            drop(tree);
        }
        Err(error) => {
            tracing::warn!(%error, "there is no {}: is the kernel's module fuse there?", place.display());
        }
    }
}

/// The stage before member, said before anything can make it one.
async fn report_agent(config: &Config) {
    let config = config.clone();
    let report = tokio::task::spawn_blocking(move || agent::report::report(&config, "agent"));
    match tokio::time::timeout(REPORT_PATIENCE, report).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::debug!(%error, "the master does not hear that the agent runs"),
        Ok(Err(_)) | Err(_) => tracing::debug!("the master does not hear that the agent runs"),
    }
}

async fn received(signal: &mut Signal) {
    // `None` only where the runtime ends.
    signal.recv().await;
}

fn fail(problem: &str, status: u8) -> ExitCode {
    // With standard error closed there is nobody to tell.
    let _nobody_reads_it = writeln!(std::io::stderr(), "teselad: {problem}");
    ExitCode::from(status)
}
