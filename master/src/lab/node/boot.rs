//! From nothing to the node's own root, from the inside of its namespaces.

use std::fs;
use std::io::{self, BufReader, Write as _};
use std::net::SocketAddrV4;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use tesela_node_image::image;
use tesela_node_image::stage1::cmdline::{self, BootArgs, CmdlineError};
use tesela_node_image::stage1::http::Reply;
use tesela_runtime::enroll::{EnrollError, Enrolment, enroll};
use tesela_runtime::port::connect_privileged;
use tesela_runtime::wire::tls::Fingerprint;

use super::init;
use crate::cluster::Cluster;
use crate::lab::machine::{Hardware, Machine};
use crate::lab::record::Record;
use crate::lab::up::parse;
use crate::lab::{Error, Lab};

/// How long the master may say nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a node does not come up.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The master's HTTP.
    #[error("fetching {path} from the master: {source}")]
    Fetch {
        /// What.
        path: String,
        /// What came of it.
        source: io::Error,
    },
    /// The node's script is none to boot by.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// Its image cannot be used.
    #[error("its image `{name}`: {problem}")]
    Image {
        /// Which.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// It has no keys.
    #[error(transparent)]
    Enroll(#[from] EnrollError),
    /// Its root cannot be made.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file or place.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn at<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> BootError + use<'_, E> {
    move |error| BootError::Io { path: path.to_owned(), source: error.into() }
}

/// The first program of the node `name`: returns when it is told to end, and the node ends with it.
pub fn run(lab: &Lab, name: &str) -> Result<(), Error> {
    let record = Record::read(lab)?;
    let machine = record.machine_named(name)?;
    let config = lab.config();
    let text = fs::read_to_string(&config).map_err(Error::io("read", &config))?;
    let cluster = parse(&text, &config)?;
    enter(lab, &cluster, machine)
        .and_then(|()| init::run().map_err(at(Path::new("/"))))
        .map_err(|source| Error::Boot { name: name.to_owned(), source })
}

/// Makes the node's root and enters it.
fn enter(lab: &Lab, cluster: &Cluster, machine: &Machine) -> Result<(), BootError> {
    nix::unistd::sethostname(&machine.name).map_err(at(Path::new("the host name")))?;
    umask(Mode::from_bits_truncate(0o022));
    let master = SocketAddrV4::new(cluster.master.address.addr(), cluster.master.http_port);
    let (line, args) = command_line(master, machine)?;
    let keys = args.control.as_ref().map(|control| {
        enroll(
            &Enrolment {
                node: args.node.clone(),
                master: SocketAddrV4::new(args.master, control.port),
                ca: Fingerprint(control.ca),
                token: control.token.clone(),
            },
            PATIENCE,
        )
    });
    let root = mount_root(lab, cluster, machine)?;
    let rendered = fetch(master, &format!("/nodes/{}/rendered.tar", args.node))?;
    let mut archive = tar::Archive::new(rendered.as_slice());
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_overwrite(true);
    archive.unpack(&root).map_err(at(&root))?;
    mount_kernels(&root, &line)?;
    if let Hardware::Namespace(_, quota) = machine.hardware {
        quota.show(&root).map_err(at(&root))?;
    }
    if let Some(keys) = keys.transpose()? {
        keys.store(&root.join("run/tesela")).map_err(EnrollError::Keys)?;
    }
    // pivot_root(2): both at one place, and the old root, which is on top, goes.
    let here = Path::new(".");
    nix::unistd::chdir(&root).map_err(at(&root))?;
    nix::unistd::pivot_root(here, here).map_err(at(&root))?;
    umount2(here, MntFlags::MNT_DETACH).map_err(at(&root))?;
    nix::unistd::chdir("/").map_err(at(Path::new("/")))
}

/// What a loader would give the kernel: the master's words of the node's script, and the card.
fn command_line(master: SocketAddrV4, machine: &Machine) -> Result<(String, BootArgs), BootError> {
    let script = fetch(master, &format!("/boot.ipxe?mac={}&uuid={}", machine.mac, machine.uuid))?;
    let script = String::from_utf8_lossy(&script);
    let words = script.split_ascii_whitespace().filter(|word| word.starts_with("tesela."));
    let mac = machine.mac.to_string().replace(':', "-");
    let line = words.map(|word| format!("{word} ")).collect::<String>() + &format!("BOOTIF=01-{mac}\n");
    let args = cmdline::parse(&line)?;
    Ok((line, args))
}

fn fetch(master: SocketAddrV4, path: &str) -> Result<Vec<u8>, BootError> {
    let get = || {
        let mut stream = connect_privileged(master, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {master}\r\nConnection: close\r\n\r\n")?;
        let mut body = Vec::new();
        Reply::read(BufReader::new(stream))?.copy(&mut body)?;
        Ok(body)
    };
    get().map_err(|source| BootError::Fetch { path: path.to_owned(), source })
}

/// The image, and over it what the node writes.
fn mount_root(lab: &Lab, cluster: &Cluster, machine: &Machine) -> Result<PathBuf, BootError> {
    let node = cluster.node(&machine.name);
    let name = node.and_then(|node| node.settings().image.value.clone()).unwrap_or_default();
    let bad = |problem: String| BootError::Image { name: name.clone(), problem };
    let built = image::current(&lab.master_state(), &name).map_err(|error| bad(error.to_string()))?;
    let lower = built.ok_or_else(|| bad("it is not built".to_owned()))?.path.join("root");
    let [root, upper, work] = ["root", "upper", "work"].map(|part| lab.machine_dir(&machine.name).join(part));
    for folder in [&root, &upper, &work] {
        fs::create_dir_all(folder).map_err(at(folder))?;
    }
    let layers =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
        .map_err(at(&root))?;
    Ok(root)
}

/// What the kernel shows, and devices: those that nothing of this machine's can be reached by.
fn mount_kernels(root: &Path, command_line: &str) -> Result<(), BootError> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let put = |kind: &str, place: &str, flags: MsFlags, data: &str| {
        let place = root.join(place);
        fs::create_dir_all(&place).map_err(at(&place))?;
        mount(Some(kind), &place, Some(kind), flags, Some(data)).map_err(at(&place))
    };
    put("proc", "proc", safe, "")?;
    put("sysfs", "sys", safe | MsFlags::MS_RDONLY, "")?;
    put("tmpfs", "run", safe & !MsFlags::MS_NOEXEC, "mode=755")?;
    put("tmpfs", "dev", MsFlags::MS_NOSUID, "mode=755")?;
    put(
        "devpts",
        "dev/pts",
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        "newinstance,ptmxmode=666,mode=620,gid=5",
    )?;
    put("tmpfs", "dev/shm", safe, "mode=1777")?;
    let dev = root.join("dev");
    for (name, major, minor) in [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
        ("fuse", 10, 229),
    ] {
        let path = dev.join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(major, minor)).map_err(at(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).map_err(at(&path))?;
    }
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, dev.join(name)).map_err(at(&dev.join(name)))?;
    }
    // The agent reads there which card the node booted from.
    let line = root.join("run/cmdline");
    fs::write(&line, command_line).map_err(at(&line))?;
    let shown = root.join("proc/cmdline");
    mount(Some(&line), &shown, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(at(&shown))
}
