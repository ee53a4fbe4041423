//! Which loader a firmware is sent. Pure.

use crate::cluster::{DhcpMode, Loader};

/// A machine's firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// BIOS, by PXE.
    Bios,
    /// UEFI on x86-64, by PXE.
    Uefi,
    /// UEFI on x86-64, by HTTP Boot.
    UefiHttp,
    /// One that no loader in Debian is for.
    Other,
}

/// What asks: the firmware itself, or something that it loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The firmware's own PXE or HTTP client.
    Firmware,
    /// iPXE: in ROM, or the one that it was sent.
    Ipxe,
    /// stage1 of the initramfs.
    Stage1,
    /// Anything else: an installed system, a printer.
    Other,
}

/// What a machine is told to fetch next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This file by TFTP.
    Tftp(&'static str),
    /// This path by HTTP.
    Http(&'static str),
    /// Nothing: it needs an address only.
    Nothing,
    /// It cannot be served; the reason is for the user.
    Refuse(&'static str),
}

/// The script that iPXE is sent.
pub const IPXE_SCRIPT: &str = "boot.ipxe";
/// shim, which loads [`GRUB`] from beside it.
pub const SHIM: &str = "shimx64.efi";
/// GRUB by the name that shim asks for.
pub const GRUB: &str = "grubx64.efi";
/// iPXE for UEFI.
pub const IPXE_EFI: &str = "ipxe.efi";
/// iPXE for BIOS, over the firmware's own network driver.
pub const IPXE_BIOS: &str = "undionly.kpxe";

/// The next file for a machine.
///
/// `auto` sends shim and GRUB to every UEFI machine that boots by PXE: signed from end to end, so Secure
/// Boot needs no setting, and 14 s against 36 s to the initramfs where it was measured. Beside another
/// DHCP server it sends iPXE: Debian 12's GRUB looks for its files where that server's `siaddr` points,
/// whatever a proxy offers. By HTTP Boot it sends
/// iPXE, for Debian's signed GRUB speaks no HTTP; so Secure Boot goes by PXE only.
pub fn next(firmware: Firmware, program: Program, loader: Loader, dhcp: DhcpMode) -> Next {
    match (program, firmware, loader) {
        (Program::Stage1 | Program::Other, ..) => Next::Nothing,
        (Program::Ipxe, ..) => Next::Http(IPXE_SCRIPT),
        (_, Firmware::Bios, Loader::Auto | Loader::Ipxe) => Next::Tftp(IPXE_BIOS),
        (_, Firmware::Bios, Loader::Grub) => {
            Next::Refuse("`loader: grub` is for UEFI only; this machine has a BIOS: use `auto` or `ipxe`")
        }
        (_, Firmware::Uefi, Loader::Auto) if dhcp == DhcpMode::Proxy => Next::Tftp(IPXE_EFI),
        (_, Firmware::Uefi, Loader::Auto | Loader::Grub) => Next::Tftp(SHIM),
        (_, Firmware::Uefi, Loader::Ipxe) => Next::Tftp(IPXE_EFI),
        (_, Firmware::UefiHttp, Loader::Auto | Loader::Ipxe) => Next::Http(IPXE_EFI),
        (_, Firmware::UefiHttp, Loader::Grub) => Next::Refuse(
            "Debian's signed GRUB speaks no HTTP: use `loader: auto` or `ipxe`, or let the machine boot by PXE",
        ),
        (_, Firmware::Other, _) => Next::Refuse("its firmware is none of BIOS and 64-bit UEFI"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_firmware_gets_its_loader() {
        let auto = |firmware, program| next(firmware, program, Loader::Auto, DhcpMode::Authoritative);
        assert_eq!(auto(Firmware::Bios, Program::Firmware), Next::Tftp("undionly.kpxe"));
        assert_eq!(auto(Firmware::Uefi, Program::Firmware), Next::Tftp("shimx64.efi"));
        assert_eq!(auto(Firmware::UefiHttp, Program::Firmware), Next::Http("ipxe.efi"));
        assert!(matches!(auto(Firmware::Other, Program::Firmware), Next::Refuse(_)));
        assert_eq!(auto(Firmware::Bios, Program::Ipxe), Next::Http("boot.ipxe"));
        assert_eq!(auto(Firmware::Uefi, Program::Stage1), Next::Nothing);
        let beside = |loader| next(Firmware::Uefi, Program::Firmware, loader, DhcpMode::Proxy);
        assert_eq!(beside(Loader::Auto), Next::Tftp("ipxe.efi"));
        assert_eq!(beside(Loader::Grub), Next::Tftp("shimx64.efi"));
        for firmware in [Firmware::Bios, Firmware::UefiHttp] {
            let grub = next(firmware, Program::Firmware, Loader::Grub, DhcpMode::Authoritative);
            assert!(matches!(grub, Next::Refuse(_)));
        }
    }
}
