//! `tesela lab`: virtual nodes that boot from this machine in a private network.

use std::ffi::OsString;
use std::process::{ExitCode, ExitStatus};

use clap::{Args, Subcommand};

use super::{Common, Failure, Outcome};
use crate::lab::{self, Error, Firmware, Kind, Lab, Power};
use crate::web::client;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Runs the services and virtual nodes in a private network; returns when all are members.
    Up(Up),
    /// The virtual nodes, and the stage that each has reached.
    Status,
    /// A shell on a node, or what the further words say.
    Ssh {
        /// Which node.
        node: String,
        /// A command, and ssh's own words before it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Runs a command on a node and ends with its exit status; with 255 where the node is not reached.
    Exec {
        /// As this user; `demo` is the lab's ordinary one.
        #[arg(long, default_value = "root", value_name = "NAME")]
        user: String,
        /// Which node.
        node: String,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// A node's serial console; Ctrl-] leaves it.
    Console {
        /// Which node.
        node: String,
    },
    /// Works a node's power switch.
    Power {
        /// Which node.
        node: String,
        /// What to do.
        switch: Power,
    },
    /// Starts the master again, as systemd would; the nodes go on.
    Restart {
        /// Ends the running one by SIGKILL, as a crash would.
        #[arg(long)]
        kill: bool,
    },
    /// Ends the lab: services, nodes and network.
    Down,
    /// The first program of a node that is namespaces; `up` and `power` run it.
    #[command(hide = true)]
    RunNode {
        /// Which node.
        node: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Up {
    /// How many nodes: the first of cluster.yaml that boot over the network.
    #[arg(long, default_value_t = 2, value_name = "N")]
    nodes: u8,
    /// How many further machines, which cluster.yaml does not know.
    #[arg(long, default_value_t = 0, value_name = "N")]
    unknown: u8,
    /// What the nodes are.
    #[arg(long, value_enum, default_value_t = Kind::Vm)]
    kind: Kind,
    /// Firmware of virtual machines in turn, unknown ones behind the nodes.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["bios", "uefi"])]
    firmware: Vec<Firmware>,
    /// Memory of each node in MiB; 768 unless said for virtual machines, and no limit for namespaces.
    #[arg(long, value_name = "MIB", value_parser = memory)]
    memory: Option<u32>,
    /// Processors of the nodes in turn: whole ones for virtual machines, and for namespaces also parts, as 0.25.
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = cpus)]
    cpus: Vec<u32>,
}

/// The least in which kernel, initramfs and Debian's init find room, in MiB.
const LEAST_MEMORY: u32 = 256;

fn memory(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(memory) if memory >= LEAST_MEMORY => Ok(memory),
        _ => Err(format!("a machine boots with {LEAST_MEMORY} MiB or more: write the number of MiB, as 768")),
    }
}

/// In hundredths.
fn cpus(text: &str) -> Result<u32, String> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|octet| octet.is_ascii_digit());
    let hundredths = format!("{whole}{part:0<2}");
    match hundredths.parse::<u32>() {
        Ok(hundredths @ 1..=25_500) if digits(whole) && digits(part) && part.len() <= 2 => Ok(hundredths),
        _ => Err("write how many processors a node has, 255 at the most, as 2 or 0.25".to_owned()),
    }
}

/// Runs it.
pub(crate) fn run(common: &Common, command: &Command) -> Outcome {
    let lab = Lab::new(common.state())?;
    match command {
        Command::Up(up) => up_and_tell(&lab, common, up)?,
        Command::Status => {
            for [node, firmware, power, stage, address] in lab::status(&lab)? {
                println!("{node:<16} {firmware:<7} {power:<4} {stage:<8} {address}");
            }
        }
        Command::Ssh { node, words } => return passed_on(lab::ssh(&lab, node, words)?),
        Command::Exec { user, node, command } => {
            return match lab::exec(&lab, node, Some(user), command) {
                Ok(status) => passed_on(status),
                Err(
                    error @ (Error::NotReached { .. } | Error::NoAddress { .. } | Error::PoweredOff { .. }),
                ) => {
                    eprintln!("error: {error}");
                    Err(Failure::Status(ExitCode::from(255)))
                }
                Err(error) => Err(error.into()),
            };
        }
        Command::Console { node } => lab::console(&lab, node)?,
        Command::Power { node, switch } => lab::power(&lab, node, *switch)?,
        Command::Restart { kill } => lab::restart(&lab, &common.templates, *kill)?,
        Command::RunNode { node } => lab::node::run(&lab, node)?,
        Command::Down => {
            let found = lab::down(&lab)?;
            println!("{}", if found { "The lab is down." } else { "No lab was up." });
        }
    }
    Ok(())
}

fn up_and_tell(lab: &Lab, common: &Common, up: &Up) -> Outcome {
    if up.kind == Kind::Vm && up.cpus.iter().any(|hundredths| hundredths % 100 != 0) {
        eprintln!(
            "error: a virtual machine has whole processors: with --kind namespace a node has parts of one"
        );
        return Err(Failure::DoesNotHold);
    }
    let machines = lab::up(
        lab,
        &lab::UpOptions {
            config: common.config.clone(),
            templates: common.templates.clone(),
            kind: up.kind,
            nodes: up.nodes.into(),
            unknown: up.unknown.into(),
            firmware: up.firmware.clone(),
            memory: up.memory,
            cpus: up.cpus.clone(),
        },
    )?;
    let state =
        common.state.as_ref().map(|state| format!("--state {} ", state.display())).unwrap_or_default();
    let socket = format!("--socket {} ", lab.socket().display());
    let [mut nodes, mut unknown] = [true, false].map(|known| {
        machines.iter().filter(move |machine| machine.known == known).map(|machine| &machine.name)
    });
    let mut next = Vec::new();
    if let Some(machine) = unknown.next() {
        let accept = super::node::accept_hint(socket.clone(), &client::nodes(&lab.socket())?);
        next.push((format!("tesela {socket}node list --unknown"), "the machines that are no nodes yet"));
        next.push((accept, "makes the first of them one"));
        next.push((
            format!("tesela {state}lab power {machine} reset"),
            "boots it again, once it is accepted",
        ));
    }
    if let Some(node) = nodes.next() {
        next.push((format!("tesela {state}lab ssh {node}"), "a shell on a node, as root"));
        let exec = format!("tesela {state}lab exec --user demo {node} -- hostname");
        next.push((exec, "a command on it, as an ordinary user"));
    }
    let edited = format!("after an edit of {}", lab.config().display());
    next.push((format!("tesela {socket}node list"), "all nodes"));
    next.push((format!("tesela {socket}apply"), &edited));
    next.push((format!("tesela {state}lab down"), "ends the lab"));
    let width = next.iter().map(|(command, _)| command.chars().count()).max().unwrap_or_default();
    println!("All nodes are members. What to do next:");
    next.iter().for_each(|(command, what)| println!("  {command:<width$}  {what}"));
    Ok(())
}

/// A command's exit status as this process's; 128 and the signal's number where one killed ssh.
fn passed_on(status: ExitStatus) -> Outcome {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    match code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1) {
        0 => Ok(()),
        code => Err(Failure::Status(ExitCode::from(code))),
    }
}
