//! The kernel in an image and its modules.

use std::cmp::Ordering;
use std::io;

use crate::rooted::Rooted;

/// A kernel and where its parts are, as paths in the image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// `uname -r`.
    pub version: String,
    /// The kernel itself.
    pub image: String,
    /// The folder of its modules.
    pub modules: String,
}

/// Why an image cannot boot. The image is at fault.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// There is none at all.
    #[error(
        "the image has no kernel: neither /boot/vmlinuz-* nor /lib/modules/*/vmlinuz is there. \
         Add the package linux-image-amd64 to the image (`packages: [linux-image-amd64]`)"
    )]
    NoKernel,
    /// There are kernels, but the modules of none.
    #[error(
        "the image has the kernel {0}, but no /lib/modules/{0}/modules.dep. Install the package of the \
         kernel whole, or run `depmod {0}` in a post-install hook"
    )]
    NoModules(String),
    /// The image cannot be read.
    #[error("looking for a kernel in the image: {0}")]
    Io(#[from] io::Error),
}

/// Finds the newest kernel that has its modules.
///
/// # Errors
/// None there, or none that is whole.
pub fn find(root: &Rooted) -> Result<Kernel, KernelError> {
    let mut found = Vec::new();
    for name in names(root, "boot")? {
        if let Some(version) = name.strip_prefix("vmlinuz-") {
            found.push((version.to_owned(), format!("boot/{name}")));
        }
    }
    for version in names(root, "lib/modules")? {
        let image = format!("lib/modules/{version}/vmlinuz");
        if root.exists(&image) {
            found.push((version, image));
        }
    }
    found.sort_by(|a, b| compare_versions(&a.0, &b.0));
    let Some((newest, _)) = found.last().cloned() else { return Err(KernelError::NoKernel) };
    for (version, image) in found.into_iter().rev() {
        let modules = format!("lib/modules/{version}");
        if root.exists(format!("{modules}/modules.dep")) {
            return Ok(Kernel { version, image, modules });
        }
    }
    Err(KernelError::NoModules(newest))
}

fn names(root: &Rooted, folder: &str) -> io::Result<Vec<String>> {
    match root.names(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        other => other,
    }
}

/// Orders versions with their numbers as numbers: 6.1.0-9 before 6.1.0-10.
fn compare_versions(a: &str, b: &str) -> Ordering {
    let key = |text: &str| {
        let mut parts: Vec<(u64, String)> = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let number = rest[..digits].parse().unwrap_or(0);
            rest = &rest[digits..];
            let word = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            parts.push((number, rest[..word].to_owned()));
            rest = &rest[word..];
        }
        parts
    };
    key(a).cmp(&key(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_with_modules_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let root = Rooted::open(folder.path()).unwrap();
        assert!(matches!(find(&root), Err(KernelError::NoKernel)));
        for version in ["6.1.0-9-amd64", "6.1.0-10-amd64", "6.1.0-11-amd64"] {
            root.write(format!("boot/vmlinuz-{version}"), b"", 0o644).unwrap();
        }
        let error = find(&root).unwrap_err().to_string();
        assert!(error.contains("6.1.0-11-amd64"), "{error}");
        for version in ["6.1.0-9-amd64", "6.1.0-10-amd64"] {
            root.write(format!("usr/lib/modules/{version}/modules.dep"), b"", 0o644).unwrap();
        }
        root.symlink("/usr/lib", "lib").unwrap();
        assert_eq!(find(&root).unwrap().version, "6.1.0-10-amd64");
    }
}
