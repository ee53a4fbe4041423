//! What depmod(8) wrote about a kernel's modules.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::kernel::Kernel;
use crate::rooted::Rooted;

/// The modules of a kernel, by name (with `_` for `-`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Depmod {
    /// File of each module, relative to the folder of modules, and what it depends on, nearest first.
    pub modules: BTreeMap<String, (String, Vec<String>)>,
    /// What the kernel has built in.
    pub builtin: BTreeSet<String>,
    /// Pattern and module.
    pub aliases: Vec<(String, String)>,
}

impl Depmod {
    /// Reads `modules.dep`, `modules.softdep`, `modules.alias` and `modules.builtin`.
    ///
    /// # Errors
    /// A file that cannot be read; only `modules.dep` has to be there.
    pub fn read(root: &Rooted, kernel: &Kernel) -> io::Result<Self> {
        let optional = |name: &str| match root.read_to_string(format!("{}/{name}", kernel.modules)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other,
        };
        let dep = root.read_to_string(format!("{}/modules.dep", kernel.modules))?;
        Ok(Self::parse(
            &dep,
            &optional("modules.softdep")?,
            &optional("modules.alias")?,
            &optional("modules.builtin")?,
        ))
    }

    /// Reads the content of the four files; a line that is not understood is passed over, as modprobe does.
    pub fn parse(dep: &str, softdep: &str, alias: &str, builtin: &str) -> Self {
        let mut all = Self::default();
        for (file, dependencies) in dep.lines().filter_map(|line| line.split_once(':')) {
            let dependencies = dependencies.split_ascii_whitespace().filter_map(module_name).collect();
            all.modules.extend(module_name(file).map(|name| (name, (file.to_owned(), dependencies))));
        }
        for line in softdep.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some("softdep"), Some(name)) = (words.next(), words.next()) else { continue };
            let before = words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| *word != "post:");
            let before: Vec<String> = before.filter_map(module_name).collect();
            if let Some((_, dependencies)) = module_name(name).and_then(|name| all.modules.get_mut(&name)) {
                dependencies.splice(0..0, before);
            }
        }
        for line in alias.lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            if let ["alias", pattern, name] = words.as_slice() {
                all.aliases.extend(module_name(name).map(|name| ((*pattern).to_owned(), name)));
            }
        }
        all.builtin = builtin.lines().filter_map(module_name).collect();
        all
    }

    /// These modules and all that they need.
    pub fn closure<'a, 'n>(&'a self, names: impl IntoIterator<Item = &'n str>) -> BTreeSet<&'a str> {
        let mut closure = BTreeSet::new();
        let known = |name: &str| self.modules.get_key_value(name);
        let mut open: Vec<_> = names.into_iter().filter_map(known).collect();
        while let Some((name, (_, dependencies))) = open.pop() {
            if closure.insert(name.as_str()) {
                open.extend(dependencies.iter().filter_map(|name| known(name)));
                // libcrc32c asks the crypto API for an algorithm by its alias, not by a module's name.
                open.extend(dependencies.iter().flat_map(|name| self.providers(name)).filter_map(known));
            }
        }
        closure
    }

    /// The modules that a soft dependency means: the one of this name, or those with the alias.
    pub fn providers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let aliased = self.aliases.iter().filter(move |(pattern, _)| {
            let pattern = pattern.replace('-', "_");
            pattern == name || pattern == format!("crypto_{name}")
        });
        aliased.map(|(_, module)| module.as_str())
    }
}

/// The name of the module in a file, or a name as depmod writes it; `None` where it is none: a word of the
/// initramfs's list is due.
pub fn module_name(file: &str) -> Option<String> {
    let name = file.rsplit('/').next().unwrap_or(file);
    let name = name.split_once(".ko").map_or(name, |(name, _)| name);
    let is_word = !name.is_empty() && !name.contains(char::is_whitespace);
    is_word.then(|| name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_soft_ones_too() {
        let all = Depmod::parse(
            "kernel/a-b.ko.xz: kernel/c.ko.xz\nkernel/c.ko.xz:\nkernel/crypto/crc32c_generic.ko:\nkernel/lib/d.ko:\n",
            "# comment\nsoftdep c pre: crc32c post: d\n",
            "# comment\nalias pci:v1* a-b\nalias crypto-crc32c crc32c_generic\nbroken\n",
            "kernel/fs/ext4.ko\n",
        );
        assert_eq!(all.modules["a_b"].0, "kernel/a-b.ko.xz");
        assert_eq!(all.closure(["a_b"]), ["a_b", "c", "crc32c_generic"].into());
        assert!(all.builtin.contains("ext4"));
        let odd = Depmod::parse("k/: k/a.ko\nk/a b.ko:\nk/a.ko: .ko\n", "", "alias x:y .ko\n", "k/\n");
        assert_eq!(
            odd.modules,
            [("a".to_owned(), ("k/a.ko".to_owned(), Vec::new()))].into(),
            "names are words"
        );
        assert!(odd.aliases.is_empty() && odd.builtin.is_empty());
        assert_eq!(all.aliases[0], ("pci:v1*".to_owned(), "a_b".to_owned()));
    }
}
