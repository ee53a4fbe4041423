//! Kernel modules for the devices that are there, and word of those that come later.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tesela_node_image::stage1::modules::ModuleList;

use crate::console::say;
use crate::error::{BootError, at};
use crate::sys;

const FOLDER: &str = "/modules";
/// `RTMGRP_LINK` of rtnetlink(7).
const LINK_GROUP: u32 = 1;
/// The kernel's own group of uevents.
const UEVENT_GROUP: u32 = 1;

/// The modules of the initramfs.
pub struct Modules {
    list: ModuleList,
    tried: BTreeSet<String>,
}

impl Modules {
    /// Reads the list that the builder wrote.
    pub fn open() -> Result<Self, BootError> {
        let path = Path::new(FOLDER).join("list");
        let text = fs::read_to_string(&path).map_err(at(path))?;
        Ok(Self { list: ModuleList::parse(&text)?, tried: BTreeSet::new() })
    }

    /// Loads what a kind of root (`nfs`, `ram`) needs.
    pub fn load_for_root(&mut self, kind: &str) {
        for (root, name) in self.list.load.clone() {
            if root == kind {
                self.load(&name);
            }
        }
    }

    /// Loads the drivers of all devices that the kernel shows, until no further one turns up: a driver
    /// of a bus shows the devices behind it.
    pub fn load_drivers(&mut self) {
        loop {
            let before = self.tried.len();
            for modalias in modaliases() {
                let names: Vec<String> = self.list.drivers(&modalias).map(str::to_owned).collect();
                for name in names {
                    self.load(&name);
                }
            }
            if self.tried.len() == before {
                return;
            }
        }
    }

    fn load(&mut self, name: &str) {
        let order: Vec<String> = self.list.order(name).into_iter().map(str::to_owned).collect();
        for name in order {
            if !self.tried.insert(name.clone()) {
                continue;
            }
            let path = Path::new(FOLDER).join(&self.list.modules[&name].file);
            let result = File::open(&path).and_then(|file| sys::load_module(&file));
            match result {
                // Loaded already, or for a CPU or device that is not there.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENODEV)) => {}
                // A loader that named its network card was sent the drivers of that one alone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // A driver that does not want its device must not stop the boot: another NIC may serve.
                Err(error) => say(format_args!("module {name}: {error}")),
                Ok(()) => {}
            }
        }
    }
}

/// The modaliases of all devices on the buses where NICs and what leads to them sit.
fn modaliases() -> Vec<String> {
    let mut found = Vec::new();
    for bus in ["pci", "virtio", "vmbus", "usb", "platform"] {
        let Ok(devices) = fs::read_dir(format!("/sys/bus/{bus}/devices")) else { continue };
        for device in devices.flatten() {
            if let Ok(modalias) = fs::read_to_string(device.path().join("modalias")) {
                found.push(modalias.trim_end().to_owned());
            }
        }
    }
    found
}

/// PCI network devices that no driver has taken, as `vendor:device at address`.
pub fn undriven() -> Vec<String> {
    let Ok(devices) = fs::read_dir("/sys/bus/pci/devices") else { return Vec::new() };
    let attribute = |path: &Path, name: &str| {
        let text = fs::read_to_string(path.join(name)).unwrap_or_default();
        text.trim().trim_start_matches("0x").to_owned()
    };
    let devices = devices.flatten().map(|device| device.path());
    let idle =
        devices.filter(|path| attribute(path, "class").starts_with("02") && !path.join("driver").exists());
    idle.map(|path| {
        let address = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("{}:{} at {address}", attribute(&path, "vendor"), attribute(&path, "device"))
    })
    .collect()
}

/// Wakes up when a device or a link changes.
pub struct Monitor {
    sockets: [OwnedFd; 2],
}

impl Monitor {
    /// Starts to listen; open it before looking, or a change in between is missed.
    pub fn open() -> io::Result<Self> {
        let listen = |protocol, group| -> io::Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
            use std::os::fd::AsRawFd;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, group))?;
            Ok(socket)
        };
        Ok(Self {
            sockets: [
                listen(SockProtocol::NetlinkRoute, LINK_GROUP)?,
                listen(SockProtocol::NetlinkKObjectUEvent, UEVENT_GROUP)?,
            ],
        })
    }

    /// Waits for a change; `false` where `deadline` came first.
    pub fn wait(&self, deadline: Instant) -> io::Result<bool> {
        let mut polled = self.sockets.each_ref().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        let left = deadline.saturating_duration_since(Instant::now());
        if nix::poll::poll(&mut polled, timeout(left))? == 0 {
            return Ok(false);
        }
        // What changed is read from /sys: here the messages are only emptied out.
        let mut buffer = [0; 8192];
        for socket in &self.sockets {
            use std::os::fd::AsRawFd;
            while recv(socket.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::empty()).is_ok() {}
        }
        Ok(true)
    }
}

/// A duration as poll(2) takes it, rounded up so that nobody wakes up early and spins.
pub fn timeout(left: Duration) -> PollTimeout {
    PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
}
