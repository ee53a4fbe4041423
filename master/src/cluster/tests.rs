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
    assert_eq!(big.entry, Origin::Range(30));
}

const REFINED: &str = "cluster: a
master: {interface: e, address: 10.0.0.1/24}
images: {i: {from: host:/}}
profiles:
  slow: {image: i, kernel args: [quiet]}
  fast: {image: i, speed: 20000}
nodes:
  n2: {mac: 02:00:00:00:00:02}
  n[1-4]: {address: 10.0.0.11, profile: slow, writes: discard, kernel args: [a]}
  n3: {address: 10.0.0.33, profile: fast, kernel args: [~a, b]}
  n4: ~
";

#[test]
fn an_entry_of_one_name_refines_its_range_wherever_it_stands() {
    let cluster = cluster(REFINED);
    let names: Vec<_> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["n1", "n2", "n3", "n4"]);
    let node = |name| cluster.node(name).unwrap();
    let addresses = ["n1", "n2", "n3", "n4"].map(|name| node(name).address.clone().unwrap());
    let own = |value: &str, origin| Sourced { value: value.parse::<Ipv4Addr>().unwrap(), origin };
    let range = Origin::Range(9);
    assert_eq!(addresses[0], own("10.0.0.11", range.clone()));
    assert_eq!(addresses[1], own("10.0.0.12", range.clone()));
    assert_eq!(addresses[2], own("10.0.0.33", Origin::Node(10)));
    assert_eq!(addresses[3], own("10.0.0.14", range.clone()));
    let n2 = node("n2");
    assert_eq!((&n2.mac.as_ref().unwrap().origin, &n2.profile_origin), (&Origin::Node(8), &range));
    assert_eq!((&n2.entry, &node("n1").entry), (&Origin::Node(8), &range));
    assert!(std::sync::Arc::ptr_eq(&n2.choices[0].settings, &node("n1").choices[0].settings));
    insta::assert_snapshot!(show(node("n3")));
}

#[test]
fn what_an_entry_of_one_name_cannot_do_is_told() {
    let with = |from: &str, to: &str| problems(&REFINED.replace(from, to));
    let told = |from: &str, to: &str, line: usize, message: &str| {
        let problems = with(from, to);
        let as_expected = problems.len() == 1 && problems[0].0 == line && problems[0].2.starts_with(message);
        assert!(as_expected, "{to}: {problems:?}");
    };
    told("  n4: ~", "  n[4-5]: {profile: slow, address: 10.0.0.50}", 11, "the node n4 is taken already");
    told("  n4: ~", "  n3: {}", 11, "`n3` is given twice");
    told("  n4: ~", "  m4: {}", 11, "`profile` is missing here");
    told("  n4: ~", "  m4: {profil: slow}", 11, "`profil` is no key");
    told("  n4: ~", "  m4: 5", 11, "here belongs a mapping");
    told("10.0.0.33", "10.0.0.12", 10, "the address 10.0.0.12 is taken already");
    told("10.0.0.33", "10.0.1.33", 10, "the address 10.0.1.33 of `n3` is outside");
    told("profile: fast,", "profile: fats,", 10, "there is no profile `fats`");
    told("[~a, b]", "[~c]", 10, "this takes away what no inherited list holds");
    told("address: 10.0.0.11, ", "", 9, "`n[1-4]` has no address");
    told("profile: slow,", "profile: slwo,", 9, "there is no profile `slwo`");
    told("profile: slow,", "profile: [],", 9, "this list of profiles is empty");
    // The range would count up to the master's own address, were it not for an entry of that name.
    let text = REFINED.replace("10.0.0.1/24", "10.0.0.13/24");
    assert_eq!(cluster(&text).nodes.len(), 4);
    let overlapping =
        "  n[1-4]: {address: 10.0.0.11, profile: slow}\n  n[3-6]: {address: 10.0.0.50, profile: slow}\n";
    let text = REFINED.split("  n2:").next().unwrap().to_owned() + overlapping + "  n3: {}\n";
    assert_eq!(problems(&text).len(), 1, "two ranges that overlap stay an error");
}

#[test]
fn the_plan_says_what_becomes_of_a_refined_node() {
    let old = cluster(REFINED);
    let new = cluster(&REFINED.replace("  n4: ~", "  n4: {mac: 02:00:00:00:00:04}"));
    assert_eq!(
        plan(&old, &new).to_string(),
        "node n4\n  mac              none -> 02:00:00:00:00:04  (at once)\nNo node must reboot.\n"
    );
    // With its entry the node goes back to what its range says.
    let without =
        cluster(&REFINED.replace("  n3: {address: 10.0.0.33, profile: fast, kernel args: [~a, b]}\n", ""));
    assert_eq!(plan(&old, &without).reboots().to_string(), "n3");
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
                for key in ["origin", "entry", "profile_origin"] {
                    map.remove(key);
                }
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
