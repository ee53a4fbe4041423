//! Container images: `docker save` (manifest.json) and OCI image layouts (index.json), in a tar.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{ArchiveError, Lost, clean, layer, name_file, open};
use crate::rooted::Rooted;

/// Files that are read whole, such as manifests, are smaller.
const LARGEST_JSON: u64 = 8 * 1024 * 1024;
/// Indexes may name indexes, but not for ever.
const DEEPEST: u32 = 4;

#[derive(Debug, Deserialize)]
struct DockerImage {
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    media_type: String,
}

#[derive(Debug, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

/// An OCI index or manifest: which one, the fields tell.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// Reads `manifest.json`; gives the layers of its one image, the lowest first.
pub fn parse_docker(json: &[u8]) -> Result<Vec<String>, ArchiveError> {
    let images: Vec<DockerImage> =
        serde_json::from_slice(json).map_err(|error| broken(format!("manifest.json: {error}")))?;
    match <[DockerImage; 1]>::try_from(images) {
        Ok([image]) => Ok(image.layers),
        Err(images) => {
            Err(broken(format!("it holds {} images, and one is due; save one alone", images.len())))
        }
    }
}

/// Reads an index; gives the path of the manifest or index to go on with.
pub fn parse_index(json: &[u8]) -> Result<String, ArchiveError> {
    let index = parse_manifest(json)?;
    let fits = |one: &&Descriptor| {
        one.platform
            .as_ref()
            .is_none_or(|platform| platform.os == "linux" && platform.architecture == "amd64")
    };
    let mut fitting = index.manifests.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => blob(&one.digest),
        (None, _) => Err(broken("it has no image for linux/amd64".into())),
        (Some(_), Some(_)) => Err(broken("it holds more than one image; save one alone".into())),
    }
}

/// Reads an index or a manifest.
pub fn parse_manifest(json: &[u8]) -> Result<Manifest, ArchiveError> {
    serde_json::from_slice(json).map_err(|error| broken(error.to_string()))
}

fn broken(what: String) -> ArchiveError {
    ArchiveError::Container(what)
}

/// Where the blob of a digest lies in an image layout.
fn blob(digest: &str) -> Result<String, ArchiveError> {
    match digest.split_once(':') {
        Some(("sha256", hex)) if hex.len() == 64 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            Ok(format!("blobs/sha256/{hex}"))
        }
        _ => Err(broken(format!("`{digest}` is not a SHA-256 digest"))),
    }
}

/// Unpacks the image in the archive at `path`, layer on layer.
pub fn unpack(path: &Path, root: &Rooted, scratch: &Path) -> Result<Lost, ArchiveError> {
    let parts = Parts::take_apart(path, scratch)?;
    let layers = match parts.json("manifest.json") {
        Some(json) => parse_docker(&json?)?,
        None => parts.oci_layers()?,
    };
    let mut lost = Lost::new();
    for name in layers {
        let file = parts.file(&name)?;
        layer::whiteouts(open(file)?, root).map_err(|error| name_file(error, Path::new(&name)))?;
        layer::unpack(open(file)?, root, &mut lost).map_err(|error| name_file(error, Path::new(&name)))?;
    }
    Ok(lost)
}

/// The files of a container archive, each in a file of our own naming.
struct Parts(BTreeMap<PathBuf, PathBuf>);

impl Parts {
    fn take_apart(path: &Path, scratch: &Path) -> Result<Self, ArchiveError> {
        let on_disk = |error| ArchiveError::Io { path: scratch.to_owned(), error };
        fs::create_dir_all(scratch).map_err(on_disk)?;
        let mut parts = BTreeMap::new();
        let mut links = Vec::new();
        let mut archive = tar::Archive::new(open(path)?);
        let failed = |error| ArchiveError::Io { path: path.to_owned(), error };
        for entry in archive.entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            let name = clean(&entry.path().map_err(failed)?)?;
            if entry.header().entry_type().is_symlink() {
                // docker save of old names a layer that two images share by a link beside it.
                let target = entry.link_name().map_err(failed)?.unwrap_or_default().into_owned();
                links.push((name, target));
            } else if entry.header().entry_type().is_file() {
                let own = scratch.join(parts.len().to_string());
                let digest = copy(&mut entry, &own).map_err(on_disk)?;
                if let Ok(named) = name.strip_prefix("blobs/sha256")
                    && named != Path::new(&digest)
                {
                    return Err(broken(format!(
                        "the blob {} is damaged: its digest is {digest}",
                        named.display()
                    )));
                }
                parts.insert(name, own);
            }
        }
        for (name, target) in links {
            let folder = name.parent().unwrap_or(Path::new(""));
            let Some(target) = resolve(folder, &target) else { continue };
            if let Some(own) = parts.get(&target).cloned() {
                parts.insert(name, own);
            }
        }
        Ok(Self(parts))
    }

    fn file(&self, name: &str) -> Result<&Path, ArchiveError> {
        let found = self.0.get(&clean(Path::new(name))?);
        found.map(PathBuf::as_path).ok_or_else(|| broken(format!("`{name}` is named, but not in it")))
    }

    fn json(&self, name: &str) -> Option<Result<Vec<u8>, ArchiveError>> {
        let path = self.0.get(Path::new(name))?;
        let read = || {
            let mut json = Vec::new();
            File::open(path)?.take(LARGEST_JSON).read_to_end(&mut json)?;
            Ok(json)
        };
        Some(read().map_err(|error| ArchiveError::Io { path: path.clone(), error }))
    }

    fn oci_layers(&self) -> Result<Vec<String>, ArchiveError> {
        let mut name = "index.json".to_owned();
        for _ in 0..DEEPEST {
            let json =
                self.json(&name).ok_or_else(|| broken(format!("`{name}` is named, but not in it")))??;
            let manifest = parse_manifest(&json)?;
            if manifest.manifests.is_empty() {
                let encrypted = manifest.layers.iter().find(|layer| layer.media_type.contains("encrypted"));
                if encrypted.is_some() {
                    return Err(broken("its layers are encrypted".into()));
                }
                return manifest.layers.iter().map(|layer| blob(&layer.digest)).collect();
            }
            name = parse_index(&json)?;
        }
        Err(broken("its indexes name each other".into()))
    }
}

/// The path that a relative link in `folder` means; `None` where that lies outside.
fn resolve(folder: &Path, target: &Path) -> Option<PathBuf> {
    let mut path = folder.to_owned();
    for component in target.components() {
        match component {
            std::path::Component::Normal(name) => path.push(name),
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => path.pop().then_some(())?,
            _ => return None,
        }
    }
    Some(path)
}

/// Copies an entry into a file; gives the SHA-256 in hexadecimal.
fn copy(from: &mut impl Read, to: &Path) -> io::Result<String> {
    let mut file = File::create(to)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(hash.finalize().iter().map(|octet| format!("{octet:02x}")).collect());
        }
        hash.update(&buffer[..length]);
        io::Write::write_all(&mut file, &buffer[..length])?;
    }
}
