//! A site for the tests of what stands on it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{ApplyError, Beginning, Paths, Site, Tokens, context};
use crate::inventory::Inventory;

/// Notes whose token's life starts anew.
#[derive(Default)]
pub struct Noted(pub Mutex<Vec<String>>);

impl Tokens for Noted {
    fn issue(&self, _: &str, _: Option<Ipv4Addr>) -> String {
        "token".into()
    }

    fn issue_join(&self, _: &str) -> String {
        "token".into()
    }

    fn fetched(&self, node: &str) {
        self.0.lock().unwrap().push(node.to_owned());
    }
}

/// Where the files of a site under `state` are; cluster.yaml is `state/cluster.yaml`.
pub fn paths(state: &Path) -> Paths {
    Paths { config: state.join("cluster.yaml"), state: state.to_owned(), templates: state.join("templates") }
}

/// Opens a site as a master does that starts.
pub fn open(state: &Path, tokens: Arc<Noted>) -> Result<Site, ApplyError> {
    let keys = context::Keys {
        ssh_host_ca: "ssh-ed25519 A".into(),
        ssh_user_ca: "ssh-ed25519 B".into(),
        ca_sha256: "00".into(),
    };
    let inventory = Arc::new(Inventory::open(&state.join("tesela.db")).unwrap());
    Site::open(Beginning::read(paths(state))?, inventory, keys, tokens)
}
