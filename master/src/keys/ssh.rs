//! The CAs of ssh (OpenSSH's PROTOCOL.certkeys), and the key with which the master opens nodes.
//!
//! A node's host certificate serves twice: it shows other members that the node is the one they asked for,
//! and, the other way round, it signs for the node's users (`HostbasedAuthentication`, ssh-keysign(8)). So
//! nobody on a node needs a key of his own, and a node that is no longer listed as a member opens nothing.
//! The master comes in with a user certificate; its own sshd knows neither CA, so no node opens it.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::Path;

use ssh_key::certificate::{Builder, CertType};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{Algorithm, LineEnding, PrivateKey, PublicKey};

use super::Error;
use super::store::Store;

/// The principal of the master's user certificate. The nodes' sshd lets it in as any user
/// (`AuthorizedPrincipalsFile`).
pub const MASTER_PRINCIPAL: &str = "tesela-master";

const CLIENT_KEY: &str = "ssh_master";
const KNOWN_HOSTS: &str = "ssh_known_hosts";
/// The latest end that a certificate of this crate can have; for OpenSSH it is in no sensible future.
const FOREVER: u64 = i64::MAX as u64;

pub(super) struct Cas {
    host_ca: PrivateKey,
    pub(super) host_ca_line: String,
    pub(super) user_ca_line: String,
}

impl Cas {
    pub(super) fn open(store: &Store, cluster: &str) -> Result<Self, Error> {
        let host_ca = key(store, "ssh_host_ca", &format!("tesela host CA of {cluster}"))?;
        let user_ca = key(store, "ssh_user_ca", &format!("tesela user CA of {cluster}"))?;
        let client = key(store, CLIENT_KEY, &format!("tesela master of {cluster}"))?;
        let cas = Cas {
            host_ca_line: host_ca.public_key().to_openssh().map_err(making)?,
            user_ca_line: user_ca.public_key().to_openssh().map_err(making)?,
            host_ca,
        };
        store.once(&format!("{CLIENT_KEY}-cert.pub"), || {
            let mut builder = builder(client.public_key(), CertType::User, MASTER_PRINCIPAL)?;
            builder.valid_principal(MASTER_PRINCIPAL).map_err(making)?;
            for extension in
                ["permit-agent-forwarding", "permit-port-forwarding", "permit-pty", "permit-user-rc"]
            {
                builder.extension(extension, "").map_err(making)?;
            }
            signed(builder, &user_ca)
        })?;
        store.put(KNOWN_HOSTS, &format!("@cert-authority * {}\n", cas.host_ca_line))?;
        Ok(cas)
    }

    /// Signs a host key for these names.
    pub(super) fn sign_host(&self, node: &str, public_key: &str, names: &[String]) -> Result<String, Error> {
        let public_key = PublicKey::from_openssh(public_key)
            .ok()
            .filter(|key| key.algorithm() == Algorithm::Ed25519)
            .ok_or_else(|| Error::Request("the ssh host key is no ed25519 key of OpenSSH".to_owned()))?;
        let mut builder = builder(&public_key, CertType::Host, node)?;
        for name in names {
            builder.valid_principal(name).map_err(making)?;
        }
        signed(builder, &self.host_ca)
    }
}

/// The words with which the master's `ssh` reaches `node` as `user`, with the keys in STATE/keys and no
/// question asked; the command to run comes after them.
pub fn client_arguments(keys: &Path, node: &str, address: Ipv4Addr, user: &str) -> Vec<OsString> {
    let file = |option: &str, name: &str| {
        let mut word = OsString::from(option);
        word.push(keys.join(name));
        word
    };
    let mut words: Vec<OsString> =
        ["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"].map(OsString::from).into();
    words.extend([OsString::from("-i"), keys.join(CLIENT_KEY).into()]);
    words.extend([OsString::from("-o"), file("UserKnownHostsFile=", KNOWN_HOSTS)]);
    for option in [
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        "LogLevel=ERROR".to_owned(),
        format!("HostKeyAlias={node}"),
    ] {
        words.extend(["-o".into(), option.into()]);
    }
    words.extend(["-l".into(), user.into(), address.to_string().into()]);
    words
}

fn key(store: &Store, name: &str, comment: &str) -> Result<PrivateKey, Error> {
    let text = store.once(name, || {
        let pair = KeypairData::from(Ed25519Keypair::from_seed(&random()?));
        let key = PrivateKey::new(pair, comment).map_err(making)?;
        Ok(key.to_openssh(LineEnding::LF).map_err(making)?.to_string())
    })?;
    PrivateKey::from_openssh(&text).map_err(|error| Error::Content {
        path: store.path(name),
        expected: "a private key of OpenSSH",
        problem: error.to_string(),
    })
}

fn builder(key: &PublicKey, kind: CertType, id: &str) -> Result<Builder, Error> {
    let nonce: [u8; 32] = random()?;
    let mut builder = Builder::new(nonce, key, 0, FOREVER).map_err(making)?;
    builder.cert_type(kind).and_then(|builder| builder.key_id(id)).map_err(making)?;
    Ok(builder)
}

fn signed(builder: Builder, ca: &PrivateKey) -> Result<String, Error> {
    let mut line = builder.sign(ca).and_then(|certificate| certificate.to_openssh()).map_err(making)?;
    line.push('\n');
    Ok(line)
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(Error::Make { what: "an ssh key", problem: error.to_string() }),
    }
}

fn making(error: ssh_key::Error) -> Error {
    Error::Make { what: "an ssh key or certificate", problem: error.to_string() }
}
