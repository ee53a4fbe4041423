//! What a request says about the machine and the program that sent it.

use std::fmt;
use std::net::Ipv4Addr;

use super::wire::Request;
use crate::cluster::{Mac, Uuid};

/// Client system architecture (RFC 4578, 2.1, and IANA's list of processor architecture types).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 0: x86 BIOS.
    Bios,
    /// 6: UEFI on IA32.
    EfiIa32,
    /// 7 and 9: UEFI on x86-64 (7, EBC in the RFC, is what x86-64 firmware sends).
    EfiX64,
    /// 15: UEFI HTTP boot on IA32.
    HttpIa32,
    /// 16: UEFI HTTP boot on x86-64.
    HttpX64,
    /// Any other.
    Other(u16),
}

impl From<u16> for Arch {
    fn from(code: u16) -> Self {
        match code {
            0 => Self::Bios,
            6 => Self::EfiIa32,
            7 | 9 => Self::EfiX64,
            15 => Self::HttpIa32,
            16 => Self::HttpX64,
            other => Self::Other(other),
        }
    }
}

impl Arch {
    /// Whether there is a loader for it: x86-64 only, by BIOS or by 64-bit UEFI.
    pub fn is_bootable(self) -> bool {
        matches!(self, Self::Bios | Self::EfiX64 | Self::HttpX64)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bios => f.write_str("BIOS"),
            Self::EfiIa32 => f.write_str("UEFI IA32"),
            Self::EfiX64 => f.write_str("UEFI x86-64"),
            Self::HttpIa32 => f.write_str("UEFI HTTP IA32"),
            Self::HttpX64 => f.write_str("UEFI HTTP x86-64"),
            Self::Other(code) => write!(f, "architecture {code}"),
        }
    }
}

/// Which program asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A PXE ROM, BIOS or UEFI (vendor class `PXEClient…`).
    Pxe,
    /// UEFI HTTP boot (vendor class `HTTPClient…`).
    Http,
    /// iPXE (user class `iPXE`).
    Ipxe,
    /// stage1 (vendor class `tesela`).
    Stage1,
    /// Anything else: an installed system.
    Other,
}

impl Kind {
    /// Whether it is part of a network boot.
    pub fn is_boot(self) -> bool {
        self != Self::Other
    }
}

/// A relay agent (RFC 3046) between the client and us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relay<'a> {
    /// The relay's address on the client's network.
    pub address: Ipv4Addr,
    /// Option 82, sub-option 1.
    pub circuit_id: Option<&'a [u8]>,
    /// Option 82, sub-option 2.
    pub remote_id: Option<&'a [u8]>,
}

/// Who asks: what [`Policy`](super::Policy) decides upon.
#[derive(Clone, Debug)]
pub struct Client<'a> {
    /// Hardware address.
    pub mac: Mac,
    /// Option 97, where the firmware sends one.
    pub uuid: Option<Uuid>,
    /// The program.
    pub kind: Kind,
    /// Option 93, else read from the vendor class; `None` for what is no boot firmware. Of several, the
    /// first that can be booted.
    pub arch: Option<Arch>,
    /// Option 60.
    pub vendor_class: &'a [u8],
    /// Option 77, as received: bare as iPXE sends it, or a list as RFC 3004 has it.
    pub user_class: &'a [u8],
    /// Option 12, where it is a host name.
    pub hostname: Option<&'a str>,
    /// The relay that passed the request on.
    pub relay: Option<Relay<'a>>,
}

impl<'a> Client<'a> {
    /// What this request says.
    pub fn of(request: &'a Request<'_>) -> Self {
        let vendor_class = request.option(60).unwrap_or_default();
        let user_class = request.option(77).unwrap_or_default();
        let kind = if vendor_class == b"tesela" {
            Kind::Stage1
        } else if has_user_class(user_class, b"iPXE") {
            Kind::Ipxe
        } else if vendor_class.starts_with(b"HTTPClient") {
            Kind::Http
        } else if vendor_class.starts_with(b"PXEClient") {
            Kind::Pxe
        } else {
            Kind::Other
        };
        let relay = request.is_relayed().then(|| Relay {
            address: request.giaddr,
            circuit_id: request.relay_suboption(1),
            remote_id: request.relay_suboption(2),
        });
        Self {
            mac: request.mac,
            uuid: uuid(request),
            kind,
            arch: arch(request.option(93), vendor_class),
            vendor_class,
            user_class,
            hostname: request
                .option(12)
                .and_then(|name| std::str::from_utf8(name).ok())
                .map(|name| name.trim_end_matches('\0'))
                .filter(|name| is_hostname(name)),
            relay,
        }
    }

    /// A boot client whose firmware there is no loader for.
    pub fn unbootable(&self) -> Option<Arch> {
        self.arch.filter(|arch| self.kind.is_boot() && self.kind != Kind::Stage1 && !arch.is_bootable())
    }
}

/// Letters, digits, hyphens and dots (RFC 952, RFC 1123): what may be stored and shown.
fn is_hostname(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
}

/// Type 0 and 16 octets (RFC 4578, 2.3). All zero or all ones is what boards without one send.
fn uuid(request: &Request<'_>) -> Option<Uuid> {
    let [0, octets @ ..] = request.option(97)? else { return None };
    let octets: [u8; 16] = octets.try_into().ok()?;
    (octets != [0; 16] && octets != [0xff; 16]).then_some(Uuid(octets))
}

fn arch(option: Option<&[u8]>, vendor_class: &[u8]) -> Option<Arch> {
    let listed = option
        .unwrap_or_default()
        .chunks_exact(2)
        .map(|code| Arch::from(u16::from_be_bytes([code[0], code[1]])));
    let first = listed.clone().next();
    listed.into_iter().find(|arch| arch.is_bootable()).or(first).or_else(|| {
        // `PXEClient:Arch:00007:UNDI:003016`
        let text = std::str::from_utf8(vendor_class).ok()?;
        let code = text.split_once(":Arch:")?.1.get(..5)?;
        code.parse().ok().map(|code: u16| code.into())
    })
}

fn has_user_class(option: &[u8], wanted: &[u8]) -> bool {
    if option == wanted {
        return true;
    }
    let mut list = option;
    while let [len, rest @ ..] = list {
        let Some(instance) = rest.get(..usize::from(*len)) else { return false };
        if instance == wanted {
            return true;
        }
        list = &rest[instance.len()..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_architecture_is_found_in_either_place() {
        assert_eq!(arch(Some(&[0, 7]), b""), Some(Arch::EfiX64));
        assert_eq!(arch(Some(&[0, 6, 0, 9]), b""), Some(Arch::EfiX64));
        assert_eq!(arch(Some(&[0, 15]), b""), Some(Arch::HttpIa32));
        assert_eq!(arch(None, b"PXEClient:Arch:00000:UNDI:002001"), Some(Arch::Bios));
        assert_eq!(arch(Some(&[0]), b"PXEClient:Arch:0"), None);
    }

    #[test]
    fn a_user_class_is_bare_or_a_list() {
        assert!(has_user_class(b"iPXE", b"iPXE"));
        assert!(has_user_class(b"\x03abc\x04iPXE", b"iPXE"));
        assert!(!has_user_class(b"\x09iPXE", b"iPXE"));
        assert!(!has_user_class(b"", b"iPXE"));
    }
}
