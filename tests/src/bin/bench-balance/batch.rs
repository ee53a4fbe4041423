//! A batch of jobs started on one node of several: how long until all are done, against ideal processor sharing and
//! against the same with balancing off.
//!
//! Ideal is all work over all speed at no cost, where no job can have more than the whole of a node.

use std::process::{Command, Stdio};
use std::time::Duration;

use tesela_tests::lab::Lab;

/// Steps of a job that takes about a second of one of this machine's processors; it is measured.
const STEPS: u64 = 8_000_000;
const LIMIT: Duration = Duration::from_secs(1800);

/// A case of the table.
struct Case {
    what: &'static str,
    /// The nodes' processors.
    cpus: &'static [f64],
    /// The jobs' lengths, in seconds of a processor.
    jobs: Vec<f64>,
}

/// Prints its table.
pub fn run(rounds: usize) {
    let mixed: Vec<f64> = (0..32).map(|number| 0.5 * f64::from(1 + number * 7 % 8)).collect();
    let cases = [
        Case { what: "32 jobs of mixed length, 4 equal nodes", cpus: &[0.4; 4], jobs: mixed.clone() },
        Case { what: "the same, 3 nodes of speed 1, 2, 4", cpus: &[0.2, 0.4, 0.8], jobs: mixed },
    ];
    println!("| | ideal, s | balanced, s | to ideal | without, s | to that |\n|---|---|---|---|---|---|");
    for case in cases {
        let lab = crate::lab(case.cpus, &[]);
        let second = second(&lab, case.cpus);
        let (mut balanced, mut alone) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            lab.said("n1", "mosctl nostay");
            balanced.push(batch(&lab, &case.jobs, second));
            lab.said("n1", "mosctl stay");
            alone.push(if round == 1 { batch(&lab, &case.jobs, second) } else { alone[0] });
            eprintln!("{}: {balanced:.1?}, alone {:.1}", case.what, alone[0]);
        }
        let (ideal, balanced, alone) = (ideal(case.cpus, &case.jobs), median(balanced), median(alone));
        println!(
            "| {} | {ideal:.1} | {balanced:.1} | {:.2} | {alone:.1} | {:.2} |",
            case.what,
            balanced / ideal,
            balanced / alone
        );
    }
}

/// The one in the middle.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// A job of so many steps.
pub fn job(steps: u64) -> String {
    format!("perl -e '$x = 1; for ($i = 0; $i < {steps}; $i++) {{ $x = ($x * 69069 + 1) % 4294967296 }}'")
}

/// How many steps take a second of one of this machine's processors while all nodes compute: what two processors share
/// makes each of them slower.
pub fn second(lab: &Lab, cpus: &[f64]) -> f64 {
    let least = cpus.iter().copied().fold(f64::INFINITY, f64::min);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "millions"
    )]
    let rate = |(number, quota): (usize, &f64)| {
        // So all end at about the same time.
        let steps = (STEPS as f64 * quota / least).round();
        // The shell's `times` has the children's processor time in its second line.
        let command = format!("{}; times > /tmp/times; tail -n 1 /tmp/times", job(steps as u64));
        let node = format!("n{}", number + 1);
        lab.said(&node, "mosctl stay");
        let said = lab.said(&node, &command);
        lab.said(&node, "mosctl nostay");
        let word = said.split_whitespace().next().unwrap();
        let (minutes, seconds) = word.trim_end_matches('s').split_once('m').unwrap();
        quota * steps / (minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap())
    };
    let rates: f64 = std::thread::scope(|scope| {
        let nodes = cpus.iter().enumerate();
        let all: Vec<_> = nodes.map(|node| scope.spawn(move || rate(node))).collect();
        all.into_iter().map(|node| node.join().unwrap()).sum()
    });
    rates / cpus.iter().sum::<f64>()
}

/// Runs all on n1, as an ordinary user; how long it takes, in seconds.
fn batch(lab: &Lab, jobs: &[f64], second: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few millions")]
    let all: Vec<String> = jobs.iter().map(|length| format!("{} &", job((length * second) as u64))).collect();
    let script = format!("start=$(date +%s%N); {} wait; echo $(($(date +%s%N) - start))", all.join(" "));
    let words = ["lab", "exec", "--user", "demo", "n1", "--", "sh", "-c", &script];
    let mut command: Command = lab.bounded(LIMIT, &words);
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    let nanoseconds: f64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    nanoseconds / 1e9
}

/// When the last of these jobs is done where all that run share all nodes alike, and none has more than a whole one.
fn ideal(cpus: &[f64], jobs: &[f64]) -> f64 {
    let mut speeds = cpus.to_vec();
    speeds.sort_by(|one, other| other.total_cmp(one));
    let mut left = jobs.to_vec();
    left.sort_by(f64::total_cmp);
    let (mut now, mut done) = (0.0, 0.0);
    for (index, length) in left.iter().enumerate() {
        let running = left.len() - index;
        let all: f64 = speeds.iter().take(running).sum();
        #[expect(clippy::cast_precision_loss, reason = "a few")]
        let each = all / running as f64;
        now += (length - done) / each;
        done = *length;
    }
    now
}
