//! Ten minutes of jobs of all lengths that come in bursts, on any node: nothing may bounce.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tesela_tests::lab::Lab;

use crate::batch::{job, second};

const LENGTH: Duration = Duration::from_secs(600);
const CPUS: [f64; 4] = [0.4; 4];
/// A process that is back so soon where it was has bounced.
const SOON: Duration = Duration::from_secs(30);
/// Who is at home for less than that only passes through: from one other node to the next it goes by way of home.
const THROUGH: Duration = Duration::from_secs(1);

/// Where a process has been, and since when it was away from there.
#[derive(Default)]
struct Trip {
    place: Option<String>,
    /// It is seen at home since then, which does not count yet.
    home: Option<Instant>,
    left: HashMap<Option<String>, Instant>,
    moves: u32,
}

/// Prints its table.
pub fn run(_rounds: usize) {
    let lab = crate::lab(&CPUS, &[]);
    let second = second(&lab, &CPUS);
    let mut jobs = 0;
    let mut drivers = Vec::new();
    for (number, script) in scripts(second, &mut jobs).into_iter().enumerate() {
        let words = ["lab", "exec", "--user", "demo", &format!("n{}", number + 1), "--", "sh", "-c", &script];
        drivers.push(lab.bounded(LENGTH * 3, &words).spawn().unwrap());
    }
    let (mut trips, mut bounced): (HashMap<(usize, String), Trip>, u32) = (HashMap::new(), 0);
    while drivers.iter_mut().any(|driver| driver.try_wait().unwrap().is_none()) {
        for number in 1..=CPUS.len() {
            bounced += look(&lab, number, &mut trips);
        }
    }
    let moves: u32 = trips.values().map(|trip| trip.moves).sum();
    let most = trips.values().map(|trip| trip.moves).max().unwrap_or(0);
    let moved = trips.values().filter(|trip| trip.moves > 0).count();
    println!("| minutes | jobs | moved | moves | the most of one | bounced |\n|---|---|---|---|---|---|");
    println!("| {} | {jobs} | {moved} | {moves} | {most} | {bounced} |", LENGTH.as_secs() / 60);
}

/// What each node starts when: a load that is 70 % of all at the mean, and now twice that, now nothing.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small figures, none below 0")]
fn scripts(second: f64, jobs: &mut usize) -> Vec<String> {
    let mut scripts = vec![String::new(); CPUS.len()];
    let mut state = 2_463_534_242_u32;
    let mut random = || {
        // xorshift (Marsaglia)
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / f64::from(u32::MAX)
    };
    let all: f64 = CPUS.iter().sum();
    let mut last = [0.0; CPUS.len()];
    let mut now = 0.0;
    while now < LENGTH.as_secs_f64() {
        // Half of a minute is busy, half of it quiet.
        let load = if ((now / 30.0) as u64).is_multiple_of(2) { 1.2 } else { 0.2 } * all;
        // Pareto, from a fifth of a second on, of 20 at the most.
        let length = (0.2 / random().max(1e-6)).min(20.0);
        // The mean of that is 0.2 (1 + ln 100).
        now += 1.12 / load * -random().max(1e-6).ln();
        let node = if random() < 0.6 { 0 } else { (random() * 3.99) as usize };
        let pause = now - last[node];
        last[node] = now;
        let steps = (length * second) as u64;
        // A String takes everything.
        let _written = writeln!(scripts[node], "sleep {pause:.2}; {} &", job(steps));
        *jobs += 1;
    }
    scripts.into_iter().map(|script| script + "wait").collect()
}

fn look(lab: &Lab, number: usize, trips: &mut HashMap<(usize, String), Trip>) -> u32 {
    let list = lab.said(&format!("n{number}"), "migrate --list");
    let away: HashMap<String, String> = list
        .lines()
        .filter_map(|row| {
            let words: Vec<&str> = row.split_whitespace().collect();
            (words.first() == Some(&"away")).then(|| (words[2].to_owned(), words[1].to_owned()))
        })
        .collect();
    for pid in away.keys() {
        trips.entry((number, pid.clone())).or_default();
    }
    let mut bounced = 0;
    let now = Instant::now();
    for ((_, pid), trip) in trips.iter_mut().filter(|((node, _), _)| *node == number) {
        let place = away.get(pid).cloned();
        if place == trip.place {
            trip.home = None;
            continue;
        }
        if place.is_none() && now - *trip.home.get_or_insert(now) < THROUGH {
            continue;
        }
        trip.home = None;
        let before = std::mem::replace(&mut trip.place, place);
        trip.left.insert(before, now);
        // One that has ended is at home in this list, too.
        if trip.place.is_none()
            && !lab.on(&format!("n{number}"), &format!("test -d /proc/{pid}")).status().unwrap().success()
        {
            continue;
        }
        trip.moves += 1;
        if trip.left.get(&trip.place).is_some_and(|left| now.duration_since(*left) < SOON) {
            bounced += 1;
        }
    }
    bounced
}
