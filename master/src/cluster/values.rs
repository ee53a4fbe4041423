//! The single values of cluster.yaml: each is written as one word.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde_json::{Value, json};
use tesela_runtime::balance::NoSchedule;

use super::model::{Boot, DhcpMode, ImageSource, Loader, ProfileAddress, Root, Schedule, Unknown, Writes};
use super::names::{NameError, NamePattern};
use super::read::{Refused, Word, nearest};
use super::{Mac, Uuid};

/// One word of a fixed choice.
macro_rules! choice {
    ($type:ty { $($word:literal => $value:expr),* $(,)? }) => {
        impl Word for $type {
            fn word(text: &str) -> Result<Self, Refused> {
                match text {
                    $( $word => Ok($value), )*
                    other => Err(not_one_of(other, &[$($word),*])),
                }
            }

            fn schema() -> Value {
                json!({"enum": [$($word),*]})
            }
        }
    };
}

choice!(Boot { "network" => Boot::Network, "disk" => Boot::Disk });
choice!(Root { "nfs" => Root::Nfs, "ram" => Root::Ram });
choice!(Writes { "keep" => Writes::Keep, "discard" => Writes::Discard });
choice!(Loader { "auto" => Loader::Auto, "ipxe" => Loader::Ipxe, "grub" => Loader::Grub });
choice!(DhcpMode { "authoritative" => DhcpMode::Authoritative, "proxy" => DhcpMode::Proxy });
choice!(Unknown { "register" => Unknown::Register, "boot" => Unknown::Boot, "ignore" => Unknown::Ignore });

fn not_one_of(word: &str, words: &[&str]) -> Refused {
    let refused = Refused::new(format!("`{word}` is none of {}", words.join(", ")));
    match nearest(word, words.iter().copied()) {
        Some(near) => refused.mend(format!("did you mean `{near}`?")),
        None => refused,
    }
}

impl Word for bool {
    fn word(text: &str) -> Result<Self, Refused> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(Refused::new(format!("`{other}` is neither true nor false"))),
        }
    }

    fn schema() -> Value {
        json!({"type": "boolean"})
    }
}

/// A whole number between two bounds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number<const MIN: u32, const MAX: u32>(pub u32);

impl<const MIN: u32, const MAX: u32> Word for Number<MIN, MAX> {
    fn word(text: &str) -> Result<Self, Refused> {
        text.parse()
            .ok()
            .filter(|number| (MIN..=MAX).contains(number))
            .map(Number)
            .ok_or_else(|| Refused::new(format!("`{text}` is no whole number from {MIN} to {MAX}")))
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

impl Word for Ipv4Addr {
    fn word(text: &str) -> Result<Self, Refused> {
        text.parse().map_err(|_| {
            let refused = Refused::new(format!("`{text}` is no IPv4 address"));
            match text.split_once('/') {
                Some((address, _)) if address.parse::<Ipv4Addr>().is_ok() => {
                    refused.mend(format!("write it without the length of the network: {address}"))
                }
                _ => refused.mend("write four numbers from 0 to 255, as 192.168.45.1"),
            }
        })
    }

    fn schema() -> Value {
        json!({"type": "string", "format": "ipv4"})
    }
}

/// A host's address with the length of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostNet(pub Ipv4Net);

impl Word for HostNet {
    fn word(text: &str) -> Result<Self, Refused> {
        let net: Ipv4Net = text.parse().map_err(|_| {
            let refused = Refused::new(format!("`{text}` is no address with the length of its network"));
            match text.parse::<Ipv4Addr>() {
                Ok(address) => refused.mend(format!("write the length of the network too: {address}/24")),
                Err(_) => refused.mend("write it as 192.168.45.1/24"),
            }
        })?;
        if !(8..=30).contains(&net.prefix_len()) {
            return Err(Refused::new(format!("a network of length /{} is no use here", net.prefix_len()))
                .mend("a length from /8 to /30 leaves room for nodes"));
        }
        if net.addr() == net.network() || net.addr() == net.broadcast() {
            return Err(Refused::new(format!("{} is the {} of {}", net.addr(), part(net), net.trunc()))
                .mend(format!(
                    "write the machine's own address, as {}/{}",
                    first_host(net),
                    net.prefix_len()
                )));
        }
        Ok(HostNet(net))
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": r"^\d+\.\d+\.\d+\.\d+/\d+$"})
    }
}

fn part(net: Ipv4Net) -> &'static str {
    if net.addr() == net.network() { "network's own address" } else { "broadcast address" }
}

fn first_host(net: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(net.network()) | 1)
}

impl Word for ProfileAddress {
    fn word(text: &str) -> Result<Self, Refused> {
        match text {
            "dhcp" => Ok(ProfileAddress::Dhcp),
            _ => HostNet::word(text).map(|HostNet(net)| ProfileAddress::Fixed(net)).map_err(|refused| {
                Refused { mend: refused.mend.map(|mend| format!("{mend}, or `dhcp`")), ..refused }
            }),
        }
    }

    fn schema() -> Value {
        json!({"anyOf": [{"const": "dhcp"}, HostNet::schema()]})
    }
}

/// `192.168.45.100-192.168.45.199`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddressRange(pub Ipv4Addr, pub Ipv4Addr);

impl Word for AddressRange {
    fn word(text: &str) -> Result<Self, Refused> {
        let ends = text
            .split_once('-')
            .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
        match ends {
            Some((first, last)) if first <= last => Ok(AddressRange(first, last)),
            Some((first, last)) => Err(Refused::new(format!("the range `{text}` ends before it begins"))
                .mend(format!("turn it round: {last}-{first}"))),
            None => Err(Refused::new(format!("`{text}` is no range of addresses"))
                .mend("write its first and last address, as 192.168.45.100-192.168.45.199")),
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": r"^\d+\.\d+\.\d+\.\d+ *- *\d+\.\d+\.\d+\.\d+$"})
    }
}

impl Word for Mac {
    fn word(text: &str) -> Result<Self, Refused> {
        let mac: Mac = text.parse().map_err(|error: String| Refused::from_message(&error))?;
        if mac.0[0] & 1 == 1 {
            return Err(Refused::new(format!("{mac} is a group address, which no machine has")));
        }
        match mac.0 {
            [0, 0, 0, 0, 0, 0] => Err(Refused::new(format!("{mac} is no machine's address"))),
            _ => Ok(mac),
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^([0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{12})$"})
    }
}

impl Word for Uuid {
    fn word(text: &str) -> Result<Self, Refused> {
        let uuid: Uuid = text.parse().map_err(|error: String| Refused::from_message(&error))?;
        match uuid.0 {
            // What firmware says that was never given one.
            [0, ..] | [255, ..] if uuid.0.iter().all(|byte| *byte == uuid.0[0]) => {
                Err(Refused::new(format!("{uuid} is what firmware says that has no UUID"))
                    .mend("know the machine by its `mac`"))
            }
            _ => Ok(uuid),
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "format": "uuid"})
    }
}

/// A length of time in seconds: `12h`, `15m`, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Duration(pub u32);

impl Duration {
    fn seconds(text: &str) -> Option<u32> {
        let mut rest = text;
        let mut sum = 0u32;
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, after) = rest.split_at(digits);
            let unit = after.chars().next()?;
            let seconds = match unit {
                's' => 1,
                'm' => 60,
                'h' => 3600,
                'd' => 86400,
                _ => return None,
            };
            sum = number.parse::<u32>().ok()?.checked_mul(seconds)?.checked_add(sum)?;
            rest = after[1..].trim_start();
        }
        Some(sum).filter(|_| !text.is_empty())
    }
}

impl Word for Duration {
    fn word(text: &str) -> Result<Self, Refused> {
        match Self::seconds(text) {
            Some(seconds) if seconds >= 60 => Ok(Duration(seconds)),
            Some(_) => Err(Refused::new(format!("`{text}` is too short")).mend("a minute is the least: 1m")),
            None => Err(Refused::new(format!("`{text}` is no length of time"))
                .mend("write a number with its unit: 90s, 15m, 12h, 1d")),
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^([0-9]+[smhd] *)+$"})
    }
}

impl Word for Schedule {
    fn word(text: &str) -> Result<Self, Refused> {
        text.parse().map_err(|error: NoSchedule| {
            Refused::new(error.to_string())
                .mend("write days and hours: mon-fri 20:00-07:00, or sat,sun 00:00-24:00")
        })
    }
}

impl Word for ImageSource {
    fn word(text: &str) -> Result<Self, Refused> {
        let kinds = "write debian:SUITE, host:/, dir:PATH or tar:PATH";
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(Refused::new(format!("`{text}` is no source of an image")).mend(kinds));
        };
        match kind {
            "debian" if is_name(rest) => Ok(ImageSource::Debian(rest.to_owned())),
            "debian" => {
                Err(Refused::new(format!("`{rest}` is no suite of Debian"))
                    .mend("write it as debian:bookworm"))
            }
            "host" => absolute(rest).map(ImageSource::Host),
            "dir" => absolute(rest).map(ImageSource::Dir),
            "tar" => absolute(rest).map(ImageSource::Tar),
            _ => Err(Refused::new(format!("`{kind}:` is no source of an image")).mend(kinds)),
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^(debian:[A-Za-z0-9]|(host|dir|tar):/)"})
    }
}

/// A path from the root of the master's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AbsolutePath(pub PathBuf);

fn absolute(text: &str) -> Result<PathBuf, Refused> {
    let path = Path::new(text);
    match path.is_absolute() && !text.contains('\0') {
        true => Ok(path.to_owned()),
        false => Err(Refused::new(format!("`{text}` is no absolute path"))
            .mend("write it from the root, as /srv/tesela/root")),
    }
}

impl Word for AbsolutePath {
    fn word(text: &str) -> Result<Self, Refused> {
        absolute(text).map(AbsolutePath)
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^/"})
    }
}

/// A word that must look as its kind does.
macro_rules! word_that {
    ($(#[doc = $doc:literal])* $name:ident, $holds:expr, $what:literal, $mend:literal) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(super) struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Word for $name {
            fn word(text: &str) -> Result<Self, Refused> {
                let holds: fn(&str) -> bool = $holds;
                match holds(text) {
                    true => Ok($name(text.to_owned())),
                    false => Err(Refused::new(format!(concat!("`{}` cannot be ", $what), text)).mend($mend)),
                }
            }
        }
    };
}

word_that!(
    /// A DNS label (RFC 1123 2.1).
    Label, super::names::is_label, "a name in DNS", "lower-case letters, digits and `-` inside, at most 63 of them"
);
word_that!(
    /// The name of an image, a profile or a pool; also a directory, and a word of the kernel command line.
    Name, is_name, "a name", "letters, digits, and `-`, `_` or `.` inside, at most 63 of them"
);
word_that!(
    /// A network interface (Linux: 15 bytes).
    Interface,
    |text| (1..16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':'),
    "an interface", "`ip link` lists the interfaces of this machine"
);
word_that!(
    /// A Debian package, with `=VERSION` or `:ARCH` if need be.
    Package,
    |text| text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.:=~_/".contains(&b)),
    "a Debian package", "one package an item, as openssh-server"
);
word_that!(
    /// A service of systemd.
    Service,
    |text| text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"@._:-\\".contains(&b)),
    "a service", "one service an item, as `systemctl` lists them"
);
word_that!(
    /// Where Debian packages are fetched from.
    Mirror,
    |text| ["http://", "https://", "file:/"].iter().any(|scheme| text.starts_with(scheme))
        && text.bytes().all(|b| b.is_ascii_graphic()),
    "a mirror", "write its address, as http://deb.debian.org/debian"
);
word_that!(
    /// A word of the kernel command line.
    KernelArg,
    |text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\`$;&|<>{}".contains(&b)),
    "a word of the kernel command line", "one word an item, without quotes: [quiet, mitigations=off]"
);
word_that!(
    /// Any text but an empty one.
    Text, |text| !text.is_empty(), "empty", "write something, or remove the key"
);

fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// An item of a list that adds to what is inherited; `~item` takes an inherited one away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Edit<T> {
    Add(T),
    Remove(T),
}

impl<T: Word> Word for Edit<T> {
    fn word(text: &str) -> Result<Self, Refused> {
        match text.strip_prefix('~') {
            Some(rest) => T::word(rest).map(Edit::Remove),
            None => T::word(text).map(Edit::Add),
        }
    }

    fn schema() -> Value {
        T::schema()
    }
}

impl Word for NamePattern {
    fn word(text: &str) -> Result<Self, Refused> {
        text.parse().map_err(|error: NameError| Refused::from_message(&error.to_string()))
    }
}
