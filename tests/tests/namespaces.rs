//! Nodes that are namespaces of this machine, one of them with another C library at the same path: real
//! programs move between them by the tool `migrate`, and never know.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use tesela_tests::lab::{COMMAND_LIMIT, Lab};
use tesela_tests::programs::{Tour, Tried, cluster, tour, tried};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

#[test]
fn programs_move_between_nodes_that_share_nothing_but_the_wire() {
    let lab =
        Lab::of(&cluster("programs", tried(Tried::OnNamespaces)), &["--kind", "namespace", "--nodes", "3"]);
    nothing_is_shared(&lab);
    all_find_all(&lab);
    let places = ["n2", "home", "n3", "n2", "10.77.0.13", "home"];
    tour(&lab, Tour { places: &places, size: 8_000_000, limit: COMMAND_LIMIT }, tried(Tried::OnNamespaces));
    equal_files_are_not_sent(&lab);
    children_that_were_made_away_move_by_themselves(&lab);
    who_loses_the_node_ends(&lab);
}

fn nothing_is_shared(lab: &Lab) {
    for kind in ["net", "pid", "mnt", "uts", "ipc", "cgroup"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let theirs = NODES.map(|node| lab.said(node, &format!("readlink /proc/1/ns/{kind}")));
        let all: HashSet<&str> = theirs.iter().map(String::as_str).chain(own.to_str()).collect();
        assert_eq!(all.len(), 4, "{kind}: {all:?}");
    }
    for node in NODES {
        assert_eq!(lab.said(node, "hostname"), node);
        lab.said(node, "echo $(hostname) > /var/tmp/mine; echo $(hostname) > /dev/shm/mine");
    }
    for node in NODES {
        assert_eq!(lab.said(node, "cat /var/tmp/mine /dev/shm/mine"), format!("{node}\n{node}"));
        let host = std::env::current_exe().unwrap();
        lab.said(node, &format!("! test -e {}", host.display()));
    }
    let libc = |node| lab.said(node, "sha256sum /lib/x86_64-linux-gnu/libc.so.6");
    assert_eq!(libc("n1"), libc("n2"));
    assert_ne!(libc("n1"), libc("n3"), "another C library at the same path");
}

fn all_find_all(lab: &Lab) {
    let all = |numbers: [u8; 3]| numbers.map(|number| format!("10.77.0.{number}"));
    for (node, map) in NODES.iter().zip([[11, 12, 13], [12, 11, 13], [13, 11, 12]].map(all)) {
        lab.wait("all are in every map", Duration::from_secs(30), || lab.map(node) == map);
    }
}

/// n2 has the same libraries as n1, and n3 others of the same names.
fn equal_files_are_not_sent(lab: &Lab) {
    let script = "awk 'BEGIN { for (;;) ; }' > /dev/null 2>&1 < /dev/null & pid=$!
        sent() { awk '/eth0:/ { print $10 }' /proc/net/dev; }
        for node in n2 n3; do
            before=$(sent); migrate $pid $node > /dev/null && migrate $pid home > /dev/null || exit 1
            echo $(($(sent) - before))
        done; kill $pid";
    let said = lab.said("n1", script);
    let [same, others] = said.lines().map(|line| line.parse::<u64>().unwrap()).collect::<Vec<_>>()[..] else {
        panic!("{said}")
    };
    assert!(same + 1_000_000 < others, "{same} octets sent to n2, {others} to n3");
}

/// One goes on to another node, one goes there and back; their maker, which stays, is told how each has ended.
fn children_that_were_made_away_move_by_themselves(lab: &Lab) {
    let script = r#"cat > /tmp/family.pl <<'END'
1 until -e "/tmp/family.away";
for my $number (1 .. 3) {
    my $pid = fork;
    if (!$pid) { 1 until -e "/tmp/family.end"; exit 10 + $number }
    push @children, $pid;
}
open my $out, ">", "/tmp/family.new";
print $out "@children\n";
close $out;
rename "/tmp/family.new", "/tmp/family.children";
for (@children) { waitpid $_, 0; push @ended, $? >> 8 }
print "@ended\n";
END
perl /tmp/family.pl > /tmp/family.out & pid=$!
{ migrate $pid n2 && touch /tmp/family.away; } > /dev/null || exit 1
until test -e /tmp/family.children; do kill -0 $pid || exit 1; sleep 0.1; done
read first second third < /tmp/family.children
{ migrate $second n3 && migrate $third n3 && migrate $third n2; } > /dev/null || exit 1
migrate --list > /tmp/family.list
for each in $pid $first $second $third; do awk -v pid=$each '$3 == pid { print $2 }' /tmp/family.list; done
touch /tmp/family.end; wait $pid && cat /tmp/family.out"#;
    assert_eq!(lab.said("n1", script), "n2\nn2\nn3\nn2\n11 12 13");
}

/// The power of its node is cut: its parent sees by which signal it has ended, and the node can come back.
fn who_loses_the_node_ends(lab: &Lab) {
    let mut program = lab.on("n1", "awk 'BEGIN { for (;;) ; }' & echo $!; wait $!; echo status $?");
    let mut program = program.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let pid = lines.next().unwrap().unwrap();
    assert_eq!(lab.said("n1", &format!("migrate {pid} n2")), format!("{pid}: on n2, at home on n1"));
    assert!(lab.tesela(&["lab", "power", "n2", "off"]).status.success());
    let unreached = lab.tesela(&["lab", "exec", "n2", "--", "true"]);
    assert_eq!(unreached.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&unreached.stderr).contains("n2 is powered off"), "{unreached:?}");
    assert_eq!(lines.next().unwrap().unwrap(), format!("status {}", 128 + libc::SIGPWR));
    assert!(program.wait().unwrap().success());
    let without = ["10.77.0.11", "10.77.0.13"];
    lab.wait("n2 is out of the map", Duration::from_secs(30), || lab.map("n1") == without);
    assert!(lab.tesela(&["lab", "power", "n2", "on"]).status.success());
    let again = lab.tesela(&["lab", "power", "n2", "on"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("n2 is on already"), "{again:?}");
    lab.wait("n2 is a member again", Duration::from_secs(60), || {
        lab.on("n1", "ssh -o BatchMode=yes n2 true").output().unwrap().status.success()
            && lab.stage("n2") == "member"
    });
    lab.wait("n2 is in the map", Duration::from_secs(30), || lab.map("n1").len() == 3);
    assert_eq!(lab.said("n2", "migrate --list"), "nothing is away, and nothing is here from elsewhere");
}
