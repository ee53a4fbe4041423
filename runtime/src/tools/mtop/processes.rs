//! The processes of this node as `mtop` lists them, read from /proc (proc(5)).

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use procfs::process::{Stat, all_processes};
use procfs::{Current as _, LoadAverage, Meminfo, Uptime};

use crate::tools::Ended;
use crate::tools::mps::nodes_of;

/// What stands above the table, and its rows.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub head: String,
    pub rows: Vec<Row>,
}

/// A process.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub pid: i32,
    /// Where it runs, as `mps` has it.
    pub node: String,
    pub user: String,
    pub priority: i64,
    /// Percent of one processor, since the look before.
    pub cpu: f64,
    /// Percent of the node's memory.
    pub memory: f64,
    /// Processor time, in seconds.
    pub seconds: f64,
    pub command: String,
}

/// How much of the processor a process had used, and when, in seconds.
#[derive(Clone, Copy, Debug)]
struct Used {
    /// When it began: with its id that is who it is.
    start: u64,
    seconds: f64,
    /// Since the node's boot.
    at: f64,
}

/// What looks.
#[derive(Debug)]
pub(super) struct Processes {
    before: HashMap<i32, Used>,
    users: HashMap<u32, String>,
    /// Ticks a second.
    rate: f64,
    /// Octets.
    page: f64,
}

impl Processes {
    pub(super) fn new() -> Self {
        Self {
            before: HashMap::new(),
            users: users(&fs::read_to_string("/etc/passwd").unwrap_or_default()),
            rate: float(procfs::ticks_per_second()),
            page: float(procfs::page_size()),
        }
    }

    /// All processes that are there, with what they have used since the last look.
    pub(super) fn look(&mut self, socket: &Path) -> Result<Table, Ended> {
        let nodes = nodes_of(socket)?;
        self.table(&nodes).map_err(|error| Ended::Failed(format!("/proc: {error}")))
    }

    fn table(&mut self, nodes: &HashMap<i32, String>) -> Result<Table, procfs::ProcError> {
        let now = Uptime::current()?.uptime;
        let memory = Meminfo::current()?;
        let mut rows = Vec::new();
        let mut used = HashMap::new();
        for process in all_processes()?.flatten() {
            // One that ends meanwhile is none.
            if let (Ok(stat), Ok(uid)) = (process.stat(), process.uid()) {
                let mut row = self.row(&stat, uid, now, float(memory.mem_total));
                row.node = nodes.get(&row.pid).map_or("-", String::as_str).to_owned();
                used.insert(row.pid, Used { start: stat.starttime, seconds: row.seconds, at: now });
                rows.push(row);
            }
        }
        self.before = used;
        Ok(Table { head: head(now, &memory, &rows)?, rows })
    }

    fn row(&self, stat: &Stat, uid: u32, now: f64, memory: f64) -> Row {
        let seconds = float(stat.utime + stat.stime) / self.rate;
        let began = Used { start: stat.starttime, seconds: 0.0, at: float(stat.starttime) / self.rate };
        let before = self.before.get(&stat.pid).filter(|used| used.start == stat.starttime).unwrap_or(&began);
        // Neither time is finer than a tick.
        let length = (now - before.at).max(1.0 / self.rate);
        Row {
            pid: stat.pid,
            node: String::new(),
            user: self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string()),
            priority: stat.priority,
            cpu: (seconds - before.seconds) / length * 100.0,
            memory: float(stat.rss) * self.page / memory.max(1.0) * 100.0,
            seconds,
            command: stat.comm.clone(),
        }
    }
}

fn head(uptime: f64, memory: &Meminfo, rows: &[Row]) -> Result<String, procfs::ProcError> {
    let LoadAverage { one, five, fifteen, .. } = LoadAverage::current()?;
    let guests = rows.iter().filter(|row| row.node.starts_with('<')).count();
    let away = rows.iter().filter(|row| row.node != "-").count() - guests;
    let minutes = (uptime / 60.0).floor();
    let (hours, minutes) = ((minutes / 60.0).floor(), minutes % 60.0);
    let mib = |octets: u64| octets >> 20;
    let free = memory.mem_available.unwrap_or(memory.mem_free);
    Ok(format!(
        "mtop: up {hours:.0}:{minutes:02.0}, load {one:.2} {five:.2} {fifteen:.2}, {} processes, {away} away, \
         {guests} guests, {} of {} MiB used",
        rows.len(),
        mib(memory.mem_total.saturating_sub(free)),
        mib(memory.mem_total),
    ))
}

/// Names by id, of passwd(5).
fn users(text: &str) -> HashMap<u32, String> {
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    text.lines().filter_map(user).collect()
}

#[expect(clippy::cast_precision_loss, reason = "it is shown with one digit")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use procfs::FromRead as _;

    /// Such a process after 50 s, with so many ticks, the first look at it being 10 s ago where there was one.
    fn cpu(ticks: u64, before: Option<(u64, f64)>) -> f64 {
        let (rate, page) = (100.0, 4096.0);
        let before = before.map(|(start, seconds)| (7, Used { start, seconds, at: 40.0 }));
        let processes = Processes { before: before.into_iter().collect(), users: users(""), rate, page };
        let zeros = "0 ".repeat(40);
        let text = format!("7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 3000 0 256 {zeros}");
        let row = processes.row(&Stat::from_read(text.as_bytes()).unwrap(), 1000, 50.0, 4096.0 * 1024.0);
        assert_eq!((row.command.as_str(), row.user.as_str(), row.memory), ("a) b", "1000", 25.0));
        row.cpu
    }

    #[test]
    fn what_was_used_is_since_the_look_before() {
        assert_eq!(cpu(1000, None), 50.0, "10 s in the 20 s since it began");
        assert_eq!(cpu(1000, Some((3000, 9.0))), 10.0);
        assert_eq!(cpu(1000, Some((2000, 9.0))), 50.0, "another process with that id");
    }

    #[test]
    fn this_process_is_listed() {
        let mut processes = Processes::new();
        let own = std::process::id().cast_signed();
        let table = processes.table(&HashMap::from([(own, "n2".to_owned())])).unwrap();
        let row = table.rows.iter().find(|row| row.pid == own).unwrap();
        assert_eq!(row.node, "n2");
        assert!(row.memory > 0.0 && row.memory < 100.0, "{row:?}");
        assert!(table.head.contains(" 1 away, 0 guests, "), "{}", table.head);
    }

    #[test]
    fn users_have_names() {
        let users = users("root:x:0:0:root:/root:/bin/sh\nbroken\ndemo:x:1000:1000::/home/demo:/bin/sh\n");
        assert_eq!((users.len(), users[&1000].as_str()), (2, "demo"));
    }
}
