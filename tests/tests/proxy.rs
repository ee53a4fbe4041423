//! Beside another DHCP server: a cluster with `dhcp: proxy` says what to boot and gives no address.

use std::time::Duration;

use tesela_tests::lab::Lab;

/// The addresses are another server's, and every machine is taken.
const PROXY: &str = "
cluster: beside
master:
  interface: tesela0
  address: 10.78.0.1/24
  dhcp: proxy
  gateway: 10.78.0.254
  unknown: boot
  unknown profile: node
images:
  base: {from: debian:bookworm, packages: [openssh-server]}
profiles:
  node: {image: base, root: nfs}
nodes:
  n1: {profile: node}
";

#[test]
fn machines_boot_beside_another_dhcp_server() {
    let lab = Lab::of(PROXY, &["--nodes", "1", "--unknown", "1", "--firmware", "bios,uefi"]);
    // Without an entry a machine boots under the name that its hardware address gives.
    let taken = "m5254007e5e02";
    for (node, firmware) in [("n1", "bios"), (taken, "uefi")] {
        let seen = lab.node(node);
        assert_eq!(
            (&seen["state"]["stage"], &seen["state"]["firmware"]),
            (&"member".into(), &firmware.into())
        );
        assert_eq!(lab.said(node, "hostname"), node);
        assert_eq!(lab.said(node, "stat -f -c %T /"), "nfs");
        let record = lab.said(node, "cat /run/tesela/boot.json");
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        assert_eq!(record["routers"], serde_json::json!(["10.78.0.254"]), "the other server's word");
        assert_eq!(record["address"], seen["address"]);
    }
    let metrics = lab.said(
        "n1",
        "bash -c \"exec 3<>/dev/tcp/10.78.0.1/80; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3\"",
    );
    let count = |name: &str| -> u64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
    };
    // iPXE, in ROM and loaded, takes the offer on port 67 as it is; OVMF asks again on 4011, and is answered.
    assert!(count("tesela_dhcp_offer_total") >= 3, "{metrics}");
    assert!(count("tesela_dhcp_boot_server_total") >= 1, "{metrics}");
    assert!(count("tesela_dhcp_ack_total") >= 1, "{metrics}");
    a_restart_knows_the_addresses(&lab, &["n1", taken]);
}

/// A master that starts again gives the nodes their roots at the addresses that they have.
fn a_restart_knows_the_addresses(lab: &Lab, nodes: &[&str]) {
    let restarted = lab.tesela(&["lab", "restart", "--kill"]);
    assert!(restarted.status.success(), "{restarted:?}");
    for node in nodes {
        lab.wait("the member is back", Duration::from_secs(60), || lab.stage(node) == "member");
        lab.said(node, "echo 3 > /proc/sys/vm/drop_caches; sha256sum /usr/bin/bash; touch /root/written");
    }
}
