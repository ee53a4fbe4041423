//! One virtual machine: what QEMU is told so that it boots as a PC does.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::accel::Accelerator;
use super::namespace::Namespace;
use super::{Error, Lab, other};
use crate::cluster::{DhcpMode, Mac, Uuid};

pub const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const OVMF: &str = "/usr/share/OVMF";

/// The firmware that a virtual machine boots with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// A PC BIOS; the network card's own iPXE ROM is its PXE.
    Bios,
    /// UEFI with its own PXE.
    Uefi,
    /// UEFI that boots only what Microsoft's keys have signed.
    Secure,
    /// UEFI that boots by HTTP and not by PXE.
    Http,
}

impl Firmware {
    /// As the command line and the tables write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::Secure => "secure",
            Self::Http => "http",
        }
    }

    /// OVMF's code and the variables that a machine starts with.
    fn ovmf(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bios => None,
            Self::Uefi | Self::Http => Some(("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")),
            Self::Secure => Some(("OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd")),
        }
    }
}

/// A virtual machine of the lab, as the record keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The node that it is; else a name of the lab's own.
    pub name: String,
    /// Whether cluster.yaml knew it when the lab came up.
    pub known: bool,
    /// Hardware address of its only network card.
    pub mac: Mac,
    /// SMBIOS UUID.
    pub uuid: Uuid,
    /// What it boots with.
    pub firmware: Firmware,
    /// Memory in MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u32,
    /// The tap that its card is plugged into.
    pub tap: String,
}

impl Machine {
    /// Powers it on in `namespace`. The child is QEMU itself.
    pub fn start(&self, lab: &Lab, namespace: &Namespace, accelerator: Accelerator) -> Result<Child, Error> {
        let directory = lab.machine_dir(&self.name);
        fs::create_dir_all(&directory).map_err(Error::io("make", &directory))?;
        if let Some((_, fresh)) = self.firmware.ovmf() {
            let variables = directory.join("vars.fd");
            if !variables.exists() {
                fs::copy(Path::new(OVMF).join(fresh), &variables).map_err(Error::io("write", &variables))?;
            }
        }
        let said = qemu_log(lab, &self.name);
        let log = fs::File::create(&said).map_err(Error::io("write", &said))?;
        let log_too = log.try_clone().map_err(Error::io("write", &said))?;
        namespace
            .detached(QEMU.as_ref())
            .args(self.arguments(&directory, accelerator))
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(log_too))
            .spawn()
            .map_err(Error::io("run", Path::new(QEMU)))
    }

    fn arguments(&self, directory: &Path, accelerator: Accelerator) -> Vec<OsString> {
        let at = |name: &str| directory.join(name).display().to_string();
        // Translated vector instructions are slower than the plain ones that `max` keeps programs from.
        let (accel, cpu) = match accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Tcg => ("tcg,thread=multi,tb-size=256", "qemu64,+rdrand"),
        };
        let mut said = vec![
            format!("-name {},process={}", self.name, self.name),
            format!("-accel {accel}"),
            format!("-cpu {cpu}"),
            format!("-m {}", self.memory),
            format!("-smp {}", self.cpus),
            format!("-uuid {}", self.uuid),
            "-nodefaults".into(),
            "-display none".into(),
            format!(
                "-chardev socket,id=console,path={},server=on,wait=off,logfile={},logappend=on",
                at("console.sock"),
                at("console.log")
            ),
            "-serial chardev:console".into(),
            format!("-qmp unix:{},server=on,wait=off", at("qmp.sock")),
            format!("-netdev tap,id=net0,ifname={},script=no,downscript=no", self.tap),
            "-device virtio-rng-pci".into(),
        ];
        let nic = format!("-device virtio-net-pci,netdev=net0,mac={},bootindex=1", self.mac);
        match self.firmware.ovmf() {
            // `graphics=off` lets SeaBIOS and the card's ROM speak on the serial line.
            None => said.extend(["-machine pc,graphics=off".into(), nic]),
            Some((code, _)) => said.extend([
                // OVMF has its own driver for the card, and so its own PXE: no ROM.
                format!("{nic},romfile="),
                if self.firmware == Firmware::Secure {
                    "-machine q35,smm=on".into()
                } else {
                    "-machine q35".into()
                },
                format!("-drive if=pflash,unit=0,format=raw,readonly=on,file={OVMF}/{code}"),
                format!("-drive if=pflash,unit=1,format=raw,file={}", at("vars.fd")),
            ]),
        }
        if self.firmware == Firmware::Secure {
            said.push("-global driver=cfi.pflash01,property=secure,value=on".into());
        }
        if self.firmware == Firmware::Http {
            said.extend(
                ["4", "6"].map(|ip| format!("-fw_cfg name=opt/org.tianocore/IPv{ip}PXESupport,string=n")),
            );
        }
        said.iter().flat_map(|option| option.splitn(2, ' ').map(OsString::from)).collect()
    }
}

/// What QEMU itself says of a machine.
pub fn qemu_log(lab: &Lab, node: &str) -> PathBuf {
    lab.machine_dir(node).join("qemu.log")
}

/// Fails, naming the package, if something that a lab runs is not installed.
pub fn check_installed(firmwares: &[Firmware], dhcp: DhcpMode) -> Result<(), Error> {
    let mut needed = vec![
        ("/usr/sbin/ip", "iproute2"),
        ("/usr/bin/ssh", "openssh-client"),
        (QEMU, "qemu-system-x86"),
        ("/usr/lib/ipxe/ipxe.lkrn", "ipxe"),
        ("/usr/lib/ipxe/qemu/efi-virtio.rom", "ipxe-qemu"),
    ];
    if firmwares.iter().any(|firmware| firmware.ovmf().is_some()) {
        needed.push(("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"));
    }
    if dhcp == DhcpMode::Proxy {
        needed.push((other::DNSMASQ, "dnsmasq-base"));
    }
    match needed.into_iter().find(|(path, _)| !Path::new(path).exists()) {
        Some((path, package)) => Err(Error::Missing(path.into(), package)),
        None => Ok(()),
    }
}
