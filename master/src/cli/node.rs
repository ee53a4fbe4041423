//! `tesela node`: the nodes and the machines that could be some.

use std::net::Ipv4Addr;
use std::path::Path;

use clap::Subcommand;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::boot::{Rebase, RebaseHow};
use crate::cluster::{Mac, NodeSet};
use crate::inventory::{Event, Stage, Timestamp, Vitals};
use crate::web::client;
use crate::web::views::{Accept, Accepted, Forgotten, Joins, NodeDetail, NodeView, PowerTo, Powered};

use super::{Common, Outcome, table};

#[derive(Subcommand, Debug)]
pub(crate) enum Node {
    /// Lists the nodes with the stage of each, or the machines that are none.
    List {
        /// The machines that were seen and are no node.
        #[arg(long)]
        unknown: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows every setting of a node and where it came from.
    Show {
        /// Which node.
        node: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Makes unknown machines nodes: writes them into cluster.yaml and applies it.
    ///
    /// A node of a range in cluster.yaml keeps what the range says, and gets its machine; a name that is
    /// not there is a new node. Of several, those that are bound to a machine are passed over.
    Accept {
        /// A name, or a range as n[1-40], filled in the order of arrival.
        nodes: String,
        /// This machine; may be given several times.
        #[arg(long)]
        mac: Vec<Mac>,
        /// The profile of those that cluster.yaml gives none.
        #[arg(long)]
        profile: Option<String>,
        /// The address of the first one, counting up; for those that cluster.yaml gives none.
        #[arg(long)]
        address: Option<Ipv4Addr>,
    },
    /// Moves nodes that keep their writes to the newest build of their image, and shows the conflicts.
    ///
    /// A node with writes stays on the build that it wrote them on. What it wrote, replaced or removed stays
    /// so on the newer build, and all else is the newer build's. The node must not run.
    Rebase {
        /// Names, or ranges as n[1-40].
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<NodeSet>,
        /// Only shows what would be.
        #[arg(long)]
        dry_run: bool,
        /// Although a node seems to run: its root is stale at once, and it has to boot again.
        #[arg(long)]
        force: bool,
    },
    /// Prints the command with which a machine joins that boots from its own disk: good once, for a quarter of an hour.
    ///
    /// Its node in cluster.yaml has a profile with `boot: disk`. The command runs on that machine, as root.
    Token {
        /// Which node.
        node: String,
    },
    /// Switches nodes on, by Wake-on-LAN, or off, or has them boot again, by their agents.
    ///
    /// Guests of a node go home before it ends.
    Power {
        /// A name, or a range as n[1-40].
        node: NodeSet,
        /// What is to become of them.
        // Not `state`, which is an option of all commands.
        #[arg(value_name = "STATE")]
        to: PowerTo,
    },
    /// Forgets what was learnt of a node, and what it wrote if cluster.yaml has it no more; cluster.yaml
    /// stays as it is.
    Forget {
        /// Which node.
        node: String,
    },
    /// Shows the history of a node.
    Log {
        /// Which node.
        node: String,
        /// The newest so many.
        #[arg(long, short = 'n', default_value_t = 1000)]
        lines: u32,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(common: &Common, command: &Node) -> Outcome {
    let socket = common.socket();
    match command {
        Node::List { unknown: false, json } => {
            let nodes: Vec<NodeView> = client::nodes(socket)?;
            if *json {
                return super::print_json(&nodes);
            }
            table::print(&HEAD, &nodes.iter().map(row).collect::<Vec<_>>());
        }
        Node::List { unknown: true, json } => {
            let machines = client::unknown(socket)?;
            if *json {
                return super::print_json(&machines);
            }
            let now = Timestamp::now();
            let rows: Vec<_> = machines
                .iter()
                .map(|m| {
                    vec![
                        m.mac.to_string(),
                        m.uuid.map_or_else(dash, |uuid| uuid.to_string()),
                        m.firmware.clone().unwrap_or_else(dash),
                        table::ago(now.since(m.first_seen)),
                        table::ago(now.since(m.last_seen)),
                        m.vendor.clone().unwrap_or_else(dash),
                    ]
                })
                .collect();
            table::print(&["MAC", "UUID", "FIRMWARE", "FIRST SEEN", "LAST SEEN", "VENDOR CLASS"], &rows);
            if !machines.is_empty() {
                println!(
                    "\nTo make the first of them a node: {}",
                    accept_hint(socket_flag(common), &client::nodes(socket)?)
                );
            }
        }
        Node::Show { node, json } => {
            let detail: NodeDetail = client::get(socket, &format!("/v1/nodes/{}", client::escape(node)))?;
            if *json {
                return super::print_json(&detail);
            }
            show(&detail);
        }
        Node::Accept { nodes, mac, profile, address } => {
            let accept = Accept {
                nodes: nodes.clone(),
                macs: mac.clone(),
                profile: profile.clone(),
                address: *address,
            };
            let accepted: Accepted = client::post(socket, "/v1/accept", &accept)?;
            for (name, mac) in accepted.nodes {
                println!("{name} is {mac}");
            }
            for passed in accepted.passed {
                println!("passed over: {passed}");
            }
        }
        Node::Rebase { nodes, dry_run, force } => {
            return rebase(socket, nodes, RebaseHow { only_look: *dry_run, force: *force });
        }
        Node::Token { node } => {
            let target = format!("/v1/nodes/{}/token", client::escape(node));
            let Joins { master, token } = client::post(socket, &target, &())?;
            println!("teselad join {master} --token {token}");
        }
        Node::Power { node, to } => return power(socket, node, *to),
        Node::Forget { node } => {
            let target = format!("/v1/nodes/{}/forget", client::escape(node));
            let Forgotten { is_node } = client::post(socket, &target, &())?;
            println!(
                "what was learnt of {node} is forgotten{}",
                match is_node {
                    true => "; it is a node of cluster.yaml still, and keeps what it wrote",
                    false => ", and what it wrote is gone",
                }
            );
        }
        Node::Log { node, lines, json } => {
            let events: Vec<Event> =
                client::get(socket, &format!("/v1/nodes/{}/log?limit={lines}", client::escape(node)))?;
            if *json {
                return super::print_json(&events);
            }
            events.iter().for_each(|event| println!("{}", event_line(event)));
        }
    }
    Ok(())
}

/// `--socket` as it was given, for a command that is to be typed.
fn socket_flag(common: &Common) -> String {
    common.socket.as_ref().map(|socket| format!("--socket {} ", socket.display())).unwrap_or_default()
}

/// The command that makes a machine a node: the first that can be given one.
pub(crate) fn accept_hint(flags: String, nodes: &[NodeView]) -> String {
    let free = nodes.iter().find(|node| node.is_free);
    format!("tesela {flags}node accept {}", free.map_or("NAME", |node| &node.name))
}

/// Asks something of each of these nodes. All of them are tried; it has failed if one has, which `failed` says of so many.
fn each<T: DeserializeOwned>(
    socket: &Path,
    nodes: &[&String],
    what: &str,
    body: &impl Serialize,
    mut told: impl FnMut(&str, T),
    failed: &str,
) -> Outcome {
    let mut refused = 0;
    for node in nodes {
        match client::post(socket, &format!("/v1/nodes/{}/{what}", client::escape(node)), body) {
            Ok(answer) => told(node, answer),
            Err(client::Error::Refused(why)) => {
                eprintln!("error: {why}");
                refused += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    match (refused, nodes.len()) {
        (0, _) => Ok(()),
        (refused, all) => Err(miette::miette!("{refused} of {all} nodes {failed}").into()),
    }
}

fn power(socket: &Path, set: &NodeSet, to: PowerTo) -> Outcome {
    let told = |node: &str, Powered { said }: Powered| println!("{node} {said}");
    each(socket, &set.names().iter().collect::<Vec<_>>(), "power", &to, told, "stay as they are")
}

fn rebase(socket: &Path, sets: &[NodeSet], how: RebaseHow) -> Outcome {
    let nodes: Vec<&String> = sets.iter().flat_map(NodeSet::names).collect();
    let told = |node: &str, told: Rebase| match told {
        Rebase { from, to, .. } if from == to => println!("{node} is on the newest build, {to}"),
        Rebase { from, to, kept: false, .. } => {
            println!("{node} has no writes to keep, and goes from {from} to {to} at its next boot by itself");
        }
        Rebase { from, to, conflicts, .. } => {
            println!("{node} {} from {from} to {to}", if how.only_look { "would go" } else { "goes" });
            for path in conflicts {
                println!("  {path}: changed by the node and by the newer build; the node's version holds");
            }
        }
    };
    each(socket, &nodes, "rebase", &how, told, "stay where they are")
}

const HEAD: [&str; 7] = ["NODE", "STAGE", "SINCE", "ADDRESS", "FIRMWARE", "FETCHED LAST", "REMARK"];

fn dash() -> String {
    "-".into()
}

fn row(node: &NodeView) -> Vec<String> {
    let state = node.state.as_ref();
    vec![
        node.name.clone(),
        state.map_or_else(dash, |s| s.stage.to_string()),
        state.map_or_else(dash, |s| table::ago(Timestamp::now().since(s.since))),
        node.address.map_or_else(dash, |address| address.to_string()),
        state.and_then(|s| s.firmware.clone()).unwrap_or_else(dash),
        state.and_then(|s| s.fetched.clone()).unwrap_or_else(dash),
        remark(node),
    ]
}

/// What a user should know of a node beyond its stage.
pub(crate) fn remark(node: &NodeView) -> String {
    if let Some(trouble) = &node.trouble {
        // Of an excerpt with carets, a row of a table has no place but for where it is.
        let said = trouble.lines().map(str::trim).take_while(|line| !line.starts_with('|'));
        return said.collect::<Vec<_>>().join(" ");
    }
    let Some(state) = &node.state else { return "never heard of".into() };
    if let Some(failure) = &state.failure {
        return failure.clone();
    }
    if matches!(state.stage, Stage::Silent | Stage::Down) {
        let heard = state.heard.map(|heard| table::ago(Timestamp::now().since(heard)));
        return format!("its agent was heard last {} ago", heard.unwrap_or_else(|| "long".into()));
    }
    match state.overran {
        Some(stage) if stage == state.stage => {
            format!("stuck: `tesela node log {}`", node.name)
        }
        Some(stage) => format!("was slow in {stage}"),
        None => String::new(),
    }
}

/// One event as a line: time, node or machine, what.
pub(crate) fn event_line(event: &Event) -> String {
    let time = jiff::Timestamp::from_millisecond(event.time.0)
        .map(|time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%F %T%.3f").to_string())
        .unwrap_or_default();
    let who = match (&event.node, event.mac) {
        (Some(node), _) => node.clone(),
        (None, Some(mac)) => mac.to_string(),
        (None, None) => "master".into(),
    };
    let stage = event.stage.map_or_else(String::new, |stage| format!("[{stage}] "));
    format!("{time}  {who:12}  {stage}{}", table::plain(&event.text))
}

fn show(detail: &NodeDetail) {
    table::print(&HEAD, &[row(&detail.view)]);
    let state = detail.view.state.as_ref();
    if let Some((vitals, heard)) = state.and_then(|state| Some((state.vitals?, state.heard?))) {
        let Vitals { load_hundredths: load, memory_available_kib, memory_total_kib, uptime_seconds, .. } =
            vitals;
        println!(
            "load {}.{:02}, {} of {} MiB of memory free, up for {} (heard {} ago)",
            load / 100,
            load % 100,
            memory_available_kib >> 10,
            memory_total_kib >> 10,
            table::ago(uptime_seconds * 1000),
            table::ago(Timestamp::now().since(heard)),
        );
    }
    println!("\n{}", detail.shown.trim_end());
    match &detail.build {
        Some(build) if build.is_idle() && build.kept => println!("build: {}, the newest", build.to),
        Some(Rebase { from, to, kept: true, .. }) => {
            println!("build: {from}, for it keeps its writes; `tesela node rebase` moves them to {to}");
        }
        Some(Rebase { to, .. }) => println!("build: {to} at its next boot"),
        None => {}
    }
    detail.conflicts.iter().for_each(|conflict| println!("{conflict}"));
}
