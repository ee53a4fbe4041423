//! The boot loaders that Debian's packages bring, signed where Secure Boot wants it.

use std::path::{Path, PathBuf};

/// A boot loader that a machine's firmware is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootLoader {
    /// iPXE for BIOS.
    Undionly,
    /// iPXE for UEFI.
    IpxeEfi,
    /// shim, signed by Microsoft.
    Shim,
    /// GRUB with network drivers, signed by Debian.
    Grub,
}

/// Loaders that are missing on the master.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the master lacks boot loaders: {}. Install them: apt install {}", .files.join(", "), .packages.join(" "))]
pub struct MissingLoaders {
    /// The files, each with whom it boots.
    pub files: Vec<String>,
    /// The Debian packages that have them.
    pub packages: Vec<&'static str>,
}

impl BootLoader {
    const ALL: [Self; 4] = [Self::Undionly, Self::IpxeEfi, Self::Shim, Self::Grub];

    /// Below the root, and the package that puts it there.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Undionly => ("usr/lib/ipxe/undionly.kpxe", "ipxe"),
            Self::IpxeEfi => ("usr/lib/ipxe/ipxe.efi", "ipxe"),
            Self::Shim => ("usr/lib/shim/shimx64.efi.signed", "shim-signed"),
            Self::Grub => ("usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed", "grub-efi-amd64-signed"),
        }
    }

    fn boots(self) -> &'static str {
        match self {
            Self::Undionly => "machines with a BIOS",
            Self::IpxeEfi => "UEFI by HTTP, beside another DHCP server, and `loader: ipxe`",
            Self::Shim | Self::Grub => "UEFI",
        }
    }

    /// Where Debian's package put it.
    ///
    /// # Errors
    /// It is not there.
    pub fn find(self) -> Result<PathBuf, MissingLoaders> {
        found(Path::new("/"), &[self])?;
        Ok(Path::new("/").join(self.place().0))
    }
}

/// Whether all loaders are on this machine.
///
/// # Errors
/// Names what is missing, and the packages to install.
pub fn complete() -> Result<(), MissingLoaders> {
    found(Path::new("/"), &BootLoader::ALL)
}

fn found(root: &Path, loaders: &[BootLoader]) -> Result<(), MissingLoaders> {
    let mut missing = MissingLoaders { files: Vec::new(), packages: Vec::new() };
    for loader in loaders {
        let (file, package) = loader.place();
        if !root.join(file).is_file() {
            missing.files.push(format!("/{file} (for {})", loader.boots()));
            missing.packages.push(package);
        }
    }
    missing.packages.dedup();
    if missing.files.is_empty() { Ok(()) } else { Err(missing) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let folder = tempfile::tempdir().unwrap();
        let look = |loaders: &[BootLoader]| found(folder.path(), loaders);
        let error = look(&BootLoader::ALL).unwrap_err();
        assert_eq!(error.packages, ["ipxe", "shim-signed", "grub-efi-amd64-signed"]);
        assert!(error.to_string().contains("apt install ipxe shim-signed"), "{error}");
        for loader in BootLoader::ALL {
            let error = look(&[loader]).unwrap_err();
            assert_eq!((error.files.len(), &error.packages[..]), (1, &[loader.place().1][..]));
            let path = folder.path().join(loader.place().0);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
            // What is there is handed out, whatever else is not.
            assert_eq!(look(&[loader]), Ok(()));
        }
        assert_eq!(look(&BootLoader::ALL), Ok(()));
    }
}
