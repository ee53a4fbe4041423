//! An image from Debian packages.

use std::fs;
use std::path::Path;

use super::{BuildError, ImageSpec, Progress, chroot};

/// What every node needs, besides Debian's required packages.
const BASE: &[&str] = &["linux-image-amd64", "systemd-sysv", "dbus", "udev", "kmod", "iproute2"];

/// What a node never reads; two thirds of the files of a small system. Licences stay.
const EXCLUDED: &[&str] = &[
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
];

/// Makes a tree of `suite` at `root`, which is not there yet.
pub fn build(
    spec: &ImageSpec,
    suite: &str,
    root: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), BuildError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '+');
    if suite.is_empty() || suite.starts_with('-') || !suite.chars().all(fine) {
        return Err(BuildError::Source {
            from: format!("debian:{suite}"),
            problem: "not the name of a suite".into(),
        });
    }
    let mut packages: Vec<&str> = BASE.to_vec();
    packages.extend(spec.packages.iter().map(String::as_str));
    if !Path::new("/usr/bin/mmdebstrap").is_file() {
        return Err(BuildError::Missing { program: "mmdebstrap", package: "mmdebstrap" });
    }
    let mut command = chroot::apart("mmdebstrap");
    command.args(["--variant=minbase", "--format=directory"]);
    command.args(["--aptopt=Apt::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""]);
    command.args(EXCLUDED.iter().map(|option| format!("--dpkgopt={option}")));
    // A node boots by the initramfs made here: Debian's own would cost a minute and 36 MB.
    command.env("INITRD", "No").env("LC_ALL", "C.UTF-8");
    command.arg(format!("--include={}", packages.join(","))).arg(suite).arg(root);
    match &spec.mirror {
        Some(mirror) => {
            command.arg(mirror);
        }
        None => {
            command.args(own_sources(suite));
        }
    }
    chroot::run(&mut command, &format!("mmdebstrap {suite}"), chroot::APART, progress)
}

/// The master's own sources of this suite as `deb` lines; none where it has none (mmdebstrap then takes
/// Debian's own servers).
fn own_sources(suite: &str) -> Vec<String> {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    let folder = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut paths: Vec<_> = folder.map(|entry| entry.path()).collect();
    paths.sort();
    let wanted =
        paths.iter().filter(|path| path.extension().is_some_and(|end| end == "list" || end == "sources"));
    texts.extend(wanted.filter_map(|path| fs::read_to_string(path).ok()));
    texts.iter().flat_map(|text| sources(text, suite)).collect()
}

/// The `deb` lines of one file of sources.list(5), in either of its two formats, for a suite and its
/// `-updates` and `-security`. Archives that are not laid out as Debian's are somebody else's, and the
/// image has not their keys.
fn sources(text: &str, suite: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut take = |uri: &str, found: &str, components: &str| {
        let debian = ["debian", "debian-security"]
            .contains(&uri.trim_end_matches('/').rsplit('/').next().unwrap_or(""));
        let ours =
            found.strip_prefix(suite).is_some_and(|rest| ["", "-updates", "-security"].contains(&rest));
        if debian && ours && !components.is_empty() {
            lines.push(format!("deb {uri} {found} {components}"));
        }
    };
    for line in text.lines() {
        let line = line.trim().strip_prefix("deb ").unwrap_or("").trim();
        // Options in brackets are the master's own business.
        let line =
            if line.starts_with('[') { line.split_once(']').map_or("", |(_, rest)| rest) } else { line };
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let [uri, found, components @ ..] = words.as_slice() {
            take(uri, found, &components.join(" "));
        }
    }
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            let value = stanza.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| *key == name);
            value.map_or("", |(_, value)| value.trim())
        };
        if !field("Types").split_ascii_whitespace().any(|kind| kind == "deb") || field("Enabled") == "no" {
            continue;
        }
        for uri in field("URIs").split_ascii_whitespace() {
            for found in field("Suites").split_ascii_whitespace() {
                take(uri, found, field("Components"));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_masters_own_sources_in_both_formats() {
        let new = "Types: deb\n# note\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates trixie\n\
                   Components: main contrib\n\nTypes: deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm\n\
                   Components: main\n";
        assert_eq!(
            sources(new, "bookworm"),
            [
                "deb http://mirror.example/debian bookworm main contrib",
                "deb http://mirror.example/debian bookworm-updates main contrib"
            ]
        );
        let old = "deb [signed-by=/k] http://s.example/debian-security/ bookworm-security main # x\n\
                   # deb http://mirror.example/debian bookworm main\n\
                   deb http://apt.example/other bookworm main\n";
        assert_eq!(
            sources(old, "bookworm")[0],
            "deb http://s.example/debian-security/ bookworm-security main # x"
        );
        assert_eq!(sources(old, "bookworm").len(), 1);
        assert!(sources(old, "trixie").is_empty());
    }
}
