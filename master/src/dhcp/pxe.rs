//! Option 43 as PXE uses it (PXE specification 2.1, 2.2; RFC 4578 leaves it to that text).

/// PXE_DISCOVERY_CONTROL.
pub const DISCOVERY_CONTROL: u8 = 6;
/// PXE_BOOT_ITEM: type and layer of the boot server that the client chose.
pub const BOOT_ITEM: u8 = 71;
const END: u8 = 255;

/// Bit 3 of the discovery control: load the boot file of this offer, with no prompt, menu or discovery.
pub const USE_BOOT_FILE: u8 = 8;

/// `PXE_DISCOVERY_CONTROL = 8`, the whole option that makes a ROM load the file that it is told.
pub fn use_boot_file() -> Vec<u8> {
    vec![DISCOVERY_CONTROL, 1, USE_BOOT_FILE, END]
}

/// What a boot server answers to a client that chose a boot item: the item, its layer's credential bit off.
pub fn boot_item_reply([kind_high, kind_low, layer_high, layer_low]: [u8; 4]) -> Vec<u8> {
    vec![BOOT_ITEM, 4, kind_high, kind_low, layer_high & 0x7f, layer_low, END]
}

/// The boot item in a client's option 43. Tags 0 and 255 have no length; a broken list ends where it breaks.
pub fn boot_item(option: &[u8]) -> Option<[u8; 4]> {
    suboptions(option).find(|(tag, _)| *tag == BOOT_ITEM).and_then(|(_, value)| value.try_into().ok())
}

fn suboptions(mut list: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        while let [0, rest @ ..] = list {
            list = rest;
        }
        let [tag, len, rest @ ..] = list else { return None };
        if *tag == END {
            return None;
        }
        let value = rest.get(..usize::from(*len))?;
        list = &rest[value.len()..];
        Some((*tag, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_item_is_found_among_others() {
        assert_eq!(boot_item(&[0, 6, 1, 8, 71, 4, 0x80, 1, 0x80, 2, 255]), Some([0x80, 1, 0x80, 2]));
        assert_eq!(boot_item(&[255, 71, 4, 0, 0, 0, 0]), None);
        assert_eq!(boot_item(&[71, 4, 0, 0]), None);
        assert_eq!(boot_item(&[71, 2, 0, 0]), None);
        assert_eq!(boot_item_reply([0x80, 1, 0x80, 2]), [71, 4, 0x80, 1, 0, 2, 255]);
    }
}
