//! A tree copied from this machine.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::{TimeSpec, TimeValLike};

use super::{BuildError, at};

/// What becomes of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// It is copied.
    All,
    /// A directory is copied without what is in it.
    Empty,
    /// It is left out.
    Nothing,
}

/// Copies the tree at `from` into the empty directory `to`, on one file system: owners, modes, times,
/// hard links and devices as they are. `keep` is asked for each path, relative to `from`.
pub fn tree(from: &Path, to: &Path, keep: &dyn Fn(&Path) -> Keep) -> Result<(), BuildError> {
    let found = fs::metadata(from).map_err(at(from))?;
    let mut copier = Copier { from, to, keep, device: found.dev(), links: HashMap::new() };
    copier.directory(Path::new(""))?;
    attributes(to, &found).map_err(at(to))
}

struct Copier<'a> {
    from: &'a Path,
    to: &'a Path,
    keep: &'a dyn Fn(&Path) -> Keep,
    device: u64,
    /// Where each inode with more than one name was copied first.
    links: HashMap<u64, PathBuf>,
}

impl Copier<'_> {
    fn directory(&mut self, path: &Path) -> Result<(), BuildError> {
        let from = self.from.join(path);
        for entry in fs::read_dir(&from).map_err(at(&from))? {
            let path = path.join(entry.map_err(at(&from))?.file_name());
            match (self.keep)(&path) {
                Keep::Nothing => {}
                keep => self.entry(&path, keep)?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, keep: Keep) -> Result<(), BuildError> {
        let (from, to) = (self.from.join(path), self.to.join(path));
        let found = match fs::symlink_metadata(&from) {
            // A system that is in use loses files while it is being copied.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(at(&from))?,
        };
        if found.is_dir() {
            fs::create_dir(&to).map_err(at(&to))?;
            if keep == Keep::All && found.dev() == self.device {
                self.directory(path)?;
            }
        } else if found.dev() != self.device || found.file_type().is_socket() {
            return Ok(());
        } else if let Some(first) = self.links.get(&found.ino()) {
            return fs::hard_link(self.to.join(first), &to).map_err(at(to));
        } else {
            self.file(&from, &to, &found)?;
            if found.nlink() > 1 {
                self.links.insert(found.ino(), path.to_owned());
            }
        }
        attributes(&to, &found).map_err(at(to))
    }

    fn file(&self, from: &Path, to: &Path, found: &fs::Metadata) -> Result<(), BuildError> {
        let kind = found.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(from).map_err(at(from))?;
            std::os::unix::fs::symlink(target, to).map_err(at(to))
        } else if kind.is_file() {
            fs::copy(from, to).map(drop).map_err(at(to))
        } else {
            let kind = SFlag::from_bits_truncate(found.mode() & SFlag::S_IFMT.bits());
            mknod(to, kind, Mode::S_IRUSR, found.rdev()).map_err(|error| at(to)(error.into()))
        }
    }
}

/// Owner, mode and times of `to` as those of `found`; the owner first, for changing it clears setuid.
fn attributes(to: &Path, found: &fs::Metadata) -> io::Result<()> {
    if found.is_symlink() {
        lchown(to, Some(found.uid()), Some(found.gid()))?;
    } else {
        chown(to, Some(found.uid()), Some(found.gid()))?;
        fs::set_permissions(to, fs::Permissions::from_mode(found.mode() & 0o7777))?;
    }
    let time = TimeSpec::seconds(found.mtime()) + TimeSpec::nanoseconds(found.mtime_nsec());
    Ok(utimensat(AT_FDCWD, to, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

/// Directories of a running system whose content is its own: what it runs, keeps for a while, or holds
/// for its users.
const EMPTIED: &[&str] = &[
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
    "var/tmp",
    "root",
    "home",
    "mnt",
    "media",
    "srv",
    "lost+found",
    "var/log",
    "var/crash",
    "var/mail",
    "var/backups",
    "var/cache/apt/archives",
    "var/lib/apt/lists",
    "var/lib/docker",
    "var/lib/containerd",
    "var/lib/containers",
    "var/lib/lxc",
    "var/lib/lxd",
    "var/lib/machines",
    "var/lib/libvirt",
    "var/lib/tesela",
    "var/lib/NetworkManager",
    "var/lib/dhcp",
    "var/lib/private",
    "var/lib/systemd/coredump",
    "var/lib/systemd/catalog",
    "var/spool/cron/crontabs",
    "etc/ssl/private",
    "etc/pki/tls/private",
    "etc/NetworkManager/system-connections",
    "etc/wireguard",
    "etc/openvpn",
    "etc/letsencrypt",
    "etc/ipsec.d/private",
    "etc/network/interfaces.d",
    "etc/netplan",
    "etc/systemd/network",
    "etc/libvirt",
];

/// Files that are this machine's own, or secret.
const LEFT_OUT: &[&str] = &[
    "etc/fstab",
    "etc/crypttab",
    "etc/mtab",
    "etc/machine-id",
    "etc/hostname",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/group-",
    "etc/security/opasswd",
    "etc/krb5.keytab",
    "etc/wpa_supplicant.conf",
    "etc/wpa_supplicant",
    "etc/ppp/chap-secrets",
    "etc/ppp/pap-secrets",
    "etc/ipsec.secrets",
    "etc/tesela",
    "etc/network/interfaces",
    "etc/initramfs-tools/conf.d/resume",
    "etc/udev/rules.d/70-persistent-net.rules",
    "etc/iscsi/initiatorname.iscsi",
    "etc/nvme/hostid",
    "etc/nvme/hostnqn",
    "etc/mdadm/mdadm.conf",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "swapfile",
    "swap.img",
    "swap.file",
    ".autorelabel",
];

/// What an image of this machine's own system takes of it; `state` (relative to its root) is ours.
pub fn of_host(path: &Path, state: Option<&Path>) -> Keep {
    let is = |list: &[&str]| list.iter().any(|name| path == Path::new(name));
    let name = path.file_name().unwrap_or_default();
    if state == Some(path) || is(EMPTIED) {
        Keep::Empty
    } else if is(LEFT_OUT) || is_private(path, name) {
        Keep::Nothing
    } else {
        Keep::All
    }
}

fn is_private(path: &Path, name: &OsStr) -> bool {
    let text = name.to_string_lossy();
    let host_key = path.parent() == Some(Path::new("etc/ssh")) && text.starts_with("ssh_host_");
    let users_keys = matches!(&*text, ".ssh" | ".gnupg" | ".netrc" | ".pgpass" | ".my.cnf" | "debian.cnf");
    let old_initramfs = path.parent() == Some(Path::new("boot")) && text.starts_with("initrd.img");
    let service_key = path.starts_with("etc")
        && matches!(path.extension().and_then(OsStr::to_str), Some("key" | "p12" | "pfx" | "keytab"));
    host_key || users_keys || old_initramfs || service_key
}

/// Takes private keys in PEM and the hashes of passwords out of the `etc` of a copied system.
pub fn without_secrets(root: &Path) -> Result<(), BuildError> {
    for name in ["shadow", "gshadow", "passwd"] {
        let path = root.join("etc").join(name);
        match fs::read_to_string(&path) {
            Ok(text) => fs::write(&path, locked(&text)).map_err(at(path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at(path)(error)),
        }
    }
    remove_pem_keys(&root.join("etc"))
}

/// Each account without its password: `!` for whatever was a hash, what locks an account stays.
fn locked(text: &str) -> String {
    let line = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        if let Some(password) = fields.get_mut(1)
            && !matches!(*password, "x" | "*" | "!" | "!*" | "!!")
        {
            *password = "!";
        }
        fields.join(":") + "\n"
    };
    text.lines().map(line).collect()
}

fn remove_pem_keys(folder: &Path) -> Result<(), BuildError> {
    const LARGEST: u64 = 256 * 1024;
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(at(folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(at(folder))?;
        let (path, found) = (entry.path(), entry.metadata().map_err(at(entry.path()))?);
        if found.is_dir() {
            remove_pem_keys(&path)?;
        } else if found.is_file() && found.len() <= LARGEST {
            let content = fs::read(&path).map_err(at(&path))?;
            if content.windows(16).any(|window| window == b"PRIVATE KEY-----") {
                fs::remove_file(&path).map_err(at(path))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_as_it_is_without_what_is_left_out() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = |name: &str| from.path().join(name);
        for folder in ["etc/ssh", "etc/app", "home/ana", "usr/bin", "var/lib/tesela/images"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        fs::write(path("etc/shadow"), "root:$6$abc:1::::::\nbin:*:1::::::\nno::1::::::\n").unwrap();
        fs::write(path("etc/ssh/ssh_host_rsa_key"), "k").unwrap();
        fs::write(path("etc/app/server.pem"), "-----BEGIN EC PRIVATE KEY-----\n").unwrap();
        fs::write(path("etc/app/conf"), "kept").unwrap();
        fs::write(path("etc/fstab"), "/dev/sda1 / ext4").unwrap();
        fs::write(path("home/ana/mail"), "").unwrap();
        fs::write(path("usr/bin/su"), "").unwrap();
        fs::set_permissions(path("usr/bin/su"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(path("usr/bin/su"), path("usr/bin/sg")).unwrap();
        tree(from.path(), to.path(), &|path| of_host(path, None)).unwrap();
        without_secrets(to.path()).unwrap();
        let copied = |name: &str| to.path().join(name);
        let shadow = fs::read_to_string(copied("etc/shadow")).unwrap();
        assert_eq!(shadow, "root:!:1::::::\nbin:*:1::::::\nno:!:1::::::\n");
        for gone in [
            "etc/ssh/ssh_host_rsa_key",
            "etc/app/server.pem",
            "etc/fstab",
            "home/ana",
            "var/lib/tesela/images",
        ] {
            assert!(!copied(gone).exists(), "{gone}");
        }
        assert!(
            copied("home").exists() && copied("var/lib/tesela").exists() && copied("etc/app/conf").exists()
        );
        let su = fs::metadata(copied("usr/bin/su")).unwrap();
        assert_eq!((su.mode() & 0o7777, su.nlink()), (0o4755, 2));
        assert_eq!(su.mtime_nsec(), fs::metadata(path("usr/bin/su")).unwrap().mtime_nsec());
    }
}
