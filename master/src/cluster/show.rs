//! What a node comes to, setting by setting, each with where it was said: `tesela node show`.
//!
//! The tables here also say what a change of each setting takes, which is all that [`super::Plan`] knows.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::model::{Choice, Image, Master, Node, Origin, Pool, Settings, Sourced};

/// What it takes for a changed setting to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Nothing: running nodes see it at once.
    Live,
    /// The master's services start anew; running nodes go on.
    Restart,
    /// The nodes that it concerns boot again.
    Reboot,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its key in cluster.yaml.
    pub setting: &'static str,
    /// Its value.
    pub value: Value,
    /// Where it was said, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What a change of it takes.
    #[serde(skip)]
    pub effect: Effect,
}

/// A node with all its settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Its name.
    pub node: String,
    /// What it is known by, and what it can be.
    pub identity: Vec<Row>,
    /// For each profile that it can have, the default first, what it then has.
    pub choices: Vec<ShownChoice>,
}

/// What a node has with one of its profiles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShownChoice {
    /// The profile.
    pub profile: String,
    /// The settings.
    pub settings: Vec<Row>,
}

/// Every setting of a node with its value and where it was said.
pub fn show(node: &Node) -> Shown {
    let choice = |Choice { profile, settings }: &Choice| ShownChoice {
        profile: profile.clone(),
        settings: settings.rows(),
    };
    Shown {
        node: node.name.clone(),
        identity: node.rows(),
        choices: node.choices.iter().map(choice).collect(),
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.identity.iter().chain(self.choices.iter().flat_map(|choice| &choice.settings));
        let width = all.map(|row| text(&row.value).chars().count()).max().unwrap_or(0).min(40);
        writeln!(f, "{}", self.node)?;
        let write = |f: &mut fmt::Formatter<'_>, rows: &[Row]| {
            rows.iter().try_for_each(|Row { setting, value, origin, .. }| {
                let origin = origin.as_ref().map(Origin::to_string).unwrap_or_default();
                let line = format!("  {setting:<16} {:<width$}  {origin}", text(value));
                writeln!(f, "{}", line.trim_end())
            })
        };
        write(f, &self.identity)?;
        for (index, choice) in self.choices.iter().enumerate() {
            if self.choices.len() > 1 {
                let default = if index == 0 { " (the default)" } else { "" };
                writeln!(f, "with the profile {}{default}", choice.profile)?;
            }
            write(f, &choice.settings)?;
        }
        Ok(())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Master(line) => write!(f, "master, line {line}"),
            Origin::Profile(name, line) => write!(f, "profile {name}, line {line}"),
            Origin::Node(line) => write!(f, "node, line {line}"),
            Origin::Range(line) => write!(f, "range, line {line}"),
            Origin::Merged(origins) => {
                let origins: Vec<_> = origins.iter().map(Origin::to_string).collect();
                f.write_str(&origins.join(" + "))
            }
        }
    }
}

/// A value as a person reads it: `none` for nothing, lists with blanks.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::Object(map) => {
            let said =
                map.iter().filter(|(_, value)| !value.is_null() && **value != Value::Array(Vec::new()));
            let parts: Vec<_> = said.map(|(key, value)| format!("{key} {}", text(value))).collect();
            if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
        }
        other => other.to_string(),
    }
}

/// Seconds as cluster.yaml has them, in the largest unit that fits.
fn duration(seconds: u32) -> String {
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let unit = units.iter().find(|(size, _)| seconds.is_multiple_of(*size));
    unit.map(|(size, unit)| format!("{}{unit}", seconds / size)).unwrap_or_default()
}

fn plain(setting: &'static str, value: impl Serialize, effect: Effect) -> Row {
    // The types here serialise to plain JSON: no map with keys that are no strings, and no I/O.
    let value = serde_json::to_value(value).unwrap_or(Value::Null);
    Row { setting, value, origin: None, effect }
}

fn sourced<T: Serialize>(setting: &'static str, said: &Sourced<T>, effect: Effect) -> Row {
    Row { origin: Some(said.origin.clone()), ..plain(setting, &said.value, effect) }
}

fn maybe<T: Serialize>(setting: &'static str, said: &Option<Sourced<T>>, effect: Effect) -> Row {
    let value = said.as_ref().map(|said| &said.value);
    Row { origin: said.as_ref().map(|said| said.origin.clone()), ..plain(setting, value, effect) }
}

impl Settings {
    /// Every setting.
    pub fn rows(&self) -> Vec<Row> {
        use Effect::{Live, Reboot};
        // Taken apart, so that no setting can be forgotten here.
        let Settings {
            boot,
            image,
            root,
            writes,
            loader,
            kernel_args,
            gateway,
            dns,
            pool,
            speed,
            trusted,
            address,
            members,
            services,
            script,
        } = self;
        vec![
            sourced("boot", boot, Reboot),
            sourced("image", image, Reboot),
            sourced("root", root, Reboot),
            sourced("writes", writes, Reboot),
            sourced("loader", loader, Reboot),
            sourced("kernel args", kernel_args, Reboot),
            sourced("gateway", gateway, Reboot),
            sourced("dns", dns, Live),
            sourced("pool", pool, Live),
            sourced("speed", speed, Live),
            sourced("trusted", trusted, Live),
            // What the machine's address is while it has the profile; the agent changes it.
            sourced("profile address", address, Live),
            sourced("members", members, Live),
            sourced("services", services, Live),
            sourced("script", script, Live),
        ]
    }
}

impl Node {
    /// What it is known by, and what it can be.
    pub fn rows(&self) -> Vec<Row> {
        let Node { name: _, entry: _, mac, uuid, address, profile_origin, choices } = self;
        let profiles: Vec<_> = choices.iter().map(|choice| &choice.profile).collect();
        vec![
            maybe("mac", mac, Effect::Reboot),
            maybe("uuid", uuid, Effect::Reboot),
            maybe("address", address, Effect::Reboot),
            Row { origin: Some(profile_origin.clone()), ..plain("profile", profiles, Effect::Live) },
        ]
    }
}

impl Master {
    /// Every setting of the master's part.
    pub fn rows(&self) -> Vec<Row> {
        use Effect::{Live, Restart};
        let Master {
            interface,
            address,
            dhcp,
            range,
            lease_seconds,
            gateway,
            dns,
            unknown,
            unknown_profile,
            member,
            http_port,
        } = self;
        vec![
            plain("interface", interface, Restart),
            plain("address", address, Restart),
            plain("dhcp", dhcp, Restart),
            plain("range", range.map(|(first, last)| format!("{first}-{last}")), Live),
            plain("lease", duration(*lease_seconds), Live),
            plain("gateway", gateway, Live),
            plain("dns", dns, Live),
            plain("unknown", unknown, Live),
            plain("unknown profile", unknown_profile, Live),
            plain("member", member, Restart),
            plain("ports", http_port, Restart),
        ]
    }
}

impl Image {
    /// Every setting of an image: each change makes a new build, which nodes see when they boot.
    pub fn rows(&self) -> Vec<Row> {
        let Image { from, packages, post_install, mirror } = self;
        vec![
            plain("from", from, Effect::Reboot),
            plain("packages", packages, Effect::Reboot),
            plain("post install", post_install, Effect::Reboot),
            plain("mirror", mirror, Effect::Reboot),
        ]
    }
}

impl Pool {
    /// Every setting of a pool.
    pub fn rows(&self) -> Vec<Row> {
        let Pool { share } = self;
        vec![plain("share", share, Effect::Live)]
    }
}
