use std::path::{Path, PathBuf};
pub struct Built { pub id: String, pub squashfs_sha256: Option<String> }
pub fn current(state: &Path, name: &str) -> std::io::Result<Option<Built>> {
    let link = state.join("images").join(name).join("current");
    match std::fs::read_link(link) {
        Ok(t) => Ok(Some(Built { id: t.to_string_lossy().into_owned(), squashfs_sha256: None })),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
pub struct Loaders { pub ipxe_bios: PathBuf, pub ipxe_efi: PathBuf, pub shim: PathBuf, pub grub: PathBuf }
pub fn loaders() -> std::io::Result<Loaders> {
    Ok(Loaders { ipxe_bios: "/usr/lib/ipxe/undionly.kpxe".into(), ipxe_efi: "/usr/lib/ipxe/ipxe.efi".into(), shim: "/usr/lib/shim/shimx64.efi.signed".into(), grub: "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed".into() })
}
