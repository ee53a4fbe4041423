//! What the fuzzer sends as a node that wants its keys signed, and what must hold of the signatures.

use std::net::Ipv4Addr;
use std::sync::OnceLock;

use base64::Engine as _;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use tesela_runtime::wire;

use super::{Error, Keys, TokenError, token};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);

/// Reads the octets, by what the first one says, as a token, a certificate request (PEM, or DER), or an
/// ssh host key (a line of OpenSSH, or what is in its base64).
///
/// # Panics
/// Where something is signed that must not be.
pub fn enroll_request(data: &[u8]) {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        let directory = std::env::temp_dir().join(format!("tesela-fuzz-keys-{}", std::process::id()));
        let keys = Keys::open(&directory, "aula").unwrap_or_else(|error| panic!("{error}"));
        // They stay in memory; nothing here is put on record.
        std::fs::remove_dir_all(&directory).unwrap_or_else(|error| panic!("{error}"));
        keys
    });
    let Some((kind, octets)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(octets);
    let armoured = base64::engine::general_purpose::STANDARD.encode(octets);
    match kind {
        b't' => {
            let refused = keys.tokens.check(&text, "n1", ADDRESS, token::now());
            assert!(matches!(refused, Err(TokenError::Foreign)), "{text} was never issued: {refused:?}");
        }
        b'p' => certificate(keys, &text),
        b'd' => {
            const LABEL: &str = "CERTIFICATE REQUEST";
            certificate(keys, &format!("-----BEGIN {LABEL}-----\n{armoured}\n-----END {LABEL}-----\n"));
        }
        b's' => ssh_host_key(keys, &text),
        _ => ssh_host_key(keys, &format!("ssh-ed25519 {armoured} root@n1")),
    }
}

fn certificate(keys: &Keys, request: &str) {
    match keys.ca.sign_node("n1", request) {
        Ok(certificate) => {
            // Whatever the request asks to be called, the certificate has the node's name, and no other.
            let is_named = |name: &'static str| {
                let der = CertificateDer::from_pem_slice(certificate.pem().as_bytes()).ok()?;
                let certificate = ParsedCertificate::try_from(&der).ok()?;
                verify_server_name(&certificate, &ServerName::try_from(name).ok()?).ok()
            };
            assert_eq!((is_named("n1.node.tesela"), is_named(wire::MASTER_NAME)), (Some(()), None));
        }
        Err(error) => assert!(matches!(error, Error::Request(_)), "not the node's fault: {error}"),
    }
}

fn ssh_host_key(keys: &Keys, line: &str) {
    match keys.ssh.sign_host("n1", line, &["n1".to_owned()]) {
        Ok(line) => {
            // It is sent to be a file of one line.
            assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "{line:?}");
            let certificate = ssh_key::Certificate::from_openssh(line.trim_end());
            let certificate = certificate.unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(certificate.valid_principals(), ["n1"]);
            assert_eq!(certificate.key_id(), "n1");
        }
        Err(error) => assert!(matches!(error, Error::Request(_)), "not the node's fault: {error}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_of_the_fuzzer_holds() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/enroll_request");
        let mut replayed = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            super::enroll_request(&std::fs::read(entry.unwrap().path()).unwrap());
            replayed += 1;
        }
        assert!(replayed > 4, "the corpus is not there");
    }
}
