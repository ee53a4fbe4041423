//! The parts of an initramfs: one that every node needs, then one for each further driver.
//!
//! The kernel unpacks archives that lie one behind the other (its `buffer-format.rst`), so the first part
//! with any of the others is an initramfs again. A machine whose loader names its network card is sent the
//! drivers of that card and no other, a tenth of the whole; the whole file serves every machine.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What of an initramfs lies where in its file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Parts {
    /// Digest (BLAKE3, hexadecimal) of the file, for a table beside it could be that of another.
    pub of: String,
    /// Octets of the part that every node needs; the file begins with it.
    pub common: u64,
    /// The others, by module.
    pub modules: BTreeMap<String, Part>,
    /// PCI devices, and the module that drives each.
    pub devices: Vec<(PciPattern, String)>,
}

/// The part with one module and its firmware.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Octets of the file.
    pub range: Range<u64>,
    /// Modules that it needs; those of the common part are not in the table.
    pub needs: Vec<String>,
}

/// A PCI device by the numbers that its configuration space begins with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PciId {
    /// Who makes it.
    pub vendor: u16,
    /// Which of the maker's.
    pub device: u16,
}

/// One device of a vendor's, or all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PciPattern {
    vendor: u16,
    device: Option<u16>,
}

impl PciPattern {
    /// Reads a pattern of `modules.alias`; `None` for one that is of another bus, or of a class of devices
    /// of any vendor.
    pub fn of_alias(pattern: &str) -> Option<Self> {
        let number = |digits: &str| u16::try_from(u32::from_str_radix(digits, 16).ok()?).ok();
        let (vendor, rest) = pattern.strip_prefix("pci:v")?.split_at_checked(8)?;
        let rest = rest.strip_prefix('d')?;
        let device = if rest.starts_with('*') { None } else { Some(number(rest.get(..8)?)?) };
        Some(Self { vendor: number(vendor)?, device })
    }

    fn matches(self, id: PciId) -> bool {
        self.vendor == id.vendor && self.device.is_none_or(|device| device == id.device)
    }
}

impl FromStr for PciId {
    type Err = ();

    /// iPXE's setting `busid` with hyphens: `01` for PCI, then vendor and device, `01-80-86-10-d3`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let octets: Vec<u8> = text
            .split('-')
            .map(|digits| u8::from_str_radix(digits, 16))
            .collect::<Result<_, _>>()
            .map_err(|_malformed| ())?;
        match octets[..] {
            [1, v0, v1, d0, d1] => {
                Ok(Self { vendor: u16::from_be_bytes([v0, v1]), device: u16::from_be_bytes([d0, d1]) })
            }
            _ => Err(()),
        }
    }
}

impl Parts {
    /// The octets of the file that a machine needs whose network card this is, in their order; `None` where
    /// nothing is known to drive it.
    pub fn for_card(&self, card: PciId) -> Option<Vec<Range<u64>>> {
        let drivers = self.devices.iter().filter(|(pattern, _)| pattern.matches(card));
        let mut open: Vec<&String> = drivers.map(|(_, module)| module).collect();
        if open.is_empty() {
            return None;
        }
        let mut wanted = BTreeSet::new();
        while let Some(name) = open.pop() {
            if let Some((name, part)) = self.modules.get_key_value(name)
                && wanted.insert(name)
            {
                open.extend(&part.needs);
            }
        }
        let mut ranges: Vec<Range<u64>> =
            wanted.iter().map(|name| self.modules[*name].range.clone()).collect();
        ranges.sort_by_key(|range| range.start);
        ranges.insert(0, 0..self.common);
        Some(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let part = |range: Range<u64>, needs: &[&str]| Part {
            range,
            needs: needs.iter().map(|&name| name.to_owned()).collect(),
        };
        let device = |alias: &str, module: &str| (PciPattern::of_alias(alias).unwrap(), module.to_owned());
        Parts {
            common: 10,
            modules: [
                ("e1000e".to_owned(), part(10..15, &["ptp", "nfs"])),
                ("ptp".to_owned(), part(15..18, &[])),
                ("r8169".to_owned(), part(18..30, &["ptp"])),
            ]
            .into(),
            devices: vec![
                device("pci:v00008086d000010D3sv*sd*bc*sc*i*", "e1000e"),
                device("pci:v00001AF4d*sv*sd*bc*sc*i*", "virtio_pci"),
            ],
            ..Parts::default()
        }
    }

    #[test]
    fn a_card_gets_its_driver_with_what_that_needs() {
        let card = "01-80-86-10-d3".parse().unwrap();
        assert_eq!(parts().for_card(card), Some(vec![0..10, 10..15, 15..18]));
        // Its driver is in the common part.
        let card = "01-1a-f4-10-00".parse().unwrap();
        assert_eq!(parts().for_card(card), Some(vec![Range { start: 0, end: 10 }]));
        let card = "01-10-ec-81-68".parse().unwrap();
        assert_eq!(parts().for_card(card), None);
    }

    #[test]
    fn what_is_no_pci_card_is_refused() {
        for text in [
            "",
            "01",
            "07-00-00-00-00",
            "01-80-86-10",
            "01-80-86-10-d3-00",
            "01:80:86:10:d3",
            "01-zz-86-10-d3",
        ] {
            assert!(text.parse::<PciId>().is_err(), "{text}");
        }
        for alias in ["usb:v0BDAp8153d*", "pci:v*d*sv*sd*bc0Csc03i30*", "pci:v00008086", "pci:v00008086d0000"]
        {
            assert_eq!(PciPattern::of_alias(alias), None, "{alias}");
        }
    }
}
