//! What it costs a process to be away: a program of this benchmark's own moves between two network namespaces
//! and home again, and times itself; beside it a plain copy and a plain ping-pong between the same two places,
//! under the same cipher. Prints tables for SPECIFICATION.md.
//!
//! `bench-migrate [ROUNDS]`, 5 unless told otherwise. Needs root, and `teselad` built beside it.
#![expect(clippy::unwrap_used, reason = "what fails here fails the benchmark")]

mod away;
mod plain;
mod program;

use std::time::Duration;

use away::{Link, Trip};
use program::{Kind, Program};

/// How long a program is in each place where its calls are timed.
const STAY: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["program", words @ ..] => program::run(words),
        [] => bench(5),
        [rounds] => bench(rounds.parse().unwrap()),
        _ => panic!("usage: bench-migrate [ROUNDS]"),
    }
}

fn bench(rounds: usize) {
    let link = Link::new();
    still(&link, rounds);
    whole(&link, "veth", rounds);
    link.shape("1gbit");
    whole(&link, "1 Gbit/s", rounds.min(2));
    link.unshape();
    calls(&link, rounds);
}

/// The time that a process stands still, as it sees it itself: the longest pause of a loop that reads the clock.
fn still(link: &Link, rounds: usize) {
    println!("| the process has | stands still, ms: median | best | worst |\n|---|---|---|---|");
    for mebibytes in [1, 64, 1024] {
        let mut pauses: Vec<f64> = (0..rounds)
            .map(|_| {
                let mut program = Program::start(&["pauses", &mebibytes.to_string()]);
                let trip = Trip::of(link, program.pid());
                program.go_on();
                let pause: f64 = program.line().parse().unwrap();
                trip.home();
                pause * 1e3
            })
            .collect();
        pauses.sort_by(f64::total_cmp);
        let (best, worst) = (pauses[0], pauses[pauses.len() - 1]);
        println!("| {mebibytes} MiB | {:.2} | {best:.2} | {worst:.2} |", median(&pauses));
    }
}

/// What a move costs in all, against copying the octets once.
fn whole(link: &Link, name: &str, rounds: usize) {
    const SIZE: u64 = 1024;
    let mut rows: Vec<(f64, f64, f64)> = (0..rounds)
        .map(|_| {
            let passes = |moves: bool| -> f64 {
                let mut program = Program::start(&["touches", &SIZE.to_string()]);
                let trip = moves.then(|| Trip::of(link, program.pid()));
                program.go_on();
                let taken = program.line().parse().unwrap();
                trip.into_iter().for_each(Trip::end);
                taken
            };
            let (unmoved, moved) = (passes(false), passes(true));
            (unmoved, moved, plain::copy(link, SIZE * MIB))
        })
        .collect();
    rows.sort_by(|one, other| ((one.1 - one.0) / one.2).total_cmp(&((other.1 - other.0) / other.2)));
    let (unmoved, moved, copy) = rows[rows.len() / 2];
    println!("\n| over {name}, 1 GiB that is all touched | s |\n|---|---|");
    println!("| unmoved | {unmoved:.2} |\n| moved at its start | {moved:.2} |");
    println!("| a plain copy under the same cipher | {copy:.2} |");
    println!("| delay to copy | {:.2} |", (moved - unmoved) / copy);
}

/// What calls and plain computing cost at home, away, and at home again.
fn calls(link: &Link, rounds: usize) {
    println!("\n| | at home, ns | away, ns | home again, ns | away to home |\n|---|---|---|---|---|");
    let mut forwarded = 0.;
    for kind in Kind::ALL {
        let mut rows: Vec<[f64; 3]> = (0..rounds).map(|_| phases(link, kind)).collect();
        rows.sort_by(|one, other| (one[1] / one[0]).total_cmp(&(other[1] / other[0])));
        let [home, away, again] = rows[rows.len() / 2];
        println!("| {} | {home:.0} | {away:.0} | {again:.0} | {:.3} |", kind.title(), away / home);
        if kind == Kind::Forwarded {
            forwarded = away;
        }
    }
    let mut plain: Vec<f64> = (0..rounds).map(|_| plain::ping_pong(link)).collect();
    plain.sort_by(f64::total_cmp);
    let plain = median(&plain);
    println!(
        "\nA ping-pong of the same size under the same cipher takes {plain:.0} ns; a forwarded call {:.2} × that.",
        forwarded / plain
    );
}

fn phases(link: &Link, kind: Kind) -> [f64; 3] {
    let mut program = Program::start(&["times", kind.name()]);
    let home = program.times(STAY);
    let trip = Trip::of(link, program.pid());
    let away = program.times(STAY);
    trip.home();
    let again = program.times(STAY);
    [home, away, again].map(|times| median(&times))
}

/// Of what is sorted.
fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}
