//! A node is filled to its limit of memory: its biggest process leaves before it has to swap.

use std::process::Stdio;
use std::time::Duration;

use tesela_tests::lab::Lab;

/// What a node may have, in MiB.
const NODE: u64 = 512;
/// What the biggest process grows to, in steps, and what two others hold, in MiB.
const BIG: u64 = 360;
const SMALL: u64 = 60;
const LIMIT: Duration = Duration::from_secs(300);

/// Prints its table.
pub fn run(rounds: usize) {
    println!(
        "| round | the biggest left at, MiB | n1 had at the most, of {NODE} MiB | n1 has then | its limit was met | right |"
    );
    println!("|---|---|---|---|---|---|");
    for round in 1..=rounds {
        let memory = NODE.to_string();
        let lab = crate::lab(&[0.5; 3], &["--memory", &memory]);
        let row = filled(&lab);
        println!("| {round} | {row} |");
    }
}

/// MiB of a figure of the node's control group, of either version.
fn figure(lab: &Lab, one: &str, two: &str) -> u64 {
    let script = format!("cat /sys/fs/cgroup/memory/{one} /sys/fs/cgroup/{two} 2> /dev/null | head -n 1");
    lab.said("n1", &script).parse::<u64>().unwrap_or(0)
}

fn filled(lab: &Lab) -> String {
    let grow = |mib: u64, then: &str| {
        format!(
            "perl -e 'for (1..{mib}) {{ $x .= chr(65 + $_ % 26) x 1048576; select(undef, undef, undef, 0.05) }} {then}'"
        )
    };
    // Each octet is looked at once, wherever the process is by then.
    let (big, small) = (grow(BIG, "print unpack(\"%64C*\", $x), \"\\n\""), grow(SMALL, "sleep 1000"));
    let script = format!("{small} & one=$!; {small} & other=$!; {big} & echo $!; wait $!; kill $one $other");
    let words = ["lab", "exec", "--user", "demo", "n1", "--", "sh", "-c", &script];
    let mut batch = lab.bounded(LIMIT, &words).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(batch.stdout.take().unwrap())).map(Result::unwrap);
    let pid = lines.next().unwrap();
    let used = || figure(lab, "memory.usage_in_bytes", "memory.current") >> 20;
    let size = || {
        let script = format!("sed -n 's/^VmSize:[^0-9]*\\([0-9]*\\) kB/\\1/p' /proc/{pid}/status");
        lab.said("n1", &script).parse::<u64>().unwrap_or(0) >> 10
    };
    let (mut left_at, mut most, mut then) = (None, 0, 0);
    while batch.try_wait().unwrap().is_none() {
        let now = used();
        most = most.max(now);
        if left_at.is_some() {
            then = now;
        } else if lab
            .said("n1", "migrate --list")
            .lines()
            .any(|row| row.starts_with("away") && row.split_whitespace().nth(2) == Some(&*pid))
        {
            left_at = Some(size());
        }
    }
    let sum: u64 = (1..=BIG).map(|number| (65 + number % 26) << 20).sum();
    let right = lines.next().and_then(|line| line.parse::<u64>().ok()) == Some(sum);
    let most = most.max(figure(lab, "memory.max_usage_in_bytes", "memory.peak") >> 20);
    let met = figure(lab, "memory.failcnt", "memory.swap.current");
    let left_at = left_at.map_or_else(|| "it stayed".to_owned(), |size| size.to_string());
    format!("{left_at} | {most} | {then} | {met} times | {}", if right { "yes" } else { "NO" })
}
