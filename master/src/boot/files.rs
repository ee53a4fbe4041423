//! What TFTP and HTTP serve: one name space for both, so that a loader finds its next file by
//! whichever way it came.
//!
//! ```text
//! undionly.kpxe ipxe.efi shimx64.efi grubx64.efi    loaders, from Debian's packages
//! boot.ipxe?mac=MAC&uuid=UUID                       the node's script for iPXE
//! grub/grub.cfg, grub/node/MAC                      GRUB's first script, and the node's
//! images/NAME/BUILD/{kernel,initramfs,root.squashfs}
//! images/NAME/BUILD/initramfs?nic=BUSID             what a machine with this network card needs of it
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use bytes::Bytes;
use serde::Serialize;
use tesela_node_image::loaders::BootLoader;

use crate::cluster::{Boot, DhcpMode, Mac, Node, Root, Unknown, Uuid};
use crate::inventory::Stage;
use crate::render;

use super::firmware::{GRUB, IPXE_BIOS, IPXE_EFI, IPXE_SCRIPT, SHIM};
use super::images::not_built;
use super::{CONTROL_PORT, Generation, NFS_PORT, Site};

/// Who asks for a file.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The path, normalised: no leading slash, no empty, `.` or `..` component.
    pub path: &'a str,
    /// What follows `?`; empty by TFTP.
    pub query: &'a str,
    /// From where.
    pub peer: IpAddr,
}

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum File {
    /// Made now.
    Made(Bytes),
    /// A file of the master's.
    OnDisk(PathBuf),
}

/// Why nothing is.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Nothing has that name: the right answer to many a loader's question.
    #[error("there is no such file")]
    NotFound,
    /// It is not for this machine.
    #[error("{0}")]
    Refused(String),
    /// The master lacks something; whoever runs it can mend it.
    #[error("{0}")]
    Ours(String),
}

impl From<render::Error> for FileError {
    fn from(error: render::Error) -> Self {
        FileError::Ours(error.to_string())
    }
}

/// Variables of the loaders' scripts.
#[derive(Serialize)]
struct Script<'a> {
    node: Named<'a>,
    boot: BootVariables,
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct BootVariables {
    kernel: String,
    initramfs: String,
    cmdline: String,
    /// GRUB's name of the server, as `(tftp,192.168.45.1)`.
    device: String,
}

impl Site {
    /// The file that a machine asks for.
    pub fn file(&self, request: &Request<'_>) -> Result<File, FileError> {
        match request.path {
            IPXE_BIOS | IPXE_EFI | SHIM | GRUB => {
                let file = loader(request.path)?;
                self.at_loader(request.peer, "its firmware fetches the loader");
                Ok(File::OnDisk(file))
            }
            IPXE_SCRIPT => {
                let mac = query_value(request.query, "mac")
                    .and_then(|text| text.parse().ok())
                    .or_else(|| neighbour(request.peer))
                    .ok_or_else(|| FileError::Refused("ask for boot.ipxe?mac=${netX/mac}".into()))?;
                let uuid = query_value(request.query, "uuid").and_then(|text| text.parse().ok());
                self.script(mac, uuid, request, "boot.ipxe", "unknown.ipxe")
            }
            "grub/grub.cfg" => {
                let generation = self.current();
                let device = grub_device(&generation);
                Ok(made(generation.script("grub-first.cfg", &serde_json::json!({ "device": device }))?))
            }
            path => {
                if let Some(mac) = path.strip_prefix("grub/node/") {
                    let mac = mac.parse().map_err(|_| FileError::NotFound)?;
                    return self.script(mac, None, request, "grub.cfg", "unknown.cfg");
                }
                match path.split('/').collect::<Vec<_>>()[..] {
                    ["images", image, build, file @ ("kernel" | "initramfs" | "root.squashfs")] => {
                        self.image_file(image, build, file, request)
                    }
                    _ => Err(FileError::NotFound),
                }
            }
        }
    }

    /// The node at an address has come to its loader.
    fn at_loader(&self, peer: IpAddr, what: &str) {
        if let IpAddr::V4(address) = peer
            && let Some(name) = self.node_at(address)
            && let Some(mac) = self.inventory.node(&name).and_then(|state| state.mac)
        {
            self.inventory.reached(&name, Stage::Loader, &self.sighting(mac, None, Some(address)), what);
        }
    }

    fn image_file(
        &self,
        image: &str,
        build: &str,
        file: &str,
        request: &Request<'_>,
    ) -> Result<File, FileError> {
        let path = self.paths().state.join("images").join(image).join(build).join(file);
        if !path.is_file() {
            return Err(FileError::NotFound);
        }
        if file == "kernel"
            && let IpAddr::V4(address) = request.peer
            && let Some(name) = self.node_at(address)
            && let Some(mac) = self.inventory.node(&name).and_then(|state| state.mac)
        {
            self.inventory.reached(
                &name,
                Stage::Kernel,
                &self.sighting(mac, None, Some(address)),
                "fetched its kernel",
            );
        }
        if file == "initramfs"
            && let Some(card) = query_value(request.query, "nic").and_then(|text| text.parse().ok())
            && let Some(cut) = self.cuts.get(&path, card).map_err(FileError::Ours)?
        {
            return Ok(File::Made(cut));
        }
        Ok(File::OnDisk(path))
    }

    /// The script of the machine's node, or the one for machines that nobody knows.
    fn script(
        &self,
        mac: Mac,
        uuid: Option<Uuid>,
        request: &Request<'_>,
        known: &str,
        unknown: &str,
    ) -> Result<File, FileError> {
        let mut generation = self.current();
        if generation.cluster.master.unknown == Unknown::Boot
            && generation.node_of(mac, uuid).is_none()
            && self.inventory.machine(mac).is_some()
        {
            // Its firmware may be faster than the thread that takes it in.
            generation = self.adopt(mac).map_err(|error| FileError::Ours(error.to_string()))?;
        }
        let Some(node) = generation.node_of(mac, uuid).filter(|node| boots_from_network(node)) else {
            return match generation.cluster.master.unknown {
                Unknown::Ignore => Err(FileError::NotFound),
                _ => Ok(made(generation.script(unknown, &serde_json::json!({}))?)),
            };
        };
        let peer = match request.peer {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => return Err(FileError::Refused("the cluster's network is IPv4".into())),
        };
        // A script, and the token in it, goes to no other node's address.
        let other = if self.is_at(node, mac, peer) { None } else { self.node_at(peer) };
        if let Some(other) = other.filter(|name| *name != node.name) {
            return Err(FileError::Refused(format!(
                "{peer} is the address of {other}, and {mac} is {}",
                node.name
            )));
        }
        let boot = self.boot_variables(&generation, node, peer)?;
        self.inventory.reached(
            &node.name,
            Stage::Loader,
            &self.sighting(mac, uuid, Some(peer)),
            "its loader fetched the script",
        );
        Ok(made(generation.script(known, &Script { node: Named { name: &node.name }, boot })?))
    }

    fn boot_variables(
        &self,
        generation: &Generation,
        node: &Node,
        peer: Ipv4Addr,
    ) -> Result<BootVariables, FileError> {
        let settings = node.settings();
        let image = settings.image.value.as_deref().unwrap_or_default();
        let current = tesela_node_image::image::current(&self.paths().state, image)
            .map_err(|error| FileError::Ours(error.to_string()))?
            .ok_or_else(|| FileError::Ours(not_built(image)))?;
        let kept = self.roots().and_then(|roots| roots.next_build(self, &node.name));
        let build = kept.filter(|_| settings.root.value == Root::Nfs).unwrap_or_else(|| current.path.clone());
        let base = build.strip_prefix(&self.paths().state).unwrap_or(&build);
        let base = format!("/{}", base.display());
        let mut words = self.command_line(generation, node, peer);
        if settings.root.value == Root::Ram {
            let digest = current.info.squashfs_sha256.as_deref().ok_or_else(|| {
                FileError::Ours(format!(
                    "the image `{image}` was built before a profile had `root: ram`; run `tesela image build {image}`"
                ))
            })?;
            words.push(format!("tesela.squashfs={base}/root.squashfs tesela.sha256={digest}"));
        }
        words.extend(settings.kernel_args.value.iter().cloned());
        Ok(BootVariables {
            kernel: format!("{base}/kernel"),
            initramfs: format!("{base}/initramfs"),
            cmdline: words.join(" "),
            device: grub_device(generation),
        })
    }

    fn command_line(&self, generation: &Generation, node: &Node, peer: Ipv4Addr) -> Vec<String> {
        let master = &generation.cluster.master;
        // Another DHCP server may give stage1 another address than it gave the firmware.
        let sure = (master.dhcp == DhcpMode::Authoritative).then_some(peer);
        let root = match node.settings().root.value {
            Root::Nfs => "nfs",
            Root::Ram => "ram",
        };
        vec![
            format!("tesela.node={} tesela.master={}", node.name, master.address.addr()),
            format!("tesela.http={} tesela.nfs={NFS_PORT}", master.http_port),
            format!("tesela.export=/nodes/{} tesela.root={root}", node.name),
            format!("tesela.control={CONTROL_PORT} tesela.ca={}", self.keys().ca_sha256),
            format!("tesela.token={}", self.tokens().issue(&node.name, sure)),
        ]
    }
}

fn boots_from_network(node: &Node) -> bool {
    node.settings().boot.value == Boot::Network
}

fn made(text: String) -> File {
    File::Made(Bytes::from(text))
}

fn loader(name: &str) -> Result<PathBuf, FileError> {
    let loader = match name {
        IPXE_BIOS => BootLoader::Undionly,
        IPXE_EFI => BootLoader::IpxeEfi,
        SHIM => BootLoader::Shim,
        _ => BootLoader::Grub,
    };
    loader.find().map_err(|error| FileError::Ours(error.to_string()))
}

/// How GRUB names the server: Debian's signed one has TFTP built in, and no HTTP.
fn grub_device(generation: &Generation) -> String {
    format!("(tftp,{})", generation.cluster.master.address.addr())
}

fn query_value<'a>(query: &'a str, key: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

/// The hardware address of a machine on our wire, as the kernel's neighbour table has it.
pub fn neighbour(peer: IpAddr) -> Option<Mac> {
    let IpAddr::V4(address) = peer else { return None };
    let table = std::fs::read_to_string("/proc/net/arp").ok()?;
    let wanted = address.to_string();
    table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()).find_map(|columns| {
        let mac: Mac = columns.get(3)?.parse().ok()?;
        (columns.first() == Some(&wanted.as_str()) && mac != Mac([0; 6])).then_some(mac)
    })
}
