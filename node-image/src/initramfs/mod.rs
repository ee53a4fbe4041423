//! The initramfs: stage1 and the modules that it may need, from the image's own kernel.
//!
//! The same image and the same stage1 give the same octets: files are sorted, times are zero, inode
//! numbers count up, and the compressor runs on one thread. The archive is cpio's `newc`
//! (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst), in [`Parts`] that are
//! compressed by zstd each.

mod depmod;
mod drivers;
mod parts;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use depmod::Depmod;
pub use parts::{Part, Parts, PciId, PciPattern};

use crate::kernel::Kernel;
use crate::rooted::Rooted;
use crate::stage1::modules::{Module, ModuleList};

/// The name of the file beside an initramfs that tells its [`Parts`], as JSON.
pub const TABLE: &str = "initramfs.parts";
/// Of the part that every node is sent: a tenth smaller than by level 10, in two seconds.
const COMMON_LEVEL: i32 = 19;
/// Of the drivers, which are many: the highest level that packs them in seconds.
const DRIVER_LEVEL: i32 = 10;
const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;

/// Why there is no initramfs.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// The image's kernel cannot boot a node.
    #[error(
        "the kernel {version} has no {module}, neither built in nor as a module: a node cannot mount its root. \
         Take Debian's linux-image-amd64"
    )]
    Lacks {
        /// The kernel.
        version: String,
        /// The module.
        module: &'static str,
    },
    /// A file of the image.
    #[error("{path} in the image: {error}")]
    Image {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The program stage1.
    #[error("{}: {error}", .path.display())]
    Stage1 {
        /// Where it was looked for.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Packing failed, which is ours.
    #[error("packing the initramfs: {0}")]
    Pack(#[from] io::Error),
}

/// An initramfs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Initramfs {
    /// All of it.
    pub octets: Vec<u8>,
    /// What can be sent of it alone.
    pub parts: Parts,
}

/// Makes the initramfs of an image.
///
/// # Errors
/// A kernel that lacks what a node needs, a file that cannot be read.
pub fn build(root: &Rooted, kernel: &Kernel, stage1: &Path) -> Result<Initramfs, InitramfsError> {
    let in_image = |path: String| move |error| InitramfsError::Image { path, error };
    let depmod = Depmod::read(root, kernel).map_err(in_image(kernel.modules.clone()))?;
    let lacking = |name: &&&str| !depmod.modules.contains_key(**name) && !depmod.builtin.contains(**name);
    if let Some(module) = drivers::NEEDED.iter().find(lacking) {
        return Err(InitramfsError::Lacks { version: kernel.version.clone(), module });
    }
    let list = choose(&depmod);
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "run", "sysroot", "modules", "lib", "lib/firmware"] {
        archive.add(folder, DIRECTORY, Vec::new());
    }
    // The kernel opens it for the output of the first program, before that has mounted anything.
    archive.add("dev/console", CONSOLE, Vec::new());
    let program =
        std::fs::read(stage1).map_err(|error| InitramfsError::Stage1 { path: stage1.to_owned(), error })?;
    archive.add("init", PROGRAM, program);
    archive.add("modules/list", FILE, list.to_text().into_bytes());
    let common = depmod.closure(drivers::COMMON.iter().copied().chain(root_modules()));
    let mut others = Vec::new();
    for name in list.modules.keys() {
        if common.contains(name.as_str()) {
            add_module(root, kernel, &depmod, name, &mut archive)?;
        } else {
            let mut own = Archive::default();
            add_module(root, kernel, &depmod, name, &mut own)?;
            others.push((name, own));
        }
    }
    let mut octets = archive.compress(COMMON_LEVEL)?;
    let mut parts = Parts { common: octets.len() as u64, ..Parts::default() };
    for (name, archive) in others {
        let start = octets.len() as u64;
        octets.extend(archive.compress(DRIVER_LEVEL)?);
        let needs = list.modules[name].dependencies.clone();
        parts.modules.insert(name.clone(), Part { range: start..octets.len() as u64, needs });
    }
    let device = |(pattern, name): &(String, String)| Some((PciPattern::of_alias(pattern)?, name.clone()));
    parts.devices = list.aliases.iter().filter_map(device).collect();
    parts.of = blake3::hash(&octets).to_hex().to_string();
    Ok(Initramfs { octets, parts })
}

fn root_modules() -> impl Iterator<Item = &'static str> {
    drivers::ROOT.iter().map(|(_, name)| *name)
}

/// Adds a module and the firmware that it may ask for.
fn add_module(
    root: &Rooted,
    kernel: &Kernel,
    depmod: &Depmod,
    name: &str,
    archive: &mut Archive,
) -> Result<(), InitramfsError> {
    let path = format!("{}/{}", kernel.modules, depmod.modules[name].0);
    let content =
        read_module(root, &path).map_err(|error| InitramfsError::Image { path: path.clone(), error })?;
    for firmware in firmware_of(&content) {
        add_firmware(root, &firmware, archive)?;
    }
    archive.add(&module_file(name), FILE, content);
    Ok(())
}

/// Where a module lies in the initramfs.
fn module_file(name: &str) -> String {
    format!("modules/{name}.ko")
}

/// The modules for the initramfs, with the aliases of their devices.
pub(crate) fn choose(depmod: &Depmod) -> ModuleList {
    let named = drivers::COMMON.iter().chain(drivers::NICS).copied();
    let names = depmod.closure(named.chain(root_modules()));
    let load = drivers::ROOT.iter().map(|&(root, name)| (root.to_owned(), name.to_owned())).collect();
    let mut list = ModuleList { load, ..Default::default() };
    for &name in &names {
        let (_, dependencies) = &depmod.modules[name];
        let loadable = dependencies.iter().flat_map(|dependency| {
            // A soft dependency can be a name of the crypto API, and any provider will do.
            let named = names.contains(dependency.as_str()).then_some(dependency.as_str());
            named.into_iter().chain(depmod.providers(dependency)).filter(|name| names.contains(name))
        });
        let dependencies = loadable.map(str::to_owned).collect();
        list.modules.insert(name.to_owned(), Module { file: format!("{name}.ko"), dependencies });
    }
    let device = |(pattern, name): &&(String, String)| names.contains(name.as_str()) && pattern.contains(':');
    let named = depmod.aliases.iter().filter(device);
    list.aliases = named
        .flat_map(|(pattern, name)| {
            let beside =
                drivers::BESIDE.iter().filter(|(first, second)| first == name && names.contains(second));
            let beside = beside.map(|(_, second)| (pattern.clone(), (*second).to_owned()));
            beside.chain([(pattern.clone(), name.clone())]).collect::<Vec<_>>()
        })
        .collect();
    // By device alone: what goes beside a driver stays before it.
    list.aliases.sort_by(|(one, _), (other, _)| one.cmp(other));
    list
}

/// A module's content, unpacked: the initramfs is compressed as a whole, and stage1 has no decompressor.
fn read_module(root: &Rooted, path: &str) -> io::Result<Vec<u8>> {
    let content = root.read(path)?;
    match path.rsplit('.').next() {
        Some("zst") => zstd::decode_all(content.as_slice()),
        Some("gz") => {
            let mut unpacked = Vec::new();
            io::Read::read_to_end(&mut flate2::read::GzDecoder::new(content.as_slice()), &mut unpacked)?;
            Ok(unpacked)
        }
        Some("xz") => unpack_xz(&content),
        _ => Ok(content),
    }
}

/// xz is what dpkg itself unpacks packages with, so its program is on every Debian.
fn unpack_xz(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut child = Command::new("xz").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or_else(|| io::Error::other("no pipe to xz"))?;
    let output = std::thread::scope(|scope| {
        let feed = scope.spawn(move || stdin.write_all(content));
        let output = child.wait_with_output()?;
        feed.join().map_err(|_| io::Error::other("the thread that feeds xz ended"))??;
        io::Result::Ok(output)
    })?;
    if output.status.success() { Ok(output.stdout) } else { Err(io::Error::other("xz cannot unpack it")) }
}

/// The firmware that a module says it may ask for (`.modinfo`, one `firmware=NAME` each).
fn firmware_of(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0firmware=";
    let mut names = Vec::new();
    let mut rest = module;
    while let Some(at) = rest.windows(KEY.len()).position(|window| window == KEY) {
        rest = &rest[at + KEY.len()..];
        let end = rest.iter().position(|&octet| octet == 0).unwrap_or(rest.len());
        names.extend(std::str::from_utf8(&rest[..end]).ok().map(str::to_owned));
        rest = &rest[end..];
    }
    names
}

/// Adds a firmware file where the image has it, compressed or not: the kernel unpacks it itself.
fn add_firmware(root: &Rooted, name: &str, archive: &mut Archive) -> Result<(), InitramfsError> {
    if name.split('/').any(|part| part == "..") {
        return Ok(());
    }
    for suffix in ["", ".xz", ".zst"] {
        let path = format!("lib/firmware/{name}{suffix}");
        match root.read(&path) {
            Ok(content) => {
                for (end, _) in path.match_indices('/') {
                    archive.add(&path[..end], DIRECTORY, Vec::new());
                }
                archive.add(&path, FILE, content);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(InitramfsError::Image { path, error }),
        }
    }
    Ok(())
}

/// Files by path: a directory's path sorts before what is in it.
#[derive(Default)]
struct Archive(BTreeMap<String, (u32, Vec<u8>)>);

impl Archive {
    fn add(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.0.insert(path.to_owned(), (mode, content));
    }

    fn pack(&self) -> io::Result<Vec<u8>> {
        let mut packed = Vec::new();
        for (number, (path, (mode, content))) in (1..).zip(&self.0) {
            let mut entry = cpio::newc::Builder::new(path).ino(number).mode(*mode).nlink(1);
            if *mode == CONSOLE {
                entry = entry.rdev_major(5).rdev_minor(1);
            }
            let size = u32::try_from(content.len()).map_err(io::Error::other)?;
            let mut writer = entry.write(&mut packed, size);
            writer.write_all(content)?;
            writer.finish()?;
        }
        cpio::newc::trailer(&mut packed)?;
        Ok(packed)
    }

    /// Packed as a frame that tells its size, so that unpacking takes no larger window than that.
    fn compress(&self, level: i32) -> io::Result<Vec<u8>> {
        zstd::bulk::compress(&self.pack()?, level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> (tempfile::TempDir, Rooted, Kernel) {
        let folder = tempfile::tempdir().unwrap();
        let root = Rooted::open(folder.path()).unwrap();
        let kernel = Kernel {
            version: "6.1".into(),
            image: "boot/vmlinuz-6.1".into(),
            modules: "lib/modules/6.1".into(),
        };
        let dep = "k/nfs.ko: k/sunrpc.ko\nk/nfsv3.ko: k/nfs.ko k/sunrpc.ko\nk/sunrpc.ko:\nk/loop.ko.zst:\n\
                   k/squashfs.ko.xz:\nk/virtio-net.ko:\nk/sound.ko:\nk/e1000e.ko: k/ptp.ko k/nfs.ko\nk/ptp.ko:\nk/tg3.ko: k/ptp.ko\nk/broadcom.ko:\n";
        root.write("lib/modules/6.1/modules.dep", dep.as_bytes(), 0o644).unwrap();
        root.write("lib/modules/6.1/modules.builtin", b"k/overlay.ko\n", 0o644).unwrap();
        root.write(
            "lib/modules/6.1/modules.alias",
            b"alias virtio:d1v* virtio_net\nalias sound:x sound\nalias pci:v00008086d000010D3sv* e1000e\nalias pci:v000014E4d00001657sv* tg3\n",
            0o644,
        )
        .unwrap();
        for name in ["nfs", "nfsv3", "sunrpc", "sound", "e1000e", "ptp", "tg3", "broadcom"] {
            root.write(format!("lib/modules/6.1/k/{name}.ko"), name.as_bytes(), 0o644).unwrap();
        }
        root.write("lib/modules/6.1/k/virtio-net.ko", b"\x7fELF\0firmware=a/b.bin\0firmware=none\0", 0o644)
            .unwrap();
        root.write("lib/firmware/a/b.bin", b"firm", 0o644).unwrap();
        root.write("lib/modules/6.1/k/loop.ko.zst", &zstd::encode_all(&b"loop"[..], 1).unwrap(), 0o644)
            .unwrap();
        let xz = Command::new("sh").args(["-c", "printf squash | xz"]).output().unwrap().stdout;
        root.write("lib/modules/6.1/k/squashfs.ko.xz", &xz, 0o644).unwrap();
        root.write("init", b"stage1", 0o755).unwrap();
        (folder, root, kernel)
    }

    /// As the kernel does it: archive after archive.
    fn unpack(packed: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut rest = io::Cursor::new(zstd::decode_all(packed).unwrap());
        let mut files = BTreeMap::new();
        loop {
            if rest.position() == rest.get_ref().len() as u64 {
                return files;
            }
            let mut reader = cpio::NewcReader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                rest = reader.finish().unwrap();
                continue;
            }
            assert_eq!(reader.entry().mtime(), 0);
            let mut content = Vec::new();
            io::Read::read_to_end(&mut reader, &mut content).unwrap();
            files.insert(reader.entry().name().to_owned(), content);
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn holds_what_a_node_needs_and_is_the_same_each_time() {
        let (folder, root, kernel) = image();
        let packed = build(&root, &kernel, &folder.path().join("init")).unwrap();
        let files = unpack(&packed.octets);
        let list = ModuleList::parse(std::str::from_utf8(&files["modules/list"]).unwrap()).unwrap();
        assert_eq!(list.order("nfsv3"), ["sunrpc", "nfs", "nfsv3"]);
        assert_eq!(list.drivers("virtio:d1v2").collect::<Vec<_>>(), ["virtio_net"]);
        assert!(!list.modules.contains_key("sound") && list.aliases.len() == 4);
        assert_eq!(list.drivers("pci:v000014E4d00001657sv1").collect::<Vec<_>>(), ["broadcom", "tg3"]);
        assert_eq!(files["modules/loop.ko"], b"loop");
        assert_eq!(files["modules/squashfs.ko"], b"squash");
        assert_eq!(files["lib/firmware/a/b.bin"], b"firm");
        assert!(files.contains_key("lib/firmware/a"));
        assert_eq!(files["init"], b"stage1");
        root.write("lib/modules/6.1/k/nfs.ko", b"nfs", 0o600).unwrap();
        assert_eq!(build(&root, &kernel, &folder.path().join("init")).unwrap(), packed);
    }

    #[test]
    fn a_card_is_sent_the_driver_that_it_needs_and_no_other() {
        let (folder, root, kernel) = image();
        let Initramfs { octets, parts } = build(&root, &kernel, &folder.path().join("init")).unwrap();
        let ranges = parts.for_card(PciId { vendor: 0x8086, device: 0x10d3 }).unwrap();
        let cut: Vec<u8> = ranges
            .into_iter()
            .flat_map(|range| {
                octets[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].to_vec()
            })
            .collect();
        let (cut, whole) = (unpack(&cut), unpack(&octets));
        for path in ["init", "modules/list", "modules/e1000e.ko", "modules/ptp.ko", "modules/virtio_net.ko"] {
            assert_eq!(cut[path], whole[path], "{path}");
        }
        assert!(whole.contains_key("modules/tg3.ko") && !cut.contains_key("modules/tg3.ko"));
    }

    #[test]
    fn a_kernel_without_nfs_is_refused() {
        let (folder, root, kernel) = image();
        root.write("lib/modules/6.1/modules.dep", b"k/nfs.ko:\n", 0o644).unwrap();
        let error = build(&root, &kernel, &folder.path().join("init")).unwrap_err();
        assert!(error.to_string().contains("6.1 has no nfsv3"), "{error}");
    }
}
