//! What would change between two clusters, node by node, and what it takes: `tesela plan`. Pure.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::NodeSet;
use super::model::{Boot, Choice, Cluster, Node, Settings};
use super::show::{Effect, Row, text};

/// All that differs between two clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The cluster's own name and the master's part.
    pub master: Vec<Change>,
    /// Images.
    pub images: Vec<Part>,
    /// Profiles.
    pub profiles: Vec<Part>,
    /// Pools.
    pub pools: Vec<Part>,
    /// Nodes: those of the old cluster in its order, then the new ones.
    pub nodes: Vec<Part>,
}

/// A part of a cluster that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// How it differs.
    pub difference: Difference,
}

/// How a part differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Difference {
    /// It is new.
    Added,
    /// It is there no more.
    Removed,
    /// These settings of it differ.
    Changed(Vec<Change>),
}

/// A setting that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its key in cluster.yaml; for a profile that the node can choose, `PROFILE: key`.
    pub setting: String,
    /// What it was.
    pub before: Value,
    /// What it would be.
    pub after: Value,
    /// What that takes.
    pub effect: Effect,
}

/// What would change if `new` took the place of `old`.
pub fn plan(old: &Cluster, new: &Cluster) -> Plan {
    let mut master = Vec::new();
    if old.name != new.name {
        let (before, after) = (old.name.clone().into(), new.name.clone().into());
        master.push(Change { setting: "cluster".to_owned(), before, after, effect: Effect::Restart });
    }
    master.extend(compare(&old.master.rows(), &new.master.rows()));
    let images = parts(&old.images, &new.images, |old, new| compare(&old.rows(), &new.rows()));
    let nodes = Nodes { old, new, rebuilt: &images, settings: HashMap::new() }.parts();
    Plan {
        master,
        images,
        profiles: parts(&old.profiles, &new.profiles, |old, new| compare(&old.rows(), &new.rows())),
        pools: parts(&old.pools, &new.pools, |old, new| compare(&old.rows(), &new.rows())),
        nodes,
    }
}

/// The rows that differ; both tables have the same settings in the same order.
fn compare(old: &[Row], new: &[Row]) -> Vec<Change> {
    let differing = old.iter().zip(new).filter(|(old, new)| old.value != new.value);
    differing
        .map(|(old, new)| Change {
            setting: old.setting.to_owned(),
            before: old.value.clone(),
            after: new.value.clone(),
            effect: old.effect,
        })
        .collect()
}

fn parts<T>(
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    compare: impl Fn(&T, &T) -> Vec<Change>,
) -> Vec<Part> {
    let gone_or_changed = old.iter().filter_map(|(name, before)| match new.get(name) {
        None => Some(Part { name: name.clone(), difference: Difference::Removed }),
        Some(after) => changed(name, compare(before, after)),
    });
    let added = new.keys().filter(|name| !old.contains_key(*name));
    let added = added.map(|name| Part { name: name.clone(), difference: Difference::Added });
    gone_or_changed.chain(added).collect()
}

fn changed(name: &str, changes: Vec<Change>) -> Option<Part> {
    (!changes.is_empty()).then(|| Part { name: name.to_owned(), difference: Difference::Changed(changes) })
}

/// The comparison of all nodes.
struct Nodes<'a> {
    old: &'a Cluster,
    new: &'a Cluster,
    /// Images that differ.
    rebuilt: &'a [Part],
    /// Settings compared already: the nodes of a range share theirs.
    settings: HashMap<(*const Settings, *const Settings), Vec<Change>>,
}

impl Nodes<'_> {
    fn parts(mut self) -> Vec<Part> {
        let (old, new) = (self.old, self.new);
        let by_name: HashMap<&str, &Node> = new.nodes.iter().map(|node| (node.name.as_str(), node)).collect();
        let known: std::collections::HashSet<&str> =
            old.nodes.iter().map(|node| node.name.as_str()).collect();
        let mut parts: Vec<Part> = Vec::new();
        for before in &old.nodes {
            parts.extend(match by_name.get(before.name.as_str()) {
                None => Some(Part { name: before.name.clone(), difference: Difference::Removed }),
                Some(after) => changed(&before.name, self.changes(before, after)),
            });
        }
        let added = new.nodes.iter().filter(|node| !known.contains(node.name.as_str()));
        parts.extend(added.map(|node| Part { name: node.name.clone(), difference: Difference::Added }));
        parts
    }

    fn changes(&mut self, before: &Node, after: &Node) -> Vec<Change> {
        let mut changes = compare(&before.rows(), &after.rows());
        for change in &mut changes {
            // To know a running machine by one thing more does not make it another one.
            if matches!(change.setting.as_str(), "mac" | "uuid") && change.before.is_null() {
                change.effect = Effect::Live;
            }
        }
        changes.extend(self.settings(&before.choices[0], &after.choices[0]));
        // The other choices, by their names; one that came or went shows in the row `profile`.
        for choice in &before.choices {
            let same = after.choices.iter().position(|other| other.profile == choice.profile);
            let both_default = choice.profile == before.choices[0].profile && same == Some(0);
            if let (Some(index), false) = (same, both_default) {
                changes.extend(self.settings(choice, &after.choices[index]).into_iter().map(|change| {
                    Change { setting: format!("{}: {}", choice.profile, change.setting), ..change }
                }));
            }
        }
        if before.settings().boot.value == Boot::Network && after.settings().boot.value == Boot::Network {
            changes.extend(self.by_master_or_image(after));
        }
        changes
    }

    fn settings(&mut self, before: &Choice, after: &Choice) -> Vec<Change> {
        let key = (Arc::as_ptr(&before.settings), Arc::as_ptr(&after.settings));
        self.settings
            .entry(key)
            .or_insert_with(|| compare(&before.settings.rows(), &after.settings.rows()))
            .clone()
    }

    /// What a change of the master or of an image means for a node that boots from the network.
    fn by_master_or_image(&self, node: &Node) -> Vec<Change> {
        let (before, after) = (self.old.master.address.addr(), self.new.master.address.addr());
        let moved = (before != after).then(|| Change {
            setting: "master".to_owned(),
            before: before.to_string().into(),
            after: after.to_string().into(),
            effect: Effect::Reboot,
        });
        let image = node.settings().image.value.as_ref();
        let rebuilt = image.filter(|image| {
            self.rebuilt
                .iter()
                .any(|part| part.name == **image && matches!(part.difference, Difference::Changed(_)))
        });
        let rebuilt = rebuilt.map(|image| Change {
            setting: "image".to_owned(),
            before: image.clone().into(),
            after: format!("{image}, built anew").into(),
            effect: Effect::Reboot,
        });
        moved.into_iter().chain(rebuilt).collect()
    }
}

impl Plan {
    /// Whether the two clusters come to the same.
    pub fn is_empty(&self) -> bool {
        *self == Plan::default()
    }

    /// Whether the master's services start anew.
    pub fn restarts(&self) -> bool {
        self.master.iter().any(|change| change.effect >= Effect::Restart)
    }

    /// What is to be done for all of it to take effect, a sentence each: images, then nodes.
    pub fn due(&self) -> Vec<String> {
        let to_build = self.images.iter().filter(|part| part.difference != Difference::Removed);
        let to_build = to_build.map(|part| part.name.as_str()).collect::<Vec<_>>().join(" ");
        let builds =
            (!to_build.is_empty()).then(|| format!("First to be built: `tesela image build {to_build}`."));
        let reboots = self.reboots();
        let reboots = match reboots.names().len() {
            0 => "No node must reboot.".to_owned(),
            1 => format!("1 node must reboot: {reboots}"),
            many => format!("{many} nodes must reboot: {reboots}"),
        };
        builds.into_iter().chain([reboots]).collect()
    }

    /// The nodes that must boot again for it.
    pub fn reboots(&self) -> NodeSet {
        let reboots = |part: &&Part| match &part.difference {
            Difference::Changed(changes) => changes.iter().any(|change| change.effect == Effect::Reboot),
            Difference::Added | Difference::Removed => false,
        };
        self.nodes.iter().filter(reboots).map(|part| part.name.clone()).collect()
    }
}

impl fmt::Display for Plan {
    /// Node by node, nodes that change alike together.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "Nothing would change.");
        }
        if !self.master.is_empty() {
            writeln!(f, "master")?;
            write_changes(f, &self.master, "")?;
        }
        for (kind, parts) in [
            ("image", &self.images),
            ("profile", &self.profiles),
            ("pool", &self.pools),
            ("node", &self.nodes),
        ] {
            for (names, difference) in alike(parts) {
                match difference {
                    Difference::Added => writeln!(f, "{kind} {names}: new")?,
                    Difference::Removed => writeln!(f, "{kind} {names}: removed")?,
                    Difference::Changed(changes) => {
                        writeln!(f, "{kind} {names}")?;
                        write_changes(f, changes, kind)?;
                    }
                }
            }
        }
        if self.restarts() {
            writeln!(f, "The master's services start anew; running nodes go on.")?;
        }
        self.due().iter().try_for_each(|due| writeln!(f, "{due}"))
    }
}

/// Parts that differ in the same way together, in the order of the first of each.
fn alike(parts: &[Part]) -> Vec<(NodeSet, &Difference)> {
    let mut groups: Vec<(Vec<&str>, &Difference)> = Vec::new();
    let mut place: HashMap<String, usize> = HashMap::new();
    for part in parts {
        // Settings have no `Hash`; what is shown of them does as well.
        let shown = format!("{:?}", part.difference);
        let index = *place.entry(shown).or_insert_with(|| {
            groups.push((Vec::new(), &part.difference));
            groups.len() - 1
        });
        groups[index].0.push(&part.name);
    }
    groups.into_iter().map(|(names, difference)| (names.into_iter().collect(), difference)).collect()
}

fn write_changes(f: &mut fmt::Formatter<'_>, changes: &[Change], kind: &str) -> fmt::Result {
    for Change { setting, before, after, effect } in changes {
        let takes = match (kind, effect) {
            (_, Effect::Live) => "at once",
            (_, Effect::Restart) => "services start anew",
            ("image", Effect::Reboot) => "built anew",
            ("profile", Effect::Reboot) => "at the next boot of its nodes",
            (_, Effect::Reboot) => "reboot",
        };
        writeln!(f, "  {setting:<16} {}  ({takes})", turn(before, after))?;
    }
    Ok(())
}

/// `before -> after`; of two lists only what goes and what comes.
fn turn(before: &Value, after: &Value) -> String {
    if let (Value::Array(old), Value::Array(new)) = (before, after) {
        let gone = old.iter().filter(|item| !new.contains(item)).map(|item| format!("-{}", text(item)));
        let come = new.iter().filter(|item| !old.contains(item)).map(|item| format!("+{}", text(item)));
        let turn: Vec<_> = gone.chain(come).collect();
        if !turn.is_empty() {
            return turn.join(" ");
        }
    }
    format!("{} -> {}", text(before), text(after))
}
