//! `tesela serve`: all services, in the foreground.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::boot::{ApplyError, Paths};
use crate::serve::{self, Options, ServeError};

use super::{Common, Failure, LogFormat, Outcome};

pub(crate) fn run(common: &Common, log: LogFormat) -> Outcome {
    start_log(log);
    let options = Options {
        paths: Paths {
            config: common.config().to_owned(),
            state: common.state().to_owned(),
            templates: common.templates.clone(),
        },
        socket: common.socket().to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| miette::miette!("the services' threads cannot be started: {source}"))?;
    let served = runtime.block_on(serve::run(options, |site| {
        tracing::info!(
            cluster = site.current().cluster.name,
            generation = site.current().number,
            "all services answer"
        );
        // Without systemd there is nobody to tell, which is no error.
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::debug!(%error, "systemd was not told");
        }
    }));
    match served {
        Ok(()) => Ok(()),
        Err(ServeError::Apply(ApplyError::DoesNotHold(problems))) => {
            super::file::tell(&problems);
            Err(Failure::DoesNotHold)
        }
        Err(error) => Err(Failure::Failed(miette::miette!("{error}"))),
    }
}

/// `RUST_LOG` says what is logged; the journal adds the time itself.
fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Json => {
            registry.with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)).init()
        }
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let text = tracing_subscriber::fmt::layer()
                .with_target(false)
                .with_ansi(colours)
                .with_writer(std::io::stderr);
            if std::env::var_os("JOURNAL_STREAM").is_some() {
                registry.with(text.without_time()).init();
            } else {
                registry.with(text).init();
            }
        }
    }
}
