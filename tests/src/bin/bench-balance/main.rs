//! What the sharing of load is worth, on nodes that are namespaces of this machine with a quota of its processors each, so
//! that two can stand for several nodes.
//!
//! `bench-balance [ROUNDS] [PART …]`: 3 rounds unless told otherwise, and all parts: `batch`, `memory`, `changing`, `make`.
//! Needs root, and the image of the tests' lab, which it makes where it is missing.
#![expect(clippy::unwrap_used, reason = "what fails here fails the benchmark")]

mod batch;
mod changing;
mod make;
mod memory;

use std::time::Duration;

use tesela_tests::lab::Lab;

/// How long the nodes may take to find each other.
const LIMIT: Duration = Duration::from_secs(60);

/// Prints its table, of so many rounds.
type Part = fn(usize);

fn main() {
    let (rounds, parts): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|word| word.parse::<usize>().is_ok());
    let rounds = rounds.first().map_or(3, |word| word.parse().unwrap());
    let all: [(&str, Part); 4] =
        [("batch", batch::run), ("memory", memory::run), ("changing", changing::run), ("make", make::run)];
    for (name, part) in all {
        if parts.is_empty() || parts.iter().any(|word| word == name) {
            part(rounds);
            println!();
        }
    }
}

/// A lab of nodes with so much of a processor each, all of which know each other.
fn lab(cpus: &[f64], words: &[&str]) -> Lab {
    let quotas: Vec<String> = cpus.iter().map(f64::to_string).collect();
    let (nodes, quotas) = (cpus.len().to_string(), quotas.join(","));
    let basic = ["--kind", "namespace", "--nodes", &nodes, "--cpus", &quotas];
    let lab = Lab::up(&[&basic[..], words].concat());
    know_each_other(&lab, cpus.len());
    lab
}

fn know_each_other(lab: &Lab, nodes: usize) {
    for number in 1..=nodes {
        lab.wait("all are in the map", LIMIT, || lab.map(&format!("n{number}")).len() == nodes);
    }
}
