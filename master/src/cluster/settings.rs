//! Profiles: which inherits what, and what a chain of them comes to.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::model::{
    Boot, Loader, MapLine, Members, Origin, ProfileAddress, Root, Services, Settings, Sourced, Writes,
};
use super::names::NamePattern;
use super::problem::{Problems, Span};
use super::read::{At, Field, List, Mapping as _};
use super::resolve::{host_of, network, no_such};
use super::values::{Edit, Name};
use super::wire::{ClusterWire, MapLineWire, MembersWire, ProfileWire, ServicesWire, SettingsWire};

/// A longer chain of `inherits` is a slip of the hand.
const DEEPEST: usize = 64;

/// What one profile, or an entry of `nodes`, adds.
#[derive(Clone, Copy)]
pub(super) struct Layer<'w> {
    of: Of<'w>,
    settings: &'w SettingsWire,
    address: Option<&'w At<ProfileAddress>>,
}

/// Whose settings a layer's are.
#[derive(Clone, Copy)]
enum Of<'w> {
    Profile(&'w str),
    Range,
    Node,
}

impl<'w> Layer<'w> {
    /// Of an entry of `nodes`.
    pub(super) fn entry(name: &NamePattern, settings: &'w SettingsWire) -> Self {
        Layer { of: if name.is_range() { Of::Range } else { Of::Node }, settings, address: None }
    }

    fn profile((name, wire): (&'w At<Name>, &'w ProfileWire)) -> Self {
        Layer { of: Of::Profile(&name.value.0), settings: &wire.settings, address: wire.address.get() }
    }

    fn origin(self, span: Span) -> Origin {
        match self.of {
            Of::Profile(name) => Origin::Profile(name.to_owned(), span.line),
            Of::Range => Origin::Range(span.line),
            Of::Node => Origin::Node(span.line),
        }
    }
}

/// What the master's part gives to every profile.
#[derive(Clone, Copy)]
struct Defaults<'w> {
    gateway: Option<&'w At<Ipv4Addr>>,
    dns: Option<&'w At<List<Ipv4Addr>>>,
}

/// All profiles of a file.
pub(super) struct Profiles<'w> {
    wire: Vec<(&'w At<Name>, &'w ProfileWire)>,
    by_name: HashMap<&'w str, usize>,
    /// Of each profile those that it is made of, itself the last.
    chains: Vec<Vec<usize>>,
    resolved: Vec<Arc<Settings>>,
    defaults: Defaults<'w>,
}

impl<'w> Profiles<'w> {
    /// Merges each profile with what it inherits, and checks what it refers to.
    pub(super) fn resolve(file: &'w ClusterWire, problems: &mut Problems) -> Self {
        let wire: Vec<_> = file.profiles.value().into_iter().flat_map(|profiles| profiles.iter()).collect();
        let by_name =
            wire.iter().enumerate().map(|(index, (name, _))| (name.value.0.as_str(), index)).collect();
        let master = file.master.value();
        let mut profiles = Profiles {
            chains: vec![Vec::new(); wire.len()],
            resolved: Vec::with_capacity(wire.len()),
            wire,
            by_name,
            defaults: Defaults {
                gateway: master.and_then(|master| master.gateway.get()),
                dns: master.and_then(|master| master.dns.get()),
            },
        };
        let mut states = vec![State::New; profiles.wire.len()];
        for index in 0..profiles.wire.len() {
            profiles.chain(index, 0, &mut states, problems);
            let layers: Vec<_> = profiles.layers(index).collect();
            let (settings, idle) = merge(profiles.defaults, &layers);
            for span in idle {
                problems
                    .add(span, "this takes away what no inherited list holds")
                    .mend("remove it, or inherit the profile that holds it");
            }
            profiles.resolved.push(Arc::new(settings));
            let (_, wire) = profiles.wire[index];
            check_references(file, &wire.settings, problems);
            profiles.check_gateway(file, index, problems);
        }
        profiles
    }

    /// The place of the profile of this name; noted as a problem if there is none.
    pub(super) fn find(&self, name: &At<Name>, problems: &mut Problems) -> Option<usize> {
        let index = self.index(name);
        if index.is_none() {
            no_such("profile", name, self.wire.iter().map(|(name, _)| name.value.0.as_str()), problems);
        }
        index
    }

    /// The place of the profile of this name, if there is one.
    pub(super) fn index(&self, name: &At<Name>) -> Option<usize> {
        self.by_name.get(name.value.0.as_str()).copied()
    }

    /// What a profile comes to with the settings of a node's entries on top, and the last entry's `~words`
    /// that took nothing away.
    pub(super) fn on_node(&self, index: usize, own: &[Layer<'w>]) -> (Arc<Settings>, Vec<Span>) {
        if own.iter().all(|layer| layer.settings.is_empty()) {
            return (self.resolved[index].clone(), Vec::new());
        }
        let layers: Vec<_> = self.layers(index).chain(own.iter().copied()).collect();
        let (settings, idle) = merge(self.defaults, &layers);
        (Arc::new(settings), idle)
    }

    /// The profile's name.
    pub(super) fn name(&self, index: usize) -> &str {
        &self.wire[index].0.value.0
    }

    /// Notes a problem if the profile boots from the network and no layer says into which image.
    pub(super) fn check_boots(&self, index: usize, span: Span, who: &str, problems: &mut Problems) {
        let settings = &self.resolved[index];
        if settings.boot.value == Boot::Disk {
            problems
                .add(
                    span,
                    format!(
                        "{who} cannot boot with `{}`, which boots from the machine's own disk",
                        self.name(index)
                    ),
                )
                .mend("choose a profile that boots from the network");
        } else if self.boots_nothing(index, &[]) {
            no_image(span, who, self.name(index), problems);
        }
    }

    /// Whether a machine with this profile boots from the network, and no layer says into which image.
    /// What was refused there is told already, and may have been meant to say it.
    pub(super) fn boots_nothing(&self, index: usize, own: &[Layer<'w>]) -> bool {
        let mut boot = Boot::Network;
        for Layer { settings, .. } in self.layers(index).chain(own.iter().copied()) {
            match (&settings.boot, &settings.image) {
                (Field::Bad, _) | (_, Field::Bad | Field::Given(_)) => return false,
                (Field::Given(at), Field::Absent) => boot = at.value,
                (Field::Absent, Field::Absent) => {}
            }
        }
        boot == Boot::Network
    }

    /// The profiles by name, as a [`super::Cluster`] holds them.
    pub(super) fn into_settings(self) -> BTreeMap<String, Settings> {
        let names = self.wire.iter().map(|(name, _)| name.value.0.clone());
        names.zip(self.resolved.iter().map(|settings| Settings::clone(settings))).collect()
    }

    fn layers(&self, index: usize) -> impl Iterator<Item = Layer<'w>> {
        self.chains[index].iter().map(|index| Layer::profile(self.wire[*index]))
    }

    /// Puts into `chains` what a profile is made of: each profile once, before those that inherit it.
    fn chain(&mut self, index: usize, depth: usize, states: &mut [State], problems: &mut Problems) {
        if states[index] != State::New {
            return;
        }
        states[index] = State::Open;
        let mut chain: Vec<usize> = Vec::new();
        let (name, wire) = self.wire[index];
        for parent in wire.inherits.value().into_iter().flat_map(|parents| &parents.0) {
            let Some(parent_index) = self.find(parent, problems) else { continue };
            if depth == DEEPEST {
                problems.add(parent.span, format!("a chain of more than {DEEPEST} profiles"));
                continue;
            }
            self.chain(parent_index, depth + 1, states, problems);
            if states[parent_index] == State::Open {
                let (first, _) = self.wire[parent_index];
                problems
                    .add(
                        parent.span,
                        format!("`{}` inherits `{}`, which inherits `{0}`", name.value, parent.value),
                    )
                    .also(first.span, "the circle closes here")
                    .mend("take one of them out of the circle");
                continue;
            }
            for part in self.chains[parent_index].clone() {
                if !chain.contains(&part) {
                    chain.push(part);
                }
            }
        }
        chain.push(index);
        self.chains[index] = chain;
        states[index] = State::Done;
    }

    /// A gateway is a host of the network that the machine is in while it has the profile.
    fn check_gateway(&self, file: &ClusterWire, index: usize, problems: &mut Problems) {
        let net = match self.resolved[index].address.value {
            ProfileAddress::Fixed(net) => Some(net),
            ProfileAddress::Node => network(file),
            ProfileAddress::Dhcp => None,
        };
        let (_, wire) = self.wire[index];
        if let (Some(net), Some(gateway)) = (net, wire.settings.gateway.get())
            && let Err(why) = host_of(net, gateway.value)
        {
            problems
                .add(gateway.span, format!("the gateway {} is {why}", gateway.value))
                .mend("a gateway is a host that the machine reaches directly");
        }
    }
}

/// Whether a profile's chain is known yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Open,
    Done,
}

/// Notes that someone boots from the network with a profile that names no image.
pub(super) fn no_image(span: Span, who: &str, profile: &str, problems: &mut Problems) {
    problems
        .add(span, format!("{who} boots from the network, and the profile `{profile}` names no image"))
        .mend("add `image: NAME` to the profile, or `boot: disk`");
}

/// Images and pools that are named must be there; a map's lines must not overlap.
pub(super) fn check_references(file: &ClusterWire, settings: &SettingsWire, problems: &mut Problems) {
    fn names<T>(field: &Field<super::read::Named<Name, T>>) -> impl Iterator<Item = &str> + Clone {
        field.value().into_iter().flat_map(|named| named.0.iter().map(|(name, _)| name.value.0.as_str()))
    }
    if let Some(image) = settings.image.get()
        && !names(&file.images).any(|name| name == image.value.0)
    {
        no_such("image", image, names(&file.images), problems);
    }
    if let Some(pool) = settings.pool.get()
        && !names(&file.pools).any(|name| name == pool.value.0)
    {
        no_such("pool", pool, names(&file.pools), problems);
    }
    if let Some(MembersWire::Map(lines)) = settings.members.value() {
        check_map(lines, problems);
    }
}

fn check_map(lines: &List<MapLineWire>, problems: &mut Problems) {
    let mut known: Vec<(MapLine, Span)> = Vec::new();
    for At { value, span } in &lines.0 {
        let Some(line) = map_line(value) else { continue };
        let last = u32::from(line.address).checked_add(line.count - 1);
        if last.is_none() || line.id + line.count > 65_536 {
            problems
                .add(*span, format!("{} members from id {} on do not fit", line.count, line.id))
                .mend("ids end at 65535");
        }
        let overlaps = |other: &MapLine| {
            let apart =
                |a: u32, b: u32| a >= b.saturating_add(other.count) || b >= a.saturating_add(line.count);
            !apart(line.id, other.id) || !apart(line.address.into(), other.address.into())
        };
        if let Some((_, first)) = known.iter().find(|(other, _)| overlaps(other)) {
            problems
                .add(*span, "this line has an id or an address that another line has too")
                .also(*first, "the other line")
                .mend("let each member stand in one line only");
        }
        known.push((line, *span));
    }
}

fn map_line(wire: &MapLineWire) -> Option<MapLine> {
    Some(MapLine {
        id: wire.id.value()?.0,
        address: *wire.address.value()?,
        count: wire.count.value().map_or(1, |count| count.0),
    })
}

/// What layers come to, the last one on top; and the last one's `~words` that took nothing away.
fn merge(defaults: Defaults<'_>, layers: &[Layer<'_>]) -> (Settings, Vec<Span>) {
    let mut idle = Vec::new();
    let dns = |dns: &List<Ipv4Addr>| dns.values().copied().collect::<Vec<_>>();
    let members = |members: &MembersWire| match members {
        MembersWire::Discover => Members::Discover,
        MembersWire::Map(lines) => Members::Map(lines.values().filter_map(map_line).collect()),
    };
    let address = layers
        .iter()
        .rev()
        .find_map(|layer| layer.address.map(|at| Sourced { value: at.value, origin: layer.origin(at.span) }))
        .unwrap_or(Sourced { value: ProfileAddress::Node, origin: Origin::Default });
    // A machine that is somewhere else has nothing of the master's network.
    let here = address.value == ProfileAddress::Node;
    let settings = Settings {
        boot: last(layers, |s| &s.boot, |v| *v).or(Boot::Network),
        image: last(layers, |s| &s.image, |v| Some(v.0.clone())).or(None),
        root: last(layers, |s| &s.root, |v| *v).or(Root::Nfs),
        writes: last(layers, |s| &s.writes, |v| *v).or(Writes::Keep),
        loader: last(layers, |s| &s.loader, |v| *v).or(Loader::Auto),
        kernel_args: list(layers, |s| &s.kernel_args, |v| v.0.clone(), &mut idle),
        gateway: last(layers, |s| &s.gateway, |v| Some(*v))
            .or_master(defaults.gateway.filter(|_| here), |gateway| Some(*gateway))
            .or(None),
        dns: last(layers, |s| &s.dns, dns).or_master(defaults.dns.filter(|_| here), dns).or(Vec::new()),
        pool: last(layers, |s| &s.pool, |v| Some(v.0.clone())).or(None),
        speed: last(layers, |s| &s.speed, |v| Some(v.0)).or(None),
        trusted: last(layers, |s| &s.trusted, |v| *v).or(false),
        address,
        members: last(layers, |s| &s.members, members).or(Members::Discover),
        services: services(layers, &mut idle),
        script: last(layers, |s| &s.script, |v| Some(v.0.clone())).or(None),
    };
    (settings, idle)
}

/// A value that may have been said somewhere.
struct Said<T>(Option<Sourced<T>>);

impl<T> Said<T> {
    fn or_master<W>(self, master: Option<&At<W>>, value: impl Fn(&W) -> T) -> Self {
        Said(self.0.or_else(|| {
            master.map(|at| Sourced { value: value(&at.value), origin: Origin::Master(at.span.line) })
        }))
    }

    fn or(self, default: T) -> Sourced<T> {
        self.0.unwrap_or(Sourced { value: default, origin: Origin::Default })
    }
}

/// What the last layer that says it says.
fn last<'w, W: 'w, T>(
    layers: &[Layer<'w>],
    field: impl Fn(&'w SettingsWire) -> &'w Field<W>,
    value: impl Fn(&W) -> T,
) -> Said<T> {
    Said(layers.iter().rev().find_map(|layer| {
        field(layer.settings)
            .get()
            .map(|at| Sourced { value: value(&at.value), origin: layer.origin(at.span) })
    }))
}

/// A list to which each layer adds, and from which it takes away.
fn list<'w, W: 'w>(
    layers: &[Layer<'w>],
    field: impl Fn(&'w SettingsWire) -> &'w Field<List<Edit<W>>>,
    value: impl Fn(&W) -> String,
    idle: &mut Vec<Span>,
) -> Sourced<Vec<String>> {
    let mut words = Vec::new();
    let mut origins = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let Some(at) = field(layer.settings).get() else { continue };
        origins.push(layer.origin(at.span));
        let mut idle_here = edit(&mut words, &at.value, &value);
        if index + 1 == layers.len() {
            idle.append(&mut idle_here);
        }
    }
    Sourced { value: words, origin: merged(origins) }
}

/// Adds and takes away; returns the `~words` that took nothing away.
fn edit<W>(words: &mut Vec<String>, edits: &List<Edit<W>>, value: impl Fn(&W) -> String) -> Vec<Span> {
    let mut idle = Vec::new();
    for At { value: change, span } in &edits.0 {
        match change {
            Edit::Add(word) => {
                let word = value(word);
                if !words.contains(&word) {
                    words.push(word);
                }
            }
            Edit::Remove(word) => {
                let (word, before) = (value(word), words.len());
                words.retain(|other| *other != word);
                if words.len() == before {
                    idle.push(*span);
                }
            }
        }
    }
    idle
}

fn merged(mut origins: Vec<Origin>) -> Origin {
    match origins.len() {
        0 => Origin::Default,
        1 => origins.remove(0),
        _ => Origin::Merged(origins),
    }
}

fn services(layers: &[Layer<'_>], idle: &mut Vec<Span>) -> Sourced<Services> {
    let mut services = Services::default();
    let mut origins = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let Some(At { value: ServicesWire { start, stop, restart }, span }) = layer.settings.services.get()
        else {
            continue;
        };
        origins.push(layer.origin(*span));
        let lists =
            [(start, &mut services.start), (stop, &mut services.stop), (restart, &mut services.restart)];
        for (field, words) in lists {
            let Some(edits) = field.value() else { continue };
            let mut idle_here = edit(words, edits, |service| service.0.clone());
            if index + 1 == layers.len() {
                idle.append(&mut idle_here);
            }
        }
    }
    Sourced { value: services, origin: merged(origins) }
}
