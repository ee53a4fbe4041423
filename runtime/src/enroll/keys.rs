//! The keys of a node: made, signed, kept.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ED25519};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{LineEnding, PrivateKey};

use crate::durable;
use crate::wire::{Enrolled, tls};

/// The names of the files in the directory of keys: `/run/tesela` on a node that boots from the master,
/// [`super::join::KEYS`] on one that has joined.
pub mod file {
    /// The node's TLS key (PKCS #8, PEM), mode 0600.
    pub const KEY: &str = "node.key";
    /// The node's certificate (PEM).
    pub const CERTIFICATE: &str = "node.crt";
    /// The cluster's CA (PEM).
    pub const CA: &str = "ca.crt";
    /// The ssh host key (OpenSSH), mode 0600.
    pub const SSH_HOST_KEY: &str = "ssh_host_ed25519_key";
    /// The ssh host key's public half.
    pub const SSH_HOST_PUBLIC_KEY: &str = "ssh_host_ed25519_key.pub";
    /// The key with which members find each other, in base64, mode 0600.
    pub const CLUSTER_KEY: &str = "cluster.key";
    /// The ssh host certificate.
    pub const SSH_HOST_CERTIFICATE: &str = "ssh_host_ed25519_key-cert.pub";
}

/// What can go wrong with keys on the node's own side.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A TLS key or request could not be made.
    #[error("making the node's TLS key: {0}")]
    Tls(#[from] rcgen::Error),
    /// An ssh key could not be made.
    #[error("making the node's ssh key: {0}")]
    Ssh(#[from] ssh_key::Error),
    /// The kernel gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// A file of keys could not be written or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what its name says.
    #[error("{}: {source}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// It does not hold the cluster's key.
    #[error("{}: 32 octets in base64 are due", path.display())]
    ClusterKey {
        /// Which.
        path: PathBuf,
    },
}

/// Keys that nobody has signed yet.
pub struct Unsigned {
    key: KeyPair,
    certificate_request: String,
    ssh_host_key: PrivateKey,
}

impl Unsigned {
    /// New ones for a node of this name.
    ///
    /// # Errors
    /// [`KeyError::Tls`], [`KeyError::Ssh`], [`KeyError::Random`].
    pub fn generate(node: &str) -> Result<Self, KeyError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, node);
        let certificate_request = params.serialize_request(&key)?.pem()?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let ssh_host_key = KeypairData::from(Ed25519Keypair::from_seed(&seed));
        let ssh_host_key = PrivateKey::new(ssh_host_key, format!("root@{node}"))?;
        Ok(Unsigned { key, certificate_request, ssh_host_key })
    }

    /// What asks for a certificate (PKCS #10, RFC 2986, PEM).
    pub fn certificate_request(&self) -> &str {
        &self.certificate_request
    }

    /// The ssh host key as one line of OpenSSH.
    ///
    /// # Errors
    /// [`KeyError::Ssh`].
    pub fn ssh_host_public_key(&self) -> Result<String, KeyError> {
        Ok(self.ssh_host_key.public_key().to_openssh()?)
    }

    /// With what the master has signed, and the CA that it did so for.
    ///
    /// # Errors
    /// [`KeyError::Ssh`].
    pub fn signed(self, enrolled: Enrolled, ca: &CertificateDer<'_>) -> Result<NodeKeys, KeyError> {
        Ok(NodeKeys {
            key: self.key.serialize_pem(),
            certificate: enrolled.certificate,
            ca: pem("CERTIFICATE", ca),
            ssh_host_key: self.ssh_host_key.to_openssh(LineEnding::LF)?.to_string(),
            ssh_host_public_key: self.ssh_host_public_key()?,
            ssh_host_certificate: enrolled.ssh_host_certificate,
            cluster_key: enrolled.cluster_key,
            config: enrolled.config,
        })
    }
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|&byte| char::from(byte)));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

/// The keys of a node with the signatures of the cluster's CA on them, as text.
#[derive(Clone)]
pub struct NodeKeys {
    key: String,
    certificate: String,
    ca: String,
    ssh_host_key: String,
    ssh_host_public_key: String,
    ssh_host_certificate: String,
    cluster_key: String,
    config: Option<String>,
}

impl NodeKeys {
    /// The agent's configuration, where the master has sent it with the keys.
    pub fn config(&self) -> Option<&str> {
        self.config.as_deref()
    }

    /// Writes the files of [`file`] into `directory`, which is made where it is missing. Private keys
    /// are for root alone; the rest everyone may read, and `ssh` of an ordinary user does.
    ///
    /// # Errors
    /// [`KeyError::Io`].
    pub fn store(&self, directory: &Path) -> Result<(), KeyError> {
        let io_error = |path: &Path, source| KeyError::Io { path: path.to_owned(), source };
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(|source| io_error(directory, source))?;
        for (name, mode, text) in [
            (file::KEY, 0o600, &self.key),
            (file::CERTIFICATE, 0o644, &self.certificate),
            (file::CA, 0o644, &self.ca),
            (file::SSH_HOST_KEY, 0o600, &self.ssh_host_key),
            (file::SSH_HOST_PUBLIC_KEY, 0o644, &self.ssh_host_public_key),
            (file::SSH_HOST_CERTIFICATE, 0o644, &self.ssh_host_certificate),
            (file::CLUSTER_KEY, 0o600, &self.cluster_key),
        ] {
            let path = directory.join(name);
            let line = if text.ends_with('\n') { "" } else { "\n" };
            let written = durable::replace(&path, format!("{text}{line}").as_bytes(), Some(mode));
            written.map_err(|source| io_error(&path, source))?;
        }
        Ok(())
    }

    /// Reads what the agent needs of a directory that [`NodeKeys::store`] wrote: who the node is, and
    /// the CA that it trusts.
    ///
    /// # Errors
    /// [`KeyError::Io`] and [`KeyError::Pem`].
    pub fn identity(directory: &Path) -> Result<(tls::Identity, CertificateDer<'static>), KeyError> {
        let certificate = |name| {
            let (path, text) = read(directory, name)?;
            CertificateDer::from_pem_slice(&text).map_err(|source| KeyError::Pem { path, source })
        };
        let (path, text) = read(directory, file::KEY)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|source| KeyError::Pem { path, source })?;
        Ok((tls::Identity { certificate: certificate(file::CERTIFICATE)?, key }, certificate(file::CA)?))
    }

    /// Reads the key with which members find each other.
    ///
    /// # Errors
    /// [`KeyError::Io`] and [`KeyError::ClusterKey`].
    pub fn cluster_key(directory: &Path) -> Result<[u8; 32], KeyError> {
        use base64::Engine as _;
        let (path, text) = read(directory, file::CLUSTER_KEY)?;
        let octets = base64::engine::general_purpose::STANDARD.decode(text.trim_ascii());
        octets.ok().and_then(|octets| octets.try_into().ok()).ok_or(KeyError::ClusterKey { path })
    }
}

fn read(directory: &Path, name: &str) -> Result<(PathBuf, Vec<u8>), KeyError> {
    let path = directory.join(name);
    match fs::read(&path) {
        Ok(text) => Ok((path, text)),
        Err(source) => Err(KeyError::Io { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_stored_for_root_alone_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("tesela");
        let ca_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let ca = CertificateParams::default().self_signed(&ca_key).unwrap();
        let enrolled = Enrolled {
            certificate: ca.pem(),
            ssh_host_certificate: "cert".into(),
            cluster_key: "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".into(),
            config: None,
        };
        let node = Unsigned::generate("n1").unwrap().signed(enrolled, ca.der()).unwrap();
        node.store(&keys).unwrap();
        node.store(&keys).unwrap();
        let mode = |name: &str| fs::metadata(keys.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!([file::KEY, file::SSH_HOST_KEY, file::CLUSTER_KEY].map(mode), [0o600; 3]);
        assert_eq!(NodeKeys::cluster_key(&keys).unwrap(), [7; 32]);
        assert_eq!([mode(file::SSH_HOST_PUBLIC_KEY), mode(file::SSH_HOST_CERTIFICATE)], [0o644; 2]);
        assert_eq!(fs::read_to_string(keys.join(file::SSH_HOST_CERTIFICATE)).unwrap(), "cert\n");
        let (identity, authority) = NodeKeys::identity(&keys).unwrap();
        assert_eq!(&authority, ca.der());
        assert_eq!(&identity.certificate, ca.der());
    }
}
