//! A running master, and what becomes of it and its nodes while its cluster changes. The real program in
//! network namespaces; no virtual machine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::time::Duration;

use bytes::Buf as _;
use nix::sys::signal::Signal;
use tesela_tests::nfs::{Args, Client, procedure};
use tesela_tests::served::Master;

const SECONDS_10: Duration = Duration::from_secs(10);

const HEAD: &str = "cluster: t
master: {interface: lan, address: 10.88.0.1/24, range: 10.88.0.100-10.88.0.149, gateway: 10.88.0.1, dns: [10.88.0.1], lease: 12h, unknown: register}
images: {base: {from: \"dir:/TREE\"}}
profiles: {node: {image: base}, other: {image: base, speed: 20000}}
";

#[test]
fn sighup_and_apply_put_in_force_what_is_live_and_refuse_the_rest() {
    let master = Master::start(HEAD);
    // Whoever was told that it is ready may send a signal at once.
    master.signal(Signal::SIGHUP);
    master.await_event("generation 1 is in force (SIGHUP)");
    let machine = master.machine("52:54:00:88:00:01");
    let told = machine.firmware();
    assert!(told.contains("ip=10.88.0.100 router=10.88.0.1 dns=10.88.0.1 lease=43200"), "{told}");

    master.edit("10.88.0.100-10.88.0.149", "10.88.0.200-10.88.0.249");
    master.edit(
        "gateway: 10.88.0.1, dns: [10.88.0.1], lease: 12h",
        "gateway: 10.88.0.2, dns: [10.88.0.3], lease: 1h",
    );
    master.signal(Signal::SIGHUP);
    master.await_event("generation 2 is in force (SIGHUP)");
    let told = machine.firmware();
    assert!(told.contains("ip=10.88.0.200 router=10.88.0.2 dns=10.88.0.3 lease=3600"), "{told}");

    master.edit("unknown: register", "unknown: ignore");
    assert_eq!(master.said(&["apply"]), "generation 3 is in force\nNo node must reboot.\n");
    let told = machine.firmware();
    assert!(told.contains("no lease"), "{told}");

    master.edit("unknown: ignore", "unknown: ignorant");
    master.signal(Signal::SIGHUP);
    master.await_event("cluster.yaml was not applied (SIGHUP)");
    master.edit("unknown: ignorant", "unknown: register");
    master.edit("interface: lan", "interface: wan");
    let why = master.refused(&["apply"]);
    assert!(why.contains("`master: interface` changed, which takes a restart"), "{why}");
    master.edit("interface: wan", "interface: lan");
    assert_eq!(master.said(&["apply"]), "generation 4 is in force\nNo node must reboot.\n");
    assert!(machine.firmware().contains("ip=10.88.0.200"));
}

#[test]
fn machines_become_nodes_of_a_range() {
    let nodes = "nodes:\n  n[1-3]: {address: 10.88.0.11, profile: other}   # a row\n";
    let master = Master::start(&format!("{HEAD}{nodes}"));
    let first = master.machine("52:54:00:88:00:01");
    assert!(first.firmware().contains("ip=10.88.0.100"));
    let why = master.refused(&["node", "accept", "n[1-2]"]);
    assert!(why.contains("2 nodes are to be given a machine and 1 unknown machines were seen"), "{why}");
    assert!(why.contains("n1 would do"), "{why}");
    let why = master.refused(&["node", "accept", "n2", "--profile", "node"]);
    assert!(why.contains("--profile would change nothing"), "{why}");
    assert_eq!(master.said(&["node", "accept", "n2"]), "n2 is 52:54:00:88:00:01\n");
    let line = "  n2:     {mac: 52:54:00:88:00:01}\n";
    assert_eq!(fs::read_to_string(master.config()).unwrap(), format!("{HEAD}{nodes}{line}"));
    assert!(first.firmware().contains("ip=10.88.0.12"));
    let shown = master.said(&["node", "show", "n2"]);
    for row in [
        ["mac", "52:54:00:88:00:01", "node, line 7"],
        ["address", "10.88.0.12", "range, line 6"],
        ["profile", "other", "range, line 6"],
        ["speed", "20000", "profile other, line 4"],
    ] {
        let has = |line: &str| row.iter().all(|word| line.contains(word));
        assert!(shown.lines().any(has), "{row:?} in {shown}");
    }

    let why = master.refused(&["node", "accept", "n2"]);
    assert!(why.contains("n2 is bound to 52:54:00:88:00:01 already (node, line 7)"), "{why}");
    let (second, third) = (master.machine("52:54:00:88:00:02"), master.machine("52:54:00:88:00:03"));
    for machine in [&second, &third, &master.machine("52:54:00:88:00:04")] {
        assert!(machine.firmware().contains("ip=10.88.0.1"));
    }
    fs::write(master.config(), format!("{HEAD}{nodes}{line}# a thought\n")).unwrap();
    let why = master.refused(&["node", "accept", "n[1-4]", "--profile", "node"]);
    assert!(why.contains("was edited and not applied"), "{why}");
    master.said(&["apply"]);
    let told = master.said(&["node", "accept", "n[1-4]", "--profile", "node", "--address", "10.88.0.51"]);
    let expected = "n1 is 52:54:00:88:00:02\nn3 is 52:54:00:88:00:03\nn4 is 52:54:00:88:00:04\n\
                    passed over: n2 is bound to 52:54:00:88:00:01 already";
    assert!(told.starts_with(expected), "{told}");
    let more = "  n1:     {mac: 52:54:00:88:00:02}\n  n3:     {mac: 52:54:00:88:00:03}\n  \
                n4:     {mac: 52:54:00:88:00:04, address: 10.88.0.54, profile: node}\n";
    let text = fs::read_to_string(master.config()).unwrap();
    assert_eq!(text, format!("{HEAD}{nodes}{line}{more}# a thought\n"));
    assert!(second.firmware().contains("ip=10.88.0.11"));
    assert!(third.firmware().contains("ip=10.88.0.13"));
    let why = master.refused(&["node", "accept", "n[1-3]"]);
    assert!(why.contains("n[1-3] are bound to machines already"), "{why}");
}

/// Two nodes with addresses of the range, of which one loses its cable.
#[test]
fn members_that_come_and_go_are_known_to_all() {
    let nodes = "nodes:\n  n1: {mac: 52:54:00:88:00:01, profile: node}\n  n2: {mac: 52:54:00:88:00:02, profile: node}\n";
    let master = Master::start_with(&format!("{HEAD}{nodes}"), |before| before.image());
    let (first, second) = (master.machine("52:54:00:88:00:01"), master.machine("52:54:00:88:00:02"));
    assert!(first.firmware().contains("ip=10.88.0.100"));
    let _agent = first.join("n1");
    let mut client = first.nfs();
    let root = client.mount("/nodes/n1").unwrap();
    let own = "10.88.0.100\tn1.t n1";
    master.await_said(&["render", "n1", "/etc/hosts"], own, SECONDS_10);

    // n2 gets an address: n1 sees it, and its kernel is made to look again.
    assert!(second.firmware().contains("ip=10.88.0.101"));
    master.await_said(&["render", "n1", "/etc/hosts"], "10.88.0.101\tn2.t n2", SECONDS_10);
    let known = master.said(&["render", "n1", "/etc/ssh/ssh_known_hosts"]);
    assert!(known.contains("n2,n2.t,10.88.0.101 "), "{known}");
    assert!(master.said(&["render", "n2", "/etc/ssh/shosts.equiv"]).contains("10.88.0.100\n"));
    master.await_said(&["node", "log", "n1"], "sees what changed in /etc", SECONDS_10);
    master.wait_until("n1's agent tells how it is", SECONDS_10, || {
        master.said(&["node", "show", "n1"]).contains(" MiB of memory free, up for ")
    });
    let hosts = client.walk(&root, "etc/hosts").unwrap();
    // Renewals change no file.
    for _ in 0..3 {
        assert!(second.renew().contains("ip=10.88.0.101"));
        assert!(first.renew().contains("ip=10.88.0.100"));
    }
    assert_eq!(client.walk(&root, "etc/hosts").unwrap(), hosts);
    second.take_and_give_back();
    master.wait_until("n2 gave its address back", SECONDS_10, || {
        !master.said(&["render", "n1", "/etc/hosts"]).contains("10.88.0.101")
    });
    assert_ne!(client.walk(&root, "etc/hosts").unwrap(), hosts);

    writes_move_to_another_build(&master, &mut client, &root);

    // No word of the agent any more, and no end of its connection: a cut cable, or a power cut.
    first.cable(false);
    master.await_said(
        &["node", "log", "n1"],
        "[silent] its agent is gone: the agent is silent",
        Duration::from_secs(30),
    );
    let row = master.row("n1");
    assert!(row.contains("silent") && row.contains("its agent was heard last"), "{row}");
    let why = master.refused(&["node", "rebase", "n1"]);
    assert!(why.contains("n1 is at stage silent") && why.contains("--force"), "{why}");
    master.await_said(
        &["node", "log", "n1"],
        "[down] its agent was not heard of for 60 s",
        Duration::from_secs(80),
    );
    assert!(master.row("n1").contains("down"));
    let moved = master.said(&["node", "rebase", "n1", "n2"]);
    assert!(moved.contains("n1 goes from base/"), "{moved}");
    assert!(moved.contains("  /etc/motd: changed by the node and by the newer build"), "{moved}");
    assert!(
        moved.contains("n2 has no writes to keep") || moved.contains("n2 is on the newest build"),
        "{moved}"
    );
    assert_eq!(master.said(&["render", "n1", "/etc/motd"]), "of the node");
    assert_eq!(master.said(&["render", "n1", "/etc/issue"]), "of the second build");
    assert!(master.said(&["node", "rebase", "n1"]).contains("n1 is on the newest build"));
    first.cable(true);
    master.wait_until("n1 is back", Duration::from_secs(30), || master.row("n1").contains("member"));
}

/// What n1 wrote, and a newer build that changes some of that too; the rest is with the caller.
fn writes_move_to_another_build(master: &Master, client: &mut Client, root: &[u8]) {
    let etc = client.walk(root, "etc").unwrap();
    let motd = client.make(procedure::CREATE, &etc, "motd", Args::new().u32(0).mode(Some(0o644))).unwrap();
    let text = b"of the node";
    let length = u32::try_from(text.len()).unwrap();
    // FILE_SYNC
    let write = Args::new().opaque(&motd).u64(0).u32(length).u32(2).opaque(text);
    assert!(client.nfs(procedure::WRITE, &write).unwrap().has_remaining());
    assert!(master.said(&["node", "show", "n1"]).contains("build: base/"));
    for name in ["motd", "issue"] {
        fs::write(master.tree().join("etc").join(name), "of the second build").unwrap();
    }
    master.said(&["image", "build"]);
    let shown = master.said(&["node", "show", "n1"]);
    assert!(shown.contains("`tesela node rebase` moves them to base/"), "{shown}");
    let why = master.refused(&["node", "rebase", "n1"]);
    assert!(why.contains("n1 is at stage member"), "{why}");
    let look = master.said(&["node", "rebase", "--dry-run", "n1"]);
    assert!(look.contains("n1 would go from base/") && look.contains("/etc/motd"), "{look}");
    assert_eq!(master.said(&["render", "n1", "/etc/motd"]), "of the node");
}

/// Another server gives the addresses; the master knows them by what stage1 reports, over its own crash too.
#[test]
fn in_proxy_mode_addresses_are_known_by_reports_and_outlive_a_crash() {
    let cluster = "cluster: t
master: {interface: lan, address: 10.88.0.1/24, dhcp: proxy}
images: {base: {from: \"dir:/TREE\"}}
profiles: {node: {image: base}}
nodes:
  n1: {mac: 52:54:00:88:00:01, profile: node}
  n2: {mac: 52:54:00:88:00:02, profile: node}
";
    let master = Master::start_with(cluster, |before| before.image());
    let (first, second) = (master.machine("52:54:00:88:00:01"), master.machine("52:54:00:88:00:02"));
    first.take_address("10.88.0.61/24");
    second.take_address("10.88.0.62/24");
    first.report("n1", "stage1");
    second.report("n2", "stage1");
    let all_see_all = || {
        for (node, other) in [("n1", "10.88.0.62\tn2.t n2"), ("n2", "10.88.0.61\tn1.t n1")] {
            master.await_said(&["render", node, "/etc/hosts"], other, SECONDS_10);
        }
        assert!(first.nfs().mount("/nodes/n1").is_ok());
        assert!(second.nfs().mount("/nodes/n1").is_err());
    };
    all_see_all();
    master.crash_and_start();
    all_see_all();
}
