//! What any system needs changed to run without a disk.

use std::io;
use std::path::Path;

use super::{BuildError, ExtraFile, FileContent, at};
use crate::rooted::Rooted;

/// Units that have nothing to do on a diskless node, or would do harm; masked in `/etc/systemd/system`.
const MASKED: &[&str] = &[
    // The interface of the root is up before systemd is, and no other is waited for.
    "systemd-networkd-wait-online.service",
    "NetworkManager-wait-online.service",
    "ifupdown-wait-online.service",
    // They would change an image that is shared, behind the back of its build, on all nodes at once.
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "unattended-upgrades.service",
    "dpkg-db-backup.timer",
    "man-db.timer",
    // They look after file systems on local disks, which are none of ours.
    "fstrim.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "mdmonitor.service",
    "mdcheck_start.timer",
    "mdcheck_continue.timer",
    "lvm2-monitor.service",
    "zfs-import-cache.service",
    "zfs-import-scan.service",
    "systemd-remount-fs.service",
    // It would make partitions on a local disk, and has device mapper and loop loaded for that.
    "systemd-repart.service",
    // For logind; a graphics driver brings drm with it, and without one nothing has a use for it.
    "modprobe@drm.service",
    // The journal stays in memory (below), and there is nothing to flush.
    "systemd-journal-flush.service",
    // Host keys are made in memory and signed at each boot.
    "sshd-keygen.service",
    "regenerate_ssh_host_keys.service",
    // A seed that the master holds is no secret; the kernel has better ones (CPU, virtio-rng, timing).
    "systemd-random-seed.service",
    // A machine-id is rendered for each node.
    "systemd-machine-id-commit.service",
    "systemd-firstboot.service",
];

/// Generators and udev rules that find file systems, swap and arrays on local disks, which a node never
/// touches; replaced by links to /dev/null.
const NO_DISKS: &[&str] = &[
    "etc/systemd/system-generators/systemd-gpt-auto-generator",
    "etc/systemd/system-generators/systemd-hibernate-resume-generator",
    "etc/systemd/system-generators/lvm2-activation-generator",
    "etc/systemd/system-generators/zfs-mount-generator",
    "etc/udev/rules.d/64-md-raid-assembly.rules",
    "etc/udev/rules.d/69-lvm.rules",
    "etc/udev/rules.d/69-lvm-metad.rules",
    "etc/udev/rules.d/69-bcache.rules",
    "etc/udev/rules.d/64-btrfs.rules",
    "etc/udev/rules.d/90-zfs.rules",
];

/// Emptied: what the packages left on their way.
const EMPTIED: &[&str] = &["tmp", "var/tmp", "run", "var/cache/apt", "var/lib/apt/lists", "var/log/apt"];

/// Removed: what belongs to one machine, keys above all, and what nodes do not boot from.
const REMOVED: &[&str] = &[
    "etc/fstab",
    "etc/crypttab",
    "etc/initramfs-tools/conf.d/resume",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "etc/hostname",
    "etc/resolv.conf",
    ".dockerenv",
];

/// Written in place of what is there.
const WRITTEN: &[(&str, &str)] = &[
    ("etc/fstab", "# The root of a diskless node is mounted before systemd starts.\n"),
    ("etc/machine-id", ""),
    ("etc/hostname", "localhost\n"),
    // The journal stays in memory: on the root it would be most of what a node writes, and slow its boot.
    ("etc/systemd/journald.conf.d/10-tesela.conf", "[Journal]\nStorage=volatile\nRuntimeMaxUse=64M\n"),
    // ifupdown knows no way to be told at boot to leave an interface alone.
    (
        "etc/network/interfaces",
        "# The boot interface is up before systemd is; do not name it here.\nauto lo\niface lo inet loopback\n",
    ),
];

/// Makes a tree fit to be the root of diskless nodes.
pub fn apply(root: &Rooted) -> Result<(), BuildError> {
    let file = |path: &str| at(root.path().join(path));
    for path in EMPTIED {
        root.empty(path).map_err(file(path))?;
    }
    for path in REMOVED {
        root.remove(path).map_err(file(path))?;
    }
    remove_starting(root, "etc/ssh", "ssh_host_")?;
    remove_starting(root, "boot", "initrd.img")?;
    for (path, text) in WRITTEN {
        root.write(path, text.as_bytes(), 0o644).map_err(file(path))?;
    }
    for unit in MASKED {
        let path = format!("etc/systemd/system/{unit}");
        root.symlink("/dev/null", &path).map_err(file(&path))?;
    }
    for path in NO_DISKS {
        root.symlink("/dev/null", path).map_err(file(path))?;
    }
    for folder in ["proc", "sys", "dev", "run", "tmp", "var/tmp", "root", "mnt"] {
        root.create_dir_all(folder).map_err(file(folder))?;
    }
    up_to_date(root)
}

/// Tells systemd that `/etc` and `/var` go with this `/usr`: it would otherwise build its caches (hardware
/// database, dynamic linker, users) anew on every node's first boot.
fn up_to_date(root: &Rooted) -> Result<(), BuildError> {
    const STAMP: &[u8] =
        b"# Written when the image was built; see systemd-update-done.service(8).\nTIMESTAMP_NSEC=";
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    for path in ["etc/.updated", "var/.updated"] {
        let content = [STAMP, nanos.to_string().as_bytes(), b"\n"].concat();
        root.write(path, &content, 0o644).map_err(at(root.path().join(path)))?;
    }
    Ok(())
}

fn remove_starting(root: &Rooted, folder: &str, prefix: &str) -> Result<(), BuildError> {
    let names = match root.names(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        other => other.map_err(at(root.path().join(folder)))?,
    };
    for name in names.into_iter().filter(|name| name.starts_with(prefix)) {
        let path = format!("{folder}/{name}");
        root.remove(&path).map_err(at(root.path().join(path)))?;
    }
    Ok(())
}

/// Puts the files of the spec into the tree.
pub fn add(root: &Rooted, files: &[ExtraFile]) -> Result<(), BuildError> {
    for file in files {
        let failed =
            || at(root.path().join(Path::new(&file.path).strip_prefix("/").unwrap_or(file.path.as_ref())));
        match &file.content {
            FileContent::Text(text) => root.write(&file.path, text.as_bytes(), file.mode).map_err(failed())?,
            FileContent::Link(target) => root.symlink(target, &file.path).map_err(failed())?,
            FileContent::CopyOf(source) => {
                let content = std::fs::read(source).map_err(at(source))?;
                root.write(&file.path, &content, file.mode).map_err(failed())?;
            }
        }
    }
    Ok(())
}
