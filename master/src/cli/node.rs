//! `tesela node`: the nodes and the machines that could be some.

use std::net::Ipv4Addr;

use clap::Subcommand;

use crate::cluster::Mac;
use crate::inventory::{Event, Machine, Timestamp};
use crate::web::views::{Accept, Accepted, NodeDetail, NodeView};

use super::{Common, Outcome, api, table};

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
    Accept {
        /// A name, or a range as n[1-40], filled in the order of arrival.
        nodes: String,
        /// This machine; may be given several times.
        #[arg(long)]
        mac: Vec<Mac>,
        /// Their profile.
        #[arg(long)]
        profile: Option<String>,
        /// The address of the first one, counting up.
        #[arg(long)]
        address: Option<Ipv4Addr>,
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
    let socket = &common.socket;
    match command {
        Node::List { unknown: false, json } => {
            let nodes: Vec<NodeView> = api::get(socket, "/v1/nodes")?;
            if *json {
                return super::print_json(&nodes);
            }
            table::print(&HEAD, &nodes.iter().map(row).collect::<Vec<_>>());
        }
        Node::List { unknown: true, json } => {
            let machines: Vec<Machine> = api::get(socket, "/v1/machines")?;
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
        }
        Node::Show { node, json } => {
            let detail: NodeDetail = api::get(socket, &format!("/v1/nodes/{node}"))?;
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
            let accepted: Accepted = api::post(socket, "/v1/accept", &accept)?;
            for (name, mac) in accepted.nodes {
                println!("{name} is {mac}");
            }
        }
        Node::Forget { node } => api::post(socket, &format!("/v1/nodes/{node}/forget"), &())?,
        Node::Log { node, lines, json } => {
            let events: Vec<Event> = api::get(socket, &format!("/v1/nodes/{node}/log?limit={lines}"))?;
            if *json {
                return super::print_json(&events);
            }
            events.iter().for_each(|event| println!("{}", event_line(event)));
        }
    }
    Ok(())
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
    let Some(state) = &node.state else { return "never heard of".into() };
    if let Some(failure) = &state.failure {
        return failure.clone();
    }
    if let Some(lost) = state.lost {
        return format!("not heard of for {}", table::ago(Timestamp::now().since(lost)));
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
    println!("\n{}", detail.shown.trim_end());
    for path in &detail.conflicts {
        println!("{path}: the template's version took the place of the node's own, which is kept aside");
    }
}
