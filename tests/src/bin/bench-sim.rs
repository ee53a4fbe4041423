//! The agent's discovery and balancing over simulated nodes ([`tesela_tests::sim`]): what it costs a node, how old what
//! it knows is, and what is gained.
//!
//! `bench-sim [NODES...]`, 10, 100, 1000 and 10000 unless told otherwise. All nodes know each other from the beginning.
//! After 20 seconds, 30 are counted; of few nodes in several rounds. Takes one processor, some minutes, and 8 GiB
//! for 10,000 nodes.
#![expect(clippy::unwrap_used, reason = "what fails here fails the benchmark")]

use std::time::{Duration, Instant};

use tesela_tests::cpu_time;
use tesela_tests::sim::jobs::{self, Pool};
use tesela_tests::sim::{Figures, World};

/// Before anything is counted, in seconds.
const WARM: f64 = 20.0;
/// While it is counted. One of foca's periods, so that each node's announcement is in it once.
const COUNTED: f64 = 30.0;
/// Jobs that start this late are not waited for, and so do not count.
const LAST: f64 = 15.0;

fn main() {
    let mut sizes: Vec<usize> = std::env::args().skip(1).map(|word| word.parse().unwrap()).collect();
    if sizes.is_empty() {
        sizes = vec![10, 100, 1000, 10_000];
    }
    let mut all = Vec::new();
    for nodes in sizes {
        let rounds = (1000 / nodes).clamp(1, 30);
        let begun = Instant::now();
        let mut figures = Figures::default();
        (0..rounds).for_each(|round| simulate(nodes, round, &mut figures));
        eprintln!("{nodes} nodes, {rounds} rounds: {:.0?}, {} MiB", begun.elapsed(), memory());
        all.push((nodes, figures, memory()));
    }
    table(&all);
}

fn simulate(nodes: usize, round: usize, figures: &mut Figures) {
    let seed = 1000 * round as u64 + 7;
    let jobs = jobs::trace(nodes, WARM + COUNTED, seed);
    let end = WARM + COUNTED;
    let mut world = World::new(nodes, jobs.clone(), true, seed);
    world.run_until(Duration::from_secs_f64(WARM));
    let before = processor();
    world.figures = Some(std::mem::take(figures));
    world.run_until(Duration::from_secs_f64(end));
    *figures = world.figures.take().unwrap();
    figures.processor += processor().saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "some thousand")]
    let count = nodes as f64;
    figures.node_seconds += count * COUNTED;
    let takes = [world.took(), jobs::unmoved(nodes, &jobs, end), Pool::of(0..nodes).takes(&jobs, end)];
    for (spread, takes) in figures.slowdown.iter_mut().zip(takes) {
        let counted = jobs.iter().zip(takes).filter(|(job, _)| (WARM..end - LAST).contains(&job.start));
        counted.for_each(|(job, took)| spread.add(took / job.length));
    }
}

fn table(all: &[(usize, Figures, u64)]) {
    let row = |what: &str, value: &dyn Fn(&Figures) -> String| {
        let values: Vec<String> = all.iter().map(|(_, figures, _)| value(figures)).collect();
        println!("| {what} | {} |", values.join(" | "));
    };
    let names: Vec<String> = all.iter().map(|(nodes, ..)| nodes.to_string()).collect();
    println!("| nodes | {} |\n|---|{}", names.join(" | "), "---|".repeat(all.len()));
    let hundred = all.iter().find(|(nodes, ..)| *nodes == 100).or(all.first()).map(|(_, figures, _)| figures);
    let Some(hundred) = hundred else { return };
    row("datagrams a node and second", &|it| format!("{:.2}", it.rate(it.messages)));
    row("to that at 100", &|it| format!("{:.2}", it.rate(it.messages) / hundred.rate(hundred.messages)));
    row("octets a node and second", &|it| format!("{:.0}", it.rate(it.octets)));
    row("to that at 100", &|it| format!("{:.2}", it.rate(it.octets) / hundred.rate(hundred.octets)));
    row("processor time a node and second, ms", &|it| {
        format!("{:.2}", it.processor.as_secs_f64() * 1000.0 / it.node_seconds)
    });
    row("nodes that a decision knows of", &|it| format!("{:.0}", it.known.mean()));
    let ages = |age: &tesela_tests::sim::Spread| format!("{:.2}, {:.2}", age.up_to(0.5), age.up_to(0.99));
    row("age of what it knows, s: median, 99 %", &|it| ages(&it.age));
    row("of the node that it chooses", &|it| ages(&it.age_chosen));
    row("imbalance: mean, 99 %", &|it| {
        format!("{:.2}, {:.2}", it.imbalance.mean(), it.imbalance.up_to(0.99))
    });
    row("moves a node and minute", &|it| format!("{:.2}", it.rate(it.moves) * 60.0));
    row("of these where the process had been within 30 s", &|it| it.back.to_string());
    row("refused a node and minute", &|it| format!("{:.2}", it.rate(it.refused) * 60.0));
    row("jobs", &|it| it.slowdown[0].count().to_string());
    row("slowdown: mean, 99 %", &|it| slow(it, 0));
    row("the same, where nothing moves", &|it| slow(it, 1));
    row("the same, ideal", &|it| slow(it, 2));
    let memory: Vec<String> = all.iter().map(|(.., memory)| memory.to_string()).collect();
    println!("| memory of all, MiB | {} |", memory.join(" | "));
}

fn slow(figures: &Figures, which: usize) -> String {
    let spread = &figures.slowdown[which];
    format!("{:.2}, {:.2}", spread.mean(), spread.up_to(0.99))
}

fn processor() -> Duration {
    cpu_time(i32::try_from(std::process::id()).unwrap())
}

/// The most memory that this program has had, in MiB (VmHWM, proc_pid_status(5)).
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
