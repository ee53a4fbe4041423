//! What the running master knows of the nodes.

use std::collections::BTreeMap;

use tesela_runtime::doctor::{Finding, list};

use crate::inventory::Stage;
use crate::web::views::NodeView;

/// A node, as far as it is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub name: String,
    /// None: it was never heard of.
    pub stage: Option<Stage>,
    /// It has been in this stage for too long.
    pub stuck: bool,
    /// What it has reported of its boot, or what keeps it from its root.
    pub trouble: Option<String>,
    /// Its agent's version.
    pub agent: Option<String>,
    /// It has its own system, and becomes a member by `teselad join`.
    pub joins: bool,
    /// Its clock, in milliseconds ahead of the master's.
    pub ahead_ms: Option<i64>,
}

impl Seen {
    pub(super) fn of(node: &NodeView) -> Self {
        let state = node.state.as_ref();
        let member = state.filter(|state| state.stage == Stage::Member);
        Self {
            name: node.name.clone(),
            stage: state.map(|state| state.stage),
            stuck: state.is_some_and(|state| state.overran == Some(state.stage)),
            trouble: node.trouble.clone().or_else(|| state?.failure.clone()),
            joins: node.has_own_system,
            agent: member.and_then(|state| state.agent.clone()),
            ahead_ms: member.and_then(|state| state.vitals?.ahead_ms),
        }
    }
}

/// All nodes of cluster.yaml are members; where one is not, how far it has come.
pub(super) fn stages(nodes: &[Seen]) -> Vec<Finding> {
    const WHAT: &str = "nodes";
    let members = nodes.iter().filter(|node| node.stage == Some(Stage::Member)).count();
    let mut troubles: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        if let Some(trouble) = &node.trouble {
            let trouble: Vec<&str> = trouble.lines().map(str::trim).collect();
            troubles.entry(trouble.join(" ")).or_default().push(&node.name);
        }
    }
    let mut found: Vec<Finding> = troubles
        .into_iter()
        .map(|(trouble, names)| {
            let mend = format!(
                "then `tesela apply`, or another boot; `tesela node log {}` has the history",
                names[0]
            );
            Finding::fail(WHAT, format!("{}: {trouble}", list(names)), mend)
        })
        .collect();
    let well = || nodes.iter().filter(|node| node.trouble.is_none());
    for node in well().filter(|node| node.stuck) {
        let Some(stage) = node.stage else { continue };
        let mend = format!("{}; `tesela node log {}` has its history", after(stage), node.name);
        found.push(Finding::fail(WHAT, format!("{} is stuck in stage {stage}", node.name), mend));
    }
    let named = |of: &dyn Fn(&Seen) -> bool| {
        let names: Vec<&str> = well().filter(|node| of(node)).map(|node| &node.name[..]).collect();
        (!names.is_empty()).then(|| list(names))
    };
    if let Some(names) = named(&|node| node.stage == Some(Stage::Silent)) {
        let mend = "the network to them fails, or their agents have ended: `systemctl restart teselad` there";
        found.push(Finding::fail(WHAT, format!("members whose agents are not heard of: {names}"), mend));
    }
    if let Some(names) = named(&|node| node.stage == Some(Stage::Down)) {
        let mend =
            "switch them on; one that is on has no network, or no agent: `doctor` there says what is wrong";
        found.push(Finding::warn(WHAT, format!("down: {names}"), mend));
    }
    if let Some(names) = named(&|node| node.stage.is_none() && node.joins) {
        let mend = "`tesela node token NODE` here prints what `teselad join` on that machine needs; where it has joined, \
                    `teselad doctor` there says what is wrong";
        found.push(Finding::warn(WHAT, format!("never heard of, each with its own system: {names}"), mend));
    }
    if let Some(names) = named(&|node| node.stage.is_none() && !node.joins) {
        let mend = "switch them on, with network boot first; a machine that cluster.yaml does not know is in `tesela node \
                    list --unknown`, and `tesela node accept` makes it one of these";
        found.push(Finding::warn(WHAT, format!("never heard of: {names}"), mend));
    }
    if found.is_empty() {
        found.push(match nodes.len() {
            0 => Finding::ok(
                WHAT,
                "cluster.yaml names none yet; machines that boot are in `tesela node list --unknown`",
            ),
            all if all == members => Finding::ok(WHAT, format!("members: all {all}")),
            all => Finding::ok(WHAT, format!("{members} of {all} are members, and the others boot")),
        });
    }
    found
}

/// What usually keeps a node in a stage.
fn after(stage: Stage) -> &'static str {
    match stage {
        Stage::Dhcp => "it asks and does not fetch: TFTP (UDP port 69) is filtered on the way",
        Stage::Loader => "HTTP is filtered on the way, or the image is not built",
        Stage::Agent => {
            "its agent does not come through to the control port (TCP 7443): `doctor` there says why"
        }
        _ => "its console shows what it waits for",
    }
}

/// All agents are of this master's version.
pub(super) fn versions(own: &str, nodes: &[Seen]) -> Finding {
    const WHAT: &str = "versions";
    let told = || nodes.iter().filter_map(|node| Some((&node.name, node.agent.as_deref()?)));
    let other: Vec<String> = told()
        .filter(|(_, version)| *version != own)
        .map(|(name, version)| format!("{name} has {version}"))
        .collect();
    if told().next().is_none() {
        return Finding::ok(WHAT, format!("this master has {own}, and no agent has told its own yet"));
    }
    if other.is_empty() {
        return Finding::ok(WHAT, format!("{own}, of this master and {} agents", told().count()));
    }
    Finding::fail(
        WHAT,
        format!("this master has {own}, and {}", list(other)),
        "the agent is a part of the image: `tesela image build`, then boot these nodes again; a machine that has joined \
         has its own: install this master's package tesela-node there",
    )
}

#[cfg(test)]
mod tests {
    use tesela_runtime::doctor::Verdict::{Fail, Ok as Well, Warn};

    use super::*;

    fn node(name: &str, stage: Option<Stage>) -> Seen {
        Seen { name: name.into(), stage, ..Seen::default() }
    }

    fn judged(nodes: &[Seen]) -> Vec<(tesela_runtime::doctor::Verdict, String)> {
        stages(nodes).into_iter().map(|found| (found.verdict, found.finding)).collect()
    }

    #[test]
    fn members_and_nodes_that_boot_are_well() {
        assert_eq!(judged(&[])[0].0, Well);
        let member = node("n1", Some(Stage::Member));
        assert_eq!(judged(std::slice::from_ref(&member)), [(Well, "members: all 1".to_owned())]);
        let boots = node("n2", Some(Stage::Kernel));
        assert_eq!(judged(&[member, boots]), [(Well, "1 of 2 are members, and the others boot".to_owned())]);
    }

    #[test]
    fn what_keeps_a_node_is_told() {
        let nodes = [
            node("n1", Some(Stage::Member)),
            Seen { trouble: Some("the image\n `base` is not built".into()), ..node("n2", None) },
            Seen { trouble: Some("the image `base` is not built".into()), ..node("n8", None) },
            Seen { stuck: true, ..node("n3", Some(Stage::Dhcp)) },
            node("n4", Some(Stage::Silent)),
            node("n5", Some(Stage::Down)),
            node("n6", None),
            node("n7", None),
            Seen { joins: true, ..node("n9", None) },
        ];
        let told = |verdict, text: &str| (verdict, text.to_owned());
        assert_eq!(
            judged(&nodes),
            [
                told(Fail, "n2, n8: the image `base` is not built"),
                told(Fail, "n3 is stuck in stage dhcp"),
                told(Fail, "members whose agents are not heard of: n4"),
                told(Warn, "down: n5"),
                told(Warn, "never heard of, each with its own system: n9"),
                told(Warn, "never heard of: n6, n7"),
            ]
        );
        assert!(stages(&nodes)[1].mend.as_ref().unwrap().contains("UDP port 69"));
    }

    #[test]
    fn agents_have_the_masters_version() {
        let with = |version: &str| Seen { agent: Some(version.into()), ..node("n1", Some(Stage::Member)) };
        let well = versions("0.2.0", &[with("0.2.0"), node("n2", None)]);
        assert_eq!(well, Finding::ok("versions", "0.2.0, of this master and 1 agents"));
        assert_eq!(versions("0.2.0", &[node("n2", None)]).verdict, Well);
        let other = versions("0.2.0", &[with("0.1.0")]);
        assert_eq!((other.verdict, &other.finding[..]), (Fail, "this master has 0.2.0, and n1 has 0.1.0"));
    }
}
