//! Whether this node shares its load now, as its pool says or its user: one that does not lets no guests in and sends
//! none of its processes away; those that are away already come home by themselves, or when they are fetched.

use std::sync::Arc;
use std::time::Duration;

use jiff::Zoned;
use tokio::time::sleep;

use super::ConfigError;
use super::idle::Idle;
use super::moves::Moves;
use crate::balance::{Moment, Share};
use crate::wire::local::{ByHand, Change};

/// Between two looks.
const LOOKS: Duration = Duration::from_secs(5);

/// Keeps [`crate::wire::local::Settings::sharing`] true, for ever.
pub async fn keep(moves: Arc<Moves>) {
    let mut idle = None;
    let mut last_problem = String::new();
    loop {
        let problem = look(&moves, &mut idle).await.err().map(|error| error.to_string()).unwrap_or_default();
        if !problem.is_empty() && problem != last_problem {
            tracing::warn!(problem, "whether this node shares its load stays as it was");
        }
        last_problem = problem;
        sleep(LOOKS).await;
    }
}

async fn look(moves: &Moves, idle: &mut Option<Idle>) -> Result<(), Problem> {
    let config = moves.config()?;
    let settings = config.settings()?;
    let shares = match settings.share {
        ByHand::Yes => true,
        ByHand::No => false,
        ByHand::Pool => {
            let wants_idle = matches!(config.share, Share::When { idle_seconds: Some(_), .. });
            let time = if wants_idle { idle.get_or_insert_with(Idle::new).time() } else { Duration::ZERO };
            config.share.shares(now(), time)
        }
    };
    if shares == settings.sharing {
        return Ok(());
    }
    config.set(&Change { sharing: Some(shares), ..Change::default() })?;
    tracing::info!(shares, "this node shares its load, or no longer");
    if !shares {
        moves.send_guests_home(&config).await?;
    }
    Ok(())
}

fn now() -> Moment {
    let now = Zoned::now();
    let day = u8::try_from(now.weekday().to_monday_zero_offset()).unwrap_or(0);
    let minute = u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs());
    Moment { day, minute }
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Move(#[from] super::moves::MoveError),
}
