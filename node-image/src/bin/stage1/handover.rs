//! From the initramfs into the new root.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use serde::Serialize;
use tesela_node_image::stage1::cmdline::BootArgs;

use crate::error::{BootError, at};
use crate::network::Link;
use crate::root::SYSROOT;
use crate::sys;

/// Where the agent and the units of the new root find what stage1 learnt.
pub const RUN: &str = "/run/tesela";

/// `/run/tesela/boot.json`.
#[derive(Debug, Serialize)]
struct BootRecord<'a> {
    node: &'a str,
    master: String,
    http: u16,
    control: Option<u16>,
    root: &'static str,
    interface: &'a str,
    mac: String,
    address: String,
    prefix: u8,
    routers: Vec<String>,
    dns: Vec<String>,
    domain: Option<&'a str>,
    /// Seconds; absent where the lease never ends.
    lease_seconds: Option<u32>,
    /// When each step was done, in seconds since the kernel started.
    timings: &'a [(&'static str, f64)],
}

/// Leaves in `/run` what the new root needs to know.
pub fn write_records(args: &BootArgs, link: &Link, timings: &[(&'static str, f64)]) -> Result<(), BootError> {
    let texts = |addresses: &[std::net::Ipv4Addr]| addresses.iter().map(ToString::to_string).collect();
    let lease = &link.lease;
    let record = BootRecord {
        node: &args.node,
        master: args.master.to_string(),
        http: args.http,
        control: args.control.as_ref().map(|control| control.port),
        root: args.root.kind(),
        interface: &link.interface,
        mac: link.mac.to_string(),
        address: lease.address.to_string(),
        prefix: lease.prefix,
        routers: texts(&lease.routers),
        dns: texts(&lease.dns),
        domain: lease.domain.as_deref(),
        lease_seconds: Some(lease.seconds).filter(|&seconds| seconds != u32::MAX),
        timings,
    };
    let json = serde_json::to_string_pretty(&record).map_err(|error| BootError::Switch(error.to_string()))?;
    write(Path::new(RUN), "boot.json", &json)?;
    leave_interface_alone(link)?;
    // Where the image has systemd-timesyncd it goes on asking whom stage1 has asked.
    let time = format!("[Time]\nNTP={}\n", args.master);
    write(Path::new("/run/systemd/timesyncd.conf.d"), "00-tesela.conf", &time)?;
    resolv_conf(link)
}

/// Tells those that manage interfaces in the new root to leave this one as it is, name included: the
/// root may hang on it. ifupdown has no such switch; images are built without it in /etc/network.
fn leave_interface_alone(link: &Link) -> Result<(), BootError> {
    let mac = link.mac;
    let networkd = Path::new("/run/systemd/network");
    let head = "# Written by stage1: the root file system may come over this interface.\n";
    let unit = format!("{head}[Match]\nMACAddress={mac}\n\n[Link]\nUnmanaged=yes\nRequiredForOnline=no\n");
    write(networkd, "00-tesela-boot.network", &unit)?;
    let unit = format!(
        "{head}[Match]\nOriginalName={}\nMACAddress={mac}\n\n[Link]\nNamePolicy=keep\n",
        link.interface
    );
    write(networkd, "00-tesela-boot.link", &unit)?;
    let unit = format!("{head}[keyfile]\nunmanaged-devices=mac:{mac}\n");
    write(Path::new("/run/NetworkManager/conf.d"), "00-tesela-boot.conf", &unit)
}

/// Writes `/etc/resolv.conf` where neither the image nor a template has one.
fn resolv_conf(link: &Link) -> Result<(), BootError> {
    let path = Path::new(SYSROOT).join("etc/resolv.conf");
    let there = fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file() || found.len() > 0);
    if there || link.lease.dns.is_empty() {
        return Ok(());
    }
    let search = link.lease.domain.iter().map(|domain| format!("search {domain}\n"));
    let servers = link.lease.dns.iter().map(|server| format!("nameserver {server}\n"));
    fs::write(&path, search.chain(servers).collect::<String>()).map_err(at(path))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), BootError> {
    fs::create_dir_all(folder).map_err(at(folder))?;
    let path = folder.join(name);
    fs::write(&path, text).map_err(at(path))
}

/// Enters the new root and becomes its init.
pub fn switch() -> BootError {
    match enter() {
        Ok(never) => match never {},
        Err(error) => BootError::Switch(error),
    }
}

fn enter() -> Result<std::convert::Infallible, String> {
    let init = Path::new(SYSROOT).join("sbin/init");
    if fs::symlink_metadata(&init).is_err() {
        return Err("the image has no /sbin/init: add the package systemd-sysv to it".to_owned());
    }
    for folder in ["/proc", "/sys", "/dev", "/run"] {
        let target = format!("{SYSROOT}{folder}");
        if !Path::new(&target).is_dir() {
            fs::create_dir(&target).map_err(|error| format!("the image has no {folder}: {error}"))?;
        }
        mount(Some(folder), target.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(|error| format!("moving {folder}: {error}"))?;
    }
    if sys::root_is_initramfs() {
        free_initramfs();
    }
    let step = |what: &'static str| move |error: nix::Error| format!("{what}: {error}");
    nix::unistd::chdir(SYSROOT).map_err(step("chdir"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(step("moving the root"))?;
    nix::unistd::chroot(".").map_err(step("chroot"))?;
    nix::unistd::chdir("/").map_err(step("chdir"))?;
    let init = c"/sbin/init";
    nix::unistd::execv::<CString>(init, &[init.to_owned()]).map_err(step("/sbin/init"))
}

/// Gives back the memory of the initramfs. What is mounted on it is another file system, and stays.
fn free_initramfs() {
    let Ok(device) = fs::symlink_metadata("/").map(|root| root.dev()) else { return };
    // What cannot be removed only keeps its memory.
    let _ = remove_below(Path::new("/"), device);
}

fn remove_below(folder: &Path, device: u64) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let found = fs::symlink_metadata(&path)?;
        if found.dev() != device {
            continue;
        }
        if found.is_dir() {
            remove_below(&path, device)?;
            // Not empty where something is mounted below.
            let _ = fs::remove_dir(&path);
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
