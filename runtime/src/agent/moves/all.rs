//! What root of a node asks for all its processes, or all its guests.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use super::process::Process;
use super::side::{Kind, Side};
use super::{MoveError, Moves, above, keeper, remote};
use crate::agent::{Config, sys};
use crate::discovery::Map;
use crate::wire::local::{Answer, Change};

impl Moves {
    /// Fetches home all processes of this node, one after the other.
    pub(super) async fn bring(&self, caller: u32) -> Result<Answer, MoveError> {
        only_root(caller, "bring")?;
        let here = self.config()?.node;
        let mut sides = self.all_away(&here).await?;
        sides.retain(|_, side| matches!(side.kind, Kind::Home(_)));
        // One process of each is enough: those with it come along.
        let mut first: BTreeMap<i32, i32> = BTreeMap::new();
        for process in Process::all()?.values().filter(|process| sides.contains_key(&process.tracer)) {
            let first = first.entry(process.tracer).or_insert(process.pid);
            *first = process.pid.min(*first);
        }
        let mut homes: Vec<(i32, &Side)> =
            first.into_iter().filter_map(|(side, pid)| Some((pid, sides.get(&side)?))).collect();
        homes.sort_by_key(|(pid, _)| *pid);
        let mut done = Done::default();
        for (pid, side) in homes {
            done.note(self.fetch_all_of(pid, side, &here).await);
        }
        done.answer()
    }

    /// Lets no guests in any more, and has their homes take home those that are here.
    pub(super) async fn expel(&self, caller: u32) -> Result<Answer, MoveError> {
        only_root(caller, "expel")?;
        let config = self.config()?;
        config.set(&Change { block: Some(true), ..Change::default() })?;
        self.send_guests_home(&config).await
    }

    /// Has the homes of all guests take them home, each in its own time: one that is not there holds up no other.
    pub(in crate::agent) async fn send_guests_home(&self, config: &Config) -> Result<Answer, MoveError> {
        let mut done = Done::default();
        let mut asked: HashSet<i32> = HashSet::new();
        // One that was being let in when nobody was to be any more is there at the next look.
        loop {
            let mut homes = JoinSet::new();
            for (side, pid) in guests(config)? {
                if asked.insert(side.pid) {
                    let config = config.clone();
                    homes.spawn(async move { send_home(&config, &side.node, pid).await });
                }
            }
            if homes.is_empty() {
                return done.answer();
            }
            homes.join_all().await.into_iter().for_each(|sent| done.note(sent));
        }
    }

    /// Changes how this node takes part.
    pub(super) async fn set(&self, caller: u32, change: &Change) -> Result<Answer, MoveError> {
        only_root(caller, "change how a node takes part")?;
        let settings = self.config()?.set(change)?;
        self.balancer.is_told().await;
        Ok(Answer::Settings(settings))
    }

    /// The map that was set by hand.
    pub(super) fn map(&self) -> Result<Answer, MoveError> {
        Ok(Answer::Map { map: self.config()?.map()?.map(|map| map.to_string()) })
    }

    /// Sets the map by hand, or takes it away.
    pub(super) fn set_map(&self, caller: u32, map: Option<&str>) -> Result<Answer, MoveError> {
        only_root(caller, "change how a node takes part")?;
        let config = self.config()?;
        let map = map.map(|text| Map::parse(text, |_| None)).transpose()?;
        if let Some(map) = &map {
            let own = self.neighbours().ok_or(MoveError::Alone)?.address();
            map.id_of(own).ok_or(MoveError::NotInMap { address: own })?;
        }
        config.set_map(map.as_ref())?;
        Ok(Answer::Done {})
    }

    /// Another node wants to be rid of a process of this one.
    pub(super) async fn take_home(&self, config: &Config, from: &str, pid: i32) -> Result<(), MoveError> {
        let process = Process::look(pid)?.ok_or(MoveError::NoProcess { pid })?;
        let side = Side::away(&process, &config.node)?.filter(|side| side.node == from);
        let side = side.ok_or_else(|| MoveError::NotThere { pid, node: from.to_owned() })?;
        tracing::info!(pid, node = from, "is sent home");
        self.fetch_all_of(pid, &side, &config.node).await
    }

    /// The program on another node that kept a guest of this one's has ended: what kept the guest's deputy is told.
    pub(super) fn guest_is_gone(
        &self,
        config: &Config,
        from: &str,
        pid: i32,
        port: u16,
    ) -> Result<(), MoveError> {
        for side in Side::all(&Process::all()?, &config.node).into_values() {
            if side.kind == Kind::Home(pid)
                && side.node == from
                && let Some(keeper) = keeper(&side, &config.node)?
            {
                sys::signal(&keeper, Signal::SIGUSR2 as i32, port.into())?;
            }
        }
        Ok(())
    }

    /// Fetches home what a side keeps, this process among it.
    async fn fetch_all_of(&self, pid: i32, side: &Side, here: &str) -> Result<(), MoveError> {
        let _moving = self.begin(pid, here, false)?;
        self.fetch(pid, side, here).await
    }
}

/// The guests of this node: the program that keeps each place, and one of its processes; those with it come along.
fn guests(config: &Config) -> io::Result<Vec<(Side, i32)>> {
    let processes = Process::all()?;
    let sides = Side::all(&processes, &config.node);
    let mut guests: HashMap<i32, (Side, i32)> = HashMap::new();
    for process in processes.values() {
        if let Some(&pid) = process.ids.get(1)
            && pid != 1
            && let Some(side) = above(process, &processes, &sides)
        {
            guests.entry(side.pid).or_insert_with(|| (side.clone(), pid));
        }
    }
    Ok(guests.into_values().collect())
}

async fn send_home(config: &Config, node: &str, pid: i32) -> Result<(), MoveError> {
    let node = node.to_owned();
    let peer = config.peers()?.named(&node).cloned();
    let address = peer.and_then(|peer| peer.address).ok_or(MoveError::NoAddress { node: node.clone() })?;
    let sent = remote::send_home(config, &node, address, pid).await;
    sent.map_err(|source| MoveError::Peer { node, address, source })
}

fn only_root(caller: u32, what: &'static str) -> Result<(), MoveError> {
    if caller == 0 { Ok(()) } else { Err(MoveError::OnlyRoot { what }) }
}

/// How many came home, and why others did not.
#[derive(Default)]
pub(super) struct Done {
    count: usize,
    failed: Vec<String>,
}

impl Done {
    pub(super) fn note(&mut self, done: Result<(), MoveError>) {
        match done {
            Ok(()) => self.count += 1,
            Err(error) => self.failed.push(error.to_string()),
        }
    }

    pub(super) fn answer(self) -> Result<Answer, MoveError> {
        let Self { count, failed } = self;
        if failed.is_empty() { Ok(Answer::Moved { count }) } else { Err(MoveError::NotAll { count, failed }) }
    }
}
