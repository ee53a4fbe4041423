//! Of what an image is made: the same digest, the same image.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{BuildError, FileContent, ImageSpec, Source, at};

/// Raised when the builder makes something else of the same inputs.
const BUILDER: u32 = 2;

/// The digest of all that `spec` makes an image of.
///
/// Files of the master's count by content; a directory by the names, sizes, owners, modes and times in
/// it. This machine's own system counts by its package database and by what lies in the folders that
/// its administrator changes, for it never stands still as a whole.
pub fn of(spec: &ImageSpec) -> Result<String, BuildError> {
    let mut hasher = blake3::Hasher::new();
    // Whether a squashfs is wanted, and whether to build anyway, make no other image.
    let described = ImageSpec { squashfs: false, refresh: false, ..spec.clone() };
    let json = serde_json::to_vec(&described).map_err(|error| at("the image's description")(error.into()))?;
    hasher.update(&BUILDER.to_le_bytes()).update(&json);
    if let Some(hook) = &spec.post_install {
        file(&mut hasher, hook)?;
    }
    for extra in &spec.extra {
        if let FileContent::CopyOf(path) = &extra.content {
            file(&mut hasher, path)?;
        }
    }
    match &spec.source {
        Source::Debian(_) => {}
        Source::Archive(path) => file(&mut hasher, path)?,
        Source::Directory(path) => tree(&mut hasher, path)?,
        Source::Host(root) => {
            for path in ["var/lib/dpkg/status", "etc", "usr/local", "opt"] {
                let path = root.join(path);
                match fs::symlink_metadata(&path) {
                    Ok(found) if found.is_dir() => tree(&mut hasher, &path)?,
                    Ok(_) => file(&mut hasher, &path)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(at(path)(error)),
                }
            }
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The digest of one file's content.
pub fn of_file(path: &Path) -> Result<String, BuildError> {
    let mut hasher = blake3::Hasher::new();
    file(&mut hasher, path)?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn file(hasher: &mut blake3::Hasher, path: &Path) -> Result<(), BuildError> {
    let content = File::open(path).and_then(|file| hasher.update_reader(file).map(drop));
    content.map_err(at(path))?;
    // What follows must not pass for the file's end.
    hasher.update(b"\0end");
    Ok(())
}

fn tree(hasher: &mut blake3::Hasher, folder: &Path) -> Result<(), BuildError> {
    let mut entries =
        fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(at(folder))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let found = fs::symlink_metadata(&path).map_err(at(&path))?;
        hasher.update(path.as_os_str().as_encoded_bytes());
        let numbers = [
            u64::from(found.mode()),
            u64::from(found.uid()),
            u64::from(found.gid()),
            found.size(),
            found.rdev(),
        ];
        for number in numbers {
            hasher.update(&number.to_le_bytes());
        }
        if found.is_dir() {
            tree(hasher, &path)?;
        } else {
            hasher.update(&found.mtime().to_le_bytes()).update(&found.mtime_nsec().to_le_bytes());
        }
    }
    hasher.update(b"\0up");
    Ok(())
}
