//! `tesela check`, `plan` and `init`: the program itself, on files that hold and files that do not.

use std::process::Command;

/// Exit status, stdout and stderr of `tesela` in the directory of the test data.
fn tesela(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tesela"))
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data"))
        .output()
        .expect("the program was built");
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{}\n-- stdout\n{stdout}-- stderr\n{stderr}", output.status)
}

#[test]
fn everything_wrong_is_told_in_one_run() {
    insta::assert_snapshot!(tesela(&["check", "wrong.yaml"]));
}

#[test]
fn what_two_claim_is_told() {
    insta::assert_snapshot!(tesela(&["check", "taken.yaml"]));
}

#[test]
fn addresses_in_proxy_mode_are_told() {
    insta::assert_snapshot!(tesela(&["check", "--config", "proxy.yaml"]));
}

#[test]
fn what_holds_is_counted() {
    insta::assert_snapshot!(tesela(&["check", "../../../configs/aula.yaml"]));
    assert!(
        tesela(&["check", "../../../configs/aula.yaml", "--json"])
            .starts_with("exit status: 0\n-- stdout\n[]\n")
    );
}

#[test]
fn what_is_no_file_fails() {
    let told = tesela(&["check", "nowhere.yaml"]);
    assert!(told.starts_with("exit status: 1\n") && told.contains("nowhere.yaml cannot be read"), "{told}");
    assert!(told.contains("tesela init"), "{told}");
    assert!(tesela(&["chekc"]).starts_with("exit status: 2\n"));
}

#[test]
fn a_plan_compares_with_what_was_applied() {
    let state = tempfile::tempdir().unwrap();
    let plan = |file| tesela(&["plan", file, "--state", state.path().to_str().unwrap()]);
    assert!(plan("../../../configs/aula.yaml").contains("Nothing was applied yet"));
    std::fs::copy("../configs/aula.yaml", state.path().join("applied.yaml")).unwrap();
    assert!(plan("../../../configs/aula.yaml").contains("Nothing would change."));
    assert!(plan("../../../configs/lab.yaml").contains("node n1\n"));
    assert!(plan("wrong.yaml").starts_with("exit status: 2\n"));
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [config, state, socket] = ["cluster.yaml", "state", "socket"].map(path);
    let serve = || tesela(&["serve", "--config", &config, "--state", &state, "--socket", &socket]);
    let told = serve();
    assert!(told.starts_with("exit status: 1\n") && told.contains("`tesela init` writes"), "{told}");
    std::fs::write(&config, "cluster: [\n").unwrap();
    assert!(serve().starts_with("exit status: 2\n"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "cluster.yaml alone");
}

#[test]
fn what_is_no_yaml_is_told_with_a_mend() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.yaml");
    for (text, mend) in [
        ("cluster: a\nmaster:\n\tinterface: eth1\n", "indent with spaces"),
        ("cluster: \"a\nmaster: {}\n", "end with the quote"),
        ("cluster: a\nnodes: {n1: {profile: node\n", "close each `{`"),
        ("cluster: a: b\n", "goes in quotes"),
        ("cluster: a\n nodes:\n  n1: {}\n", "quotes"),
        ("cluster: *a\n", "in quotes"),
    ] {
        std::fs::write(&path, text).unwrap();
        let told = tesela(&["check", path.to_str().unwrap()]);
        let mended = told.lines().find(|line| line.contains("= mend: "));
        assert!(
            told.starts_with("exit status: 2\n") && mended.is_some_and(|line| line.contains(mend)),
            "{told}"
        );
    }
}

#[test]
fn a_machine_of_a_lab_has_memory_to_boot_in() {
    for memory in ["5", "1G"] {
        let told = tesela(&["lab", "up", "--memory", memory]);
        assert!(told.starts_with("exit status: 2\n") && told.contains("256 MiB or more"), "{told}");
    }
}
