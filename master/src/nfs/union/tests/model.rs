//! The union against a real file system: the same operations by the same users, the same outcome.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mkdirat, mknodat};
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use proptest::prelude::*;

use super::*;
use crate::nfs::fs::{Make, Status};

#[derive(Clone, Debug)]
enum Op {
    Create(String, u32),
    Write(String, u64, Vec<u8>),
    Truncate(String, u64),
    Chmod(String, u32),
    Chown(String, Option<u32>, Option<u32>),
    Mkdir(String, u32),
    Symlink(String),
    Fifo(String),
    Device(String),
    Link(String, String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String),
    Restart,
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d", "sub", "shared"]), 1..4)
        .prop_map(|parts| parts.join("/"))
}

fn op() -> impl Strategy<Value = (u32, Op)> {
    let mode = || prop::sample::select(vec![0o644, 0o755, 0o600, 0o4755, 0o2755, 0o6777, 0o2640, 0o666]);
    let directory_mode =
        prop::sample::select(vec![0o755, 0o777, 0o1777, 0o2775, 0o2777, 0o3777, 0o700, 0o555]);
    let id = || prop::option::of(prop::sample::select(vec![0_u32, 1000, 1001]));
    let data = prop::collection::vec(any::<u8>(), 1..6000);
    let op = prop_oneof![
        3 => (path(), mode()).prop_map(|(path, mode)| Op::Create(path, mode)),
        3 => (path(), 0..9000_u64, data).prop_map(|(path, at, data)| Op::Write(path, at, data)),
        1 => (path(), 0..9000_u64).prop_map(|(path, size)| Op::Truncate(path, size)),
        2 => (path(), mode()).prop_map(|(path, mode)| Op::Chmod(path, mode)),
        2 => (path(), id(), id()).prop_map(|(path, uid, gid)| Op::Chown(path, uid, gid)),
        3 => (path(), directory_mode).prop_map(|(path, mode)| Op::Mkdir(path, mode)),
        1 => path().prop_map(Op::Symlink),
        1 => path().prop_map(Op::Fifo),
        1 => path().prop_map(Op::Device),
        2 => (path(), path()).prop_map(|(from, to)| Op::Link(from, to)),
        3 => path().prop_map(Op::Unlink),
        2 => path().prop_map(Op::Rmdir),
        6 => (path(), path()).prop_map(|(from, to)| Op::Rename(from, to)),
        1 => Just(Op::Restart),
    ];
    (prop::sample::select(vec![0_u32, 0, 1000, 1001]), op)
}

/// A change of owner that changes something: a client sends none for one that does not.
fn someone(uid: Option<u32>, gid: Option<u32>) -> (Option<u32>, Option<u32>) {
    if uid.or(gid).is_some() { (uid, gid) } else { (Some(0), None) }
}

fn fill(root: &Path) {
    let own = |path: &Path, uid| std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    for directory in ["a/b/c", "a/sub/d", "sub/a", "shared"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for (at, file) in ["a/b/c/d", "a/b/d", "a/sub/d/a", "b", "sub/b", "shared/a"].into_iter().enumerate() {
        std::fs::write(root.join(file), vec![u8::try_from(at).unwrap(); 1000 * at]).unwrap();
    }
    std::fs::hard_link(root.join("b"), root.join("sub/d")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("a/sub/c")).unwrap();
    for path in ["a", "a/b", "a/b/d", "sub/a"] {
        own(&root.join(path), 1000);
    }
    own(&root.join("shared/a"), 1001);
    mode(&root.join("a/b/d"), 0o4755);
    mode(&root.join("b"), 0o2775);
    mode(&root.join("shared"), 0o1777);
    mode(&root.join("sub"), 0o2777);
}

/// The same tree on a real file system.
struct Real(OwnedFd, PathBuf);

impl Real {
    fn parent<'a>(&self, path: &'a str) -> nix::Result<(OwnedFd, &'a str)> {
        let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY)
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
        Ok((openat2(&self.0, directory, how)?, name))
    }

    fn run(&self, uid: u32, op: &Op) -> nix::Result<()> {
        // Of this thread alone: files are judged by them, and root's rights over files go with them.
        nix::unistd::setfsgid(Gid::from_raw(uid));
        nix::unistd::setfsuid(Uid::from_raw(uid));
        let result = self.act(op);
        nix::unistd::setfsuid(Uid::from_raw(0));
        nix::unistd::setfsgid(Gid::from_raw(0));
        result
    }

    fn act(&self, op: &Op) -> nix::Result<()> {
        let mode = |mode: u32| Mode::from_bits_truncate(mode);
        let writing = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        match op {
            Op::Create(path, bits) => {
                let (at, name) = self.parent(path)?;
                openat(&at, name, writing | OFlag::O_CREAT | OFlag::O_EXCL, mode(*bits)).map(|_| ())
            }
            Op::Write(path, offset, data) => {
                let (at, name) = self.parent(path)?;
                let file = File::from(openat(&at, name, writing, Mode::empty())?);
                file.write_all_at(data, *offset).unwrap();
                Ok(())
            }
            Op::Truncate(path, size) => {
                let (at, name) = self.parent(path)?;
                nix::unistd::ftruncate(
                    openat(&at, name, writing, Mode::empty())?,
                    i64::try_from(*size).unwrap(),
                )
            }
            Op::Chmod(path, bits) => {
                let (at, name) = self.parent(path)?;
                fchmodat(&at, name, mode(*bits), FchmodatFlags::FollowSymlink)
            }
            Op::Chown(path, uid, gid) => {
                let (at, name) = self.parent(path)?;
                let (uid, gid) = someone(*uid, *gid);
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                fchownat(&at, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
            }
            Op::Mkdir(path, bits) => {
                let (at, name) = self.parent(path)?;
                // mkdir(2) leaves setgid to inheritance, chmod(2) does not.
                mkdirat(&at, name, mode(*bits))
            }
            Op::Symlink(path) => {
                let (at, name) = self.parent(path)?;
                symlinkat("nowhere", &at, name)
            }
            Op::Fifo(path) => {
                let (at, name) = self.parent(path)?;
                mknodat(&at, name, SFlag::S_IFIFO, mode(0o640), 0)
            }
            Op::Device(path) => {
                let (at, name) = self.parent(path)?;
                mknodat(&at, name, SFlag::S_IFCHR, mode(0o640), makedev(511, 7))
            }
            Op::Link(from, to) => {
                let (from_at, from) = self.parent(from)?;
                let (to_at, to) = self.parent(to)?;
                linkat(&from_at, from, &to_at, to, LinkatFlags::empty())
            }
            Op::Unlink(path) => {
                let (at, name) = self.parent(path)?;
                unlinkat(&at, name, UnlinkatFlags::NoRemoveDir)
            }
            Op::Rmdir(path) => {
                let (at, name) = self.parent(path)?;
                unlinkat(&at, name, UnlinkatFlags::RemoveDir)
            }
            Op::Rename(from, to) => {
                let (from_at, from) = self.parent(from)?;
                let (to_at, to) = self.parent(to)?;
                nix::fcntl::renameat(&from_at, from, &to_at, to)
            }
            Op::Restart => Ok(()),
        }
    }

    fn tree(&self) -> BTreeMap<PathBuf, Seen> {
        let mut tree = BTreeMap::new();
        let mut first = BTreeMap::new();
        self.tree_below(Path::new(""), &mut tree, &mut first);
        tree
    }

    fn tree_below(
        &self,
        path: &Path,
        tree: &mut BTreeMap<PathBuf, Seen>,
        first: &mut BTreeMap<u64, PathBuf>,
    ) {
        let full = self.1.join(path);
        let metadata = full.symlink_metadata().unwrap();
        let kind = metadata.file_type();
        let kind = if kind.is_dir() {
            Kind::Directory
        } else if kind.is_symlink() {
            Kind::Symlink
        } else if kind.is_fifo() {
            Kind::Fifo
        } else if kind.is_char_device() {
            Kind::Char(511, 7)
        } else {
            Kind::File
        };
        let content = match kind {
            Kind::File => std::fs::read(&full).unwrap(),
            Kind::Symlink => std::fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec(),
            _ => vec![],
        };
        let seen = Seen {
            kind,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            nlink: u32::try_from(metadata.nlink()).unwrap(),
            size: if metadata.is_dir() { 0 } else { metadata.len() },
            content: digest(&content),
            same_as: first.entry(metadata.ino()).or_insert_with(|| path.to_owned()).clone(),
        };
        tree.insert(path.to_owned(), seen);
        if metadata.is_dir() {
            let names = std::fs::read_dir(full).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = names.collect();
            names.sort();
            for name in names {
                self.tree_below(&path.join(name), tree, first);
            }
        }
    }
}

impl Fixture {
    /// A path's directory and name as this user finds them; the client follows symbolic links, so
    /// none is to be on the way.
    fn parent<'a>(&self, who: &Caller, path: &'a str) -> Answer<(Handle, &'a [u8])> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let handle = self.walk(who, directory)?;
        match self.union.getattr(who, &handle)?.kind {
            Kind::Directory => Ok((handle, name.as_bytes())),
            _ => Err(Status::NFS3ERR_NOTDIR),
        }
    }

    fn object(&self, who: &Caller, path: &str) -> Answer<Handle> {
        let (directory, name) = self.parent(who, path)?;
        Ok(self.union.lookup(who, &directory, name)?.0)
    }

    /// What the client asks when it opens a file for writing.
    fn opened(&self, who: &Caller, path: &str) -> Answer<Handle> {
        let handle = self.object(who, path)?;
        match self.union.access(who, &handle, 0x04)?.0 {
            0 => Err(Status::NFS3ERR_ACCES),
            _ => Ok(handle),
        }
    }

    fn run(&mut self, uid: u32, op: &Op) -> Answer<()> {
        let who = &caller(uid);
        let fs = Arc::clone(&self.union);
        let mode = |mode| SetAttr { mode: Some(mode), ..SetAttr::default() };
        let make = |path: &str, what: Make, bits| {
            let (directory, name) = self.parent(who, path)?;
            fs.make(who, &directory, name, what, &mode(bits)).map(|_| ())
        };
        match op {
            Op::Create(path, bits) => {
                let (directory, name) = self.parent(who, path)?;
                fs.create(who, &directory, name, CreateHow::Guarded(mode(*bits))).map(|_| ())
            }
            Op::Write(path, offset, data) => {
                let handle = self.opened(who, path)?;
                let stable = if data.len() % 2 == 0 { Stable::FileSync } else { Stable::Unstable };
                fs.write(who, &handle, *offset, data, stable).map(|_| ())
            }
            Op::Truncate(path, size) => {
                let handle = self.opened(who, path)?;
                let set = SetAttr { size: Some(*size), ..SetAttr::default() };
                fs.setattr(who, &handle, &set, None).map(|_| ())
            }
            Op::Chmod(path, bits) => {
                let handle = self.object(who, path)?;
                if fs.getattr(who, &handle)?.kind == Kind::Symlink {
                    // Its target is not there.
                    return Err(Status::NFS3ERR_NOENT);
                }
                fs.setattr(who, &handle, &mode(*bits), None).map(|_| ())
            }
            Op::Chown(path, uid, gid) => {
                let (uid, gid) = someone(*uid, *gid);
                let handle = self.object(who, path)?;
                let set = SetAttr { uid, gid, ..SetAttr::default() };
                fs.setattr(who, &handle, &set, None).map(|_| ())
            }
            Op::Mkdir(path, bits) => make(path, Make::Directory, bits & 0o1777),
            Op::Symlink(path) => make(path, Make::Symlink(b"nowhere"), 0o777),
            Op::Fifo(path) => make(path, Make::Node(Kind::Fifo), 0o640),
            Op::Device(path) => make(path, Make::Node(Kind::Char(511, 7)), 0o640),
            Op::Link(from, to) => {
                let handle = self.object(who, from)?;
                let (directory, name) = self.parent(who, to)?;
                fs.link(who, &handle, &directory, name).map(|_| ())
            }
            Op::Unlink(path) => {
                let (directory, name) = self.parent(who, path)?;
                fs.remove(who, &directory, name).map(|_| ())
            }
            Op::Rmdir(path) => {
                let (directory, name) = self.parent(who, path)?;
                fs.rmdir(who, &directory, name).map(|_| ())
            }
            Op::Rename(from, to) => {
                let (from, old) = self.parent(who, from)?;
                let (to, new) = self.parent(who, to)?;
                fs.rename(who, (&from, old), (&to, new)).map(|_| ())
            }
            Op::Restart => {
                let before = (self.root(), self.tree());
                self.restart();
                assert_eq!((self.root(), self.tree()), before, "a restart changes nothing");
                Ok(())
            }
        }
    }
}

fn compare(ops: &[(u32, Op)]) {
    nix::sys::stat::umask(Mode::empty());
    nix::unistd::setgroups(&[]).unwrap();
    let mut fixture = Fixture::new(fill);
    let real = fixture.directory.path().join("real");
    std::fs::create_dir(&real).unwrap();
    fill(&real);
    let open = nix::fcntl::open(&real, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty());
    let real = Real(open.unwrap(), real);
    let mut done = Vec::new();
    for (uid, op) in ops {
        // The kernel may keep users from links to files of others, which is not the server's to say.
        let uid = if matches!(op, Op::Link(..)) { 0 } else { *uid };
        let expected = real.run(uid, op);
        let answered = fixture.run(uid, op);
        done.push((uid, op));
        assert_eq!(expected.is_ok(), answered.is_ok(), "{expected:?} {answered:?} for the last of {done:#?}");
    }
    let (expected, seen) = (real.tree(), fixture.tree());
    for (path, expected) in &expected {
        let seen = seen.get(path).unwrap_or_else(|| panic!("{} lacks after {ops:#?}", path.display()));
        assert!(seen == expected, "{}: {seen:?}, not {expected:?} after {ops:#?}", path.display());
    }
    assert_eq!(expected.len(), seen.len());
    fixture.restart();
    assert_eq!(fixture.tree(), seen);
}

#[test]
fn a_rename_to_another_name_of_the_same_file_needs_no_leave() {
    let path = |path: &str| path.into();
    compare(&[
        (0, Op::Chmod(path("sub"), 0o755)),
        (1000, Op::Rename(path("b"), path("sub/d"))),
        (0, Op::Chmod(path("sub"), 0o750)),
        (1000, Op::Rename(path("b"), path("sub/d"))),
    ]);
}

/// More with PROPTEST_CASES.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(64, |cases| cases.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn as_a_real_file_system(ops in prop::collection::vec(op(), 1..60)) {
        compare(&ops);
    }
}
