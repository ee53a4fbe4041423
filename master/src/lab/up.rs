//! A lab's beginning and its end.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::given::Given;
use super::machine::{Firmware, Hardware, Kind, Machine, Vm, check_installed};
use super::progress::{self, Started, View};
use super::record::{Busy, Record};
use super::{Error, Lab, accel, access, derive, node, other, power};
use crate::cluster::{self, Cluster, DhcpMode, Mac, Node, Unknown, Uuid};
use crate::web::client;

/// How long the lab's master has to answer on its socket.
const MASTER_START: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Memory of a virtual machine in MiB, unless said otherwise.
pub const MEMORY: u32 = 768;

/// What `up` is asked for.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// The cluster.yaml; `None`: that of configs/lab.yaml.
    pub config: Option<PathBuf>,
    /// Overrides of the shipped templates.
    pub templates: PathBuf,
    /// What the nodes are.
    pub kind: Kind,
    /// How many.
    pub nodes: usize,
    /// How many further machines, which the cluster does not know.
    pub unknown: usize,
    /// Firmware of virtual machines: node by node, and from the first again.
    pub firmware: Vec<Firmware>,
    /// Memory of each in MiB; none: [`MEMORY`] for a virtual machine, and all there is for another node.
    pub memory: Option<u32>,
    /// Processors of each in hundredths, node by node, and from the first again; empty: one for a virtual machine, and
    /// all there are for another node.
    pub cpus: Vec<u32>,
}

/// Brings a lab up and waits until all its nodes are members, and its unknown machines are seen; answers which
/// machines it has.
///
/// When they do not become members, or do not answer, the lab stays up, to be looked at; after any other error nothing is
/// left of it.
pub fn up(lab: &Lab, options: &UpOptions) -> Result<Vec<Machine>, Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let _busy = Busy::take(lab)?;
    if !lab.namespace().processes()?.is_empty() {
        return Err(Error::AlreadyUp);
    }
    lab.clear()?;
    let (cluster, machines) = prepare(lab, options)?;
    build_images(lab, &cluster, &machines)?;
    let started = start(lab, options, &cluster, machines);
    let watched = started.and_then(|mut started| match progress::until_members(lab, &mut started) {
        Ok(()) => {
            make_users(lab, &started)?;
            Ok(started.machines.into_iter().map(|(machine, _)| machine).collect())
        }
        Err(stuck) => Err(stuck),
    });
    if watched.as_ref().is_err_and(|error| !matches!(error, Error::Stuck(_) | Error::NotReached { .. })) {
        lab.clear()?;
    }
    watched
}

/// Ends a lab, and all that an `up` left that died half way; `false` if there was nothing.
pub fn down(lab: &Lab) -> Result<bool, Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let found = lab.clear()?;
    for left in [lab.socket(), lab.state.join("lab.json")] {
        if left.exists() {
            fs::remove_file(&left).map_err(Error::io("remove", &left))?;
        }
    }
    Ok(found)
}

/// Ends the lab's master, by SIGKILL if `kill`, and starts the present program in its place, as systemd
/// would after a crash or an upgrade. The nodes are left alone.
pub fn restart(lab: &Lab, templates: &Path, kill: bool) -> Result<(), Error> {
    Record::read(lab)?;
    let _busy = Busy::take(lab)?;
    let signal = if kill { Signal::SIGKILL } else { Signal::SIGTERM };
    lab.namespace().end("tesela", signal)?;
    let mut master = start_master(lab, templates)?;
    await_master(lab, &mut master)
}

/// Every virtual machine: its name as a node, else its own; firmware, power, stage, address.
pub fn status(lab: &Lab) -> Result<Vec<[String; 5]>, Error> {
    let record = Record::read(lab)?;
    let view = View::of(lab)?;
    let row = |machine: &Machine| {
        let seen = view.node_of(machine);
        let state = seen.and_then(|seen| seen.state.as_ref());
        let unheard = if view.seen(machine).is_some() { "unknown" } else { "powered" };
        [
            seen.map_or_else(|| machine.name.clone(), |seen| seen.name.clone()),
            machine.firmware().to_owned(),
            if power::is_on(lab, machine) { "on" } else { "off" }.to_owned(),
            state.map_or_else(|| unheard.to_owned(), |state| state.stage.to_string()),
            seen.and_then(|seen| seen.address).map_or_else(|| "-".to_owned(), |address| address.to_string()),
        ]
    };
    Ok(record.machines.iter().map(row).collect())
}

/// Writes the lab's cluster.yaml, and says which of its nodes are the virtual machines.
fn prepare(lab: &Lab, options: &UpOptions) -> Result<(Cluster, Vec<Machine>), Error> {
    let source = Given::read(lab, options.config.as_deref())?;
    let given = parse(&source.text, &source.file)?;
    check_installed(options.kind, &options.firmware, given.master.dhcp)?;
    let accelerator = match options.kind {
        Kind::Vm => Some(accel::choose(&lab.state)?),
        Kind::Namespace => {
            node::check(&given, options.unknown)?;
            None
        }
    };
    let nodes = derive::network_nodes(&given);
    if nodes.len() < options.nodes {
        return Err(Error::TooFewNodes { wanted: options.nodes, network: nodes.len(), file: source.file });
    }
    let taken: BTreeSet<Mac> = given.nodes.iter().filter_map(|node| Some(node.mac.as_ref()?.value)).collect();
    // More than the machines that a lab can be asked for.
    let mut free = (0x5e01..=u16::MAX)
        .map(u16::to_be_bytes)
        .map(|[high, low]| Mac([0x52, 0x54, 0, 0x7e, high, low]))
        .filter(|mac| !taken.contains(mac));
    let mut machines = Vec::new();
    let cpus = |index: usize| options.cpus.get(index.checked_rem(options.cpus.len())?).copied();
    let vm = |index: usize, accelerator| {
        let firmware = options.firmware[index % options.firmware.len()];
        let memory = options.memory.unwrap_or(MEMORY);
        Hardware::Vm(Vm { accelerator, firmware, memory, cpus: cpus(index).unwrap_or(100) / 100 })
    };
    let quota = |index: usize| node::Quota { cpus: cpus(index), memory: options.memory };
    for (index, node) in nodes.iter().take(options.nodes).enumerate() {
        let Some(mac) = node.mac.as_ref().map(|mac| mac.value).or_else(|| free.next()) else { break };
        let hardware = match accelerator {
            Some(accelerator) => vm(index, accelerator),
            None => Hardware::Namespace(node::address(&given, node)?, quota(index)),
        };
        let uuid = node.uuid.as_ref().map_or_else(|| uuid_of(mac), |uuid| uuid.value);
        let port = format!("port{index}");
        machines.push(Machine { name: node.name.clone(), known: true, mac, uuid, port, hardware });
    }
    let names = (1..).map(|number| format!("unknown{number}")).filter(|name| given.node(name).is_none());
    let unknown =
        accelerator.into_iter().flat_map(|accelerator| std::iter::repeat_n(accelerator, options.unknown));
    for ((name, mac), accelerator) in names.zip(free).zip(unknown) {
        let (index, uuid) = (machines.len(), uuid_of(mac));
        let (port, hardware) = (format!("port{index}"), vm(index, accelerator));
        machines.push(Machine { name, known: false, mac, uuid, port, hardware });
    }
    let derived = derive::derive(&source.text, &given, &machines)?;
    let cluster = parse(&derived, &lab.config())?;
    source.write(lab, &derived)?;
    Ok((cluster, machines))
}

/// The same for a machine at every `up`, so that a master that knows machines by it knows them again.
fn uuid_of(mac: Mac) -> Uuid {
    let mut bytes = *b"tesela lab      ";
    bytes[10..].copy_from_slice(&mac.0);
    Uuid(bytes)
}

pub(super) fn parse(text: &str, file: &Path) -> Result<Cluster, Error> {
    cluster::parse(text, &file.display().to_string()).map_err(|problems| Error::Cluster(problems.to_string()))
}

/// Builds the images that the machines boot, where they are not there yet.
fn build_images(lab: &Lab, cluster: &Cluster, machines: &[Machine]) -> Result<(), Error> {
    // An unknown machine boots, or is accepted, with the profile for such.
    let for_unknown = cluster.master.unknown_profile.as_ref().and_then(|name| cluster.profiles.get(name));
    let images: BTreeSet<&str> = machines
        .iter()
        .filter_map(|machine| {
            let node = cluster.node(&machine.name).filter(|_| machine.known);
            node.map(Node::settings).or(for_unknown.filter(|_| !machine.known))?.image.value.as_deref()
        })
        .collect();
    let status = tesela(Command::new(own_program()?), lab)
        .args(["image", "build"])
        .args(images)
        .status()
        .map_err(Error::io("run", Path::new("tesela")))?;
    if status.success() { Ok(()) } else { Err(Error::Image { status }) }
}

pub(super) fn own_program() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(Error::io("find", Path::new("/proc/self/exe")))
}

/// The lab's files as the common flags of `tesela` name them.
fn tesela(mut command: Command, lab: &Lab) -> Command {
    command.arg("--config").arg(lab.config());
    command.arg("--state").arg(lab.master_state());
    command.arg("--socket").arg(lab.socket());
    command
}

fn start(
    lab: &Lab,
    options: &UpOptions,
    cluster: &Cluster,
    machines: Vec<Machine>,
) -> Result<Started, Error> {
    let record = Record { machines };
    record.write(lab)?;
    let namespace = lab.namespace();
    let vms = record.machines.iter().filter(|machine| matches!(machine.hardware, Hardware::Vm(_)));
    let taps: Vec<String> = vms.map(|machine| machine.port.clone()).collect();
    namespace.create(&cluster.master.interface, cluster.master.address, &taps)?;
    for machine in &record.machines {
        if let Hardware::Namespace(address, _) = machine.hardware {
            node::plug_in(lab, &cluster.master, machine, address)?;
        }
    }
    if cluster.master.dhcp == DhcpMode::Proxy {
        other::start(lab, &namespace, &cluster.master.interface, &cluster.master)?;
    }
    let log = lab.master_log();
    fs::write(&log, "").map_err(Error::io("write", &log))?;
    let mut master = start_master(lab, &options.templates)?;
    await_master(lab, &mut master)?;
    let machines = record
        .machines
        .into_iter()
        .map(|machine| {
            let directory = lab.machine_dir(&machine.name);
            if directory.exists() {
                fs::remove_dir_all(&directory).map_err(Error::io("remove", &directory))?;
            }
            machine.start(lab).map(|child| (machine, child))
        })
        .collect::<Result<Vec<_>, _>>()?;
    eprintln!(
        "The master serves {} ({}); {} machines are powered on.",
        cluster.name,
        cluster.master.address,
        machines.len()
    );
    Ok(Started { master, machines, unknown: cluster.master.unknown })
}

fn start_master(lab: &Lab, templates: &Path) -> Result<Child, Error> {
    let path = lab.master_log();
    let log = fs::File::options().append(true).create(true).open(&path).map_err(Error::io("write", &path))?;
    let log_too = log.try_clone().map_err(Error::io("write", &path))?;
    tesela(lab.namespace().detached(own_program()?.as_os_str()), lab)
        .arg("--templates")
        .arg(templates)
        .arg("serve")
        .stdout(Stdio::from(log))
        .stderr(Stdio::from(log_too))
        .spawn()
        .map_err(Error::io("run", Path::new("tesela")))
}

fn await_master(lab: &Lab, master: &mut Child) -> Result<(), Error> {
    let started = Instant::now();
    loop {
        let socket = lab.socket();
        let Err(error) = client::nodes(&socket) else { return Ok(()) };
        if let Some(status) = master.try_wait().map_err(Error::io("wait for", &lab.master_log()))? {
            return Err(progress::master_ended(lab, &status.to_string()));
        }
        if started.elapsed() > MASTER_START {
            return Err(Error::MasterSilent { reason: error.to_string(), socket });
        }
        std::thread::sleep(POLL);
    }
}

/// Makes the lab's ordinary user on every node, which also shows that commands reach it.
fn make_users(lab: &Lab, started: &Started) -> Result<(), Error> {
    let nodes = started.machines.iter().map(|(machine, _)| machine);
    for machine in nodes.filter(|machine| machine.known || started.unknown == Unknown::Boot) {
        access::exec(lab, &machine.name, Some(access::USER), &["true".into()])?;
    }
    Ok(())
}
