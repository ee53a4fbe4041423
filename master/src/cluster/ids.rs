//! What a machine is known by: its hardware address and its SMBIOS UUID.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An Ethernet hardware address (RFC 2131 `chaddr` with `htype` 1, `hlen` 6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A machine's UUID as RFC 4578 option 97 (type 0) carries it, in the byte order of the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Uuid {
    /// As SMBIOS 2.6 and later, `dmidecode` and the firmware's own screens show it: the first three
    /// fields are little-endian on the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, place) in UUID_TEXT_ORDER.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{:02x}", self.0[*place])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const UUID_TEXT_ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

impl FromStr for Mac {
    type Err = String;

    /// Six octets in hexadecimal, separated by `:` or `-`, or twelve digits with nothing between.
    fn from_str(text: &str) -> Result<Self, String> {
        let pairs: Vec<&str> = text.split([':', '-']).collect();
        let well_formed = pairs.len() == 1 || (pairs.len() == 6 && pairs.iter().all(|pair| pair.len() == 2));
        octets(&pairs.concat())
            .filter(|_| well_formed)
            .map(Mac)
            .ok_or_else(|| format!("`{text}` is not a MAC address; write six octets as 68:00:10:37:09:83"))
    }
}

impl FromStr for Uuid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let shown: [u8; 16] = octets(&digits).ok_or_else(|| {
            format!("`{text}` is not a UUID; write it as `dmidecode -s system-uuid` prints it")
        })?;
        let mut wire = [0; 16];
        for (octet, place) in shown.into_iter().zip(UUID_TEXT_ORDER) {
            wire[place] = octet;
        }
        Ok(Uuid(wire))
    }
}

fn octets<const N: usize>(digits: &str) -> Option<[u8; N]> {
    if digits.len() != 2 * N || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut out = [0; N];
    for (i, octet) in out.iter_mut().enumerate() {
        *octet = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}

macro_rules! as_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(id: $type) -> String {
                id.to_string()
            }
        }
    };
}
as_text!(Mac);
as_text!(Uuid);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_read_in_every_usual_spelling() {
        let mac = Mac([0x68, 0, 0x10, 0x37, 9, 0x83]);
        for text in ["68:00:10:37:09:83", "68-00-10-37-09-83", "680010370983"] {
            assert_eq!(text.parse(), Ok(mac));
        }
        for text in ["68:00:10:37:09", "68:00:10:37:09:8g", "6:80:01:037:09:83", "+8:00:10:37:09:83", ""] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_uuid_is_shown_as_dmidecode_shows_it() {
        let text = "00112233-4455-6677-8899-aabbccddeeff";
        let uuid: Uuid = text.parse().unwrap();
        assert_eq!(uuid.0[..8], [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66]);
        assert_eq!(uuid.to_string(), text);
    }
}
