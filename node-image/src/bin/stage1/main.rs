//! The first program on a node: PID 1 of the initramfs.
//!
//! Finds the boot interface, takes its lease, sets the clock, has the node's keys signed, mounts the
//! root and becomes its init. What it needs to know stands on the kernel command line
//! ([`tesela_node_image::stage1::cmdline`]). It never opens a local disk. What it cannot do it says on
//! the console and to the master; then it waits, and starts the machine again.
//!
//! Limits: IPv4 and Ethernet only; numeric addresses only, for it is static and has no name service.

mod clock;
mod console;
mod devices;
mod error;
mod handover;
mod http;
mod lease;
mod network;
mod root;
mod sys;

use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::mount::MsFlags;
use nix::sys::reboot::{RebootMode, reboot};
use tesela_node_image::stage1::cmdline::{self, BootArgs, Root};
use tesela_runtime::enroll::{Enrolment, enroll};
use tesela_runtime::wire::tls::Fingerprint;

use console::{say, uptime};
use devices::Modules;
use error::{BootError, at};
use http::Http;
use network::Link;

/// How long a failure stays on the screen before the machine starts again.
const REBOOT_AFTER: Duration = Duration::from_secs(60);
/// How long the master may be away (being started again) while the node asks for its keys.
const ENROLL_PATIENCE: Duration = Duration::from_secs(45);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.first().is_some_and(|name| name == lease::NAME) {
        if lease::run(&arguments[1..]).is_none() {
            say("the arguments of the lease's keeper cannot be read");
        }
        return;
    }
    if std::process::id() != 1 {
        say("this is the first program of a node's initramfs, and runs as process 1 only");
        std::process::exit(2);
    }
    let mut boot = Boot { stage: "stage1", ..Boot::default() };
    let error = boot.run();
    fail(&boot, &error);
}

/// How far the node has come.
#[derive(Default)]
struct Boot {
    args: Option<BootArgs>,
    link: Option<Link>,
    /// The stage that it is on its way to: the one that fails, if any does.
    stage: &'static str,
    timings: Vec<(&'static str, f64)>,
}

impl Boot {
    /// Boots; comes back only with what stopped it.
    fn run(&mut self) -> BootError {
        match self.prepare() {
            Ok(()) => handover::switch(),
            Err(error) => error,
        }
    }

    fn prepare(&mut self) -> Result<(), BootError> {
        mount_kernel_file_systems()?;
        self.done("stage1");
        let line = fs::read_to_string("/proc/cmdline").map_err(at("/proc/cmdline"))?;
        let args = self.args.insert(cmdline::parse(&line)?).clone();
        say(format_args!("{} boots from {}", args.node, args.master));
        if let Err(error) = nix::unistd::sethostname(&args.node) {
            say(format_args!("host name: {error}"));
        }
        let link = self.connect(&args)?;
        lease::keep(&link).map_err(at("/proc/self/exe"))?;
        self.link = Some(link);
        self.report(&args, "stage1", None);
        self.stage = "root";
        let keys = std::thread::scope(|scope| {
            let keys = scope.spawn(|| identify(&args));
            let root = mount_root(&args);
            let keys = keys.join().unwrap_or_else(|_| Err(BootError::Enroll("the thread ended".to_owned())));
            root.and(keys)
        });
        keys?;
        self.done("root");
        self.report(&args, "root", None);
        self.stage = "init";
        let link = self.link.as_ref().ok_or_else(|| BootError::Switch("no link".to_owned()))?;
        handover::write_records(&args, link, &self.timings)
    }

    fn connect(&mut self, args: &BootArgs) -> Result<Link, BootError> {
        let mut modules = Modules::open()?;
        let mut common = Modules::open()?;
        let kind = args.root.kind();
        let link = std::thread::scope(|scope| {
            // What the root needs is loaded while the DHCP server is being waited for.
            scope.spawn(move || common.load_for_root(kind));
            network::connect(args.boot_mac, &mut modules)
        })?;
        let lease = &link.lease;
        say(format_args!(
            "{} ({}) has {}/{} from {}",
            link.interface, link.mac, lease.address, lease.prefix, lease.server
        ));
        self.done("network");
        Ok(link)
    }

    fn done(&mut self, step: &'static str) {
        self.timings.push((step, uptime()));
    }

    /// Tells the master; a master that does not listen must not stop the boot.
    fn report(&self, args: &BootArgs, stage: &str, detail: Option<&str>) {
        let Some(link) = &self.link else { return };
        let json = serde_json::json!({
            "node": args.node,
            "mac": link.mac.to_string(),
            "stage": stage,
            "detail": detail,
            "addresses": [link.lease.address.to_string()],
        });
        let http = Http { master: args.master, port: args.http };
        if let Err(error) = http.post("/report", &json.to_string()) {
            say(error);
        }
    }
}

fn mount_kernel_file_systems() -> Result<(), BootError> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let closed = safe | MsFlags::MS_NOEXEC;
    root::mount_on("proc", "/proc", "proc", closed, "", "")?;
    root::mount_on("sysfs", "/sys", "sysfs", closed, "", "")?;
    root::mount_on("devtmpfs", "/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755", "")?;
    root::mount_on("tmpfs", "/run", "tmpfs", safe, "mode=0755,size=20%", "")
}

/// Sets the clock and gets the node's keys signed.
fn identify(args: &BootArgs) -> Result<(), BootError> {
    match clock::set_from(args.master) {
        Ok(wrong) if wrong.abs() > 1.0 => say(format_args!("the clock was wrong by {wrong:.0} s")),
        Ok(_) => {}
        Err(error) => say(format_args!("no time from the master: {error}")),
    }
    let Some(control) = &args.control else { return Ok(()) };
    let enrolment = Enrolment {
        node: args.node.clone(),
        master: SocketAddrV4::new(args.master, control.port),
        ca: Fingerprint(control.ca),
        token: control.token.clone(),
    };
    let keys = enroll(&enrolment, ENROLL_PATIENCE).map_err(|error| BootError::Enroll(error.to_string()))?;
    keys.store(Path::new(handover::RUN)).map_err(|error| BootError::Enroll(error.to_string()))
}

fn mount_root(args: &BootArgs) -> Result<(), BootError> {
    match &args.root {
        Root::Nfs { export, port, mount_port, read_ahead } => {
            root::mount_nfs(args.master, export, *port, *mount_port)?;
            if let Err(error) = root::read_ahead(*read_ahead) {
                say(error);
            }
            Ok(())
        }
        Root::Ram { path, sha256 } => {
            root::mount_ram(Http { master: args.master, port: args.http }, path, sha256, &args.node)
        }
    }
}

/// Says what happened, and starts the machine again after a while.
fn fail(boot: &Boot, error: &BootError) -> ! {
    say(format_args!("this node cannot boot: {error}"));
    if let Some(args) = &boot.args {
        boot.report(args, boot.stage, Some(&format!("failed: {error}")));
        if args.shell && Path::new("/bin/busybox").exists() {
            let status = Command::new("/bin/busybox").arg("sh").status();
            say(format_args!("the shell ended: {status:?}"));
        }
    }
    say(format_args!("starting again in {} s", REBOOT_AFTER.as_secs()));
    std::thread::sleep(REBOOT_AFTER);
    let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
    say(format_args!("cannot reboot: {error}"));
    loop {
        std::thread::park();
    }
}
