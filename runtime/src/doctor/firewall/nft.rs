//! The rules as `nft -j list ruleset` lists them (libnftables-json(5)).

use std::net::Ipv4Addr;

use serde_json::Value;

use super::{Chain, Chains, Packet, Rule, Then, Way, dropping};

/// The base chain that drops the packet, and the command that lets it pass there.
pub fn drops(json: &str, packet: &Packet) -> Option<(String, String)> {
    let listed: Value = serde_json::from_str(json).ok()?;
    let chains = chains(listed.get("nftables")?.as_array()?, packet);
    let name = dropping(&chains)?;
    let interface = if packet.way == Way::In { "iifname" } else { "oifname" };
    let Packet { interface: by, port, .. } = packet;
    let mend = format!("nft insert rule {name} {interface} {by} {} dport {port} accept", packet.protocol());
    Some((name.to_owned(), mend))
}

fn chains(listed: &[Value], packet: &Packet) -> Chains {
    let mut chains = Chains::new();
    for object in listed {
        if let Some(chain) = object.get("chain") {
            let entry = chains.entry(name_in(chain, text(chain, "name"))).or_default();
            *entry = Chain {
                is_base: is_met(chain, packet),
                drops: text(chain, "policy") == "drop",
                rules: vec![],
            };
        }
    }
    for rule in listed.iter().filter_map(|object| object.get("rule")) {
        let read = read(rule, packet, listed);
        chains.entry(name_in(rule, text(rule, "chain"))).or_default().rules.push(read);
    }
    chains
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The whole name of a chain, or of a set, that stands in the table of this object.
fn name_in(object: &Value, name: &str) -> String {
    format!("{} {} {name}", text(object, "family"), text(object, "table"))
}

/// Whether the kernel leads the packet into this chain.
fn is_met(chain: &Value, packet: &Packet) -> bool {
    let hooks = match packet.way {
        Way::In => ["ingress", "prerouting", "input"].as_slice(),
        Way::Out => &["output", "postrouting"],
    };
    let family = matches!(text(chain, "family"), "ip" | "inet" | "netdev");
    // Of one interface, or of several.
    let device = match chain.get("dev") {
        None => true,
        Some(Value::Array(devices)) => devices.iter().any(|it| it.as_str() == Some(&packet.interface)),
        Some(device) => device.as_str() == Some(&packet.interface),
    };
    // Chains of NAT see a packet to say another address for it.
    family && device && text(chain, "type") != "nat" && hooks.contains(&text(chain, "hook"))
}

fn read(rule: &Value, packet: &Packet, listed: &[Value]) -> Rule {
    let mut read = Rule { about: Some(true), then: Then::Nothing };
    let statements = rule.get("expr").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for statement in statements {
        let Some((kind, value)) = statement.as_object().and_then(|fields| fields.iter().next()) else {
            continue;
        };
        match &kind[..] {
            "match" => read.about = both(read.about, is_match(rule, value, packet, listed)),
            "counter" | "log" | "comment" | "notrack" | "mangle" | "ct helper" | "flow" => {}
            "meter" | "set" => {
                if asks(value) {
                    read.about = both(read.about, None);
                }
            }
            "vmap" => match by_map(rule, value, packet, listed) {
                Ok(then) => read.then = then,
                Err(about) => {
                    read.about = both(read.about, about);
                    read.then = Then::Unknown;
                }
            },
            _ => match verdict(rule, kind, value) {
                Some(then) => read.then = then,
                // `limit`, a match of iptables (`xt`), and what later versions bring.
                None => {
                    read.about = both(read.about, None);
                    if kind != "limit" {
                        read.then = Then::Unknown;
                    }
                }
            },
        }
    }
    read
}

/// Whether a set is not only added to, but keeps a limit for each element, over which the rule goes on or ends.
fn asks(set: &Value) -> bool {
    let asks = |statement: &Value| {
        statement.as_object().is_some_and(|fields| fields.keys().any(|kind| kind != "counter"))
    };
    match set.get("stmt") {
        Some(Value::Array(statements)) => statements.iter().any(asks),
        Some(statement) => asks(statement),
        None => false,
    }
}

fn verdict(rule: &Value, kind: &str, value: &Value) -> Option<Then> {
    let target = || name_in(rule, text(value, "target"));
    Some(match kind {
        "accept" => Then::Accept,
        "drop" | "reject" => Then::Drop,
        "return" => Then::Return,
        "continue" => Then::Nothing,
        "jump" => Then::Jump(target()),
        "goto" => Then::Goto(target()),
        _ => return None,
    })
}

/// Both, where one that is false is enough to know that they are not.
fn both(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    match (one, other) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

/// Any of them, where one that is true is enough.
fn any(all: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut known = Some(false);
    for next in all {
        match next {
            Some(true) => return next,
            None => known = None,
            Some(false) => {}
        }
    }
    known
}

/// `{KEY vmap {VALUE : VERDICT, …}}`: the verdict for this packet, or whether there is one.
fn by_map(rule: &Value, map: &Value, packet: &Packet, listed: &[Value]) -> Result<Then, Option<bool>> {
    let key = map.get("key").unwrap_or(&Value::Null);
    let data = map.get("data").unwrap_or(&Value::Null);
    let data = named(rule, data, listed).or_else(|| data.get("set"));
    let elements = data.and_then(Value::as_array).ok_or(None)?;
    for element in elements {
        let Some([value, then]) = element.as_array().map(Vec::as_slice) else { return Err(None) };
        match holds(rule, key, value, packet, listed) {
            Some(false) => {}
            None => return Err(None),
            Some(true) => {
                let then = then.as_object().and_then(|fields| fields.iter().next()).ok_or(None)?;
                return verdict(rule, then.0, then.1).ok_or(None);
            }
        }
    }
    Err(Some(false))
}

fn is_match(rule: &Value, value: &Value, packet: &Packet, listed: &[Value]) -> Option<bool> {
    let (left, right) = (value.get("left")?, value.get("right")?);
    let holds = holds(rule, left, right, packet, listed);
    match text(value, "op") {
        "==" | "in" => holds,
        // Of a protocol that the packet is not, `!=` is not true either.
        "!=" if is_of_another_protocol(left, packet) => Some(false),
        "!=" => holds.map(|holds| !holds),
        _ => None,
    }
}

fn is_of_another_protocol(left: &Value, packet: &Packet) -> bool {
    let of = left.get("payload").map(|payload| text(payload, "protocol")).unwrap_or_default();
    matches!(of, "udp" | "tcp" | "icmp" | "icmpv6" | "sctp" | "dccp" | "udplite" | "ip6")
        && of != packet.protocol()
}

/// The elements of the set that `@NAME` names.
fn named<'a>(rule: &Value, value: &Value, listed: &'a [Value]) -> Option<&'a Value> {
    let wanted = name_in(rule, value.as_str()?.strip_prefix('@')?);
    let sets = listed.iter().filter_map(|object| object.get("set").or_else(|| object.get("map")));
    sets.filter(|set| name_in(set, text(set, "name")) == wanted).find_map(|set| set.get("elem"))
}

/// Whether what `left` names of the packet is `right`, or in it; none: that is not known.
fn holds(rule: &Value, left: &Value, right: &Value, packet: &Packet, listed: &[Value]) -> Option<bool> {
    if is_of_another_protocol(left, packet) {
        return Some(false);
    }
    let one_of = |values: &[Value]| any(values.iter().map(|value| holds(rule, left, value, packet, listed)));
    match right {
        Value::Array(values) => return one_of(values),
        Value::Object(fields) if fields.contains_key("set") => return one_of(fields["set"].as_array()?),
        // An element with a timeout or a comment.
        Value::Object(fields) if fields.contains_key("elem") => {
            return holds(rule, left, fields["elem"].get("val")?, packet, listed);
        }
        Value::String(name) if name.starts_with('@') => {
            return one_of(named(rule, right, listed)?.as_array()?);
        }
        _ => {}
    }
    if let Some(payload) = left.get("payload") {
        return match (text(payload, "protocol"), text(payload, "field")) {
            ("udp" | "tcp" | "th", "dport") => is_port(right, packet.port),
            ("ip", "saddr") => packet.source().and_then(|own| is_address(right, own)),
            ("ip", "daddr") => packet.destination().and_then(|own| is_address(right, own)),
            ("ip", "protocol") => is_word(right, packet.protocol()),
            _ => None,
        };
    }
    if let Some(meta) = left.get("meta") {
        return match (text(meta, "key"), packet.way) {
            ("iifname" | "iif", Way::In) | ("oifname" | "oif", Way::Out) => {
                is_interface(right, &packet.interface)
            }
            ("l4proto", _) => is_word(right, packet.protocol()),
            ("nfproto", _) => is_word(right, "ipv4"),
            ("protocol", _) => is_word(right, "ip"),
            _ => None,
        };
    }
    // The first packet of a connection is of a new one.
    if left.get("ct").is_some_and(|ct| text(ct, "key") == "state") {
        return is_word(right, "new");
    }
    None
}

fn is_word(right: &Value, word: &str) -> Option<bool> {
    Some(right.as_str()? == word)
}

/// A name may end in `*`.
fn is_interface(right: &Value, own: &str) -> Option<bool> {
    let name = right.as_str()?;
    Some(name.strip_suffix('*').map_or(name == own, |beginning| own.starts_with(beginning)))
}

fn is_port(right: &Value, port: u16) -> Option<bool> {
    if let Some([first, last]) = right.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        return Some((first.as_u64()?..=last.as_u64()?).contains(&port.into()));
    }
    Some(right.as_u64()? == u64::from(port))
}

fn is_address(right: &Value, own: Ipv4Addr) -> Option<bool> {
    let address = |value: &Value| value.as_str()?.parse::<Ipv4Addr>().ok();
    if let Some([first, last]) = right.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        return Some((address(first)?..=address(last)?).contains(&own));
    }
    if let Some(prefix) = right.get("prefix") {
        let (net, length) = (address(prefix.get("addr")?)?, prefix.get("len")?.as_u64()?);
        return Some(super::iptables::is_in(own, net, u32::try_from(length).ok()?));
    }
    Some(address(right)? == own)
}

#[cfg(test)]
mod tests;
