//! What of an initramfs a machine with one network card needs, kept in memory: a room of machines is mostly
//! of one kind, and asks for it at once.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use tesela_node_image::initramfs::{Parts, PciId, TABLE};

/// Kinds of cards that are kept; a cut has a few megabytes.
const KEPT: usize = 8;

/// The cuts that were made, each of the initramfs with that time of modification.
#[derive(Default)]
pub(super) struct Cuts(Mutex<HashMap<(PathBuf, PciId), Cut>>);

struct Cut {
    modified: SystemTime,
    octets: Bytes,
}

impl Cuts {
    /// What `card` needs of the initramfs at `path`; `None` where only the whole is sure to serve.
    pub(super) fn get(&self, path: &Path, card: PciId) -> Result<Option<Bytes>, String> {
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        let modified = fs::metadata(path).and_then(|found| found.modified()).map_err(failed)?;
        // Held while it is made: all others of a room want the same one.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (path.to_owned(), card);
        if let Some(cut) = kept.get(&key).filter(|cut| cut.modified == modified) {
            return Ok(Some(cut.octets.clone()));
        }
        let Some(octets) = make(path, card).map_err(failed)? else { return Ok(None) };
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(key, Cut { modified, octets: octets.clone() });
        Ok(Some(octets))
    }
}

fn make(path: &Path, card: PciId) -> io::Result<Option<Bytes>> {
    let table = match fs::read(path.with_file_name(TABLE)) {
        // Built by a version that made none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        table => table?,
    };
    let parts: Parts = serde_json::from_slice(&table)?;
    let Some(ranges) = parts.for_card(card) else { return Ok(None) };
    let whole = fs::read(path)?;
    // The two files are replaced one after the other.
    if blake3::hash(&whole).to_hex().as_str() != parts.of {
        return Ok(None);
    }
    let mut cut = Vec::new();
    for range in ranges {
        let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
        let part = start.ok().zip(end.ok()).and_then(|(start, end)| whole.get(start..end));
        cut.extend_from_slice(part.ok_or_else(|| io::Error::other("its table names what it has not"))?);
    }
    Ok(Some(cut.into()))
}

#[cfg(test)]
mod tests {
    use tesela_node_image::initramfs::{Part, PciPattern};

    use super::*;

    #[test]
    fn a_cut_is_kept_until_the_initramfs_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("initramfs");
        let card = PciId { vendor: 0x8086, device: 0x10d3 };
        let write = |octets: &[u8]| {
            let alias = "pci:v00008086d000010D3sv*sd*bc*sc*i*";
            let parts = Parts {
                of: blake3::hash(octets).to_hex().to_string(),
                common: 2,
                modules: [("e1000e".to_owned(), Part { range: 4..6, needs: Vec::new() })].into(),
                devices: vec![(PciPattern::of_alias(alias).unwrap(), "e1000e".to_owned())],
            };
            fs::write(folder.path().join(TABLE), serde_json::to_vec(&parts).unwrap()).unwrap();
            fs::write(&path, octets).unwrap();
        };
        let cuts = Cuts::default();
        fs::write(&path, b"abcdefgh").unwrap();
        assert_eq!(cuts.get(&path, card), Ok(None), "there is no table");
        write(b"abcdefgh");
        assert_eq!(cuts.get(&path, card), Ok(Some(Bytes::from_static(b"abef"))));
        assert_eq!(cuts.get(&path, PciId { vendor: 1, device: 1 }), Ok(None));
        fs::remove_file(folder.path().join(TABLE)).unwrap();
        assert_eq!(cuts.get(&path, card), Ok(Some(Bytes::from_static(b"abef"))), "it is kept");
        write(b"ABCDEFGH");
        let later = SystemTime::now() + std::time::Duration::from_secs(10);
        fs::File::open(&path).unwrap().set_modified(later).unwrap();
        assert_eq!(cuts.get(&path, card), Ok(Some(Bytes::from_static(b"ABEF"))));
        fs::write(&path, b"12345678").unwrap();
        fs::File::open(&path).unwrap().set_modified(later + std::time::Duration::from_secs(1)).unwrap();
        assert_eq!(cuts.get(&path, card), Ok(None), "the table is that of another");
    }
}
