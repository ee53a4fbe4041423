//! Every program of the list moves several times in mid-run (`make soak`), on nodes that are namespaces or on virtual
//! ones with the kernel of Debian 12. Arguments: `namespace` or `vm`; and words that the names of those programs
//! have which are to run, all if none is said. Needs root.

use std::time::Duration;

use tesela_tests::lab::Lab;
use tesela_tests::programs::{PROGRAMS, Tour, cluster, tour};

const OTHER_DEBIAN: &str = "  n3: {profile: other}\n";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let (kind, wanted) = words.split_first().unwrap_or_else(|| panic!("namespace or vm?"));
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    let programs: Vec<_> = PROGRAMS.iter().filter(|program| is_wanted(program.name)).collect();
    assert!(!programs.is_empty(), "no program has any of {wanted:?} in its name");
    let cluster = cluster("soak", PROGRAMS);
    // Virtual nodes are emulated where the machine has no KVM, and a process moves between kernels that are alike.
    let (cluster, size) = match kind.as_str() {
        "namespace" => (cluster, 20_000_000),
        "vm" => (cluster.replace(OTHER_DEBIAN, ""), 1_000_000),
        other => panic!("namespace or vm, not {other}"),
    };
    let lab = Lab::of(&cluster, &["--kind", kind, "--nodes", "3"]);
    let places = ["n2", "n3", "home", "n3", "n2", "home"];
    tour(&lab, Tour { places: &places, size, limit: Duration::from_secs(900) }, programs);
}
