//! Which loader a firmware is sent. Pure.

use crate::cluster::Loader;

/// A machine's firmware by its client system architecture (RFC 4578 option 93, IANA's list).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// 0: BIOS.
    Bios,
    /// 7 and 9: UEFI on x86-64 by PXE.
    Uefi,
    /// 16: UEFI HTTP Boot on x86-64.
    UefiHttp,
    /// 15: UEFI HTTP Boot on 32-bit x86, and 6: UEFI on 32-bit x86. No loader exists in Debian.
    Uefi32(u16),
    /// Any other.
    Other(u16),
}

impl Firmware {
    /// By the number in option 93; a PXE client that sends none is a BIOS.
    pub fn of(architecture: Option<u16>) -> Self {
        match architecture {
            None | Some(0) => Firmware::Bios,
            Some(7 | 9) => Firmware::Uefi,
            Some(16) => Firmware::UefiHttp,
            Some(number @ (6 | 15)) => Firmware::Uefi32(number),
            Some(number) => Firmware::Other(number),
        }
    }

    /// As `tesela node list` shows it.
    pub fn name(self) -> String {
        match self {
            Firmware::Bios => "bios".into(),
            Firmware::Uefi => "uefi".into(),
            Firmware::UefiHttp => "uefi-http".into(),
            Firmware::Uefi32(_) => "uefi32".into(),
            Firmware::Other(number) => format!("arch-{number}"),
        }
    }
}

/// What asks: the firmware itself, or something that it loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The firmware's own PXE or HTTP client.
    Firmware,
    /// iPXE (user class `iPXE`): in ROM, or the one that it was sent.
    Ipxe,
    /// stage1 of the initramfs (vendor class `tesela`).
    Stage1,
    /// Anything else: an installed system, a printer.
    Other,
}

impl Program {
    /// By vendor class (option 60) and user class (option 77).
    pub fn of(vendor_class: &[u8], user_class: &[u8]) -> Self {
        // RFC 3004 wants a length before each class; iPXE sends its name bare.
        if user_class == b"iPXE" || user_class == b"\x04iPXE" {
            Program::Ipxe
        } else if vendor_class.starts_with(b"PXEClient") || vendor_class.starts_with(b"HTTPClient") {
            Program::Firmware
        } else if vendor_class == b"tesela" {
            Program::Stage1
        } else {
            Program::Other
        }
    }
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
/// `auto` sends shim and GRUB to every UEFI machine: signed from end to end, so Secure Boot needs no
/// setting, and 14 s against 36 s to the initramfs where it was measured.
pub fn next(firmware: Firmware, program: Program, loader: Loader) -> Next {
    match (program, firmware, loader) {
        (Program::Stage1 | Program::Other, ..) => Next::Nothing,
        (Program::Ipxe, ..) => Next::Http(IPXE_SCRIPT),
        (_, Firmware::Bios, Loader::Auto | Loader::Ipxe) => Next::Tftp(IPXE_BIOS),
        (_, Firmware::Bios, Loader::Grub) => {
            Next::Refuse("`loader: grub` is for UEFI only; this machine has a BIOS: use `auto` or `ipxe`")
        }
        (_, Firmware::Uefi, Loader::Auto | Loader::Grub) => Next::Tftp(SHIM),
        (_, Firmware::Uefi, Loader::Ipxe) => Next::Tftp(IPXE_EFI),
        (_, Firmware::UefiHttp, Loader::Auto | Loader::Grub) => Next::Http(SHIM),
        (_, Firmware::UefiHttp, Loader::Ipxe) => Next::Http(IPXE_EFI),
        (_, Firmware::Uefi32(_), _) => {
            Next::Refuse("its firmware is 32-bit UEFI, which Debian has no network loader for")
        }
        (_, Firmware::Other(_), _) => Next::Refuse("its firmware is none of BIOS and UEFI on x86-64"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_firmware_gets_its_loader() {
        let auto = |arch, program| next(Firmware::of(arch), program, Loader::Auto);
        assert_eq!(auto(Some(0), Program::Firmware), Next::Tftp("undionly.kpxe"));
        assert_eq!(auto(None, Program::Firmware), Next::Tftp("undionly.kpxe"));
        assert_eq!(auto(Some(7), Program::Firmware), Next::Tftp("shimx64.efi"));
        assert_eq!(auto(Some(9), Program::Firmware), Next::Tftp("shimx64.efi"));
        assert_eq!(auto(Some(16), Program::Firmware), Next::Http("shimx64.efi"));
        assert!(matches!(auto(Some(6), Program::Firmware), Next::Refuse(_)));
        assert!(matches!(auto(Some(15), Program::Firmware), Next::Refuse(_)));
        assert_eq!(auto(Some(0), Program::Ipxe), Next::Http("boot.ipxe"));
        assert_eq!(auto(Some(7), Program::Stage1), Next::Nothing);
    }

    #[test]
    fn programs_are_told_apart_by_their_classes() {
        assert_eq!(Program::of(b"PXEClient:Arch:00000:UNDI:002001", b""), Program::Firmware);
        assert_eq!(Program::of(b"PXEClient:Arch:00000:UNDI:002001", b"iPXE"), Program::Ipxe);
        assert_eq!(Program::of(b"HTTPClient:Arch:00016", b""), Program::Firmware);
        assert_eq!(Program::of(b"tesela", b""), Program::Stage1);
        assert_eq!(Program::of(b"udhcp 1.35.0", b""), Program::Other);
    }
}
