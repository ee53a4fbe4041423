//! Which certificate each node got last, and with which token.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tesela_runtime::wire::tls::Fingerprint;

use super::{Error, TokenError, store};

/// One line of text on the disk: `ISSUED FINGERPRINT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Enrolment {
    /// When the token was issued, milliseconds since 1970.
    pub(super) issued: u64,
    /// The certificate.
    pub(super) certificate: Fingerprint,
}

type Entry = Arc<Mutex<Option<Enrolment>>>;

pub(super) struct Register {
    directory: PathBuf,
    /// Each node has a lock of its own, so that nodes do not wait for each other's writes to the disk.
    nodes: Mutex<HashMap<String, Entry>>,
}

impl Register {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io { path: directory.to_owned(), source };
        store::private_directory(directory).map_err(failed)?;
        let mut nodes = HashMap::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') {
                continue;
            }
            let path = entry.path();
            match fs::read_to_string(&path) {
                // A record that cannot be read is one node that has to boot again, and no reason to
                // serve nobody.
                Ok(text) => nodes.insert(name, Arc::new(Mutex::new(parse(&text)))),
                Err(source) => return Err(Error::Io { path, source }),
            };
        }
        Ok(Register { directory: directory.to_owned(), nodes: Mutex::new(nodes) })
    }

    /// Puts an enrolment on the disk, unless its token is used up. The very same one may come again.
    pub(super) fn record(&self, node: &str, enrolment: Enrolment, now: u64) -> Result<(), Error> {
        let entry = lock(&self.nodes).entry(node.to_owned()).or_default().clone();
        let mut last = lock(&entry);
        if let Some(last) = *last {
            if last == enrolment {
                return Ok(());
            }
            // A clock that was set back must not lock the node out.
            let later = last.issued > enrolment.issued && last.issued <= now;
            if later || last.issued == enrolment.issued {
                return Err(TokenError::Used.into());
            }
        }
        let text = format!("{} {}\n", enrolment.issued, enrolment.certificate);
        store::replace(&self.directory, node, &text)
            .map_err(|source: io::Error| Error::Io { path: self.directory.join(node), source })?;
        *last = Some(enrolment);
        Ok(())
    }

    pub(super) fn holder(&self, certificate: Fingerprint) -> Option<String> {
        let is = |entry: &Entry| lock(entry).is_some_and(|enrolment| enrolment.certificate == certificate);
        // Whoever is put on record meanwhile is waited for alone.
        let nodes: Vec<_> =
            lock(&self.nodes).iter().map(|(node, entry)| (node.clone(), entry.clone())).collect();
        nodes.into_iter().find(|(_, entry)| is(entry)).map(|(node, _)| node)
    }

    pub(super) fn current(&self, node: &str) -> Option<Fingerprint> {
        let entry = lock(&self.nodes).get(node)?.clone();
        let enrolment = *lock(&entry);
        enrolment.map(|enrolment| enrolment.certificate)
    }
}

fn parse(text: &str) -> Option<Enrolment> {
    let (issued, certificate) = text.trim_end().split_once(' ')?;
    Some(Enrolment { issued: issued.parse().ok()?, certificate: certificate.parse().ok()? })
}

/// What a lock guards here is never left half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolment(issued: u64, certificate: u8) -> Enrolment {
        Enrolment { issued, certificate: Fingerprint([certificate; 32]) }
    }

    #[test]
    fn a_token_enrols_once_and_a_restart_forgets_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let used = |result| matches!(result, Err(Error::Token(TokenError::Used)));
        let register = Register::open(directory.path()).unwrap();
        register.record("n1", enrolment(100, 1), 150).unwrap();
        for register in [register, Register::open(directory.path()).unwrap()] {
            register.record("n1", enrolment(100, 1), 150).unwrap();
            assert!(used(register.record("n1", enrolment(100, 2), 150)));
            assert!(used(register.record("n1", enrolment(90, 3), 150)));
            assert_eq!(register.current("n1"), Some(Fingerprint([1; 32])));
            assert_eq!(register.current("n2"), None);
            assert_eq!(register.holder(Fingerprint([1; 32])).as_deref(), Some("n1"));
            assert_eq!(register.holder(Fingerprint([2; 32])), None);
        }
        let register = Register::open(directory.path()).unwrap();
        register.record("n1", enrolment(120, 4), 150).unwrap();
        assert_eq!(register.current("n1"), Some(Fingerprint([4; 32])));
        // The clock went back.
        register.record("n1", enrolment(50, 5), 60).unwrap();
        assert_eq!(register.current("n1"), Some(Fingerprint([5; 32])));
    }

    #[test]
    fn a_damaged_record_is_a_node_that_has_to_boot_again() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("n1"), "12 zz").unwrap();
        let register = Register::open(directory.path()).unwrap();
        assert_eq!(register.current("n1"), None);
        register.record("n1", enrolment(100, 1), 150).unwrap();
    }
}
