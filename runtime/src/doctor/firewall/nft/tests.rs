//! The listing of a real nft.

use super::super::tests::packet;
use super::*;

/// As nft 1.0.6 has listed it.
const LISTED: &str = include_str!("ruleset.json");

fn dropped(packet: &Packet) -> bool {
    let chain = drops(LISTED, packet);
    assert!(chain.iter().all(|(name, _)| name == "inet filter input"), "{chain:?}");
    chain.is_some()
}

#[test]
fn packets_go_the_way_of_the_rules() {
    let of = |udp, port, other: [u8; 4]| Packet { other: Some(other.into()), ..packet(Way::In, udp, port) };
    let (member, stranger, ten) = ([192, 168, 45, 12], [192, 168, 45, 13], [10, 1, 2, 3]);
    for (packet, drops) in [
        // By the policy; a range in a set; a set by its name; maps of verdicts, by their name and not.
        (of(true, 7445, member), true),
        (of(true, 7001, member), false),
        (of(false, 7444, member), false),
        (of(false, 7443, stranger), true),
        (of(false, 7444, stranger), false),
        (of(false, 80, ten), false),
        // A chain that comes back, and one that is gone to.
        (of(false, 22, stranger), true),
        (of(true, 67, stranger), false),
        (of(true, 4011, stranger), true),
        (of(true, 69, stranger), true),
    ] {
        assert_eq!(dropped(&packet), drops, "{packet:?}");
    }
    let by = |interface: &str| Packet { interface: interface.into(), ..of(true, 7445, member) };
    assert_eq!(["eth0", "wlan0", "lo"].map(|name| dropped(&by(name))), [true, false, false]);
    // Where the other is anybody, a rule about an address may be about him.
    assert!(!dropped(&Packet { other: None, ..of(false, 7443, member) }));
    assert!(!dropped(&packet(Way::Out, true, 7445)));
}

#[test]
fn the_mend_is_a_rule_before_the_others() {
    let (_, mend) = drops(LISTED, &packet(Way::In, true, 7445)).unwrap();
    assert_eq!(mend, "nft insert rule inet filter input iifname eth0 udp dport 7445 accept");
}

#[test]
fn what_is_not_known_drops_nothing() {
    let udp = packet(Way::In, true, 7445);
    let with = |statements: &str| {
        let base = r#"{"chain": {"family": "ip", "table": "t", "name": "c", "type": "filter", "hook": "prerouting",
            "prio": -300, "policy": "accept"}}"#;
        let rule =
            format!(r#"{{"rule": {{"family": "ip", "table": "t", "chain": "c", "expr": [{statements}]}}}}"#);
        drops(&format!(r#"{{"nftables": [{base}, {rule}]}}"#), &udp).is_some()
    };
    assert!(with(r#"{"drop": null}"#));
    for statements in [
        r#"{"xt": null}"#,
        r#"{"xt": null}, {"drop": null}"#,
        r#"{"limit": {"rate": 5}}, {"drop": null}"#,
        r#"{"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": 7}}, {"drop": null}"#,
        r#"{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": "@gone"}},
           {"drop": null}"#,
        r#"{"match": {"op": "!=", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 22}},
           {"drop": null}"#,
        r#"{"queue": null}"#,
    ] {
        assert!(!with(statements), "{statements}");
    }
    assert!(
        ["", "[]", "{}", r#"{"nftables": [7, {"rule": 1}, {"chain": []}]}"#]
            .map(|it| drops(it, &udp))
            .iter()
            .all(Option::is_none)
    );
}

#[test]
fn a_limit_for_each_of_a_set_drops_nothing_for_certain() {
    let drops_with = |kept: &str| {
        let set = format!(
            r#"{{"set": {{"op": "update", "elem": {{"payload": {{"protocol": "ip", "field": "saddr"}}}}, "set": "@flood"{kept}}}}}"#
        );
        let listed = format!(
            r#"{{"nftables": [{{"chain": {{"family": "inet", "table": "filter", "name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}}}},
            {{"rule": {{"family": "inet", "table": "filter", "chain": "input", "handle": 2, "expr": [{set}, {{"drop": null}}]}}}}]}}"#
        );
        drops(&listed, &packet(Way::In, true, 7445)).is_some()
    };
    assert!(drops_with(""));
    assert!(drops_with(r#", "stmt": [{"counter": null}]"#));
    assert!(!drops_with(r#", "stmt": [{"limit": {"rate": 10, "per": "second"}}]"#));
}
