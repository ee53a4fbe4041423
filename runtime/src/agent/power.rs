//! The end of a machine that runs: it is switched off, or boots again, by the master's word or anybody else's.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tokio::time::timeout;

use super::sys;
use crate::doctor::{network, read};
use crate::wire::local::{self, Answer, Request};
use crate::wire::{Power, PowerAction, Powering};

/// How long guests may take to go home: less than an init waits for this program (`TimeoutStopSec=`).
const GOING_HOME: Duration = Duration::from_secs(30);

/// Has this machine's network card wake it up once it is off and somebody sends a magic packet.
pub fn allow_waking(address: io::Result<Ipv4Addr>) {
    if let Err(error) = address.and_then(interface_of).and_then(|name| sys::wake_by_magic_packet(&name)) {
        tracing::info!(%error, "Wake-on-LAN cannot wake this machine");
    }
}

/// Has this machine end. The init ends this agent then, which sends its guests home ([`send_guests_home`]).
pub(super) fn end(request: Power) -> Powering {
    let Power { id, action } = request;
    let verb = match action {
        PowerAction::Off => "poweroff",
        PowerAction::Reboot => "reboot",
    };
    let failed = match systemctl(verb) {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Some(format!("`systemctl {verb}` fails: {}", said.trim()))
        }
        Err(error) => Some(format!("`systemctl {verb}` cannot be run: {error}")),
    };
    Powering { id, failed }
}

fn systemctl(verb: &str) -> io::Result<Output> {
    Command::new("systemctl").arg(verb).stdin(Stdio::null()).output()
}

fn interface_of(address: Ipv4Addr) -> io::Result<String> {
    let interfaces = read::interfaces()?;
    let found = network::holder(&interfaces, address).map(|interface| interface.name.clone());
    found.ok_or_else(|| io::Error::other(format!("no interface has the address {address}")))
}

/// Where this program ends because its whole machine does, its guests go home, and no others come. `socket`: where the
/// agent listens, which goes on meanwhile.
pub async fn send_guests_home(socket: PathBuf) {
    let sent = tokio::task::spawn_blocking(move || {
        // systemctl(1)
        let ends = systemctl("is-system-running").is_ok_and(|output| output.stdout.starts_with(b"stopping"));
        ends.then(|| local::ask(&socket, &Request::Expel {}))
    });
    match timeout(GOING_HOME, sent).await {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(Ok(Answer::Moved { count })))) => {
            tracing::info!(count, "guests are at home: this machine ends")
        }
        Ok(Ok(Some(Ok(Answer::Failed { reason })))) => {
            tracing::error!(reason, "this machine ends with guests")
        }
        Ok(Ok(Some(other))) => {
            tracing::error!(?other, "whether there are guests is not known: this machine ends")
        }
        Ok(Err(error)) => tracing::error!(%error, "whether there are guests is not known: this machine ends"),
        Err(_) => {
            tracing::error!("some guests are not at home after {GOING_HOME:?}: this machine ends with them")
        }
    }
}
