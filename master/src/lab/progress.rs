//! Where every node of a lab is, shown while it boots.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::machine::{self, Hardware, Machine};
use super::{Error, Lab};
use crate::cluster::{Mac, Unknown};
use crate::inventory::{self, Stage, Timestamp};
use crate::web::client;
use crate::web::views::NodeView;

/// How often the master is asked.
const POLL: Duration = Duration::from_millis(250);
/// Lines of its console shown of a node that is stuck.
const TAIL_LINES: usize = 12;
/// What `unknown: register` makes of a machine.
const REGISTERED: &str = "registered";

/// What the lab's master knows at one moment.
pub struct View {
    nodes: Vec<NodeView>,
    unknown: Vec<inventory::Machine>,
}

impl View {
    pub fn of(lab: &Lab) -> Result<Self, Error> {
        let socket = lab.socket();
        client::nodes(&socket)
            .and_then(|nodes| Ok(Self { nodes, unknown: client::unknown(&socket)? }))
            .map_err(|error| Error::MasterSilent { reason: error.to_string(), socket })
    }

    /// The node that a virtual machine is: an unknown one becomes one once it is accepted.
    pub fn node_of(&self, machine: &Machine) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.mac == Some(machine.mac))
    }

    /// The hardware address of the machine that is this node.
    pub fn mac_of(&self, node: &str) -> Option<Mac> {
        self.nodes.iter().find(|other| other.name == node)?.mac
    }

    /// When a machine that is no node was seen last.
    pub fn seen(&self, machine: &Machine) -> Option<Timestamp> {
        self.unknown.iter().find(|other| other.mac == machine.mac).map(|seen| seen.last_seen)
    }
}

/// Where this node's boot is.
pub fn stage_of(node: Option<&NodeView>) -> Stage {
    match node.and_then(|node| node.state.as_ref()).map(|state| state.stage) {
        // A node whose agent is gone is what an earlier run left in the inventory.
        None | Some(Stage::Silent | Stage::Down) => Stage::Powered,
        Some(stage) => stage,
    }
}

/// What `up` started and watches.
pub struct Started {
    pub master: Child,
    pub machines: Vec<(Machine, Child)>,
    /// What the cluster does with machines that it does not know.
    pub unknown: Unknown,
}

/// Waits until all nodes are members, and the unknown machines what the cluster makes of them: members,
/// or registered. Shows each stage, and the time that each took.
///
/// A node that stays in one stage for longer than its limit ends the waiting once no other node moves
/// either; the error tells of each.
pub fn until_members(lab: &Lab, started: &mut Started) -> Result<(), Error> {
    let mut board = Board::new(started);
    loop {
        if let Some(status) = started.master.try_wait().map_err(Error::io("wait for", &lab.master_log()))? {
            return Err(master_ended(lab, &status.to_string()));
        }
        for (machine, child) in &mut started.machines {
            let said = machine::log(lab, &machine.name);
            if let Some(status) = child.try_wait().map_err(Error::io("wait for", &said))? {
                let (name, status) = (machine.name.clone(), status.to_string());
                return Err(Error::MachineEnded { name, status, said: tail(&said, TAIL_LINES) });
            }
        }
        board.update(&View::of(lab)?);
        if board.rows.iter().all(|row| row.arrived) {
            return Ok(());
        }
        if board.rows.iter().all(|row| row.arrived || row.is_stuck()) {
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
    /// The same moment by the clock that the inventory goes by.
    since: Timestamp,
    bars: Option<MultiProgress>,
    rows: Vec<Row>,
}

struct Row {
    machine: Machine,
    /// Seen is enough: the cluster boots no machine that it does not know.
    only_seen: bool,
    stage: Stage,
    since: Instant,
    /// Nothing more is waited for.
    arrived: bool,
    failure: Option<String>,
    bar: Option<ProgressBar>,
}

impl Row {
    fn is_stuck(&self) -> bool {
        self.stage.limit().is_some_and(|limit| self.since.elapsed() > limit)
    }

    fn tell(&self, what: &'static str, position: Stage, seconds: f32) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(position as u64);
                bar.set_message(what);
                if self.arrived {
                    bar.finish();
                }
            }
            None => eprintln!("{}: {what} ({seconds:.1} s)", self.machine.name),
        }
    }
}

impl Board {
    fn new(started: &Started) -> Self {
        let begun = Instant::now();
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        let machines = started.machines.iter().map(|(machine, _)| machine);
        let rows = machines
            // A machine that is not answered is never heard of.
            .filter(|machine| machine.known || started.unknown != Unknown::Ignore)
            .map(|machine| {
                let bar = bars.as_ref().map(|bars| {
                    let bar = bars.add(ProgressBar::new(Stage::Member as u64));
                    bar.set_style(style());
                    bar.set_prefix(format!("{} ({})", machine.name, machine.firmware()));
                    bar.set_message(Stage::Powered.name());
                    bar.enable_steady_tick(POLL);
                    bar
                });
                Row {
                    machine: machine.clone(),
                    only_seen: !machine.known && started.unknown == Unknown::Register,
                    stage: Stage::Powered,
                    since: begun,
                    arrived: false,
                    failure: None,
                    bar,
                }
            })
            .collect();
        Self { begun, since: Timestamp::now(), bars, rows }
    }

    fn update(&mut self, view: &View) {
        let seconds = self.begun.elapsed().as_secs_f32();
        for row in &mut self.rows {
            let name = &row.machine.name;
            if row.only_seen {
                // An earlier run may have left it in the inventory.
                if !row.arrived && view.seen(&row.machine).is_some_and(|seen| seen >= self.since) {
                    row.arrived = true;
                    row.tell(REGISTERED, Stage::Member, seconds);
                }
                continue;
            }
            let node = view.node_of(&row.machine);
            let failure = node.and_then(|node| node.state.as_ref()).and_then(|state| state.failure.clone());
            if let Some(why) = failure.as_ref().filter(|_| failure != row.failure) {
                let tell = || eprintln!("{name}: {why}");
                self.bars.as_ref().map_or_else(tell, |bars| bars.suspend(tell));
            }
            row.failure = failure;
            let stage = stage_of(node);
            if stage == row.stage {
                continue;
            }
            (row.stage, row.since) = (stage, Instant::now());
            row.arrived = stage == Stage::Member;
            row.tell(stage.name(), stage, seconds);
        }
    }

    fn stuck(&self, lab: &Lab) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let registered = row.only_seen && row.arrived;
            let state = if registered { REGISTERED } else { row.stage.name() };
            let _infallible = write!(text, "  {}: {state}", row.machine.name);
            if !row.arrived {
                let log = match &row.machine.hardware {
                    Hardware::Vm(_) => lab.machine_dir(&row.machine.name).join("console.log"),
                    Hardware::Namespace(..) => machine::log(lab, &row.machine.name),
                };
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
