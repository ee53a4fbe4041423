//! Archives: plain tar, `docker save`, OCI; each also compressed.
//!
//! Nothing in an archive is trusted. A path with `..` is refused; a leading `/` means the image's root;
//! every other path is resolved by the kernel with the image as its root ([`Rooted`]), so that no
//! symbolic link made by an earlier entry leads a later one out. Blobs of an OCI archive must have the
//! digest that they are named by.
//!
//! Limits: the sparse formats of GNU tar in PAX headers are refused; of several platforms linux/amd64 is
//! taken.

mod container;
mod layer;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use crate::rooted::Rooted;

/// Why an archive cannot be taken. The archive is at fault, but for [`ArchiveError::Io`].
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A path that leads out of the image.
    #[error("the archive names `{0}`, which leads out of the image")]
    Escapes(String),
    /// An entry that cannot be unpacked.
    #[error("`{path}` in the archive: {problem}")]
    Entry {
        /// Its path.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The parts of a container archive do not go together.
    #[error("the container archive cannot be read: {0}")]
    Container(String),
    /// The archive or the disk.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Files with their lost extended attributes.
pub type Lost = Vec<(String, Vec<String>)>;

/// Unpacks the archive into `root`, which is empty; `scratch` is a folder for the parts of a container
/// archive, and need not be there. Gives what could not be kept.
pub fn unpack(path: &Path, root: &Rooted, scratch: &Path) -> Result<Lost, ArchiveError> {
    let failed = |error| ArchiveError::Io { path: path.to_owned(), error };
    if is_container(open(path)?).map_err(failed)? {
        return container::unpack(path, root, scratch);
    }
    let mut lost = Lost::new();
    layer::unpack(open(path)?, root, &mut lost).map_err(|error| name_file(error, path))?;
    Ok(lost)
}

/// Whether a tar holds a container image: `docker save` and OCI both say so by a file at the top.
fn is_container(reader: Box<dyn Read>) -> io::Result<bool> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?;
        let path = path.strip_prefix(".").unwrap_or(&path);
        let marks = [Path::new("oci-layout"), Path::new("manifest.json")];
        if marks.contains(&path) && entry.header().entry_type().is_file() {
            return Ok(true);
        }
        // A system has thousands of files, and a container archive a few blobs.
        if path.starts_with("etc") || path.starts_with("usr") {
            return Ok(false);
        }
    }
    Ok(false)
}

/// Opens a tar, whatever it is compressed by.
fn open(path: &Path) -> Result<Box<dyn Read>, ArchiveError> {
    let open = || -> io::Result<Box<dyn Read>> {
        let mut file = File::open(path)?;
        let mut magic = [0; 6];
        let length = file.read(&mut magic)?;
        file.rewind()?;
        Ok(match &magic[..length] {
            [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::new(file)?),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(Filter::start("xz", file)?),
            [b'B', b'Z', b'h', ..] => Box::new(Filter::start("bzip2", file)?),
            _ => Box::new(BufReader::with_capacity(256 * 1024, file)),
        })
    };
    open().map_err(|error| ArchiveError::Io { path: path.to_owned(), error })
}

/// A program that decompresses its standard input.
struct Filter {
    child: std::process::Child,
    program: &'static str,
}

impl Filter {
    fn start(program: &'static str, file: File) -> io::Result<Self> {
        let child =
            Command::new(program).arg("-dc").stdin(file).stdout(Stdio::piped()).spawn().map_err(|error| {
                io::Error::new(error.kind(), format!("`{program}`, which is to decompress it: {error}"))
            })?;
        Ok(Self { child, program })
    }
}

impl Read for Filter {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.child.stdout {
            Some(stdout) => stdout.read(buffer)?,
            None => 0,
        };
        if read == 0 && !buffer.is_empty() && !self.child.wait()?.success() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} cannot decompress it", self.program),
            ));
        }
        Ok(read)
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // One that is still writing ends by the closed pipe; one that has ended is only taken leave of.
        self.child.stdout = None;
        let _ = self.child.wait();
    }
}

/// A path in an archive as a relative path without `.` and `..`; empty for the root itself.
fn clean(path: &Path) -> Result<PathBuf, ArchiveError> {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(ArchiveError::Escapes(path.display().to_string()));
            }
        }
    }
    Ok(cleaned)
}

/// Names the archive where an error knows only that reading failed.
fn name_file(error: ArchiveError, file: &Path) -> ArchiveError {
    match error {
        ArchiveError::Io { path, error } if path.as_os_str().is_empty() => {
            ArchiveError::Io { path: file.to_owned(), error }
        }
        other => other,
    }
}

/// What a fuzzer feeds: an archive's entries read and their paths resolved, and its manifests parsed,
/// with nothing written.
pub fn fuzz(data: &[u8]) {
    let _ = layer::entries(data, &mut |entry, content| {
        for path in [Some(&entry.path), entry.link_inside()].into_iter().flatten() {
            assert!(
                path.components().all(|part| matches!(part, Component::Normal(_))),
                "{path:?} is not clean"
            );
        }
        // The content of an entry ends with it, whatever its header says.
        io::copy(content, &mut io::sink()).map(drop).map_err(layer::reading)
    });
    let _ = is_container(Box::new(io::Cursor::new(data.to_vec())));
    let _ = container::parse_index(data);
    let _ = container::parse_docker(data);
    let _ = container::parse_manifest(data);
}

#[cfg(test)]
mod tests;
