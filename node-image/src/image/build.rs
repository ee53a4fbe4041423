//! One build, from its inputs to the link that makes it current.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};
use tesela_runtime::durable;

use super::{
    BuildError, BuildInfo, BuiltImage, ImageSpec, Progress, Source, archive, at, chroot, copy, debian,
    digest, fixups, squashfs, store,
};
use crate::initramfs::{self, Initramfs};
use crate::rooted::Rooted;
use crate::{index, kernel};

/// At most this many files with dropped attributes are named.
const DROPPED_NAMED: usize = 1000;
const BUILDING: &str = ".building-";

/// Builds an image, or takes the build that is there where nothing that it is made of has changed.
///
/// `state` is the state directory, `stage1` the program of that name. A build that is there but has no
/// squashfs gets one where `spec` wants it, and a new initramfs where `stage1` is another program.
///
/// # Errors
/// [`BuildError`]; what was there before is as it was.
pub fn build(
    spec: &ImageSpec,
    state: &Path,
    stage1: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<BuiltImage, BuildError> {
    let folder = store::folder(state, &spec.name)?;
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    let _lock = lock(&folder, &spec.name)?;
    let build = Build { spec, state, folder: &folder, stage1, started: Instant::now() };
    build.run(progress).map_err(|error| error.or_disk_full(&spec.name, &folder))
}

/// Keeps other builds of the image away for as long as it is held.
pub(super) fn lock(folder: &Path, name: &str) -> Result<Flock<File>, BuildError> {
    let path = folder.join(".lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(at(&path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => BuildError::Busy { name: name.to_owned(), lock: path },
        other => at(path)(other.into()),
    })
}

struct Build<'a> {
    spec: &'a ImageSpec,
    state: &'a Path,
    folder: &'a Path,
    stage1: &'a Path,
    started: Instant,
}

/// Counts the steps that are shown.
struct Steps<'a> {
    number: u32,
    of: u32,
    progress: &'a mut dyn FnMut(Progress),
}

impl Steps<'_> {
    fn next(&mut self, what: impl Into<String>) {
        self.number += 1;
        (self.progress)(Progress::Step { number: self.number, of: self.of, what: what.into() });
    }
}

impl Build<'_> {
    fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<BuiltImage, BuildError> {
        self.sweep()?;
        self.refuse_itself()?;
        let inputs = digest::of(self.spec)?;
        if let Some(current) = store::current(self.state, &self.spec.name)?
            && current.info.inputs == inputs
            && !self.spec.refresh
        {
            return self.complete(current, progress);
        }
        let beside = self.folder.join(format!("{BUILDING}{}", std::process::id()));
        let root = beside.join("root");
        fs::create_dir(&beside).map_err(at(&beside))?;
        let of = 5 + u32::from(self.spec.squashfs) + u32::from(self.spec.post_install.is_some());
        let mut steps = Steps { number: 0, of, progress };
        let result =
            self.make(&beside, &root, inputs, &mut steps).and_then(|info| self.publish(&beside, info));
        if result.is_err() {
            // The error that counts is the first; what stays behind is removed by the next build.
            let _ = fs::remove_dir_all(&beside);
        }
        result
    }

    /// A directory that holds the state directory would be copied with all images, the one that is being built
    /// among them.
    fn refuse_itself(&self) -> Result<(), BuildError> {
        let Source::Directory(path) = &self.spec.source else { return Ok(()) };
        // One that is not there is told when it is copied.
        let Ok(source) = fs::canonicalize(path) else { return Ok(()) };
        let state = fs::canonicalize(self.state).map_err(at(self.state))?;
        if !state.starts_with(&source) {
            return Ok(());
        }
        let problem = format!(
            "the state directory {} lies in it, and an image would hold all images; take a directory beside that \
             (`host:/` is this machine's own system without it)",
            state.display()
        );
        Err(BuildError::Source { from: source_text(&self.spec.source), problem })
    }

    /// Removes what builds that did not end left behind.
    fn sweep(&self) -> Result<(), BuildError> {
        for entry in fs::read_dir(self.folder).map_err(at(self.folder))? {
            let entry = entry.map_err(at(self.folder))?;
            if entry.file_name().to_string_lossy().starts_with(BUILDING) {
                fs::remove_dir_all(entry.path()).map_err(at(entry.path()))?;
            }
        }
        Ok(())
    }

    fn make(
        &self,
        beside: &Path,
        root_path: &Path,
        inputs: String,
        steps: &mut Steps<'_>,
    ) -> Result<BuildInfo, BuildError> {
        let spec = self.spec;
        steps.next(format!("the files of {}", source_text(&spec.source)));
        let mut dropped = Dropped::default();
        self.populate(root_path, &beside.join("archive"), &mut dropped, steps.progress)?;
        let root = Rooted::open(root_path).map_err(at(root_path))?;
        if !matches!(spec.source, Source::Debian(_)) {
            chroot::install(&root, &spec.packages, steps.progress)?;
        }
        fixups::add(&root, &spec.extra)?;
        if let Some(hook) = &spec.post_install {
            steps.next(format!("post-install {}", hook.display()));
            self.hook(hook, root_path, steps.progress)?;
        }
        steps.next("settings of a diskless system");
        fixups::apply(&root)?;
        steps.next("kernel and initramfs");
        let kernel = kernel::find(&root)?;
        let mut image = root
            .open_file(&kernel.image, nix::fcntl::OFlag::O_RDONLY, 0)
            .map_err(at(root_path.join(&kernel.image)))?;
        let kernel_path = beside.join("kernel");
        let mut copy = File::create(&kernel_path).map_err(at(&kernel_path))?;
        io::copy(&mut image, &mut copy).map_err(at(&kernel_path))?;
        let initramfs_size = self.initramfs(&root, &kernel, beside)?;
        let squashfs_sha256 = if spec.squashfs {
            steps.next("squashfs");
            Some(squashfs::build(root_path, &beside.join("root.squashfs"), steps.progress)?)
        } else {
            None
        };
        steps.next("index");
        dropped.walk(root_path)?;
        let index = index::scan(root_path)?;
        index.write(&beside.join("index"))?;
        steps.next("to the disk");
        Ok(BuildInfo {
            inputs,
            source: source_text(&spec.source),
            kernel: kernel.version,
            built_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            seconds: self.started.elapsed().as_secs(),
            inodes: index.len(),
            size: dropped.size,
            initramfs_size,
            stage1: digest::of_file(self.stage1)?,
            dropped_xattrs: dropped.files,
            squashfs_sha256,
        })
    }

    fn populate(
        &self,
        root: &Path,
        scratch: &Path,
        dropped: &mut Dropped,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), BuildError> {
        let make_root = || {
            fs::create_dir(root)?;
            fs::set_permissions(root, fs::Permissions::from_mode(0o755))
        };
        let directory = |path: &Path| {
            let problem = match fs::metadata(path) {
                Ok(found) if found.is_dir() => return Ok(()),
                Ok(_) => "not a directory".to_owned(),
                Err(error) => error.to_string(),
            };
            Err(BuildError::Source { from: source_text(&self.spec.source), problem })
        };
        match &self.spec.source {
            Source::Debian(suite) => debian::build(self.spec, suite, root, progress),
            Source::Directory(path) => {
                directory(path)?;
                make_root().map_err(at(root))?;
                dropped.walk(path)?;
                copy::tree(path, root, &|_| copy::Keep::All)
            }
            Source::Host(path) => {
                directory(path)?;
                make_root().map_err(at(root))?;
                let state = fs::canonicalize(self.state).map_err(at(self.state))?;
                let state = state.strip_prefix(path).ok().map(Path::to_owned);
                copy::tree(path, root, &|found| copy::of_host(found, state.as_deref()))?;
                copy::without_secrets(root)
            }
            Source::Archive(path) => {
                make_root().map_err(at(root))?;
                let root = Rooted::open(root).map_err(at(root))?;
                let lost = archive::unpack(path, &root, scratch)?;
                dropped.files.extend(lost.into_iter().take(DROPPED_NAMED));
                match fs::remove_dir_all(scratch) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(scratch)(error)),
                    _ => Ok(()),
                }
            }
        }
    }

    fn hook(&self, hook: &Path, root: &Path, progress: &mut dyn FnMut(Progress)) -> Result<(), BuildError> {
        let mut command = Command::new(hook);
        command.arg(root).env("TESELA_IMAGE", &self.spec.name);
        let what = format!("the post-install hook {}", hook.display());
        chroot::run(&mut command, &what, ("the post-install hook", "(it is named in cluster.yaml)"), progress)
    }

    /// Makes the initramfs in a build's folder; gives its size.
    fn initramfs(&self, root: &Rooted, kernel: &kernel::Kernel, build: &Path) -> Result<u64, BuildError> {
        let Initramfs { octets, parts } = initramfs::build(root, kernel, self.stage1)?;
        let table = serde_json::to_vec(&parts).map_err(|error| at(build)(error.into()))?;
        for (name, content) in [(initramfs::TABLE, &table), ("initramfs", &octets)] {
            let path = build.join(name);
            durable::replace(&path, content, Some(0o644)).map_err(at(path))?;
        }
        Ok(octets.len() as u64)
    }

    /// Makes the build the current one.
    fn publish(&self, beside: &Path, info: BuildInfo) -> Result<BuiltImage, BuildError> {
        store::write_info(beside, &info)?;
        // All of it is on the disk before anything names it.
        let folder = File::open(self.folder).map_err(at(self.folder))?;
        nix::unistd::syncfs(folder.as_fd()).map_err(|error| at(self.folder)(error.into()))?;
        let build = self.free_name(&info);
        let path = self.folder.join(&build);
        fs::rename(beside, &path).map_err(at(&path))?;
        let link = self.folder.join(format!("{BUILDING}link"));
        let current = self.folder.join("current");
        std::os::unix::fs::symlink(&build, &link)
            .and_then(|()| fs::rename(&link, &current))
            .and_then(|()| folder.sync_all())
            .map_err(at(&current))?;
        Ok(BuiltImage { name: self.spec.name.clone(), build, path, info, reused: false })
    }

    fn free_name(&self, info: &BuildInfo) -> String {
        let name = format!("{}-{}", info.built_at, info.inputs.get(..8).unwrap_or("0"));
        let mut names = std::iter::once(name.clone()).chain((2..).map(|number| format!("{name}-{number}")));
        names.find(|name| !self.folder.join(name).exists()).unwrap_or(name)
    }

    /// Adds to a build that is there what is newly wanted of it.
    fn complete(
        &self,
        image: BuiltImage,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<BuiltImage, BuildError> {
        let BuiltImage { name, build, path, mut info, .. } = image;
        let root_path = path.join("root");
        let mut steps = Steps { number: 0, of: 1, progress };
        let stage1 = digest::of_file(self.stage1)?;
        if info.stage1 != stage1 || !path.join(initramfs::TABLE).exists() {
            steps.next("initramfs with the new stage1");
            let root = Rooted::open(&root_path).map_err(at(&root_path))?;
            info.initramfs_size = self.initramfs(&root, &kernel::find(&root)?, &path)?;
            info.stage1 = stage1;
        }
        if self.spec.squashfs && info.squashfs_sha256.is_none() {
            steps.next("squashfs");
            let beside = path.join(".root.squashfs");
            let digest = squashfs::build(&root_path, &beside, steps.progress)?;
            let squashfs = path.join("root.squashfs");
            let synced = File::open(&beside).and_then(|file| file.sync_all());
            synced.and_then(|()| fs::rename(&beside, &squashfs)).map_err(at(squashfs))?;
            info.squashfs_sha256 = Some(digest);
        }
        store::write_info(&path, &info)?;
        Ok(BuiltImage { name, build, path, info, reused: true })
    }
}

/// `from:` as cluster.yaml has it.
fn source_text(source: &Source) -> String {
    match source {
        Source::Debian(suite) => format!("debian:{suite}"),
        Source::Host(path) => format!("host:{}", path.display()),
        Source::Directory(path) => format!("dir:{}", path.display()),
        Source::Archive(path) => format!("tar:{}", path.display()),
    }
}

/// What an NFSv3 root cannot carry.
#[derive(Default)]
struct Dropped {
    files: Vec<(String, Vec<String>)>,
    size: u64,
}

impl Dropped {
    /// Looks through a tree for extended attributes (ACLs and file capabilities are such), and counts
    /// its size.
    fn walk(&mut self, root: &Path) -> Result<(), BuildError> {
        self.size = 0;
        let mut open: Vec<PathBuf> = vec![root.to_owned()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder).map_err(at(&folder))? {
                let path = entry.map_err(at(&folder))?.path();
                let found = fs::symlink_metadata(&path).map_err(at(&path))?;
                if found.is_dir() {
                    open.push(path.clone());
                } else if found.is_file() {
                    self.size += found.size();
                }
                let names = crate::sys::xattrs(&path).map_err(at(&path))?;
                if !names.is_empty() && self.files.len() < DROPPED_NAMED {
                    let path = path.strip_prefix(root).unwrap_or(&path);
                    self.files.push((format!("/{}", path.display()), names));
                }
            }
        }
        self.files.sort();
        self.files.dedup();
        Ok(())
    }
}
