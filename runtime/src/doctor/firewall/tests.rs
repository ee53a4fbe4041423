use super::super::Verdict;
use super::*;

pub(super) fn packet(way: Way, udp: bool, port: u16) -> Packet {
    Packet {
        way,
        interface: "eth0".into(),
        udp,
        port,
        own: Ipv4Addr::new(192, 168, 45, 11),
        other: Some(Ipv4Addr::new(192, 168, 45, 12)),
        purpose: "members find each other",
    }
}

fn rule(about: Option<bool>, then: Then) -> Rule {
    Rule { about, then }
}

fn left(drops: bool, rules: Vec<Rule>) -> bool {
    let other = Chain { rules: vec![rule(Some(true), Then::Drop)], ..Chain::default() };
    let back = Chain { rules: vec![rule(Some(true), Then::Return)], ..Chain::default() };
    let base = Chain { is_base: true, drops, rules };
    let circle = Chain { rules: vec![rule(Some(true), Then::Jump("circle".into()))], ..Chain::default() };
    let named = [("base", base), ("drop", other), ("return", back), ("circle", circle)];
    dropping(&named.into_iter().map(|(name, chain)| (name.to_owned(), chain)).collect()).is_some()
}

#[test]
fn the_first_rule_about_the_packet_says() {
    let (yes, no, perhaps) = (Some(true), Some(false), None);
    assert!(!left(false, vec![]) && left(true, vec![]));
    assert!(left(false, vec![rule(no, Then::Accept), rule(yes, Then::Drop), rule(yes, Then::Accept)]));
    assert!(!left(true, vec![rule(yes, Then::Nothing), rule(yes, Then::Accept)]));
    // What might let it pass does, and what might drop it says nothing.
    assert!(!left(true, vec![rule(perhaps, Then::Accept)]));
    assert!(!left(false, vec![rule(perhaps, Then::Drop)]));
    assert!(left(true, vec![rule(perhaps, Then::Drop)]));
    assert!(!left(true, vec![rule(yes, Then::Unknown)]));
}

#[test]
fn chains_are_entered_and_left() {
    let yes = Some(true);
    let jump = |to: &str| rule(yes, Then::Jump(to.into()));
    assert!(left(false, vec![jump("drop")]));
    assert!(!left(true, vec![jump("return"), rule(yes, Then::Accept)]));
    // After goto nothing comes back: the base chain's policy is next.
    assert!(left(true, vec![rule(yes, Then::Goto("return".into())), rule(yes, Then::Accept)]));
    assert!(!left(true, vec![jump("nowhere")]) && !left(true, vec![jump("circle")]));
    assert!(left(true, vec![rule(None, Then::Jump("return".into()))]));
}

#[test]
fn what_could_not_be_read_is_said() {
    let packets = [packet(Way::In, true, 7445)];
    let judged = |nft: Option<Result<&str, &str>>| {
        let nft = nft.map(|read| read.map(str::to_owned).map_err(str::to_owned));
        lets_pass(&Listed { nft, iptables: None }, &packets)
    };
    assert_eq!(judged(None).verdict, Verdict::Ok);
    assert_eq!(judged(Some(Err("Operation not permitted"))).verdict, Verdict::Warn);
    let empty = judged(Some(Ok(r#"{"nftables": []}"#)));
    assert_eq!(empty, Finding::ok("firewall", "no rule here drops udp 7445"));
    let drops = r#"{"nftables": [{"chain": {"family": "inet", "table": "f", "name": "in", "hook": "input",
        "type": "filter", "prio": 0, "policy": "drop"}}]}"#;
    let told = judged(Some(Ok(drops)));
    assert_eq!(
        told.finding,
        "drops what goes to UDP port 7445 (members find each other) by the chain inet f in"
    );
    assert_eq!(
        told.mend.unwrap(),
        "`nft insert rule inet f in iifname eth0 udp dport 7445 accept`, and for good in this system's firewall settings"
    );
}
