//! Whole files: what holds, what does not, what it comes to, and what would change.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn cluster(text: &str) -> Cluster {
    parse(text, "cluster.yaml").unwrap_or_else(|problems| panic!("{problems}"))
}

fn problems(text: &str) -> Vec<(usize, usize, String)> {
    let problems = parse(text, "cluster.yaml").expect_err("this does not hold");
    problems.list.into_iter().map(|problem| (problem.line, problem.column, problem.message)).collect()
}

fn example(name: &str) -> String {
    std::fs::read_to_string(format!("{}/../configs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn the_examples_hold() {
    for (name, nodes) in [("aula.yaml", 18), ("home.yaml", 3), ("rack.yaml", 40), ("lab.yaml", 16)] {
        assert_eq!(cluster(&example(name)).nodes.len(), nodes, "{name}");
    }
}

#[test]
fn ranges_count_names_and_addresses_up() {
    let rack = cluster(&example("rack.yaml"));
    let node = rack.node("r1n20").unwrap();
    assert_eq!(
        node.address,
        Some(Sourced { value: Ipv4Addr::new(10, 20, 1, 20), origin: Origin::Range(28) })
    );
    let big = rack.node("big2").unwrap();
    assert_eq!(big.mac.as_ref().unwrap().value.to_string(), "0c:c4:7a:00:00:02");
    assert_eq!(big.line, 30);
}

#[test]
fn every_value_knows_where_it_was_said() {
    let shown = show(cluster(&example("rack.yaml")).node("big1").unwrap());
    insta::assert_snapshot!(shown);
    insta::assert_snapshot!(show(cluster(&example("aula.yaml")).node("cristina").unwrap()));
}

#[test]
fn a_profile_that_comes_by_two_ways_counts_once() {
    let text = "cluster: a
master: {interface: e, address: 10.0.0.1/24, range: 10.0.0.9-10.0.0.12}
images: {i: {from: host:/}, j: {from: host:/}}
profiles:
  low: {image: i, kernel args: [a, b]}
  left: {inherits: low, image: j, kernel args: [~a]}
  right: {inherits: low, kernel args: [c]}
  top: {inherits: [left, right]}
nodes:
  n: {profile: top, kernel args: [~b, d], address: 10.0.0.10}
";
    let cluster = cluster(text);
    let settings = cluster.node("n").unwrap().settings();
    assert_eq!(settings.image.value.as_deref(), Some("j"));
    assert_eq!(settings.kernel_args.value, ["c", "d"]);
    assert_eq!(cluster.profiles["top"].kernel_args.value, ["b", "c"]);
    let dynamic: Vec<_> = cluster.dynamic_addresses().map(|address| address.octets()[3]).collect();
    assert_eq!(dynamic, [9, 11, 12], "a node's own address is not given to another");
}

#[test]
fn a_file_that_is_no_yaml_says_where() {
    assert_eq!(problems("")[0].2, "the file is empty");
    let [(line, column, message)] = &problems("cluster: a\nmaster: {interface: e\nnodes:\n")[..] else {
        panic!()
    };
    assert!(
        (*line, *column) > (1, 1) && message.starts_with("this is no YAML"),
        "{line}:{column}: {message}"
    );
    assert!(problems("a: b\n---\nc: d\n").iter().any(|(line, ..)| *line == 2));
    assert!(
        !problems("[1, 2]").is_empty() && !problems("word").is_empty() && !problems("\u{feff}").is_empty()
    );
}

#[test]
fn on_a_terminal_the_place_is_framed() {
    let text = "cluster: a\nmaster:\n  interface: eth0\n  interface: eth1\n  adress: 10.0.0.1/24\n";
    insta::assert_snapshot!(parse(text, "cluster.yaml").unwrap_err().graphical(80, false));
}

#[test]
fn bombs_are_refused() {
    let mut aliases = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let item = format!("*a{}", level - 1);
        aliases += &format!("a{level}: &a{level} [{}]\n", [item.as_str(); 10].join(", "));
    }
    assert!(problems(&aliases)[0].2.contains("more than"));
    assert!(!problems("a: &a [*a]").is_empty());
    assert!(!problems(&"[".repeat(10_000)).is_empty());
    let many = "cluster: a\nnodes: {\"n[1-100000]\": {profile: x}, \"m[1-9]\": {profile: x}}";
    assert!(problems(many).iter().any(|(.., message)| message.contains("more than 100000 nodes")));
}

#[test]
fn nothing_follows_from_what_was_refused_already() {
    // One mistake, one problem: not also a missing key, image or profile.
    for (wrong, message) in [
        ("master: {interface: eth0, address: 10.0.0.1}", "`10.0.0.1` is no address with the length"),
        ("master: {interface: eth0, adress: 10.0.0.1/8}", "`adress` is no key"),
        (
            "images: {i: {from: tar}}\nprofiles: {p: {image: i}}\nnodes: {n: {profile: p}}",
            "`tar` is no source",
        ),
        ("profiles: {p: {image: ''}}\nnodes: {n: {profile: p}}", "`` cannot be a name"),
        ("profiles: {p: {boot: disc}}\nnodes: {n: {profile: p}}", "`disc` is none of"),
        ("profiles: {p: 1}\nnodes: {n: {profile: p, boot: disk}}", "here belongs a mapping"),
        ("nodes: {n: {profile: []}}", "this list of profiles is empty"),
    ] {
        let mut text = format!("cluster: a\n{wrong}\n");
        if !wrong.contains("master") {
            text += "master: {interface: e, address: 10.0.0.1/8, range: 10.0.0.2-10.0.0.3}\n";
        }
        let problems = problems(&text);
        assert!(problems.len() == 1 && problems[0].2.starts_with(message), "{wrong}: {problems:?}");
    }
}

#[test]
fn the_plan_says_what_it_takes() {
    let text = example("rack.yaml");
    let old = cluster(&text);
    let edited = text
        .replace("mitigations=off", "mitigations=auto")
        .replace("lease: 1h", "lease: 2h")
        .replace("r2n[01-18]", "r2n[01-19]")
        .replace("  big[1-2]:", "  huge[1-2]:")
        .replace("share: manual", "share: always")
        .replace("speed: 10000", "speed: 11000");
    insta::assert_snapshot!(plan(&old, &cluster(&edited)));
    let moved = text.replace("eno2", "eno3").replace("python3", "python3-full");
    let plan = plan(&old, &cluster(&moved));
    assert!(plan.restarts());
    assert_eq!(plan.reboots().to_string(), "r1n[01-20],r2n[01-18],big[1-2]");
}

/// A file put together from parts that each may be there in several ways.
fn any_file() -> impl Strategy<Value = String> {
    let one_of = |choices: &'static [&'static str]| prop::sample::select(choices);
    let settings = (
        one_of(&["", "root: ram, "]),
        one_of(&["", "writes: discard, ", "writes: keep, "]),
        one_of(&["", "kernel args: [a], ", "kernel args: [a, b], "]),
        one_of(&[
            "",
            "dns: [9.9.9.9], ",
            "gateway: 10.0.0.2, ",
            "speed: 7, ",
            "trusted: true, ",
            "script: x, ",
        ]),
        one_of(&["", "pool: p, ", "loader: grub, ", "members: [{id: 1, address: 10.0.0.9}], "]),
        one_of(&["", "services: {start: [s]}, ", "services: {stop: [s]}, "]),
    );
    let settings = settings.prop_map(|(a, b, c, d, e, f)| [a, b, c, d, e, f].concat()).boxed();
    let master = (
        one_of(&["interface: e0, ", "interface: e1, "]),
        one_of(&["address: 10.0.0.1/24, ", "address: 10.0.0.4/24, "]),
        one_of(&["", "lease: 1h, ", "unknown: ignore, ", "unknown profile: low, ", "member: false, "]),
        one_of(&["", "gateway: 10.0.0.3, ", "dns: [10.0.0.1], ", "ports: {http: 8080}, "]),
        one_of(&["range: 10.0.0.100-10.0.0.110", "range: 10.0.0.100-10.0.0.111"]),
    );
    let master = master.prop_map(|(a, b, c, d, e)| [a, b, c, d, e].concat());
    let nodes =
        prop::collection::vec((1..6u8, 20..40u8, 0..3usize, settings.clone(), any::<Option<u8>>()), 0..4);
    let image = one_of(&["", ", packages: [x]", ", post install: /x", ", mirror: 'http://x'"]);
    let share = one_of(&["always", "manual", "{idle: 5m}"]);
    (master, image, settings.clone(), settings, share, nodes).prop_map(|(master, image, low, high, share, nodes)| {
        let mut text = format!(
            "cluster: a\nmaster: {{{master}}}\nimages: {{i: {{from: host:/{image}}}}}\npools: {{p: {{share: {share}}}}}\n\
             profiles:\n  low: {{{low}image: i}}\n  high: {{{high}inherits: low}}\nnodes:\n"
        );
        let mut seen = std::collections::HashSet::new();
        for (index, (name, address, profile, settings, mac)) in nodes.into_iter().enumerate() {
            let address = u8::try_from(usize::from(address) + 20 * index).unwrap();
            if seen.insert(name) && seen.insert(address) {
                let profile = ["low", "high", "[high, low]"][profile];
                let mac = mac.map(|mac| format!("mac: 02:00:00:00:{index:02x}:{mac:02x}, ")).unwrap_or_default();
                text += &format!("  n{name}: {{{mac}{settings}address: 10.0.0.{address}, profile: {profile}}}\n");
            }
        }
        text
    })
}

/// A cluster without where its values were said, and with its nodes in the order of their names.
fn stripped(mut cluster: Cluster) -> serde_json::Value {
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(map) => {
                map.remove("origin");
                map.remove("line");
                map.values_mut().for_each(strip);
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    cluster.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let mut value = serde_json::to_value(cluster).unwrap();
    strip(&mut value);
    value
}

proptest! {
    #[test]
    fn the_plan_mentions_every_difference(old in any_file(), new in any_file()) {
        let (old, new) = (cluster(&old), cluster(&new));
        prop_assert!(plan(&old, &old).is_empty());
        let there = plan(&old, &new);
        prop_assert_eq!(there.is_empty(), stripped(old.clone()) == stripped(new.clone()), "{}", there);
        for node in &new.nodes {
            let stripped = |cluster: &Cluster| stripped(Cluster { nodes: cluster.node(&node.name).cloned().into_iter().collect(), ..cluster.clone() });
            let differs = stripped(&old)["nodes"] != stripped(&new)["nodes"];
            prop_assert!(!differs || there.nodes.iter().any(|part| part.name == node.name), "{}: {}", node.name, there);
        }
        // Back again is the same with before and after exchanged.
        prop_assert_eq!(plan(&new, &old).nodes.len(), there.nodes.len());
    }

    #[test]
    fn nothing_makes_it_panic(text in any_file(), at in any::<prop::sample::Index>(), with in "\\PC{0,3}|[\\[\\]{}:,~*&!|>\n-]{1,3}") {
        let mut text = text;
        text.insert_str(at.index(text.len()), &with);
        if let Err(problems) = parse(&text, "x") {
            prop_assert!(problems.count() > 0 && !problems.to_string().is_empty() && !problems.graphical(80, true).is_empty());
        }
    }
}
