//! The agent. `teselad [--config FILE]` is a member until SIGTERM or SIGINT; `teselad [--config FILE]
//! report STAGE` tells the master once how far the boot has come.
//!
//! The agent runs itself as `teselad home PID` and `teselad guest`: the two sides of a process that is away.
//! Each has the connection to the other as descriptor 3, and its keys on the standard input.
//!
//! Exit status 0, 1 (failed), 2 (wrong usage).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::SigSet;
use tesela_runtime::agent::moves::Moves;
use tesela_runtime::agent::{self, Config};
use tesela_runtime::discovery::Neighbours;
use tesela_runtime::hpc;
use tesela_runtime::migrate;
use tokio::signal::unix::{Signal, SignalKind, signal};

const USAGE: &str = "usage: teselad [--config FILE] [report STAGE | home PID | guest]";

/// How long joining waits for a word that only tells how far the boot has come.
const REPORT_PATIENCE: Duration = Duration::from_secs(2);

enum Task {
    Member,
    Report(String),
    Home(i32),
    Guest,
}

fn main() -> ExitCode {
    let Some((path, task)) = arguments(std::env::args().skip(1)) else {
        return fail(USAGE, 2);
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
        Task::Member | Task::Report(_) => {}
    }
    let done = Config::read(&path).map_err(|error| error.to_string()).and_then(|config| match task {
        Task::Report(stage) => agent::report::report(&config, &stage)
            .map_err(|error| format!("cannot report to {}:{}: {error}", config.master, config.http_port)),
        Task::Member | Task::Home(_) | Task::Guest => {
            member(&config, &path).map_err(|error| error.to_string())
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => fail(&problem, 1),
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Option<(PathBuf, Task)> {
    let mut path = PathBuf::from(Config::PATH);
    let mut task = Task::Member;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--config" => path = words.next()?.into(),
            "report" => task = Task::Report(words.next()?),
            "home" => task = Task::Home(words.next()?.parse().ok()?),
            "guest" => task = Task::Guest,
            _ => return None,
        }
    }
    Some((path, task))
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
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        if !config.is_masters() {
            report_agent(config).await;
        }
        let neighbours = agent::neighbours(config).await;
        let member = agent::run(config, neighbours.as_deref(), async {
            tokio::select! {
                () = received(&mut terminate) => {}
                () = received(&mut interrupt) => {}
            }
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
