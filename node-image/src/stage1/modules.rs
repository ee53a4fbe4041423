//! Which kernel modules stage1 loads, and in which order.
//!
//! The builder of the initramfs writes the list, from the kernel's own `modules.dep`, `modules.alias`
//! and `modules.softdep`; stage1 matches it against the devices that are there, so that only the
//! drivers of the NICs present are loaded. One record a line:
//!
//! ```text
//! module NAME FILE DEPENDENCY…     what must be loaded before, nearest first
//! alias PATTERN NAME               PATTERN as in modules.alias
//! load ROOT NAME                   loaded where the root is of that kind: nfs or ram
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A module in the initramfs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Module {
    /// Its file, relative to the folder of modules.
    pub file: String,
    /// What must be loaded before it; names that the list lacks are built into the kernel.
    pub dependencies: Vec<String>,
}

/// The modules of an initramfs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ModuleList {
    /// By name, with `_` for `-`.
    pub modules: BTreeMap<String, Module>,
    /// A device's modalias pattern and the module that drives it.
    pub aliases: Vec<(String, String)>,
    /// Kind of root and a module that it needs.
    pub load: Vec<(String, String)>,
}

/// A line of the list that is none of the three records.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line} of the module list cannot be read: {text}")]
pub struct ModuleListError {
    /// From 1.
    pub line: usize,
    /// The line.
    pub text: String,
}

impl ModuleList {
    /// Reads a list.
    ///
    /// # Errors
    /// A line that is no record.
    pub fn parse(text: &str) -> Result<Self, ModuleListError> {
        let mut list = Self::default();
        for (index, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match words.as_slice() {
                ["module", name, file, dependencies @ ..] => {
                    let dependencies = dependencies.iter().map(|&name| name.to_owned()).collect();
                    let module = Module { file: (*file).to_owned(), dependencies };
                    list.modules.insert((*name).to_owned(), module);
                }
                ["alias", pattern, name] => list.aliases.push(((*pattern).to_owned(), (*name).to_owned())),
                ["load", root, name] => list.load.push(((*root).to_owned(), (*name).to_owned())),
                [] => {}
                _ => return Err(ModuleListError { line: index + 1, text: line.to_owned() }),
            }
        }
        Ok(list)
    }

    /// Writes the list; the same list gives the same octets.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, module) in &self.modules {
            let dependencies: String = module.dependencies.iter().map(|name| format!(" {name}")).collect();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "module {name} {}{dependencies}", module.file);
        }
        for (pattern, name) in &self.aliases {
            let _ = writeln!(text, "alias {pattern} {name}");
        }
        for (root, name) in &self.load {
            let _ = writeln!(text, "load {root} {name}");
        }
        text
    }

    /// The modules that drive a device with this modalias.
    pub fn drivers<'a>(&'a self, modalias: &str) -> impl Iterator<Item = &'a str> {
        let matching =
            self.aliases.iter().filter(move |(pattern, _)| glob(pattern.as_bytes(), modalias.as_bytes()));
        matching.map(|(_, name)| name.as_str())
    }

    /// The module and all that it needs, in the order of loading; what the list lacks is left out.
    pub fn order<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        let mut order = Vec::new();
        self.visit(name, &mut BTreeSet::new(), &mut order);
        order
    }

    fn visit<'a>(&'a self, name: &'a str, seen: &mut BTreeSet<&'a str>, order: &mut Vec<&'a str>) {
        let Some(module) = self.modules.get(name) else { return };
        // Dependencies of a kernel are never deep; a list that is gets cut off rather than overflow.
        if seen.len() > 256 || !seen.insert(name) {
            return;
        }
        for dependency in &module.dependencies {
            self.visit(dependency, seen, order);
        }
        order.push(name);
    }
}

/// Matches `text` with a pattern of `modules.alias`: `*`, `?` and `[a-z]`, as fnmatch(3) without flags.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Iterative with one point of return (the last `*`), so at worst quadratic.
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
        } else if let Some(next) = match_one(pattern, p, text[t]) {
            p = next;
            t += 1;
        } else if let Some((after_star, from)) = retry {
            retry = Some((after_star, from + 1));
            p = after_star;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&octet| octet == b'*')
}

/// Matches one octet with the pattern's element at `p`, and gives where the next element starts.
fn match_one(pattern: &[u8], p: usize, octet: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => {
            let length = pattern[p + 1..].iter().position(|&end| end == b']')?;
            let set = &pattern[p + 1..p + 1 + length];
            let (set, negated) = match set.first() {
                Some(b'!' | b'^') => (&set[1..], true),
                _ => (set, false),
            };
            let mut found = false;
            let mut rest = set;
            while let Some(&first) = rest.first() {
                if rest.len() >= 3 && rest[1] == b'-' {
                    found |= (first..=rest[2]).contains(&octet);
                    rest = &rest[3..];
                } else {
                    found |= first == octet;
                    rest = &rest[1..];
                }
            }
            (found != negated).then_some(p + length + 2)
        }
        literal => (literal == octet).then_some(p + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "module virtio_net net/virtio_net.ko net_failover virtio\n\
        module net_failover net/net_failover.ko failover\n\
        module failover net/failover.ko\n\
        module loop_a a.ko loop_b\nmodule loop_b b.ko loop_a\n\
        alias virtio:d00000001v* virtio_net\n\
        load nfs nfsv3\n";

    #[test]
    fn written_as_read() {
        let list = ModuleList::parse(LIST).unwrap();
        assert_eq!(ModuleList::parse(&list.to_text()).unwrap(), list);
    }

    #[test]
    fn dependencies_come_first_and_a_circle_ends() {
        let list = ModuleList::parse(LIST).unwrap();
        assert_eq!(list.order("virtio_net"), ["failover", "net_failover", "virtio_net"]);
        assert_eq!(list.order("loop_a"), ["loop_b", "loop_a"]);
        assert!(list.order("absent").is_empty());
        assert_eq!(list.drivers("virtio:d00000001v00001AF4").collect::<Vec<_>>(), ["virtio_net"]);
    }

    #[test]
    fn patterns_match_as_in_modules_alias() {
        let e1000 = b"pci:v00008086d0000100Esv*sd*bc*sc*i*";
        assert!(glob(e1000, b"pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"));
        assert!(!glob(e1000, b"pci:v00008086d0000100Fsv00001AF4sd00001100bc02sc00i00"));
        assert!(glob(
            b"usb:v0BDAp8153d*dc*dsc*dp*icFFisc*ip*in*",
            b"usb:v0BDAp8153d3000dc00dsc00dp00icFFiscFFip00in00"
        ));
        assert!(glob(b"usb:v04E8p[6-8]0*", b"usb:v04E8p70aa"));
        assert!(!glob(b"usb:v04E8p[!6-8]0*", b"usb:v04E8p70aa"));
        assert!(glob(b"*", b""));
        assert!(!glob(b"[", b"["));
        assert!(!glob(b"a?", b"a"));
    }

    #[test]
    fn a_line_that_is_no_record_is_named() {
        assert_eq!(ModuleList::parse("load nfs a\nlaod nfs b\n").unwrap_err().line, 2);
    }
}
