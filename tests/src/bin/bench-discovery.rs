//! How long it takes until a node that has booted is in every other one's map, and until one whose power was cut is out
//! of all of them: nodes that are namespaces of this machine, and so have one clock.
//!
//! `bench-discovery [NODES [ROUNDS]]`, 8 and 10 unless told otherwise. Needs root and the image of the tests' lab, which it
//! makes where it is missing.
#![expect(clippy::unwrap_used, reason = "what fails here fails the benchmark")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tesela_tests::lab::Lab;

fn main() {
    let mut words = std::env::args().skip(1).map(|word| word.parse::<usize>().unwrap());
    let nodes = words.next().unwrap_or(8);
    let rounds = words.next().unwrap_or(10);
    let lab = Lab::up(&["--kind", "namespace", "--nodes", &nodes.to_string()]);
    let others: Vec<String> = (1..nodes).map(|number| format!("n{number}")).collect();
    let last = format!("n{nodes}");
    let address = lab.said(&last, "hostname -I").split_whitespace().next().unwrap().to_owned();
    for other in &others {
        lab.wait("it is in every map", Duration::from_secs(60), || lab.map(other).contains(&address));
    }
    let (mut gone, mut there) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let watches = watch(&lab, &others, &address, false);
        let off = now();
        assert!(lab.tesela(&["lab", "power", &last, "off"]).status.success());
        gone.push(latest(watches).saturating_sub(off));
        let watches = watch(&lab, &others, &address, true);
        assert!(lab.tesela(&["lab", "power", &last, "on"]).status.success());
        let known = latest(watches);
        let event = lab.json(&["node", "log", &last]).pop().unwrap();
        assert_eq!(event["stage"], "member");
        let member = Duration::from_millis(event["time"].as_u64().unwrap());
        there.push(known.saturating_sub(member));
        eprintln!("round {round} of {rounds}: gone {:.2?}, there {:.2?}", gone[round - 1], there[round - 1]);
    }
    println!("| {nodes} nodes, {rounds} rounds | median, s | slowest, s | aim, s |\n|---|---|---|---|");
    for (what, times, aim) in [
        ("from `member` to being in every map", there, 2),
        ("from the cut of its power to being in none", gone, 5),
    ] {
        let (median, slowest) = spread(times);
        println!("| {what} | {median:.2} | {slowest:.2} | {aim} |");
    }
}

fn spread(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    (times[times.len() / 2].as_secs_f64(), times[times.len() - 1].as_secs_f64())
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// On each node, what ends with the time, in nanoseconds, at which an address was in its map, or was not any more.
fn watch(lab: &Lab, nodes: &[String], address: &str, there: bool) -> Vec<Child> {
    let looks = if there { "until" } else { "while" };
    let script =
        format!("echo ready; {looks} showmap | grep -q ' {address} '; do sleep 0.02; done; date +%s%N");
    let start = |node: &String| {
        let mut command: Command = lab.on(node, &script);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        child
    };
    nodes.iter().map(start).collect()
}

fn latest(watches: Vec<Child>) -> Duration {
    let time = |child: Child| {
        let output = child.wait_with_output().unwrap();
        Duration::from_nanos(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap())
    };
    watches.into_iter().map(time).max().unwrap()
}
