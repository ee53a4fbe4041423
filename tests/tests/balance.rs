//! Nodes that are namespaces of this machine, each with a part of a processor: what is started on one of them spreads by
//! itself, and stays where it is told to; and what the manual of openMosix has its reader type.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use tesela_tests::lab::Lab;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const LIMIT: Duration = Duration::from_secs(120);
/// Some seconds of a processor, and a figure at the end.
const JOB: &str = "perl -e '$x = 1; for ($i = 0; $i < 12000000; $i++) { $x = ($x * 69069 + 1) % 4294967296 } print qq($x\\n)'";

#[test]
fn a_cluster_thinks() {
    let lab = Lab::up(&["--kind", "namespace", "--nodes", "3", "--cpus", "0.2"]);
    for node in NODES {
        lab.wait("all are in the map", LIMIT, || lab.map(node).len() == 3);
    }
    the_manuals_commands_are_answered(&lab);
    the_tree_is_read_and_written(&lab);
    a_map_by_hand_has_to_have_this_node(&lab);
    a_command_runs_where_it_is_told(&lab);
    a_batch_spreads_by_itself(&lab);
    a_node_that_stays_keeps_its_own(&lab);
}

/// What a command says, in both streams, and its status.
fn typed(lab: &Lab, user: &str, script: &str) -> (String, i32) {
    let output = lab.tesela(&["lab", "exec", "--user", user, "n1", "--", "sh", "-c", script]);
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (text.trim_end().to_owned(), output.status.code().unwrap())
}

fn the_manuals_commands_are_answered(lab: &Lab) {
    let showmap = "My Node-Id: 0x000b\n\nBase Node-Id Address          Count\n------------------------------------\n\
                   0x000b       10.77.0.11       1\n0x000c       10.77.0.12       1\n0x000d       10.77.0.13       1";
    for (user, script, said) in [
        ("demo", "showmap", (showmap, 0)),
        ("demo", "mosctl whois 12", ("12 (0x000c)  10.77.0.12  n2", 0)),
        ("demo", "mosctl whois n3", ("13 (0x000d)  10.77.0.13  n3", 0)),
        ("demo", "mosctl isup 0x000d", ("yes", 0)),
        ("demo", "mosctl isup 99", ("mosctl: no", 1)),
        ("demo", "mosctl getdecay", ("interval: 1 s, slow: 975, fast: 926 (thousandths kept)", 0)),
        (
            "root",
            "mosctl setdecay 2 900 800 && mosctl getdecay",
            ("interval: 2 s, slow: 900, fast: 800 (thousandths kept)", 0),
        ),
        (
            "root",
            "mosctl setdecay 1 && mosctl nostay && mosctl nolstay && mosctl noblock && mosctl noquiet",
            ("", 0),
        ),
        ("demo", "mosctl stay", ("mosctl: only root can change how a node takes part", 1)),
        ("root", "mosctl nomfs", ("mosctl: nomfs: there is no MFS on this cluster yet", 1)),
        ("root", "mosctl bring", ("0 processes came home", 0)),
        (
            "root",
            "omdiscd -i nosuch",
            ("omdiscd: there is no interface nosuch: `ip link` lists those that there are", 1),
        ),
    ] {
        assert_eq!(typed(lab, user, script), (said.0.to_owned(), said.1), "{script}");
    }
    lab.said("n1", "mosctl setspeed 20000");
    lab.wait("the speed is told", LIMIT, || lab.said("n2", "mosctl getspeed n1") == "20000");
    lab.said("n1", "mosctl setspeed 0; mosctl quiet");
    lab.wait("nothing is told", LIMIT, || !lab.on("n1", "mosctl getload").output().unwrap().status.success());
    lab.said("n1", "mosctl noquiet");
    lab.said("n2", "mosctl block");
    lab.wait("the flag is told", LIMIT, || lab.said("n1", "mosctl status n2") == "up block nomfs (41)");
    lab.said("n2", "mosctl noblock");
    lab.wait("the flag is told", LIMIT, || lab.said("n1", "mosctl status n2") == "up nomfs (33)");
}

fn the_tree_is_read_and_written(lab: &Lab) {
    let script =
        "echo 1 > /hpc/admin/lstay; cat /hpc/admin/lstay; echo 0 > /hpc/admin/lstay; cat /hpc/admin/lstay
        cat /hpc/admin/mospe /hpc/admin/slow-decay /hpc/nodes/12/status
        sleep 600 & pid=$!
        cat /hpc/pid/$pid/where; echo 13 > /hpc/pid/$pid/goto; cat /hpc/pid/$pid/where /hpc/pid/$pid/nmigs
        echo 0 > /hpc/pid/$pid/migrate; cat /hpc/pid/$pid/where
        echo 1 > /hpc/pid/$pid/lock; cat /hpc/pid/$pid/lock /hpc/pid/$pid/cantmove; kill $pid";
    assert_eq!(lab.said("n1", script), "1\n0\n11\n975\n33\n0\n13\n1\n0\n1\nuser_lock");
    // Nonsense is EINVAL, and changes nothing.
    let script = "for file in stay lstay block quiet bring expel speed yard decay-interval slow-decay fast-decay mospe nomfs config; do
            /bin/echo nonsense > /hpc/admin/$file && echo $file took it
        done 2>&1 | sort | uniq -c | sed 's/^ *//'; cat /hpc/admin/stay /hpc/admin/slow-decay /hpc/admin/mospe";
    assert_eq!(lab.said("n1", script), "14 /bin/echo: write error: Invalid argument\n0\n975\n11");
    let (said, _) = typed(lab, "demo", "/bin/echo 1 > /hpc/admin/stay");
    assert_eq!(said, "/bin/echo: write error: Operation not permitted");
}

fn a_map_by_hand_has_to_have_this_node(lab: &Lab) {
    let (said, status) = typed(lab, "root", "echo '1 10.77.0.12 2' | setpe -w -f -");
    let expected =
        "setpe: the supplied table is well-formatted, but my IP address (10.77.0.11) is not there!";
    assert_eq!((said.as_str(), status), (expected, 1));
    let script = "echo '1 10.77.0.11 2' > /etc/openmosix.map; setpe -w && setpe -r; showmap | tail -n 2
        sleep 600 & migrate $! 2; migrate $! home; migrate $! 3; kill $!";
    let (said, _) = typed(lab, "root", &format!("{script}; omdiscd -i eth0 && showmap | wc -l"));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[..3],
        ["1        10.77.0.11       2", "0x0001       10.77.0.11       1", "0x0002       10.77.0.12       1"]
    );
    assert!(lines[3].ends_with(": on n2, at home on n1") && lines[4].ends_with(": at home (n1)"), "{said}");
    assert!(said.contains("no node is called `3`"), "{said}");
    assert!(lines.contains(&"7"), "{said}");
}

fn a_command_runs_where_it_is_told(lab: &Lab) {
    let place = |words: &str| {
        let script = format!(
            "{words} sh -c 'until migrate --show $$ | grep -q \"^goto  *-\"; do :; done; migrate --show $$'"
        );
        let (said, _) = typed(lab, "demo", &script);
        let value = |name: &str| {
            let line = said.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1))
                .unwrap_or_else(|| panic!("{said}"))
                .to_owned()
        };
        (value("where"), value("lock"))
    };
    assert_eq!(place("runhome"), ("n1".into(), "1".into()));
    assert_eq!(place("cpujob"), ("n1".into(), "0".into()));
    // It goes there before it becomes the command, and again once it is it.
    let script = "runon n3 sh -c 'until [ $(migrate --where $$ | cut -d\" \" -f3 | tr -d ,) = n3 ]; do :; done; echo there'";
    assert_eq!(typed(lab, "demo", script), ("there".into(), 0));
    let (said, status) = typed(lab, "demo", "mosrun -99 true");
    assert_eq!(
        (said.as_str(), status),
        ("mosrun: no node is called `99`, nor has it that number or address", 1)
    );
    let (said, _) = typed(lab, "demo", "mosrun -99 -F echo here");
    assert!(said.starts_with("here\nmosrun: it runs at home, for no node"), "{said}");
    let (said, _) = typed(lab, "demo", "nomig sh -c 'migrate $$ n2'");
    assert!(said.ends_with("stays at home: user_lock"), "{said}");
}

fn a_batch_spreads_by_itself(lab: &Lab) {
    let script = format!("nomig {JOB} & echo $!; for job in 1 2 3 4 5 6 7 8; do {JOB} & done; wait");
    let words = ["lab", "exec", "--user", "demo", "n1", "--", "sh", "-c", &script];
    let mut batch = lab.command(&words).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(batch.stdout.take().unwrap()).lines();
    let locked = lines.next().unwrap().unwrap();
    lab.wait("some run on each other node", LIMIT, || {
        let list = lab.said("n1", "migrate --list");
        ["n2", "n3"].iter().all(|node| list.lines().any(|line| line.starts_with(&format!("away   {node} "))))
    });
    let list = lab.said("n1", "migrate --list");
    assert!(!list.lines().any(|line| line.split_whitespace().nth(2) == Some(&locked)), "{locked}: {list}");
    let results: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(batch.wait().unwrap().success());
    assert!(results.len() == 9 && results.iter().all(|result| *result == results[0]), "{results:?}");
}

fn a_node_that_stays_keeps_its_own(lab: &Lab) {
    lab.said("n1", "mosctl stay");
    let script = format!("for job in 1 2 3 4; do {JOB} & done; wait");
    let words = ["lab", "exec", "--user", "demo", "n1", "--", "sh", "-c", &script];
    let mut batch = lab.command(&words).stdout(Stdio::null()).spawn().unwrap();
    while batch.try_wait().unwrap().is_none() {
        assert_eq!(lab.said("n1", "migrate --list"), "nothing is away, and nothing is here from elsewhere");
    }
    lab.said("n1", "mosctl nostay");
}
