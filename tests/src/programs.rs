//! Programs of Debian's, unmodified, that move in mid-run: what they put out, how they end and every file that they
//! leave has to be that of a run which did not move.
//!
//! `data/programs/run.sh` runs one on a node, as an ordinary user, by the tool `migrate`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod list;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::lab::Lab;

pub use list::PROGRAMS;

/// The cluster of a lab's own, whose image is made anew here.
const LAB: &str = include_str!("../../configs/lab.yaml");
const HOME: &str = "n1";

/// A program that moves.
#[derive(Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// The Debian packages that it needs.
    pub packages: &'static [&'static str],
    /// Shell: makes what it finds in its directory, and `../data`, of about `$SIZE` octets, which is its input.
    pub prepare: &'static str,
    /// What it is.
    pub run: Run,
    /// What moves.
    pub moves: Moves,
    /// Where it is tried.
    pub tried: Tried,
}

/// A command line, for the shell. It ends with its input.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// One program, which is what moves.
    Exec(&'static str),
    /// Some that work together; it writes into `../pid` what is to be moved.
    Driver(&'static str),
}

/// What moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moves {
    /// A process.
    Alone,
    /// A process with several threads.
    Threads,
    /// Processes that share memory, or that work on together where they are.
    Group,
}

/// Where a program is tried: all in `make soak`, these in `make test`, too. Each includes those below it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tried {
    /// Nowhere else: it takes its time or a large image, or has a service that a node would start.
    InSoak,
    /// On nodes that are namespaces.
    OnNamespaces,
    /// And on machines.
    OnMachines,
}

/// Those that are tried there.
pub fn tried(there: Tried) -> impl Iterator<Item = &'static Program> {
    PROGRAMS.iter().filter(move |program| program.tried >= there)
}

/// The cluster of a lab with these programs in an image of its own, called `image`.
///
/// # Panics
/// configs/lab.yaml is no longer what this knows.
pub fn cluster<'a>(image: &str, programs: impl IntoIterator<Item = &'a Program>) -> String {
    let mut packages: Vec<&str> =
        programs.into_iter().flat_map(|program| program.packages).copied().collect();
    packages.sort_unstable();
    packages.dedup();
    let all = format!("packages: [openssh-server, {}]", packages.join(", "));
    assert!(LAB.contains("  base:") && LAB.contains("image: base,"));
    LAB.replacen("  base:", &format!("  {image}:"), 1)
        .replacen("image: base,", &format!("image: {image},"), 1)
        .replacen("packages: [openssh-server]", &all, 1)
}

/// How programs are moved.
#[derive(Clone, Copy, Debug)]
pub struct Tour<'a> {
    /// Where to, one after the other, as `migrate` is told; the last is home.
    pub places: &'a [&'a str],
    /// About how many octets the inputs are to have.
    pub size: u64,
    /// How long a program has for both of its runs.
    pub limit: Duration,
}

/// Each of the programs on its tour; those that are not as they are unmoved are told together.
///
/// # Panics
/// With them, in the end.
pub fn tour<'a>(lab: &Lab, tour: Tour<'_>, programs: impl IntoIterator<Item = &'a Program>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/programs");
    let packed = Command::new("tar").arg("-C").arg(folder).args(["-cf", "-", "."]).output().unwrap();
    let unpack =
        "rm -rf /srv/programs && mkdir -p /srv/programs && tar -xf - -C /srv/programs && chmod -R a+rX /srv";
    let unpacked = lab.fed(HOME, unpack, &packed.stdout);
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    // They move when this says so, and not to share the load.
    lab.said(HOME, "mosctl stay");
    let mut failed = Vec::new();
    for program in programs {
        if let Err(how) = on_tour(lab, tour, program) {
            failed.push(how);
            // What is left of it is not to be in the next one's way; the shell that says this ends, too.
            lab.tesela(&["lab", "exec", "--user", "demo", HOME, "--", "sh", "-c", "kill -KILL -1"]);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

fn on_tour(lab: &Lab, tour: Tour<'_>, program: &Program) -> Result<(), String> {
    let begun = Instant::now();
    let run = match program.run {
        Run::Exec(command) => format!("echo $$ > ../pid; exec {command}"),
        Run::Driver(script) => script.to_owned(),
    };
    let size = format!("SIZE={}", tour.size);
    let words = ["env", &size, "sh", "/srv/programs/run.sh", program.prepare, &run];
    let output = lab
        .bounded(
            tour.limit,
            &[&["lab", "exec", "--user", "demo", HOME, "--"], &words[..], tour.places].concat(),
        )
        .output()
        .unwrap();
    let [said, complaint] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    let wrong = |what: &str| Err(format!("{}: {what}\n{}\n{said}{complaint}", program.name, output.status));
    if !output.status.success() || !said.ends_with("same\n") {
        return wrong("does not run as unmoved");
    }
    let stops: Vec<Stop<'_>> = said.lines().filter_map(Stop::parse).collect();
    if stops.is_empty()
        || !stops.len().is_multiple_of(tour.places.len())
        || !stops.iter().all(Stop::is_reached)
    {
        return wrong("has not moved to each place");
    }
    let most = |count: fn(&Stop<'_>) -> u32| stops.iter().map(count).max().unwrap_or(0);
    let (processes, threads) = (most(|stop| stop.processes), most(|stop| stop.threads));
    let together = match program.moves {
        Moves::Alone => true,
        Moves::Threads => threads > 1,
        Moves::Group => processes > 1,
    };
    if !together {
        return wrong("was to move with others, and has not");
    }
    println!(
        "{}: {} moves, {processes} processes, {threads} threads, {:.1} s: as unmoved",
        program.name,
        stops.len(),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Where a program was after a move, as run.sh tells it.
#[derive(Debug)]
struct Stop<'a> {
    asked: &'a str,
    processes: u32,
    threads: u32,
    answer: &'a str,
}

impl<'a> Stop<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.splitn(4, ' ');
        Some(Self {
            asked: words.next()?,
            processes: words.next()?.parse().ok()?,
            threads: words.next()?.parse().ok()?,
            answer: words.next()?.split_once(": ")?.1,
        })
    }

    fn is_reached(&self) -> bool {
        match self.asked {
            "home" => self.answer == format!("at home ({HOME})"),
            node => {
                // In the lab, n3 is 10.77.0.13.
                let node =
                    node.strip_prefix("10.77.0.1").map_or_else(|| node.to_owned(), |last| format!("n{last}"));
                self.answer == format!("on {node}, at home on {HOME}")
            }
        }
    }
}
