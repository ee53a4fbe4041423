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
    let cluster = include_str!("../../configs/lab.yaml")
        .replace("profiles:\n", "profiles:\n  own: {boot: disk, pool: lab, trusted: true}\n")
        .replace("nodes:\n", "nodes:\n  laptop: {profile: own}\n");
    let lab = Lab::of(&cluster, &["--kind", "namespace", "--nodes", "3", "--cpus", "0.2"]);
    for node in NODES {
        lab.wait("all are in the map", LIMIT, || lab.map(node).len() == 3);
    }
    the_manuals_commands_are_answered(&lab);
    what_a_node_says_of_itself_is_heard(&lab);
    the_tree_is_read_and_written(&lab);
    a_map_by_hand_has_to_have_this_node(&lab);
    a_command_runs_where_it_is_told(&lab);
    a_batch_spreads_by_itself(&lab);
    what_was_made_away_spreads_as_well(&lab);
    a_node_that_stays_keeps_its_own(&lab);
    a_machine_that_nobody_boots_joins(&lab);
}

/// What a command says, in both streams, and its status.
fn typed(lab: &Lab, user: &str, script: &str) -> (String, i32) {
    typed_on(lab, "n1", user, script)
}

fn typed_on(lab: &Lab, node: &str, user: &str, script: &str) -> (String, i32) {
    // Both streams are one, in their order. What is to move is at work: a loader's calls would take it home.
    let asleep = "sleep 600 & until grep -q ^230 /proc/$!/syscall; do :; done;";
    let script = format!("exec 2>&1; {}", script.replace("sleep 600 &", asleep));
    let output = lab.tesela(&["lab", "exec", "--user", user, node, "--", "sh", "-c", &script]);
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (text.trim_end().to_owned(), output.status.code().unwrap())
}

/// A transcript (`data/manual.txt`) typed anew: what is said has to be the same.
fn the_manuals_commands_are_answered(lab: &Lab) {
    let transcript = include_str!("../data/manual.txt");
    let mut lines = transcript.lines().peekable();
    let (mut again, mut differs) = (String::new(), Vec::new());
    while let Some(line) = lines.next() {
        again += &format!("{line}\n");
        let Some((user, node, script)) = prompt(line) else { continue };
        let mut expected = String::new();
        while let Some(line) = lines.next_if(|line| prompt(line).is_none() && !line.starts_with("# ")) {
            expected += &format!("{line}\n");
        }
        let (said, status) = typed_on(lab, node, user, script);
        let status = if status == 0 { String::new() } else { format!("({status})\n") };
        let said = if said.is_empty() { said } else { said + "\n" } + &status;
        if !alike(&said, expected.trim_end()) {
            differs.push(format!("{line}\nis:\n{said}and not:\n{expected}"));
        }
        again += &said;
        if expected.ends_with("\n\n") || expected == "\n" {
            again.push('\n');
        }
    }
    // The whole is left for whoever has changed what is said.
    std::fs::write(std::env::temp_dir().join("manual.txt"), again).unwrap();
    assert!(differs.is_empty(), "{}", differs.join("\n"));
}

/// `USER@NODE$ COMMAND`
fn prompt(line: &str) -> Option<(&str, &str, &str)> {
    let (who, script) = line.split_once("$ ")?;
    let (user, node) = who.split_once('@')?;
    ["root", "demo"].contains(&user).then_some((user, node, script))
}

/// Whether this is what was expected, where `<n>` stands for any number.
fn alike(said: &str, expected: &str) -> bool {
    let (said, expected) = (said.trim_end(), expected.trim_end());
    let mut rest = said;
    let mut parts = expected.split("<n>");
    let Some(found) = parts.next().and_then(|first| rest.strip_prefix(first)) else { return false };
    rest = found;
    for part in parts {
        let number =
            rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let end = rest[..number].trim_end_matches('.').len();
        let Some(found) = rest.get(end..).filter(|_| end > 0).and_then(|rest| rest.strip_prefix(part)) else {
            return false;
        };
        rest = found;
    }
    rest.is_empty()
}

/// What is told to others is heard by them.
fn what_a_node_says_of_itself_is_heard(lab: &Lab) {
    lab.said("n1", "mosctl setspeed 20000");
    lab.wait("the speed is told", LIMIT, || lab.said("n2", "mosctl getspeed n1") == "20000");
    lab.said("n1", "mosctl quiet && mosctl setspeed 30000");
    assert_eq!(lab.said("n1", "mosctl getspeed"), "30000", "it knows itself");
    assert_eq!(lab.said("n2", "mosctl getspeed n1"), "20000", "and tells nobody");
    lab.said("n1", "mosctl noquiet");
    lab.wait("the speed is told", LIMIT, || lab.said("n2", "mosctl getspeed n1") == "30000");
    lab.said("n1", "mosctl setspeed 0");
    lab.said("n2", "mosctl block");
    lab.wait("the flag is told", LIMIT, || lab.said("n1", "mosctl status n2") == "up block nomfs (41)");
    lab.said("n2", "mosctl noblock");
    lab.wait("the flag is told", LIMIT, || lab.said("n1", "mosctl status n2") == "up nomfs (33)");
}

fn the_tree_is_read_and_written(lab: &Lab) {
    let script =
        "echo 1 > /hpc/admin/lstay; cat /hpc/admin/lstay; echo 0 > /hpc/admin/lstay; cat /hpc/admin/lstay
        cat /hpc/admin/mospe /hpc/admin/slow-decay /hpc/nodes/12/status
        sleep 600 & pid=$!; until grep -q ^230 /proc/$pid/syscall; do :; done
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
    // The balance is not to move it meanwhile.
    lab.said("n1", "mosctl stay");
    assert_eq!(place("cpujob"), ("n1".into(), "0".into()));
    lab.said("n1", "mosctl nostay");
    // It goes there before it becomes the command, and again once it is it.
    let script = "runon n3 sh -c 'until [ $(migrate --where $$ | cut -d\" \" -f3 | tr -d ,) = n3 ]; do :; done; echo there'";
    assert_eq!(typed(lab, "demo", script), ("there".into(), 0));
    let (said, status) = typed(lab, "demo", "mosrun -99 true");
    assert_eq!(
        (said.as_str(), status),
        ("mosrun: no node is called `99`, nor has it that number or address", 1)
    );
    let (said, _) = typed(lab, "demo", "mosrun -99 -F echo here");
    assert!(said.starts_with("mosrun: it runs at home, for no node") && said.ends_with("\nhere"), "{said}");
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

/// One program keeps all of these, until they move on.
fn what_was_made_away_spreads_as_well(lab: &Lab) {
    let script = r#"perl -e '
            1 until -e "/tmp/away";
            for (1 .. 6) { fork or do { $x = ($x * 69069 + 1) % 4294967296 for 1 .. 12_000_000; exit } }
            for (1 .. 6) { wait; $bad++ if $? }
            print $bad ? "bad\n" : "all have ended\n"' & pid=$!
        echo $pid; migrate $pid n2 > /dev/null && touch /tmp/away || kill $pid; wait $pid"#;
    let words = ["lab", "exec", "--user", "demo", "n1", "--", "sh", "-c", script];
    let mut family = lab.command(&words).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(family.stdout.take().unwrap()).lines();
    let maker = lines.next().unwrap().unwrap();
    lab.wait("one that it has made has gone on to n3", LIMIT, || {
        let list = lab.said("n1", "migrate --list");
        list.lines()
            .any(|line| line.starts_with("away   n3 ") && line.split_whitespace().nth(2) != Some(&maker))
    });
    assert_eq!(lines.next().unwrap().unwrap(), "all have ended");
    assert!(family.wait().unwrap().success());
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

/// The machine of n3 begins anew, as one that boots from its own disk and has another address.
fn a_machine_that_nobody_boots_joins(lab: &Lab) {
    let refused = lab.tesela(&["node", "token", "n1"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("n1 boots from the master"), "{refused:?}");
    let token = lab.tesela(&["node", "token", "laptop"]);
    let words = String::from_utf8(token.stdout).unwrap().trim().to_owned();
    assert!(words.starts_with("teselad join 10.77.0.1 --token laptop:"), "{words}");
    let join = format!("/usr/lib/tesela/{words}");
    let fails = |script: &str| {
        let output = lab.on("n3", script).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, said) = fails(&join);
    assert!(status == Some(1) && said.contains("is n3 of the cluster lab already"), "{said}");
    // With n3's own address it is nobody else.
    lab.said("n3", "rm /etc/tesela/teselad.json");
    let (status, said) = fails(&join);
    assert!(status == Some(1) && said.contains("is not the address of a node laptop"), "{said}");
    // By its old one it is still reached, as the second.
    let addresses = ["delete 10.77.0.13/24", "add 10.77.0.77/24", "add 10.77.0.13/24"]
        .map(|change| format!("ip address {change} dev eth0"));
    lab.said("n3", &addresses.join("; "));
    assert_eq!(
        lab.said("n3", &join),
        "this machine is laptop of lab; to start its agent: systemctl enable --now teselad"
    );
    let (status, said) = fails(&join);
    assert!(status == Some(1) && said.contains("used up"), "{said}");
    // Its agent is started again, as by its unit, and finds what was left.
    lab.said("n3", "kill $(cat /proc/[0-9]*/stat | sed -n 's/ (teselad).*//p')");
    lab.wait("it is a member", LIMIT, || lab.stage("laptop") == "member");
    lab.wait("all are in the map", LIMIT, || lab.map("n1").contains(&"10.77.0.77".to_owned()));
    // It has been told who there is. (A node that is namespaces has its files of its boot alone, and so no address of it.)
    let script = "sleep 600 & until migrate $! n2; do :; done; migrate $! home; kill $!";
    let said = lab.said("n3", script);
    assert!(said.ends_with(": at home (laptop)") && said.contains(": on n2, at home on laptop"), "{said}");
}
