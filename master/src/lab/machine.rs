//! One machine of the lab, and of a virtual one what QEMU is told so that it boots as a PC does.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::ValueEnum;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::accel::Accelerator;
use super::power::Switch;
use super::{Error, Lab, node, other};
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

/// What the machines of a lab are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Virtual machines that boot over the network as PCs do.
    Vm,
    /// Namespaces of this machine: they are members in seconds, and their kernel is this machine's.
    Namespace,
}

/// A machine of the lab, as the record keeps it.
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
    /// The port of the lab's bridge that its card is plugged into.
    pub port: String,
    /// What it is made of.
    pub hardware: Hardware,
}

/// What a machine is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Hardware {
    /// QEMU.
    Vm(Vm),
    /// Namespaces; its network's has this address from the beginning.
    Namespace(Ipv4Net, #[serde(default)] node::Quota),
}

/// A virtual machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Vm {
    /// How QEMU runs it.
    pub accelerator: Accelerator,
    /// What it boots with.
    pub firmware: Firmware,
    /// Memory in MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u32,
}

impl Machine {
    /// Powers it on. The child lives as long as the machine is on.
    pub fn start(&self, lab: &Lab) -> Result<Child, Error> {
        let directory = lab.machine_dir(&self.name);
        fs::create_dir_all(&directory).map_err(Error::io("make", &directory))?;
        let on = Switch::take(&directory, &self.name)?;
        let mut command = match &self.hardware {
            Hardware::Vm(vm) => self.vm(lab, vm, &directory)?,
            Hardware::Namespace(..) => node::first_program(lab, self)?,
        };
        let program = PathBuf::from(command.get_program());
        logged(lab, &self.name, &mut command)?.stdin(on).spawn().map_err(Error::io("run", &program))
    }

    /// Firmware, or what it is instead of a PC; for tables.
    pub fn firmware(&self) -> &'static str {
        match &self.hardware {
            Hardware::Vm(vm) => vm.firmware.name(),
            Hardware::Namespace(..) => "none",
        }
    }

    fn vm(&self, lab: &Lab, vm: &Vm, directory: &Path) -> Result<Command, Error> {
        if let Some((_, fresh)) = vm.firmware.ovmf() {
            let variables = directory.join("vars.fd");
            if !variables.exists() {
                fs::copy(Path::new(OVMF).join(fresh), &variables).map_err(Error::io("write", &variables))?;
            }
        }
        let mut command = lab.namespace().detached(QEMU.as_ref());
        command.args(self.arguments(vm, directory));
        Ok(command)
    }

    fn arguments(&self, vm: &Vm, directory: &Path) -> Vec<OsString> {
        let at = |name: &str| directory.join(name).display().to_string();
        // Translated vector instructions are slower than the plain ones that `max` keeps programs from.
        let (accel, cpu) = match vm.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Tcg => ("tcg,thread=multi,tb-size=256", "qemu64,+rdrand"),
        };
        let mut said = vec![
            format!("-name {},process={}", self.name, self.name),
            format!("-accel {accel}"),
            format!("-cpu {cpu}"),
            format!("-m {}", vm.memory),
            format!("-smp {}", vm.cpus),
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
            format!("-netdev tap,id=net0,ifname={},script=no,downscript=no", self.port),
            "-device virtio-rng-pci".into(),
        ];
        let nic = format!("-device virtio-net-pci,netdev=net0,mac={},bootindex=1", self.mac);
        match vm.firmware.ovmf() {
            // `graphics=off` lets SeaBIOS and the card's ROM speak on the serial line.
            None => said.extend(["-machine pc,graphics=off".into(), nic]),
            Some((code, _)) => said.extend([
                // OVMF has its own driver for the card, and so its own PXE: no ROM.
                format!("{nic},romfile="),
                if vm.firmware == Firmware::Secure {
                    "-machine q35,smm=on".into()
                } else {
                    "-machine q35".into()
                },
                format!("-drive if=pflash,unit=0,format=raw,readonly=on,file={OVMF}/{code}"),
                format!("-drive if=pflash,unit=1,format=raw,file={}", at("vars.fd")),
            ]),
        }
        if vm.firmware == Firmware::Secure {
            said.push("-global driver=cfi.pflash01,property=secure,value=on".into());
        }
        if vm.firmware == Firmware::Http {
            said.extend(
                ["4", "6"].map(|ip| format!("-fw_cfg name=opt/org.tianocore/IPv{ip}PXESupport,string=n")),
            );
        }
        said.iter().flat_map(|option| option.splitn(2, ' ').map(OsString::from)).collect()
    }
}

/// What is said of a machine by what it is made of: QEMU, or the first program in its namespaces.
pub fn log(lab: &Lab, machine: &str) -> PathBuf {
    lab.machine_dir(machine).join("machine.log")
}

/// Has a command say what it says in the machine's log.
pub fn logged<'a>(lab: &Lab, machine: &str, command: &'a mut Command) -> Result<&'a mut Command, Error> {
    let path = log(lab, machine);
    let file = fs::File::create(&path).map_err(Error::io("write", &path))?;
    let too = file.try_clone().map_err(Error::io("write", &path))?;
    Ok(command.stdout(Stdio::from(file)).stderr(Stdio::from(too)))
}

/// Fails, naming the package, if something that a lab runs is not installed.
pub fn check_installed(kind: Kind, firmwares: &[Firmware], dhcp: DhcpMode) -> Result<(), Error> {
    let mut needed = vec![("/usr/sbin/ip", "iproute2"), ("/usr/bin/ssh", "openssh-client")];
    if kind == Kind::Vm {
        needed.extend([
            (QEMU, "qemu-system-x86"),
            ("/usr/lib/ipxe/ipxe.lkrn", "ipxe"),
            ("/usr/lib/ipxe/qemu/efi-virtio.rom", "ipxe-qemu"),
        ]);
        if firmwares.iter().any(|firmware| firmware.ovmf().is_some()) {
            needed.push(("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"));
        }
    }
    if dhcp == DhcpMode::Proxy {
        needed.push((other::DNSMASQ, "dnsmasq-base"));
    }
    match needed.into_iter().find(|(path, _)| !Path::new(path).exists()) {
        Some((path, package)) => Err(Error::Missing(path.into(), package)),
        None => Ok(()),
    }
}
