//! A node's number.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A node's number, by openMosix's rule: the low 16 bits of its IPv4 address, so 192.168.10.220 is 2780 (0x0adc).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u16);

impl From<Ipv4Addr> for NodeId {
    fn from(address: Ipv4Addr) -> Self {
        let [.., high, low] = address.octets();
        Self(u16::from_be_bytes([high, low]))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::LowerHex for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

/// As openMosix's tools write and take it: decimal, or hexadecimal behind `0x`.
impl FromStr for NodeId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => u16::from_str_radix(digits, 16),
            None => text.parse(),
        }
        .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manuals_address_has_the_manuals_number() {
        let id = NodeId::from(Ipv4Addr::new(192, 168, 10, 220));
        assert_eq!((id.to_string(), "0x0adc".parse(), "2780".parse()), ("2780".into(), Ok(id), Ok(id)));
        assert!("0x1ffff".parse::<NodeId>().is_err() && "n1".parse::<NodeId>().is_err());
    }
}
