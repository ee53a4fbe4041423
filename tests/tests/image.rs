//! Images built from trees and archives that the tests make, with a kernel in name only.
//!
//! Run as root: an image holds files of any owner, and one test mounts a small file system to fill it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tesela_node_image::image::{
    BuildError, BuiltImage, ExtraFile, FileContent, ImageSpec, Progress, Source, build, current, list, prune,
    remove,
};
use tesela_node_image::index::Index;

/// A state directory, a program that passes for stage1, and a tree with a kernel.
struct Trial {
    folder: tempfile::TempDir,
}

impl Trial {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let trial = Self { folder };
        fs::create_dir_all(trial.path("state")).unwrap();
        fs::write(trial.path("stage1"), "stage1").unwrap();
        let tree = trial.path("tree");
        for name in ["etc/ssh", "usr/bin", "usr/lib/modules/6.1/k", "boot", "home/ana"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        symlink("usr/lib", tree.join("lib")).unwrap();
        fs::write(tree.join("boot/vmlinuz-6.1"), "kernel").unwrap();
        fs::write(tree.join("usr/lib/modules/6.1/modules.dep"), "k/virtio_net.ko:\n").unwrap();
        let builtin = "k/nfs.ko\nk/nfsv3.ko\nk/loop.ko\nk/squashfs.ko\nk/overlay.ko\n";
        fs::write(tree.join("usr/lib/modules/6.1/modules.builtin"), builtin).unwrap();
        fs::write(tree.join("usr/lib/modules/6.1/k/virtio_net.ko"), "module").unwrap();
        fs::write(tree.join("usr/bin/passwd"), "program").unwrap();
        fs::set_permissions(tree.join("usr/bin/passwd"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::write(tree.join("etc/ssh/ssh_host_ed25519_key"), "secret").unwrap();
        fs::write(tree.join("etc/shadow"), "root:$y$hash:1:0:99999:7:::\n").unwrap();
        fs::write(tree.join("etc/fstab"), "/dev/sda1 / ext4 defaults 0 1\n").unwrap();
        fs::write(tree.join("home/ana/letter"), "private").unwrap();
        trial
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spec(&self, source: Source) -> ImageSpec {
        ImageSpec {
            name: "base".into(),
            source,
            packages: Vec::new(),
            post_install: None,
            mirror: None,
            extra: Vec::new(),
            squashfs: false,
            refresh: false,
        }
    }

    fn directory(&self) -> ImageSpec {
        self.spec(Source::Directory(self.path("tree")))
    }

    fn build(&self, spec: &ImageSpec) -> Result<BuiltImage, BuildError> {
        build(spec, &self.path("state"), &self.path("stage1"), &mut |_: Progress| {})
    }

    fn leftovers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("state/images/base")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".building")).collect()
    }
}

#[test]
fn an_image_of_a_directory_and_when_it_is_built_again() {
    let trial = Trial::new();
    let mut spec = trial.directory();
    spec.extra = vec![ExtraFile {
        path: "/usr/sbin/teselad".into(),
        content: FileContent::CopyOf(trial.path("stage1")),
        mode: 0o755,
    }];
    let first = trial.build(&spec).unwrap();
    assert!(!first.reused);
    let root = first.path.join("root");
    assert_eq!(fs::read(first.path.join("kernel")).unwrap(), b"kernel");
    assert_eq!(fs::metadata(root.join("usr/bin/passwd")).unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(fs::read(root.join("usr/sbin/teselad")).unwrap(), b"stage1");
    assert!(!root.join("etc/ssh/ssh_host_ed25519_key").exists());
    assert!(!fs::read_to_string(root.join("etc/fstab")).unwrap().contains("sda1"));
    assert_eq!(fs::read(root.join("etc/machine-id")).unwrap(), b"");
    let index = Index::load(&first.path.join("index")).unwrap();
    assert!(index.find(Path::new("usr/bin/passwd")).is_some());
    assert_eq!(current(&trial.path("state"), "base").unwrap().unwrap().build, first.build);

    let again = trial.build(&spec).unwrap();
    assert!(again.reused && again.build == first.build);
    fs::write(trial.path("stage1"), "stage1 of the next version").unwrap();
    spec.extra.clear();
    let initramfs = fs::read(first.path.join("initramfs")).unwrap();
    let without = trial.build(&spec).unwrap();
    assert!(!without.reused, "the files that are added count");
    fs::write(trial.path("stage1"), "stage1 of the version after").unwrap();
    let renewed = trial.build(&spec).unwrap();
    assert!(renewed.reused && renewed.build == without.build, "a new stage1 makes no new tree");
    assert_ne!(fs::read(renewed.path.join("initramfs")).unwrap(), initramfs);

    fs::write(trial.path("tree/etc/new"), "").unwrap();
    let changed = trial.build(&spec).unwrap();
    assert!(!changed.reused);
    spec.refresh = true;
    let refreshed = trial.build(&spec).unwrap();
    assert!(!refreshed.reused && refreshed.build != changed.build);

    let images = list(&trial.path("state")).unwrap();
    assert_eq!((images.len(), images[0].builds.len()), (1, 4));
    let kept = changed.build.clone();
    let removed = prune(&trial.path("state"), "base", &|build| build == kept).unwrap();
    assert_eq!(removed.len(), 2);
    remove(&trial.path("state"), "base").unwrap();
    assert!(current(&trial.path("state"), "base").unwrap().is_none());
}

#[test]
fn this_machines_own_system_without_its_secrets() {
    let trial = Trial::new();
    let image = trial.build(&trial.spec(Source::Host(trial.path("tree")))).unwrap();
    let root = image.path.join("root");
    assert_eq!(fs::read_to_string(root.join("etc/shadow")).unwrap(), "root:!:1:0:99999:7:::\n");
    assert!(root.join("home").exists() && !root.join("home/ana").exists());
    assert!(!root.join("etc/ssh/ssh_host_ed25519_key").exists());
}

/// By a program of its own: a child that another test makes meanwhile would have the file open for writing, too, and
/// so it could not be executed (ETXTBSY).
fn write_program(path: &Path, text: &str) {
    let script = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
    let status = Command::new("sh").args(["-c", script]).arg(path).arg(text).status();
    assert!(status.unwrap().success());
}

#[test]
fn an_archive_and_a_post_install_hook() {
    let trial = Trial::new();
    let archive = trial.path("tree.tar.gz");
    let status =
        Command::new("tar").arg("-C").arg(trial.path("tree")).arg("-czf").arg(&archive).arg(".").status();
    assert!(status.unwrap().success());
    let hook = trial.path("hook");
    write_program(&hook, "#!/bin/sh\necho made $TESELA_IMAGE > \"$1/etc/hooked\"\n");
    let mut spec = trial.spec(Source::Archive(archive));
    spec.post_install = Some(hook.clone());
    let image = trial.build(&spec).unwrap();
    assert_eq!(fs::read_to_string(image.path.join("root/etc/hooked")).unwrap(), "made base\n");
    write_program(&hook, "#!/bin/sh\necho it went wrong; exit 3\n");
    let error = trial.build(&spec).unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.contains("it went wrong"), "{error}");
    assert!(trial.leftovers().is_empty());
    assert_eq!(current(&trial.path("state"), "base").unwrap().unwrap().build, image.build);
}

#[test]
fn a_squashfs_is_added_where_it_is_wanted_and_has_its_digest() {
    let trial = Trial::new();
    let mut spec = trial.directory();
    let plain = trial.build(&spec).unwrap();
    spec.squashfs = true;
    let packed = trial.build(&spec).unwrap();
    assert_eq!(packed.build, plain.build);
    let told = packed.info.squashfs_sha256.expect("a digest");
    let sum = Command::new("sha256sum").arg(packed.path.join("root.squashfs")).output().unwrap().stdout;
    assert_eq!(String::from_utf8(sum).unwrap().split(' ').next(), Some(told.as_str()));
}

#[test]
fn what_cannot_be_built_is_said_and_leaves_what_was_there() {
    let trial = Trial::new();
    let built = trial.build(&trial.directory()).unwrap();
    fs::remove_file(trial.path("tree/boot/vmlinuz-6.1")).unwrap();
    let error = trial.build(&trial.directory()).unwrap_err().to_string();
    assert!(error.contains("no kernel") && error.contains("linux-image-amd64"), "{error}");
    let mut spec = trial.directory();
    spec.packages = vec!["openssh-server".into()];
    let error = trial.build(&spec).unwrap_err().to_string();
    assert!(error.contains("apt-get"), "{error}");
    let error = trial.build(&trial.spec(Source::Directory(trial.path("")))).unwrap_err().to_string();
    assert!(error.contains("the state directory") && error.contains("lies in it"), "{error}");
    let error = trial.build(&trial.spec(Source::Directory(trial.path("none")))).unwrap_err().to_string();
    assert!(error.contains("No such file"), "{error}");
    spec.name = "../base".into();
    assert!(matches!(trial.build(&spec), Err(BuildError::Name(_))));
    assert!(trial.leftovers().is_empty());
    assert_eq!(current(&trial.path("state"), "base").unwrap().unwrap().build, built.build);
}

#[test]
fn what_a_crash_left_is_removed_and_two_builds_do_not_meet() {
    let trial = Trial::new();
    let crashed = trial.path("state/images/base/.building-1/root");
    fs::create_dir_all(&crashed).unwrap();
    fs::write(crashed.join("half"), "").unwrap();
    let mut inner = None;
    build(&trial.directory(), &trial.path("state"), &trial.path("stage1"), &mut |_| {
        inner.get_or_insert_with(|| trial.build(&trial.directory()).unwrap_err());
    })
    .unwrap();
    assert!(matches!(inner, Some(BuildError::Busy { .. })));
    assert!(trial.leftovers().is_empty());
}

#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    let trial = Trial::new();
    let state = trial.path("state");
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]).arg(&state).status();
    assert!(mounted.unwrap().success());
    let result = trial.build(&trial.directory()).and_then(|small| {
        fs::write(trial.path("tree/large"), vec![1; 1 << 20]).unwrap();
        Ok((
            trial.build(&trial.directory()).unwrap_err(),
            current(&state, "base")?.map(|image| image.build),
            small.build,
        ))
    });
    let leftovers = trial.leftovers();
    assert!(Command::new("umount").arg(&state).status().unwrap().success());
    let (error, current, small) = result.unwrap();
    assert!(matches!(error, BuildError::DiskFull { .. }), "{error}");
    assert_eq!(current, Some(small));
    assert!(leftovers.is_empty());
}
