use super::*;

#[test]
fn the_example_of_the_design_resolves() {
    let cluster = parse(include_str!("../../../configs/aula.yaml"), "aula.yaml").unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(cluster.nodes.len(), 18);
    assert_eq!(cluster.node("n16").unwrap().address.as_ref().unwrap().value, "192.168.45.26".parse::<std::net::Ipv4Addr>().unwrap());
}
