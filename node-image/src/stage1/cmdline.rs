//! The kernel command line as the loader passes it to stage1.
//!
//! ```text
//! tesela.node=n1 tesela.master=192.168.45.1 tesela.http=80 tesela.nfs=2049 tesela.export=/nodes/n1
//! tesela.root=nfs|ram tesela.squashfs=/images/base/BUILD/root.squashfs tesela.sha256=HEX
//! tesela.readahead=32
//! tesela.control=7443 tesela.ca=HEX tesela.token=TOKEN BOOTIF=01-aa-bb-cc-dd-ee-ff
//! ```
//!
//! Words that are not ours are the kernel's or the init system's, and are left alone. Where a word
//! comes twice the last one holds, as with the kernel itself.

use std::fmt;
use std::net::Ipv4Addr;

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Reads `aa:bb:cc:dd:ee:ff` or the same with `-`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2)?;
            *octet = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Self(octets))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// How far ahead of a program the kernel reads in its NFS root, in KiB.
///
/// A boot reads little of much: a few pages of each shared library, of the hardware database, of a program.
/// The kernel's own 128 KiB around each page that is missing make a third of what is sent.
pub const READ_AHEAD: u32 = 32;

/// How the root arrives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Root {
    /// The NFS export of this path.
    Nfs {
        /// The path, with a leading `/`.
        export: String,
        /// TCP port of NFS.
        port: u16,
        /// TCP port of MOUNT: `tesela.mount=`, for a server that does not have both on one port.
        mount_port: u16,
        /// `tesela.readahead=`: how far the kernel reads ahead, in KiB.
        read_ahead: u32,
    },
    /// A squashfs over HTTP, held in memory.
    Ram {
        /// Path on the master's HTTP server.
        path: String,
        /// Digest of the file.
        sha256: [u8; 32],
    },
}

impl Root {
    /// What `tesela.root=` says.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Nfs { .. } => "nfs",
            Self::Ram { .. } => "ram",
        }
    }
}

/// Where and how the node gets its certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Control {
    /// TCP port of the control channel.
    pub port: u16,
    /// SHA-256 of the cluster CA's certificate in DER.
    pub ca: [u8; 32],
    /// The one-time token.
    pub token: String,
}

/// All that the loader told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootArgs {
    /// The node's name.
    pub node: String,
    /// The master's address.
    pub master: Ipv4Addr,
    /// TCP port of the master's HTTP server.
    pub http: u16,
    /// How the root arrives.
    pub root: Root,
    /// Enrolment; absent where the master runs without keys.
    pub control: Option<Control>,
    /// The interface that the firmware booted from.
    pub boot_mac: Option<Mac>,
    /// `tesela.shell`: on failure start the initramfs's shell, if it has one.
    pub shell: bool,
}

/// A command line that stage1 cannot work from. The boot script that the master renders is at fault.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CmdlineError {
    /// A word that must be there is not.
    #[error("the kernel command line has no {0}=; was this kernel started by the master's boot script?")]
    Missing(&'static str),
    /// A word that cannot be read.
    #[error("the kernel command line has {word}={value}: expected {expected}")]
    Invalid {
        /// The word.
        word: &'static str,
        /// What it says.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// Reads the kernel command line.
///
/// # Errors
/// A word that stage1 needs is missing or malformed.
pub fn parse(line: &str) -> Result<BootArgs, CmdlineError> {
    let words = Words(line);
    let port = |word, default| match words.value(word) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| invalid(word, text, "a TCP port")),
    };
    let root = match words.value("tesela.root") {
        None | Some("nfs") => {
            let export = words.need("tesela.export")?;
            if !export.starts_with('/') || export.contains(',') {
                return Err(invalid("tesela.export", export, "an absolute path without a comma"));
            }
            let nfs = port("tesela.nfs", 2049)?;
            let read_ahead = words.value("tesela.readahead").map_or(Ok(READ_AHEAD), |text| {
                text.parse().map_err(|_| invalid("tesela.readahead", text, "a number of KiB"))
            })?;
            let mount_port = port("tesela.mount", nfs)?;
            Root::Nfs { export: export.to_owned(), port: nfs, mount_port, read_ahead }
        }
        Some("ram") => {
            let path = words.need("tesela.squashfs")?;
            if !path.starts_with('/') {
                return Err(invalid("tesela.squashfs", path, "an absolute path"));
            }
            let sha256 = digest("tesela.sha256", words.need("tesela.sha256")?)?;
            Root::Ram { path: path.to_owned(), sha256 }
        }
        Some(other) => return Err(invalid("tesela.root", other, "nfs or ram")),
    };
    let control = match words.value("tesela.token") {
        None => None,
        Some(token) => Some(Control {
            port: port("tesela.control", 7443)?,
            ca: digest("tesela.ca", words.need("tesela.ca")?)?,
            token: token.to_owned(),
        }),
    };
    let master = words.need("tesela.master")?;
    Ok(BootArgs {
        node: words.need("tesela.node")?.to_owned(),
        master: master.parse().map_err(|_| invalid("tesela.master", master, "an IPv4 address"))?,
        http: port("tesela.http", 80)?,
        root,
        control,
        boot_mac: words.value("BOOTIF").map(bootif).transpose()?,
        shell: words.has("tesela.shell"),
    })
}

/// Reads `BOOTIF`: the hardware type in two digits, then the address (pxelinux and iPXE write it with
/// `-`, GRUB's `$net_default_mac` with `:`); the type may be missing.
fn bootif(text: &str) -> Result<Mac, CmdlineError> {
    let address = if text.len() == 20 { text.get(3..).unwrap_or("") } else { text };
    Mac::parse(address).ok_or_else(|| invalid("BOOTIF", text, "01- and a hardware address"))
}

fn digest(word: &'static str, text: &str) -> Result<[u8; 32], CmdlineError> {
    decode_hex(text).ok_or_else(|| invalid(word, text, "64 hexadecimal digits"))
}

/// Decodes 64 hexadecimal digits.
pub fn decode_hex(text: &str) -> Option<[u8; 32]> {
    let mut octets = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (octet, pair) in octets.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *octet = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(octets)
}

fn invalid(word: &'static str, value: &str, expected: &'static str) -> CmdlineError {
    CmdlineError::Invalid { word, value: value.to_owned(), expected }
}

struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn has(&self, word: &str) -> bool {
        self.0.split_ascii_whitespace().any(|found| found == word)
    }

    fn value(&self, word: &str) -> Option<&'a str> {
        let values = self.0.split_ascii_whitespace().filter_map(|found| found.split_once('='));
        values.filter(|(name, value)| *name == word && !value.is_empty()).map(|(_, value)| value).next_back()
    }

    fn need(&self, word: &'static str) -> Result<&'a str, CmdlineError> {
        self.value(word).ok_or(CmdlineError::Missing(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "BOOT_IMAGE=/k quiet tesela.node=n1 tesela.master=192.168.45.1 tesela.http=8080 \
        tesela.nfs=2049 tesela.export=/nodes/n1 tesela.root=nfs BOOTIF=01-52-54-00-AA-bb-01 console=ttyS0";

    #[test]
    fn an_nfs_root_without_enrolment() {
        let args = parse(LINE).unwrap();
        assert_eq!(args.node, "n1");
        assert_eq!(args.master, Ipv4Addr::new(192, 168, 45, 1));
        assert_eq!(args.http, 8080);
        assert_eq!(
            args.root,
            Root::Nfs { export: "/nodes/n1".into(), port: 2049, mount_port: 2049, read_ahead: READ_AHEAD }
        );
        let args = parse(&format!("{LINE} tesela.readahead=512")).unwrap();
        assert!(matches!(args.root, Root::Nfs { read_ahead: 512, .. }));
        assert_eq!(args.boot_mac, Some(Mac([0x52, 0x54, 0, 0xaa, 0xbb, 1])));
        assert_eq!(args.control, None);
        assert!(!args.shell);
    }

    #[test]
    fn a_ram_root_with_enrolment() {
        let digest = "ab".repeat(32);
        let line = format!(
            "{LINE} tesela.root=ram tesela.squashfs=/images/base/1/root.squashfs tesela.sha256={digest} \
             tesela.ca={digest} tesela.token=t0k tesela.shell"
        );
        let args = parse(&line).unwrap();
        assert_eq!(args.root, Root::Ram { path: "/images/base/1/root.squashfs".into(), sha256: [0xab; 32] });
        assert_eq!(args.control, Some(Control { port: 7443, ca: [0xab; 32], token: "t0k".into() }));
        assert!(args.shell);
    }

    #[test]
    fn grub_writes_bootif_with_colons() {
        assert_eq!(bootif("01-52:54:00:aa:bb:01").unwrap(), bootif("52-54-00-aa-bb-01").unwrap());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |line: &str| parse(line).unwrap_err().to_string();
        assert!(message("").contains("no tesela.export="));
        assert!(
            message(&format!("{LINE} tesela.http=99999")).contains("tesela.http=99999: expected a TCP port")
        );
        assert!(message(&format!("{LINE} tesela.root=disk")).contains("expected nfs or ram"));
        assert!(message(&format!("{LINE} tesela.root=ram tesela.squashfs=x")).contains("an absolute path"));
        assert!(message(&format!("{LINE} tesela.readahead=x")).contains("expected a number of KiB"));
        assert!(message(&format!("{LINE} BOOTIF=01-52")).contains("BOOTIF=01-52"));
        assert!(message(&format!("{LINE} BOOTIF=01-52-54-00-é-bb-01")).contains("BOOTIF"));
        assert!(message(&format!("{LINE} tesela.token=x tesela.ca=zz")).contains("64 hexadecimal"));
    }
}
