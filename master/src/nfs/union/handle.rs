//! File handles: which node, which generation of its root, which object, and a MAC over all three.

use std::io::Read;
use std::path::Path;

use tesela_runtime::durable;

use super::files::random;
use super::object::ObjectId;
use crate::nfs::fs::{Handle, Result, Status};

const MAC: usize = 16;
const LENGTH: usize = 16 + MAC;

/// What a handle says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    /// The number of the node, which no other node ever had.
    pub node: u32,
    /// How often the node's root was made anew: it is, when another build takes its place or its
    /// writes are discarded.
    pub generation: u32,
    /// The object.
    pub object: ObjectId,
}

/// The secret that makes handles unguessable: 32 octets in a file that only the master reads.
pub struct Key([u8; 32]);

impl Key {
    /// Reads the key, or makes it where there is none.
    pub fn load(path: &Path) -> std::io::Result<Self> {
        let mut key = [0; 32];
        match std::fs::File::open(path) {
            Ok(mut file) => file.read_exact(&mut key)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                key = random()?;
                if let Some(directory) = path.parent() {
                    std::fs::create_dir_all(directory)?;
                }
                durable::replace(path, &key, Some(0o600))?;
            }
            Err(error) => return Err(error),
        }
        Ok(Self(key))
    }

    /// The handle of a name.
    pub fn seal(&self, name: Name) -> Handle {
        let mut octets = [0; LENGTH];
        octets[..4].copy_from_slice(&name.node.to_be_bytes());
        octets[4..8].copy_from_slice(&name.generation.to_be_bytes());
        octets[8..16].copy_from_slice(&name.object.to_be_bytes());
        let mac = self.mac(&octets[..16]);
        octets[16..].copy_from_slice(&mac);
        Handle::new(&octets).unwrap_or_else(|| unreachable!("a handle has room for 64 octets"))
    }

    /// The name in a handle.
    ///
    /// # Errors
    /// `NFS3ERR_BADHANDLE` if it was not made with this key.
    pub fn open(&self, handle: &Handle) -> Result<Name> {
        let octets: &[u8; LENGTH] = handle.as_bytes().try_into().map_err(|_| Status::NFS3ERR_BADHANDLE)?;
        let difference =
            self.mac(&octets[..16]).iter().zip(&octets[16..]).fold(0, |sum, (a, b)| sum | (a ^ b));
        if difference != 0 {
            return Err(Status::NFS3ERR_BADHANDLE);
        }
        let number = |from: usize| {
            octets[from..from + 4].iter().fold(0_u32, |sum, &octet| sum << 8 | u32::from(octet))
        };
        Ok(Name {
            node: number(0),
            generation: number(4),
            object: u64::from(number(8)) << 32 | u64::from(number(12)),
        })
    }

    fn mac(&self, octets: &[u8]) -> [u8; MAC] {
        let mut mac = [0; MAC];
        mac.copy_from_slice(&blake3::keyed_hash(&self.0, octets).as_bytes()[..MAC]);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_makes_handles() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys/nfs-handle.key");
        let name = Name { node: 7, generation: 2, object: 1 << 40 };
        let handle = Key::load(&path).unwrap().seal(name);
        let key = Key::load(&path).unwrap();
        assert_eq!(key.open(&handle).unwrap(), name, "the key is kept");
        for at in 0..LENGTH {
            let mut octets: [u8; LENGTH] = handle.as_bytes().try_into().unwrap();
            octets[at] ^= 1;
            let forged = key.open(&Handle::new(&octets).unwrap());
            assert_eq!(forged.unwrap_err() as u32, Status::NFS3ERR_BADHANDLE as u32);
        }
        assert!(key.open(&Handle::new(&handle.as_bytes()[1..]).unwrap()).is_err());
        let mode = std::fs::metadata(&path).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o7777, 0o600);
    }
}
