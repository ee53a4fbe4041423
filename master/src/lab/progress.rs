//! Where every node of a lab is, shown while it boots.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::machine::{Machine, qemu_log};
use super::{Error, Lab};
use crate::inventory::Stage;
use crate::web::client;
use crate::web::views::NodeView;

/// How often the master is asked.
const POLL: Duration = Duration::from_millis(250);
/// Lines of its console shown of a node that is stuck.
const TAIL_LINES: usize = 12;

/// The stage of every node that the master heard of.
pub fn stages(lab: &Lab) -> Result<BTreeMap<String, NodeView>, Error> {
    let socket = lab.socket();
    let nodes =
        client::nodes(&socket).map_err(|error| Error::MasterSilent { reason: error.to_string(), socket })?;
    Ok(nodes.into_iter().map(|node| (node.name.clone(), node)).collect())
}

/// The address at which a node answers now, and its stage.
pub fn address_of(lab: &Lab, node: &str) -> Result<(Option<Ipv4Addr>, String), Error> {
    let seen = stages(lab)?.remove(node);
    Ok((seen.as_ref().and_then(|seen| seen.address), stage_of(seen.as_ref()).to_string()))
}

fn stage_of(seen: Option<&NodeView>) -> Stage {
    match seen.and_then(|seen| seen.state.as_ref()).map(|state| state.stage) {
        // A node whose agent is gone is what an earlier run left in the inventory.
        None | Some(Stage::Silent | Stage::Down) => Stage::Powered,
        Some(stage) => stage,
    }
}

/// What `up` started and watches.
pub struct Started {
    pub master: Child,
    pub machines: Vec<(Machine, Child)>,
}

/// Waits until all nodes are members, showing each stage; the time that each took.
///
/// A node that stays in one stage for longer than its limit ends the waiting once no other node moves
/// either; the error tells of each.
pub fn until_members(lab: &Lab, started: &mut Started) -> Result<(), Error> {
    let mut board = Board::new(started.machines.iter().map(|(machine, _)| machine));
    loop {
        if let Some(status) = started.master.try_wait().map_err(Error::io("wait for", &lab.master_log()))? {
            return Err(master_ended(lab, &status.to_string()));
        }
        for (machine, child) in &mut started.machines {
            let said = qemu_log(lab, &machine.node);
            if let Some(status) = child.try_wait().map_err(Error::io("wait for", &said))? {
                let (name, status) = (machine.node.clone(), status.to_string());
                return Err(Error::MachineEnded { name, status, said: tail(&said, TAIL_LINES) });
            }
        }
        board.update(&stages(lab)?);
        if board.rows.iter().all(|row| row.stage == Stage::Member) {
            return Ok(());
        }
        if board.rows.iter().all(|row| row.stage == Stage::Member || row.is_stuck()) {
            return Err(Error::Stuck(board.stuck(lab)));
        }
        std::thread::sleep(POLL);
    }
}

/// The error of a master that ended by itself.
pub fn master_ended(lab: &Lab, status: &str) -> Error {
    let log = lab.master_log();
    Error::MasterEnded { status: status.to_owned(), tail: tail(&log, TAIL_LINES), log }
}

fn tail(log: &Path, count: usize) -> String {
    let text = match std::fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("(cannot be read: {error})"),
    };
    // Firmware paints its screen with control codes; a reader of the tail wants words.
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Every node's stage, on a terminal as a line that lives, else as a line a change.
struct Board {
    begun: Instant,
    bars: Option<MultiProgress>,
    rows: Vec<Row>,
}

struct Row {
    node: String,
    stage: Stage,
    since: Instant,
    failure: Option<String>,
    bar: Option<ProgressBar>,
}

impl Row {
    fn is_stuck(&self) -> bool {
        self.stage.limit().is_some_and(|limit| self.since.elapsed() > limit)
    }
}

impl Board {
    fn new<'a>(machines: impl Iterator<Item = &'a Machine>) -> Self {
        let begun = Instant::now();
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        let rows = machines
            .map(|machine| {
                let bar = bars.as_ref().map(|bars| {
                    let bar = bars.add(ProgressBar::new(Stage::Member as u64));
                    bar.set_style(style());
                    bar.set_prefix(format!("{} ({})", machine.node, machine.firmware.name()));
                    bar.set_message(Stage::Powered.name());
                    bar.enable_steady_tick(POLL);
                    bar
                });
                Row { node: machine.node.clone(), stage: Stage::Powered, since: begun, failure: None, bar }
            })
            .collect();
        Self { begun, bars, rows }
    }

    fn update(&mut self, seen: &BTreeMap<String, NodeView>) {
        let seconds = self.begun.elapsed().as_secs_f32();
        for row in &mut self.rows {
            let state = seen.get(&row.node).and_then(|seen| seen.state.as_ref());
            let failure = state.and_then(|state| state.failure.clone());
            if failure.is_some() && failure != row.failure {
                self.bars.as_ref().map_or_else(
                    || eprintln!("{}: {}", row.node, failure.as_deref().unwrap_or_default()),
                    |bars| {
                        bars.suspend(|| eprintln!("{}: {}", row.node, failure.as_deref().unwrap_or_default()))
                    },
                );
            }
            row.failure = failure;
            let stage = stage_of(seen.get(&row.node));
            if stage == row.stage {
                continue;
            }
            (row.stage, row.since) = (stage, Instant::now());
            match &row.bar {
                Some(bar) => {
                    bar.set_position(stage as u64);
                    bar.set_message(stage.name());
                    if stage == Stage::Member {
                        bar.finish();
                    }
                }
                None => eprintln!("{}: {stage} ({seconds:.1} s)", row.node),
            }
        }
    }

    fn stuck(&self, lab: &Lab) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let _infallible = write!(text, "  {}: {}", row.node, row.stage);
            if row.stage != Stage::Member {
                let log = lab.machine_dir(&row.node).join("console.log");
                let _infallible = write!(text, " for {} s", row.since.elapsed().as_secs());
                if let Some(failure) = &row.failure {
                    let _infallible = write!(text, ": {failure}");
                }
                let said = tail(&log, TAIL_LINES).replace('\n', "\n    | ");
                let _infallible = write!(text, "; the end of {}:\n    | {said}", log.display());
            }
            text.push('\n');
        }
        let _infallible = write!(
            text,
            "The lab stays up for a look at it. The master's log is {}.",
            lab.master_log().display()
        );
        text
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:<16} [{bar:24}] {msg:<8} {elapsed}")
        .unwrap_or_else(|_malformed| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
