//! `tesela image rm`: no root loses the build that it is on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;
use std::process::{Command, Output};

use tesela::nfs::union::{NodeExport, Union, Writes};

fn remove(state: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tesela"))
        .args(["image", "rm", "base", "--config", "/nonexistent/cluster.yaml", "--state"])
        .arg(state)
        .output()
        .unwrap()
}

#[test]
fn an_image_stays_while_a_node_is_on_a_build_of_it() {
    let state = tempfile::tempdir().unwrap();
    let build = state.path().join("images/base/b1");
    std::fs::create_dir_all(build.join("root/etc")).unwrap();
    let index = tesela_node_image::index::scan(&build.join("root")).unwrap();
    index.write(&build.join("index")).unwrap();
    let node =
        NodeExport { name: "n1".into(), address: None, image_dir: build.clone(), writes: Writes::Keep };
    let union = Union::open(state.path()).unwrap();
    union.set_nodes(&[node]).unwrap();

    let refused = remove(state.path());
    assert_eq!(refused.status.code(), Some(1));
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(why.contains("the roots of n1") && why.contains("node forget"), "{why}");
    assert!(build.exists());

    union.set_nodes(&[]).unwrap();
    union.forget("n1").unwrap();
    let removed = remove(state.path());
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    assert!(!build.exists());
}
