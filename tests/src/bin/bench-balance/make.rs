//! `make -j8` of a C project on one node of four, against the same with balancing off.

use std::time::Duration;

use tesela_tests::lab::Lab;
use tesela_tests::programs::{PROGRAMS, cluster};

const NODES: usize = 4;
const LIMIT: Duration = Duration::from_secs(1800);
/// Files, and functions in each: they take about an eighth of a second of a processor to compile, and somewhat over one.
const PROJECTS: [(u32, u32); 2] = [(60, 30), (24, 200)];

/// Prints its table.
pub fn run(rounds: usize) {
    let cluster = cluster("make", PROGRAMS.iter().filter(|program| program.packages.contains(&"make")));
    let nodes = NODES.to_string();
    let lab = Lab::of(&cluster, &["--kind", "namespace", "--nodes", &nodes, "--cpus", "0.4"]);
    crate::know_each_other(&lab, NODES);
    let project = include_str!("../../../data/programs/project.sh");
    assert!(lab.fed("n1", "cat > /tmp/project.sh", project.as_bytes()).status.success());
    println!("| make -j8 on one node of {NODES} | balanced, s | without, s | to that |\n|---|---|---|---|");
    for (files, functions) in PROJECTS {
        let (mut spread, mut alone) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            for (verb, times) in [("nostay", &mut spread), ("stay", &mut alone)] {
                lab.said("n1", &format!("mosctl {verb}"));
                times.push(made(&lab, files, functions));
                eprintln!("make -j8, {files} files, {verb}, round {round}: {:.1} s", times[times.len() - 1]);
            }
        }
        let (spread, alone) = (crate::batch::median(spread), crate::batch::median(alone));
        println!(
            "| {files} files of {functions} functions | {spread:.1} | {alone:.1} | {:.2} |",
            spread / alone
        );
    }
}

fn made(lab: &Lab, files: u32, functions: u32) -> f64 {
    let script = format!(
        "rm -rf /tmp/project && mkdir /tmp/project && cd /tmp/project || exit
        FILES={files} FUNCTIONS={functions} sh /tmp/project.sh || exit
        start=$(date +%s%N); make -s -j8 6< /dev/null > /dev/null || exit; echo $(($(date +%s%N) - start))"
    );
    let output = lab
        .bounded(LIMIT, &["lab", "exec", "--user", "demo", "n1", "--", "sh", "-c", &script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().parse::<f64>().unwrap() / 1e9
}
