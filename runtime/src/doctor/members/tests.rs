use super::super::Verdict;
use super::*;

fn other(name: &str, up: bool, reach: Reach) -> Other {
    Other { name: name.into(), address: None, up, reach: Some(reach) }
}

fn told(others: &[Other]) -> Vec<(Verdict, String)> {
    all_there(others, 7444).into_iter().map(|found| (found.verdict, found.finding)).collect()
}

#[test]
fn who_is_missing_is_told_with_what_stands_behind_it() {
    let up = other("n2", true, Reach::Answers);
    assert_eq!(told(&[]), [(Verdict::Ok, "cluster.yaml names no other node".to_owned())]);
    assert_eq!(told(std::slice::from_ref(&up)), [(Verdict::Ok, "1 of 1 other nodes are there".to_owned())]);
    let all = [
        up,
        other("n3", false, Reach::Answers),
        other("n4", false, Reach::Refuses),
        other("n5", false, Reach::NoWay("Network is unreachable".into())),
        other("n6", false, Reach::Silent),
    ];
    let head = "1 of 5 other nodes are there; ";
    assert_eq!(
        told(&all),
        [
            (Verdict::Fail, format!("{head}answer by TCP, and are not heard by UDP: n3")),
            (Verdict::Fail, format!("{head}on, but no agent listens at TCP port 7444: n4")),
            (Verdict::Fail, format!("{head}no way leads to n5 (Network is unreachable)")),
            (Verdict::Warn, format!("{head}nothing is heard of n6")),
        ]
    );
    // Where another one's firewall is why nobody is seen, one that is off is no more than that.
    let verdicts: Vec<_> =
        told(&[all[1].clone(), all[4].clone()]).into_iter().map(|(verdict, _)| verdict).collect();
    assert_eq!(verdicts, [Verdict::Fail, Verdict::Warn]);
}

#[test]
fn whoever_sees_itself_alone_has_something_wrong() {
    let alone = told(&[other("n2", false, Reach::Silent), other("n3", false, Reach::Silent)]);
    assert_eq!(
        alone,
        [(Verdict::Fail, "0 of 2 other nodes are there; nothing is heard of n2, n3".to_owned())]
    );
}

#[test]
fn members_are_reached_by_tcp_too() {
    let (good, off) = (other("n2", true, Reach::Answers), other("n9", false, Reach::Silent));
    assert_eq!(
        reached(&[good.clone(), off.clone()], 7444),
        Finding::ok("TCP", "port 7444 of 1 members answers")
    );
    let bad =
        reached(&[good, other("n3", true, Reach::Silent), other("n4", true, Reach::Refuses), off], 7444);
    assert_eq!(bad.verdict, Verdict::Fail);
    assert!(bad.finding.ends_with(": n3 does not answer, n4 refuses"), "{}", bad.finding);
}

#[test]
fn a_master_answers_for_all_its_services() {
    let of = |control: Reach, http: Reach| {
        let found = master(Ipv4Addr::new(10, 0, 0, 1), &[("agents", 7443, control), ("HTTP", 80, http)]);
        (found.verdict, found.finding)
    };
    let all = "10.0.0.1 answers for agents (TCP port 7443), HTTP (TCP port 80)".to_owned();
    assert_eq!(of(Reach::Answers, Reach::Answers), (Verdict::Ok, all));
    let one = "10.0.0.1 does not answer for HTTP (TCP port 80)".to_owned();
    assert_eq!(of(Reach::Answers, Reach::Silent), (Verdict::Fail, one));
    let refused = "10.0.0.1 refuses agents (TCP port 7443)".to_owned();
    assert_eq!(of(Reach::Refuses, Reach::Answers), (Verdict::Fail, refused));
    let no_way = Reach::NoWay("Network is unreachable".into());
    let lost = "no way leads to 10.0.0.1: Network is unreachable".to_owned();
    assert_eq!(of(no_way, Reach::Answers), (Verdict::Fail, lost));
}

#[test]
fn a_number_is_one_nodes() {
    let node = |name: &str, address: [u8; 4]| (name.to_owned(), Ipv4Addr::from(address));
    let nodes = [node("n1", [10, 1, 0, 7]), node("n2", [10, 1, 0, 8]), node("n3", [10, 2, 0, 7])];
    assert_eq!(numbers(&nodes[..2]), Finding::ok("numbers", "2 nodes have one each"));
    let twice = numbers(&nodes);
    assert_eq!(
        (twice.verdict, &twice.finding[..]),
        (Verdict::Fail, "7 is that of n1 (10.1.0.7) and n3 (10.2.0.7)")
    );
}

#[test]
fn a_map_has_this_node_and_no_loopback() {
    let own = Ipv4Addr::new(192, 168, 10, 2);
    assert_eq!(map(None, own).verdict, Verdict::Ok);
    assert_eq!(map(Some("1 192.168.10.1 4"), own).verdict, Verdict::Ok);
    let without = map(Some("1 192.168.10.3 4"), own);
    assert_eq!(without.finding, "it was set by hand, and 192.168.10.2, this node's address, is not in it");
    assert_eq!(
        map(Some("1 127.0.0.1 1\n2 192.168.10.1 4"), own).finding,
        "it has 127.0.0.1, which is each node itself"
    );
    assert_eq!(map(Some("1"), own).verdict, Verdict::Fail);
}
