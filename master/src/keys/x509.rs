//! The cluster's CA (RFC 5280), and what it signs for TLS.

use std::net::Ipv4Addr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tesela_runtime::wire;

use super::Error;
use super::store::Store;

const FILE: &str = "ca.pem";

pub(super) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Ca {
    pub(super) fn open(store: &Store, cluster: &str) -> Result<Self, Error> {
        let text = store.once(FILE, || {
            let key = KeyPair::generate_for(&PKCS_ED25519).map_err(making("the cluster's CA"))?;
            let certificate = ca_params(cluster).self_signed(&key).map_err(making("the cluster's CA"))?;
            Ok(key.serialize_pem() + &certificate.pem())
        })?;
        Self::read(&text).map_err(|problem| Error::Content {
            path: store.path(FILE),
            expected: "the CA's key and certificate",
            problem,
        })
    }

    fn read(text: &str) -> Result<Self, String> {
        let certificate = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|e| e.to_string())?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|e| e.to_string())?;
        let key = KeyPair::try_from(&key).map_err(|e| e.to_string())?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|e| e.to_string())?;
        Ok(Ca { issuer, certificate })
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A key for another use, which tells nothing of the CA's.
    pub(super) fn secret(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(&format!("tesela {purpose}"), self.issuer.key().serialized_der())
    }

    /// Signs the public key of a request, under this name. The same key gets the same certificate: rcgen
    /// takes the serial number from the key, and ed25519 has no randomness.
    pub(super) fn sign_node(&self, node: &str, request: &str) -> Result<Certificate, Error> {
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|error| Error::Request(error.to_string()))?;
        let mut params = leaf_params(node);
        // Members meet each other as well, on either side.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![dns_name(&format!("{node}.node.tesela"))?];
        params.signed_by(&request.public_key, &self.issuer).map_err(|error| Error::Request(error.to_string()))
    }

    pub(super) fn server_config(&self, address: Ipv4Addr) -> Result<Arc<ServerConfig>, Error> {
        const WHAT: &str = "the certificate of the control port";
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(making(WHAT))?;
        let mut params = leaf_params(wire::MASTER_NAME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![dns_name(wire::MASTER_NAME)?, SanType::IpAddress(address.into())];
        let certificate = params.signed_by(&key, &self.issuer).map_err(making(WHAT))?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(making(WHAT))?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(making(WHAT))?;
        let members = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(making(WHAT))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(making(WHAT))?
            .with_client_cert_verifier(members)
            .with_single_cert(vec![certificate.der().clone(), self.certificate.clone()], key)
            .map_err(making(WHAT))?;
        config.alpn_protocols = vec![wire::ENROLL.to_vec(), wire::AGENT.to_vec()];
        // Every connection proves its key anew.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn ca_params(cluster: &str) -> CertificateParams {
    let mut params = leaf_params(&format!("tesela CA of {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = false;
    params
}

/// Good from 1970 to the "no well-defined expiration date" of RFC 5280, 4.1.2.5.
fn leaf_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn dns_name(name: &str) -> Result<SanType, Error> {
    Ok(SanType::DnsName(name.try_into().map_err(making("a certificate"))?))
}

fn making<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Make { what, problem: error.to_string() }
}
