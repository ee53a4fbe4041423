//! The node's root, mounted on [`SYSROOT`].

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use sha2::{Digest, Sha256};

use crate::console::say;
use crate::error::{BootError, at};
use crate::http::Http;
use crate::sys;

/// Where the new root is mounted before it becomes `/`.
pub const SYSROOT: &str = "/sysroot";
const RAM: &str = "/ram";
const TRIES: u32 = 3;
/// How long the master may be away, being started again, and the pause between two tries.
const MASTER_PATIENCE: Duration = Duration::from_secs(45);
const PAUSE: Duration = Duration::from_millis(500);

/// Mounts a file system; `hint` tells what to look at where that fails.
pub fn mount_on(
    source: &str,
    target: &str,
    kind: &str,
    flags: MsFlags,
    data: &str,
    hint: &'static str,
) -> Result<(), BootError> {
    fs::create_dir_all(target).map_err(at(target))?;
    mount(Some(source), target, Some(kind), flags, Some(data)).map_err(|error| BootError::Mount {
        what: format!("{source} on {target}"),
        error: error.into(),
        hint,
    })
}

/// Mounts the NFS export.
///
/// The node is the only one that changes its root, but for rendered files, and of those the agent tells
/// the kernel. So attributes are kept for long, and an open asks for nothing (`nocto`): it is these
/// calls that make an NFS root slow to boot.
pub fn mount_nfs(master: Ipv4Addr, export: &str, port: u16, mount_port: u16) -> Result<(), BootError> {
    let options = format!(
        "vers=3,nolock,proto=tcp,port={port},mountvers=3,mountproto=tcp,mountport={mount_port},addr={master},\
         mountaddr={master},hard,nocto,acregmin=60,acregmax=600,acdirmin=60,acdirmax=600,\
         rsize=1048576,wsize=1048576,timeo=100,retrans=2"
    );
    let hint = "; does the master serve NFS, and does it know this node by the address that it has?";
    let source = format!("{master}:{export}");
    let deadline = Instant::now() + MASTER_PATIENCE;
    loop {
        match mount_on(&source, SYSROOT, "nfs", MsFlags::MS_NOATIME, &options, hint) {
            Err(BootError::Mount { error, .. }) if is_away(&error) && Instant::now() < deadline => {
                say(format_args!("the master's NFS server: {error}; trying again"));
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

/// Sets how far the kernel reads ahead in the root that is mounted, in KiB.
pub fn read_ahead(kib: u32) -> Result<(), BootError> {
    let device = fs::metadata(SYSROOT).map_err(at(SYSROOT))?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    fs::write(&path, kib.to_string()).map_err(at(path))
}

/// Whether a server that is being started again would fail like this.
fn is_away(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, TimedOut};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | HostUnreachable | TimedOut
    )
}

/// Loads the squashfs into memory and lays a writable file system in memory over it, with the rendered
/// files on top.
pub fn mount_ram(http: Http, path: &str, sha256: &[u8; 32], node: &str) -> Result<(), BootError> {
    let memory = "; has the machine enough memory for this image?";
    mount_on("tmpfs", RAM, "tmpfs", MsFlags::empty(), "size=90%,mode=0755", memory)?;
    let image = Path::new(RAM).join("root.squashfs");
    load(http, path, sha256, &image)?;
    let file = File::open(&image).map_err(at(&image))?;
    let (device, open) = sys::attach_loop(&file).map_err(at("/dev/loop-control"))?;
    let squashfs = "; is this kernel's squashfs built with zstd?";
    mount_on(&device.to_string_lossy(), "/ram/lower", "squashfs", MsFlags::MS_RDONLY, "", squashfs)?;
    drop(open);
    for folder in ["/ram/upper", "/ram/work"] {
        fs::create_dir(folder).map_err(at(folder))?;
    }
    let layers = "lowerdir=/ram/lower,upperdir=/ram/upper,workdir=/ram/work";
    mount_on("overlay", SYSROOT, "overlay", MsFlags::empty(), layers, "")?;
    unpack_rendered(http, node)
}

fn load(http: Http, path: &str, sha256: &[u8; 32], image: &Path) -> Result<(), BootError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let error = match load_once(http, path, sha256, image) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if tries == TRIES {
            return Err(error);
        }
        say(format_args!("{error}; trying again"));
    }
}

fn load_once(http: Http, path: &str, sha256: &[u8; 32], image: &Path) -> Result<(), BootError> {
    let file = File::create(image).map_err(at(image))?;
    let mut sink = Hashed { file, hash: Sha256::new() };
    http.get(path, &mut sink)?;
    let digest: [u8; 32] = sink.hash.finalize().into();
    if digest == *sha256 {
        return Ok(());
    }
    let problem = format!(
        "its digest is {} and should be {}: it was changed or damaged on the way, or the image was built anew",
        hex(&digest),
        hex(sha256)
    );
    Err(BootError::Http { master: format!("{}:{}", http.master, http.port), path: path.to_owned(), problem })
}

/// Writes to a file and digests on the way.
struct Hashed {
    file: File,
    hash: Sha256,
}

impl Write for Hashed {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.file.write(octets)?;
        self.hash.update(&octets[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn unpack_rendered(http: Http, node: &str) -> Result<(), BootError> {
    let path = format!("/nodes/{node}/rendered.tar");
    let mut archive = Vec::new();
    http.get(&path, &mut archive)?;
    let mut archive = tar::Archive::new(archive.as_slice());
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_overwrite(true);
    archive.unpack(SYSROOT).map_err(|error| {
        // tar tells the file, and keeps what was wrong with it one level down.
        let why = error.get_ref().and_then(|inner| inner.source()).map(|why| format!(": {why}"));
        let error = io::Error::other(format!("{error}{}", why.unwrap_or_default()));
        at(format!("{SYSROOT} (from {path})"))(error)
    })
}
