use std::fs;
use std::os::unix::fs::PermissionsExt;

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use tesela_runtime::wire::EnrollRequest;

use super::*;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 45, 11);
const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9dG4kjRhQTtWTVzd2t27+t0DEHBPW7iOD23TUiYLio";

fn candidate(node: &str) -> Candidate<'_> {
    Candidate { node, address: ADDRESS, joins: false, names: vec![node.to_owned(), ADDRESS.to_string()] }
}

fn request(token: String) -> EnrollRequest {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::new(vec!["master.tesela".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate_request = params.serialize_request(&key).unwrap().pem().unwrap();
    EnrollRequest { node: "n1".into(), token, certificate_request, ssh_host_public_key: SSH.into() }
}

#[test]
fn keys_are_made_once_and_for_their_owner_alone() {
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().join("keys");
    let first = Keys::open(&directory, "aula").unwrap();
    let again = Keys::open(&directory, "aula").unwrap();
    assert_eq!(first.ca_fingerprint(), again.ca_fingerprint());
    assert_eq!(first.ssh_host_ca(), again.ssh_host_ca());
    assert_ne!(first.ssh_host_ca(), first.ssh_user_ca());
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&directory).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
        assert!(!entry.file_name().to_string_lossy().starts_with('.'));
    }
}

#[test]
fn a_damaged_file_is_named() {
    let state = tempfile::tempdir().unwrap();
    Keys::open(state.path(), "aula").unwrap();
    for name in ["ca.pem", "ssh_host_ca"] {
        let path = state.path().join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, "").unwrap();
        let error = Keys::open(state.path(), "aula").err().unwrap().to_string();
        assert!(error.contains(name), "{error}");
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn a_node_gets_its_own_name_whatever_it_asks_for() {
    let state = tempfile::tempdir().unwrap();
    let keys = Keys::open(state.path(), "aula").unwrap();
    let request = request(keys.issue_token("n1", Some(ADDRESS)));
    let enrolled = keys.enroll(&candidate("n1"), &request).unwrap();

    use rustls::pki_types::pem::PemObject;
    let certificate = CertificateDer::from_pem_slice(enrolled.certificate.as_bytes()).unwrap();
    assert!(keys.is_current("n1", &certificate));
    assert!(!keys.is_current("n2", &certificate));
    let der = String::from_utf8_lossy(&certificate);
    assert!(der.contains("n1.node.tesela") && !der.contains("master.tesela"));

    let ssh = ssh_key::Certificate::from_openssh(&enrolled.ssh_host_certificate).unwrap();
    assert!(ssh.cert_type().is_host());
    assert_eq!(ssh.valid_principals(), ["n1", "192.168.45.11"]);

    // The same again is the same; another key is not.
    assert_eq!(keys.enroll(&candidate("n1"), &request).unwrap().certificate, enrolled.certificate);
    let other = self::request(request.token.clone());
    assert!(matches!(keys.enroll(&candidate("n1"), &other), Err(Error::Token(TokenError::Used))));
    let foreign = self::request(keys.issue_token("n2", Some(ADDRESS)));
    assert!(matches!(keys.enroll(&candidate("n1"), &foreign), Err(Error::Token(TokenError::Foreign))));
}

#[test]
fn a_request_that_is_none_is_refused() {
    let state = tempfile::tempdir().unwrap();
    let keys = Keys::open(state.path(), "aula").unwrap();
    let good = request(keys.issue_token("n1", Some(ADDRESS)));
    let mut tampered = good.clone();
    let middle = tampered.certificate_request.len() / 2;
    let swapped = if &tampered.certificate_request[middle..=middle] == "A" { "B" } else { "A" };
    tampered.certificate_request.replace_range(middle..=middle, swapped);
    let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAQQDE".to_owned();
    for bad in [
        EnrollRequest { certificate_request: String::new(), ..good.clone() },
        tampered,
        EnrollRequest { ssh_host_public_key: "x".into(), ..good.clone() },
        EnrollRequest { ssh_host_public_key: rsa, ..good.clone() },
    ] {
        assert!(matches!(keys.enroll(&candidate("n1"), &bad), Err(Error::Request(_))));
    }
    // None of them used the token up.
    keys.enroll(&candidate("n1"), &good).unwrap();
}
