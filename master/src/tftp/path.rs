//! File names as firmware writes them.

/// Why a file name is refused; the client's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PathError {
    /// Nothing is left of it.
    #[error("the file name is empty")]
    Empty,
    /// `..` as a component.
    #[error("the file name has '..' in it")]
    Escape,
    /// Control characters, or octets that are no UTF-8.
    #[error("the file name is not plain text")]
    NotText,
}

/// Makes a relative path of components joined by single slashes out of a name as sent.
///
/// PXE ROMs send leading and doubled slashes, backslashes, and (some UEFI) trailing octets of 0xff, which
/// they copied with the DHCP option behind the name; all mean the same file. `..` is refused wherever it
/// stands, rather than resolved: no loader needs it.
///
/// # Errors
/// [`PathError`], where the name cannot be that of a file.
pub fn normalise(raw: &[u8]) -> Result<String, PathError> {
    let padded = raw.iter().rev().take_while(|octet| **octet == 0xff).count();
    let text = std::str::from_utf8(&raw[..raw.len() - padded]).map_err(|_| PathError::NotText)?;
    if text.chars().any(char::is_control) {
        return Err(PathError::NotText);
    }
    let mut path = String::with_capacity(text.len());
    for component in text.split(['/', '\\']) {
        match component {
            "" | "." => {}
            ".." => return Err(PathError::Escape),
            name => {
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(name);
            }
        }
    }
    if path.is_empty() { Err(PathError::Empty) } else { Ok(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_firmware_writes_a_name() {
        for raw in
            ["grub/grub.cfg", "/grub/grub.cfg", "//grub//grub.cfg", "\\grub\\grub.cfg", "./grub/./grub.cfg"]
        {
            assert_eq!(normalise(raw.as_bytes()).as_deref(), Ok("grub/grub.cfg"), "{raw}");
        }
        assert_eq!(normalise(b"ipxe.efi\xff\xff").as_deref(), Ok("ipxe.efi"));
        assert_eq!(normalise("mañana..efi".as_bytes()).as_deref(), Ok("mañana..efi"));
    }

    #[test]
    fn what_is_refused() {
        for raw in ["../etc/passwd", "a/../b", "a\\..\\..\\b", "..", "/..", "a/.."] {
            assert_eq!(normalise(raw.as_bytes()), Err(PathError::Escape), "{raw}");
        }
        assert_eq!(normalise(b""), Err(PathError::Empty));
        assert_eq!(normalise(b"//"), Err(PathError::Empty));
        assert_eq!(normalise(b"a\nb"), Err(PathError::NotText));
        assert_eq!(normalise(b"a\xffb"), Err(PathError::NotText));
    }
}
