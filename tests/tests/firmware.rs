//! Machines of further kinds become members: UEFI with Secure Boot, UEFI HTTP Boot, a root in memory, and
//! a machine that the cluster does not know.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tesela_tests::lab::{self, Lab};

const MIXED: &str = "
cluster: mixed
master:
  interface: tesela0
  address: 10.77.0.1/24
  range: 10.77.0.100-10.77.0.199
  unknown: register
images:
  base: {from: debian:bookworm, packages: [openssh-server]}
profiles:
  node: {image: base, root: nfs}
  memory: {inherits: [node], root: ram}
nodes:
  n1: {address: 10.77.0.11, profile: node}
  n2: {address: 10.77.0.12, profile: memory}
";

#[test]
fn machines_of_every_kind_become_members() {
    Squashfs::mend();
    let lab = Lab::of(MIXED, &["--nodes", "2", "--unknown", "1", "--firmware", "secure,http,bios"]);
    secure_boot_is_on(&lab);
    http_boot_needs_no_tftp(&lab);
    a_root_in_memory_keeps_nothing(&lab);
    let damaged = Squashfs::damage(&lab);
    assert!(lab.tesela(&["lab", "power", "n2", "reset"]).status.success());
    an_unknown_machine_is_accepted(&lab);
    damaged.stops_its_node(&lab);
}

fn secure_boot_is_on(lab: &Lab) {
    let variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let octets = lab.said("n1", &format!("od -An -tu1 {variable}"));
    assert_eq!(octets.split_ascii_whitespace().next_back(), Some("1"), "after four octets of attributes");
    assert!(lab.said("n1", "dmesg").contains("Secure boot enabled"));
    assert!(lab.said("n1", "cat /sys/kernel/security/lockdown").contains("[integrity]"));
    let history = lab.history("n1");
    for file in ["shimx64.efi", "grubx64.efi"] {
        let fetched = format!("fetched {file} by TFTP");
        assert!(history.contains(&fetched), "{fetched}: {history:#?}");
    }
}

fn http_boot_needs_no_tftp(lab: &Lab) {
    assert_eq!(lab.node("n2")["state"]["firmware"], "uefi-http");
    let history = lab.history("n2");
    // Firmware takes the URL only from an offer that echoes its class.
    assert!(history.iter().any(|text| text == "fetched ipxe.efi by HTTP"), "{history:#?}");
    assert!(!history.iter().any(|text| text.ends_with("by TFTP")), "{history:#?}");
}

fn a_root_in_memory_keeps_nothing(lab: &Lab) {
    assert_eq!(lab.said("n2", "stat -f -c %T /"), "overlayfs");
    assert_eq!(lab.said("n2", "stat -c '%a %U' / /tmp | tr '\\n' ' '"), "755 root 1777 root");
    assert_eq!(lab.said("n2", "hostname; cat /etc/hostname; ssh -o BatchMode=yes n1 hostname"), "n2\nn2\nn1");
    lab.said("n2", "echo here > /root/written; grep -q here /root/written");
    assert!(!lab.master_state().join("nodes/n2").exists(), "the master keeps nothing of it");
}

/// It is shown and sent on to its disk; accepted, it boots as the node.
fn an_unknown_machine_is_accepted(lab: &Lab) {
    let unknown = lab.json(&["node", "list", "--unknown"]);
    let [machine] = &unknown[..] else { panic!("{unknown:#?}") };
    assert_eq!(machine["firmware"], "bios");
    lab.wait("its screen says so", Duration::from_secs(60), || {
        lab.console("unknown1").contains("is not in the cluster mixed")
    });
    let mut events = lab.events(Duration::from_secs(300));
    let mac = machine["mac"].as_str().unwrap();
    let accepted = lab.tesela(&["node", "accept", "n3", "--mac", mac, "--profile", "node"]);
    assert!(accepted.status.success(), "{accepted:?}");
    assert!(lab.tesela(&["lab", "power", "unknown1", "reset"]).status.success());
    events.await_stage("n3", "member");
    assert!(lab.json(&["node", "list", "--unknown"]).is_empty());
    assert_eq!(lab.said("n3", "hostname"), "n3");
}

/// A squashfs that is not the one that was built; the sound one comes back when this ends.
struct Squashfs;

impl Squashfs {
    fn files() -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(lab::master_state().join("images/base")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path().join("root.squashfs")).collect()
    }

    fn sound(file: &Path) -> PathBuf {
        file.with_extension("sound")
    }

    fn damage(lab: &Lab) -> Self {
        let file = lab.master_state().join("images/base/current/root.squashfs");
        let file = file.parent().unwrap().canonicalize().unwrap().join("root.squashfs");
        let mut octets = fs::read(&file).unwrap();
        let middle = octets.len() / 2;
        octets[middle] ^= 1;
        fs::rename(&file, Self::sound(&file)).unwrap();
        fs::write(&file, octets).unwrap();
        Self
    }

    /// Also after a test that did not come to its end.
    fn mend() {
        for file in Self::files().into_iter().filter(|file| Self::sound(file).exists()) {
            fs::rename(Self::sound(&file), &file).unwrap();
        }
    }

    fn stops_its_node(self, lab: &Lab) {
        // It boots again after a minute, and what is told stays.
        let refused = || lab.history("n2").into_iter().find(|line| line.contains("root failed: "));
        lab.wait("the damage is found", Duration::from_secs(600), || refused().is_some());
        let why = refused().unwrap();
        assert!(why.contains("root.squashfs: its digest is"), "{why}");
        assert_ne!(lab.stage("n2"), "init", "it does not enter that root");
        assert!(lab.console("n2").contains("this node cannot boot: "));
    }
}

impl Drop for Squashfs {
    fn drop(&mut self) {
        Self::mend();
    }
}
