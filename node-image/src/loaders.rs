//! The boot loaders that Debian's packages bring, signed where Secure Boot wants it.

use std::path::{Path, PathBuf};

/// The loaders on this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaders {
    /// iPXE for BIOS.
    pub undionly: PathBuf,
    /// iPXE for UEFI.
    pub ipxe_efi: PathBuf,
    /// shim, signed by Microsoft.
    pub shim: PathBuf,
    /// GRUB with network drivers, signed by Debian.
    pub grub: PathBuf,
}

/// Loaders that are missing on the master.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the master lacks boot loaders: {}. Install them: apt install {}", .files.join(", "), .packages.join(" "))]
pub struct MissingLoaders {
    /// The files.
    pub files: Vec<String>,
    /// The Debian packages that have them.
    pub packages: Vec<&'static str>,
}

const PLACES: [(&str, &str); 4] = [
    ("usr/lib/ipxe/undionly.kpxe", "ipxe"),
    ("usr/lib/ipxe/ipxe.efi", "ipxe"),
    ("usr/lib/shim/shimx64.efi.signed", "shim-signed"),
    ("usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed", "grub-efi-amd64-signed"),
];

/// Finds the loaders where Debian's packages put them.
///
/// # Errors
/// Names what is missing, and the packages to install.
pub fn loaders() -> Result<Loaders, MissingLoaders> {
    below(Path::new("/"))
}

fn below(root: &Path) -> Result<Loaders, MissingLoaders> {
    let paths = PLACES.map(|(file, _)| root.join(file));
    let mut missing = MissingLoaders { files: Vec::new(), packages: Vec::new() };
    for (path, (file, package)) in paths.iter().zip(PLACES) {
        if !path.is_file() {
            missing.files.push(format!("/{file}"));
            missing.packages.push(package);
        }
    }
    missing.packages.dedup();
    if !missing.files.is_empty() {
        return Err(missing);
    }
    let [undionly, ipxe_efi, shim, grub] = paths;
    Ok(Loaders { undionly, ipxe_efi, shim, grub })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let folder = tempfile::tempdir().unwrap();
        let error = below(folder.path()).unwrap_err();
        assert_eq!(error.packages, ["ipxe", "shim-signed", "grub-efi-amd64-signed"]);
        assert!(error.to_string().contains("apt install ipxe shim-signed"), "{error}");
        for (file, _) in PLACES {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        assert_eq!(below(folder.path()).unwrap().undionly, folder.path().join(PLACES[0].0));
    }
}
