//! The builds that are there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tesela_runtime::durable;

use super::{BuildError, BuildInfo, BuiltImage, at};

/// An image in `tesela image list`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageInfo {
    /// Its name.
    pub name: String,
    /// The build that nodes boot from; `None` where none was ever finished.
    pub current: Option<String>,
    /// All builds, the newest first.
    pub builds: Vec<(String, BuildInfo)>,
}

/// Where an image's builds are.
pub(super) fn folder(state: &Path, name: &str) -> Result<PathBuf, BuildError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(fine) {
        return Err(BuildError::Name(name.to_owned()));
    }
    Ok(state.join("images").join(name))
}

/// The build that nodes boot from; `None` where none was ever finished.
///
/// # Errors
/// A name that is none; a build whose `build.json` cannot be read.
pub fn current(state: &Path, name: &str) -> Result<Option<BuiltImage>, BuildError> {
    let folder = folder(state, name)?;
    let build = match fs::read_link(folder.join("current")) {
        Ok(link) => link.file_name().map(|name| name.to_string_lossy().into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(at(folder.join("current"))(error)),
    };
    let Some(build) = build else { return Ok(None) };
    let path = folder.join(&build);
    let info = read_info(&path)?;
    Ok(Some(BuiltImage { name: name.to_owned(), build, path, info, reused: true }))
}

/// All images, by name.
///
/// # Errors
/// A folder or a `build.json` that cannot be read.
pub fn list(state: &Path) -> Result<Vec<ImageInfo>, BuildError> {
    let folder = state.join("images");
    let mut images = Vec::new();
    for name in names(&folder)? {
        let path = folder.join(&name);
        let mut builds = Vec::new();
        for build in names(&path)? {
            if path.join(&build).is_dir() && build != "current" {
                builds.push((build.clone(), read_info(&path.join(&build))?));
            }
        }
        builds.sort_by_key(|(_, info)| std::cmp::Reverse(info.built_at));
        let current = current(state, &name)?.map(|image| image.build);
        images.push(ImageInfo { name, current, builds });
    }
    Ok(images)
}

/// Removes an image with all its builds. Whether a node still runs from it the caller knows.
///
/// # Errors
/// No such image; a build of it is running; a file that cannot be removed.
pub fn remove(state: &Path, name: &str) -> Result<(), BuildError> {
    let folder = folder(state, name)?;
    if !folder.is_dir() {
        return Err(BuildError::Unknown(name.to_owned()));
    }
    let _lock = super::build::lock(&folder, name)?;
    // Without the link no node boots from what is being removed.
    match fs::remove_file(folder.join("current")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(at(folder.join("current"))(error));
        }
        _ => {}
    }
    fs::remove_dir_all(&folder).map_err(at(folder))
}

/// Removes one build that is not the current one.
///
/// # Errors
/// No such build, or it is the current one.
pub fn remove_build(state: &Path, name: &str, build: &str) -> Result<(), BuildError> {
    let folder = folder(state, name)?;
    let is_current = current(state, name)?.is_some_and(|image| image.build == build);
    let path = folder.join(build);
    if is_current || build.contains('/') || build.starts_with('.') || !path.is_dir() {
        return Err(BuildError::Unknown(format!("{name}/{build}")));
    }
    let _lock = super::build::lock(&folder, name)?;
    discard(&folder, build)
}

/// Removes the builds that are neither current nor in `used`; gives their names.
///
/// # Errors
/// Those of [`list`] and [`remove_build`].
pub fn prune(state: &Path, name: &str, used: &dyn Fn(&str) -> bool) -> Result<Vec<String>, BuildError> {
    let images = list(state)?;
    let image = images.into_iter().find(|image| image.name == name);
    let image = image.ok_or_else(|| BuildError::Unknown(name.to_owned()))?;
    let mut removed = Vec::new();
    for (build, _) in image.builds {
        if image.current.as_deref() != Some(build.as_str()) && !used(&build) {
            remove_build(state, name, &build)?;
            removed.push(build);
        }
    }
    Ok(removed)
}

/// Renames first, so that a build is never there in part.
fn discard(folder: &Path, build: &str) -> Result<(), BuildError> {
    let beside = folder.join(format!(".building-removed-{build}"));
    fs::rename(folder.join(build), &beside).map_err(at(folder.join(build)))?;
    fs::remove_dir_all(&beside).map_err(at(beside))
}

pub(super) fn read_info(build: &Path) -> Result<BuildInfo, BuildError> {
    let path = build.join("build.json");
    let text = fs::read(&path).map_err(at(&path))?;
    serde_json::from_slice(&text).map_err(|error| at(path)(io::Error::new(io::ErrorKind::InvalidData, error)))
}

pub(super) fn write_info(build: &Path, info: &BuildInfo) -> Result<(), BuildError> {
    let path = build.join("build.json");
    let text = serde_json::to_vec_pretty(info).map_err(io::Error::other);
    text.and_then(|text| durable::replace(&path, &text, Some(0o644))).map_err(at(path))
}

fn names(folder: &Path) -> Result<Vec<String>, BuildError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(at(folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(
            entry.map_err(at(folder))?.file_name().into_string().ok().filter(|name| !name.starts_with('.')),
        );
    }
    names.sort();
    Ok(names)
}
