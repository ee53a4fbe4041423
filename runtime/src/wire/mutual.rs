//! TLS 1.3 between two agents: each shows a certificate of the cluster's CA, and knows which node the other is.
//!
//! A node's certificate names it twice: as CN, and as the DNS name `NODE.node.tesela`, which is what is checked.
//! A connection serves only to agree on [`link_keys`]; then TLS ends, and the socket is another program's. So
//! there are no session tickets: nothing comes that nobody has asked for.

use std::sync::Arc;

use rustls::client::{Resumption, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, ConnectionCommon, Error, RootCertStore, ServerConfig};
use tesela_shim::seal::KEY;

use super::MIGRATE;
use super::tls::Identity;
use crate::migrate::link::Keys;

/// The label of the exported keys (RFC 8446, 7.5).
const LABEL: &[u8] = b"EXPORTER-tesela-migrate";

/// Which side of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It has connected: the process's home.
    Asks,
    /// It has accepted.
    Answers,
}

/// The name that the certificate of a node has to bear.
///
/// # Errors
/// [`Error::General`] where no node can be called so.
pub fn name_of(node: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(format!("{node}.node.tesela"))
        .map_err(|_| Error::General(format!("`{node}` is no name of a node")))
}

/// Whether a certificate, which the CA has signed, is this node's.
pub fn is_of(certificate: &CertificateDer<'_>, node: &str) -> bool {
    let checked =
        name_of(node).and_then(|name| verify_server_name(&ParsedCertificate::try_from(certificate)?, &name));
    checked.is_ok()
}

/// Of the side that connects.
///
/// # Errors
/// Those of rustls, where the keys do not go together.
pub fn asks(identity: Identity, ca: CertificateDer<'static>) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(only(ca)?)
        .with_client_auth_cert(vec![identity.certificate], identity.key)?;
    config.alpn_protocols = vec![MIGRATE.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Of the side that accepts.
///
/// # Errors
/// Those of rustls, where the keys do not go together.
pub fn answers(identity: Identity, ca: CertificateDer<'static>) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let members = WebPkiClientVerifier::builder_with_provider(Arc::new(only(ca)?), Arc::clone(&provider))
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(members)
        .with_single_cert(vec![identity.certificate], identity.key)?;
    config.alpn_protocols = vec![MIGRATE.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn only(ca: CertificateDer<'static>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    Ok(roots)
}

/// The keys of what follows on a connection whose handshake is over, as this side has them.
///
/// # Errors
/// Those of rustls: the handshake is not over.
pub fn link_keys<T>(session: &ConnectionCommon<T>, side: Side) -> Result<Keys, Error> {
    let octets = session.export_keying_material([0; 2 * KEY], LABEL, None)?;
    let mut asking = Keys { send: [0; KEY], receive: [0; KEY] };
    asking.send.copy_from_slice(&octets[..KEY]);
    asking.receive.copy_from_slice(&octets[KEY..]);
    Ok(match side {
        Side::Asks => asking,
        Side::Answers => asking.turned(),
    })
}
