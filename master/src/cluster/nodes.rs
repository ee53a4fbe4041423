//! Nodes: ranges expanded, each with its addresses and the profiles that it can have.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::hash::Hash;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::model::{Boot, Choice, DhcpMode, Node, Origin, Sourced};
use super::names::{MAX_NAMES, NamePattern};
use super::problem::{Problems, Span};
use super::read::{At, Field, List, Mapping as _};
use super::resolve::{host_of, network};
use super::settings::{Profiles, check_references, no_image};
use super::wire::{ClusterWire, NodeWire};

/// A laptop goes between a few places; more is a slip of the hand.
const MOST_CHOICES: usize = 32;

/// Every node of the file, in its order.
pub(super) fn expand(file: &ClusterWire, profiles: &Profiles<'_>, problems: &mut Problems) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut known = Known::default();
    for (name, wire) in file.nodes.value().into_iter().flat_map(|nodes| nodes.iter()) {
        if nodes.len() + name.value.count() > MAX_NAMES {
            problems.add(name.span, format!("with this entry there are more than {MAX_NAMES} nodes"));
            break;
        }
        check_references(file, &wire.settings, problems);
        let choices = choices(name, wire, profiles, problems);
        check_addressed(file, name, wire, &choices, problems);
        let addresses = addresses(file, name, wire, problems);
        let macs = one_each("mac", &wire.mac, name, problems);
        let uuids = one_each("uuid", &wire.uuid, name, problems);
        for (index, own_name) in name.value.names().enumerate() {
            known.names.note("node", &own_name, name.span, problems);
            let address = addresses.as_ref().map(|addresses| addresses[index].clone());
            if let (Some(address), Some(at)) = (&address, wire.address.get()) {
                known.addresses.note("address", &address.value, at.span, problems);
            }
            let mac = macs.get(index).map(|at| known.macs.own("MAC", at, problems));
            let uuid = uuids.get(index).map(|at| known.uuids.own("UUID", at, problems));
            let choices = choices.clone();
            nodes.push(Node { name: own_name, line: name.span.line, mac, uuid, address, choices });
        }
    }
    nodes
}

/// What only one node can have.
#[derive(Default)]
struct Known {
    names: Taken<String>,
    addresses: Taken<Ipv4Addr>,
    macs: Taken<super::Mac>,
    uuids: Taken<super::Uuid>,
}

/// Values taken so far, and where each was said.
struct Taken<T> {
    by: HashMap<T, Span>,
    /// Pairs of places told already: two ranges that overlap are one mistake, not forty.
    told: HashSet<(usize, usize)>,
}

impl<T> Default for Taken<T> {
    fn default() -> Self {
        Taken { by: HashMap::new(), told: HashSet::new() }
    }
}

impl<T: Eq + Hash + Clone + Display> Taken<T> {
    fn note(&mut self, kind: &str, value: &T, span: Span, problems: &mut Problems) {
        match self.by.get(value) {
            None => {
                self.by.insert(value.clone(), span);
            }
            Some(first) => {
                if self.told.insert((first.start, span.start)) {
                    problems
                        .add(span, format!("the {kind} {value} is taken already"))
                        .also(*first, format!("{value} is taken here"))
                        .mend("each node has its own");
                }
            }
        }
    }

    fn own(&mut self, kind: &str, at: &At<T>, problems: &mut Problems) -> Sourced<T> {
        self.note(kind, &at.value, at.span, problems);
        Sourced { value: at.value.clone(), origin: Origin::Node(at.span.line) }
    }
}

/// The profiles that a node can have, with its own settings on top.
fn choices(
    name: &At<NamePattern>,
    wire: &NodeWire,
    profiles: &Profiles<'_>,
    problems: &mut Problems,
) -> Vec<Choice> {
    let mut choices: Vec<Choice> = Vec::new();
    let named = wire.profile.value().map_or(&[][..], |list| &list.0);
    if let Some(beyond) = named.get(MOST_CHOICES) {
        problems.add(beyond.span, format!("a node can choose between at most {MOST_CHOICES} profiles"));
        return choices;
    }
    // A node's `~word` is a slip only where it takes nothing away whatever the choice.
    let mut idle_everywhere: Option<Vec<Span>> = None;
    for profile in named {
        if let Some(other) =
            named.iter().find(|other| other.value == profile.value && other.span.start < profile.span.start)
        {
            problems
                .add(profile.span, format!("the profile `{}` is chosen twice", profile.value))
                .also(other.span, "chosen first here")
                .mend("keep one of them");
            continue;
        }
        let Some(index) = profiles.find(profile, problems) else { continue };
        let own = (!wire.settings.is_empty()).then_some(&wire.settings);
        let (settings, idle) = profiles.on_node(index, own);
        idle_everywhere = Some(match idle_everywhere {
            None => idle,
            Some(before) => before.into_iter().filter(|span| idle.contains(span)).collect(),
        });
        if profiles.boots_nothing(index, own) {
            no_image(profile.span, &format!("`{}`", name.value), profiles.name(index), problems);
        }
        choices.push(Choice { profile: profile.value.0.clone(), settings });
    }
    for span in idle_everywhere.into_iter().flatten() {
        problems.add(span, "this takes away what no inherited list holds").mend("remove it");
    }
    if named.is_empty()
        && let Some(empty) = wire.profile.get()
    {
        problems.add(empty.span, "this list of profiles is empty").mend("name at least one");
    }
    choices
}

/// A node that boots from this master needs an address from somewhere.
fn check_addressed(
    file: &ClusterWire,
    name: &At<NamePattern>,
    wire: &NodeWire,
    choices: &[Choice],
    problems: &mut Problems,
) {
    let Some(master) = file.master.value() else { return };
    let proxy = master.dhcp.value() == Some(&DhcpMode::Proxy);
    if let (true, Some(address)) = (proxy, wire.address.get()) {
        problems
            .add(address.span, "`address` in proxy mode: another DHCP server gives the addresses")
            .mend("remove it, or write `dhcp: authoritative` under `master:`");
    }
    let boots = choices.iter().any(|choice| choice.settings.boot.value == Boot::Network);
    if !proxy && boots && wire.address.is_absent() && master.range.is_absent() {
        problems
            .add(
                name.span,
                format!("`{}` has no address, and the master has no `range` to give it one", name.value),
            )
            .mend("add `address:` here, or `range: FIRST-LAST` under `master:`");
    }
}

/// The addresses of an entry, counted up; `None` where it has none, or where they do not hold.
fn addresses(
    file: &ClusterWire,
    name: &At<NamePattern>,
    wire: &NodeWire,
    problems: &mut Problems,
) -> Option<Vec<Sourced<Ipv4Addr>>> {
    let At { value: first, span } = wire.address.get()?;
    let gateway = file.master.value().and_then(|master| master.gateway.value()).copied();
    let net = network(file);
    let mut addresses = Vec::with_capacity(name.value.count());
    for (own_name, offset) in name.value.names().zip(0u32..) {
        let address = u32::from(*first).checked_add(offset).map(Ipv4Addr::from);
        let fault = match (address, net) {
            (None, _) => Err("after the last address there is".to_owned()),
            (Some(address), Some(net)) => usable(net, gateway, address),
            (Some(_), None) => Ok(()),
        };
        if let Err(why) = fault {
            let address = address.map_or_else(|| "its address".to_owned(), |address| address.to_string());
            let message = match name.value.is_range() {
                true => format!("the range counts up to {address} for `{own_name}`, which is {why}"),
                false => format!("the address {address} of `{own_name}` is {why}"),
            };
            let problem = problems.add(*span, message);
            if let Some(net) = net {
                problem.mend(format!("choose free ones of {}", net.trunc()));
            }
            return None;
        }
        let origin = if offset == 0 { Origin::Node(span.line) } else { Origin::Range(span.line) };
        addresses.push(Sourced { value: address?, origin });
    }
    Some(addresses)
}

/// Whether a node can have this address; if not, what it is.
fn usable(net: Ipv4Net, gateway: Option<Ipv4Addr>, address: Ipv4Addr) -> Result<(), String> {
    host_of(net, address)?;
    if address == net.addr() {
        return Err("the master's own".to_owned());
    }
    if Some(address) == gateway {
        return Err("the gateway's".to_owned());
    }
    Ok(())
}

/// One value for each node of an entry, in the order of their names; none where they do not fit.
fn one_each<'w, T>(
    key: &str,
    field: &'w Field<List<T>>,
    name: &At<NamePattern>,
    problems: &mut Problems,
) -> &'w [At<T>] {
    let Some(At { value: List(values), span }) = field.get() else { return &[] };
    let wanted = name.value.count();
    if values.len() != wanted {
        let count = |number, what| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let (nodes, values) = (count(wanted, "node"), count(values.len(), "value"));
        problems
            .add(*span, format!("`{}` is {nodes}, and `{key}` has {values}", name.value))
            .mend("write one for each node, in the order of their names");
        return &[];
    }
    values
}
