//! Nodes: ranges expanded, each with its addresses and the profiles that it can have.
//!
//! An entry of a single name that a range covers refines that node of the range, wherever the two stand in
//! the file: its keys win, and the rest comes from the range.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::hash::Hash;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::model::{Boot, Choice, DhcpMode, Node, Origin, Sourced};
use super::names::{MAX_NAMES, NamePattern};
use super::problem::{Problem, Problems, Span};
use super::read::{At, Field, List, Mapping as _, missing};
use super::resolve::{host_of, network};
use super::settings::{Layer, Profiles, check_references, no_image};
use super::values::Name;
use super::wire::{ClusterWire, NodeWire};
use super::{Mac, Uuid};

/// A laptop goes between a few places; more is a slip of the hand.
const MOST_CHOICES: usize = 32;

/// Every node of the file, in its order; one that a range covers stands in the range's place.
pub(super) fn expand(file: &ClusterWire, profiles: &Profiles<'_>, problems: &mut Problems) -> Vec<Node> {
    let entries = file.nodes.value().into_iter().flat_map(|nodes| nodes.iter());
    let entries: Vec<_> = entries.map(|(name, wire)| Entry { name, wire }).collect();
    let context = Context { file, profiles, refining: refining(&entries) };
    let mut nodes = Vec::new();
    let mut known = Known::default();
    for entry in entries.into_iter().filter(|entry| !context.refines(*entry)) {
        if nodes.len() + entry.name.value.count() > MAX_NAMES {
            problems.add(entry.name.span, format!("with this entry there are more than {MAX_NAMES} nodes"));
            break;
        }
        if entry.wire.profile.is_absent() {
            missing("profile", entry.name.span, problems);
        }
        let common = context.values(entry, None, problems);
        for (index, name) in entry.name.value.names().enumerate() {
            if let Some(twice) = known.names.note("node", &name, entry.name.span, problems) {
                twice
                    .mend("let it stand in one range; an entry of this name alone refines that range's node");
            }
            let single = context.refining.get(&name).copied();
            let own = single.map(|single| context.values(single, Some((entry, &common)), problems));
            let own = own.as_ref();
            let mac = own.and_then(|own| own.macs.first()).or(common.macs.get(index));
            let uuid = own.and_then(|own| own.uuids.first()).or(common.uuids.get(index));
            let address = own.and_then(|own| own.addresses.first()).or(common.addresses.get(index));
            let (profile_origin, choices) = own.unwrap_or(&common).choices.clone();
            nodes.push(Node {
                name,
                entry: single.unwrap_or(entry).origin(single.unwrap_or(entry).name.span),
                mac: mac.map(|mac| known.macs.own("MAC", mac, problems)),
                uuid: uuid.map(|uuid| known.uuids.own("UUID", uuid, problems)),
                address: address
                    .and_then(Option::as_ref)
                    .map(|address| known.addresses.own("address", address, problems)),
                profile_origin,
                choices,
            });
        }
    }
    nodes
}

/// The entries of single names that a range covers, by these names.
fn refining<'w>(entries: &[Entry<'w>]) -> HashMap<String, Entry<'w>> {
    let (ranges, singles): (Vec<_>, Vec<_>) =
        entries.iter().copied().partition(|entry| entry.name.value.is_range());
    let singles: HashMap<String, Entry<'w>> =
        singles.into_iter().map(|single| (single.name.value.to_string(), single)).collect();
    if singles.is_empty() {
        return singles;
    }
    let covered = ranges.iter().flat_map(|range| range.name.value.names()).take(MAX_NAMES);
    covered.filter_map(|name| singles.get(&name).map(|single| (name.clone(), *single))).collect()
}

/// One entry of `nodes`.
#[derive(Clone, Copy)]
struct Entry<'w> {
    name: &'w At<NamePattern>,
    wire: &'w NodeWire,
}

impl<'w> Entry<'w> {
    fn origin(self, span: Span) -> Origin {
        if self.name.value.is_range() { Origin::Range(span.line) } else { Origin::Node(span.line) }
    }

    fn said<T>(self, value: T, span: Span) -> Said<T> {
        Said { value: Sourced { value, origin: self.origin(span) }, span }
    }

    fn layer(self) -> Layer<'w> {
        Layer::entry(&self.name.value, &self.wire.settings)
    }
}

/// A value with where it was said.
#[derive(Clone)]
struct Said<T> {
    value: Sourced<T>,
    span: Span,
}

/// What an entry says of its nodes, in the order of their names.
struct Values {
    /// `None` for a node that refines the range with an address of its own.
    addresses: Vec<Option<Said<Ipv4Addr>>>,
    macs: Vec<Said<Mac>>,
    uuids: Vec<Said<Uuid>>,
    /// With where the profiles were said.
    choices: (Origin, Vec<Choice>),
}

/// What only one node can have.
#[derive(Default)]
struct Known {
    names: Taken<String>,
    addresses: Taken<Ipv4Addr>,
    macs: Taken<Mac>,
    uuids: Taken<Uuid>,
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
    /// Takes a value; the problem where it is taken already, unless these two places are told.
    fn note<'p>(
        &mut self,
        kind: &str,
        value: &T,
        span: Span,
        problems: &'p mut Problems,
    ) -> Option<&'p mut Problem> {
        let Some(first) = self.by.get(value) else {
            self.by.insert(value.clone(), span);
            return None;
        };
        if !self.told.insert((first.start, span.start)) {
            return None;
        }
        let problem = problems.add(span, format!("the {kind} {value} is taken already"));
        Some(problem.also(*first, format!("{value} is taken here")).mend("each node has its own"))
    }

    fn own(&mut self, kind: &str, said: &Said<T>, problems: &mut Problems) -> Sourced<T> {
        self.note(kind, &said.value.value, said.span, problems);
        said.value.clone()
    }
}

/// The file, and what is known of it.
struct Context<'a, 'w> {
    file: &'w ClusterWire,
    profiles: &'a Profiles<'w>,
    /// The entries that refine a node of a range, by its name.
    refining: HashMap<String, Entry<'w>>,
}

impl<'w> Context<'_, 'w> {
    /// Whether the entry refines a node of a range, and so is looked at with that.
    fn refines(&self, entry: Entry<'w>) -> bool {
        !entry.name.value.is_range() && self.refining.contains_key(&entry.name.value.to_string())
    }

    /// What an entry says, checked; `range`: the one that it refines a node of.
    fn values(
        &self,
        entry: Entry<'w>,
        range: Option<(Entry<'w>, &Values)>,
        problems: &mut Problems,
    ) -> Values {
        check_references(self.file, &entry.wire.settings, problems);
        let choices = self.choices(entry, range, problems);
        self.check_addressed(entry, range, &choices.1, problems);
        Values {
            addresses: self.addresses(entry, problems).unwrap_or_default(),
            macs: one_each("mac", &entry.wire.mac, entry, problems),
            uuids: one_each("uuid", &entry.wire.uuid, entry, problems),
            choices,
        }
    }

    /// The profiles that a node can have, with the settings of its entry on top, or of its range and then
    /// of its entry.
    fn choices(
        &self,
        entry: Entry<'w>,
        range: Option<(Entry<'w>, &Values)>,
        problems: &mut Problems,
    ) -> (Origin, Vec<Choice>) {
        if let Some((_, values)) = range
            && entry.wire.profile.is_absent()
            && entry.wire.settings.is_empty()
        {
            return values.choices.clone();
        }
        // What is wrong with the range's own list is told with the range.
        let inherited = range.filter(|_| entry.wire.profile.is_absent());
        let from = inherited.map_or(entry, |(range, _)| range);
        let named = from.wire.profile.value().map_or(&[][..], |list| &list.0);
        let origin = from.wire.profile.get().map_or(Origin::Default, |at| from.origin(at.span));
        let layers: Vec<_> = range.iter().map(|(range, _)| range.layer()).chain([entry.layer()]).collect();
        if let Some(beyond) = named.get(MOST_CHOICES) {
            if inherited.is_none() {
                let most = format!("a node can choose between at most {MOST_CHOICES} profiles");
                problems.add(beyond.span, most);
            }
            return (origin, Vec::new());
        }
        let mut choices: Vec<Choice> = Vec::new();
        // A node's `~word` is a slip only where it takes nothing away whatever the choice.
        let mut idle_everywhere: Option<Vec<Span>> = None;
        for profile in named {
            let index = match inherited {
                Some(_) => self.profiles.index(profile),
                None if chosen_before(profile, named, problems) => continue,
                None => self.profiles.find(profile, problems),
            };
            let Some(index) = index else { continue };
            let (settings, idle) = self.profiles.on_node(index, &layers);
            idle_everywhere = Some(match idle_everywhere {
                None => idle,
                Some(before) => before.into_iter().filter(|span| idle.contains(span)).collect(),
            });
            let told = inherited.is_some() && self.profiles.boots_nothing(index, &layers[..1]);
            if self.profiles.boots_nothing(index, &layers) && !told {
                let span = if inherited.is_some() { entry.name.span } else { profile.span };
                no_image(span, &format!("`{}`", entry.name.value), self.profiles.name(index), problems);
            }
            choices.push(Choice { profile: profile.value.0.clone(), settings });
        }
        for span in idle_everywhere.into_iter().flatten() {
            problems.add(span, "this takes away what no inherited list holds").mend("remove it");
        }
        if let (true, None, Some(empty)) = (named.is_empty(), inherited, entry.wire.profile.get()) {
            problems.add(empty.span, "this list of profiles is empty").mend("name at least one");
        }
        (origin, choices)
    }

    /// A node that boots from this master needs an address from somewhere.
    fn check_addressed(
        &self,
        entry: Entry<'w>,
        range: Option<(Entry<'w>, &Values)>,
        choices: &[Choice],
        problems: &mut Problems,
    ) {
        let Some(master) = self.file.master.value() else { return };
        if master.dhcp.value() == Some(&DhcpMode::Proxy) {
            if let Some(address) = entry.wire.address.get() {
                problems
                    .add(address.span, "`address` in proxy mode: another DHCP server gives the addresses")
                    .mend("remove it, or write `dhcp: authoritative` under `master:`");
            }
            return;
        }
        let boots =
            |choices: &[Choice]| choices.iter().any(|choice| choice.settings.boot.value == Boot::Network);
        // A range that gives none is told once, with itself.
        let given =
            range.is_some_and(|(range, values)| !range.wire.address.is_absent() || boots(&values.choices.1));
        let all_have_their_own = || {
            entry.name.value.is_range() && entry.name.value.names().all(|name| self.addresses_itself(&name))
        };
        if boots(choices)
            && entry.wire.address.is_absent()
            && master.range.is_absent()
            && !given
            && !all_have_their_own()
        {
            problems
                .add(
                    entry.name.span,
                    format!(
                        "`{}` has no address, and the master has no `range` to give it one",
                        entry.name.value
                    ),
                )
                .mend("add `address:` here, or `range: FIRST-LAST` under `master:`");
        }
    }

    /// Whether a node of a range is refined by an entry with an address.
    fn addresses_itself(&self, name: &str) -> bool {
        self.refining.get(name).is_some_and(|single| !single.wire.address.is_absent())
    }

    /// The addresses of an entry, counted up; `None` where it has none, or where they do not hold.
    fn addresses(&self, entry: Entry<'w>, problems: &mut Problems) -> Option<Vec<Option<Said<Ipv4Addr>>>> {
        let At { value: first, span } = entry.wire.address.get()?;
        let name = &entry.name.value;
        let gateway = self.file.master.value().and_then(|master| master.gateway.value()).copied();
        let net = network(self.file);
        let mut addresses = Vec::with_capacity(name.count());
        for (own_name, offset) in name.names().zip(0u32..) {
            if name.is_range() && self.addresses_itself(&own_name) {
                addresses.push(None);
                continue;
            }
            let address = u32::from(*first).checked_add(offset).map(Ipv4Addr::from);
            let fault = match (address, net) {
                (None, _) => Err("after the last address there is".to_owned()),
                (Some(address), Some(net)) => usable(net, gateway, address),
                (Some(_), None) => Ok(()),
            };
            if let Err(why) = fault {
                let address = address.map_or_else(|| "its address".to_owned(), |address| address.to_string());
                let message = match name.is_range() {
                    true => format!("the range counts up to {address} for `{own_name}`, which is {why}"),
                    false => format!("the address {address} of `{own_name}` is {why}"),
                };
                let problem = problems.add(*span, message);
                if let Some(net) = net {
                    problem.mend(format!("choose free ones of {}", net.trunc()));
                }
                return None;
            }
            addresses.push(Some(entry.said(address?, *span)));
        }
        Some(addresses)
    }
}

/// Whether a profile stands in the list before this place as well, which is noted.
fn chosen_before(profile: &At<Name>, named: &[At<Name>], problems: &mut Problems) -> bool {
    let before = |other: &&At<_>| other.value == profile.value && other.span.start < profile.span.start;
    let Some(other) = named.iter().find(before) else { return false };
    problems
        .add(profile.span, format!("the profile `{}` is chosen twice", profile.value))
        .also(other.span, "chosen first here")
        .mend("keep one of them");
    true
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
fn one_each<T: Clone>(
    key: &str,
    field: &Field<List<T>>,
    entry: Entry<'_>,
    problems: &mut Problems,
) -> Vec<Said<T>> {
    let Some(At { value: List(values), span }) = field.get() else { return Vec::new() };
    let wanted = entry.name.value.count();
    if values.len() != wanted {
        let count = |number, what| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let (nodes, values) = (count(wanted, "node"), count(values.len(), "value"));
        problems
            .add(*span, format!("`{}` is {nodes}, and `{key}` has {values}", entry.name.value))
            .mend("write one for each node, in the order of their names");
        return Vec::new();
    }
    values.iter().map(|at| entry.said(at.value.clone(), at.span)).collect()
}
