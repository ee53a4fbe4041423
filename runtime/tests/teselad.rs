//! The program teselad itself: its exit statuses, and how it takes a signal with no master there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn teselad(config: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_teselad"));
    command.arg("--config").arg(config).args(words);
    command
}

/// A port of the loopback on which nobody listens.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn config(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("teselad.json");
    let text = serde_json::json!({
        "cluster": "aula", "node": "n1", "master": "127.0.0.1", "control_port": free_port(),
        "http_port": free_port(), "keys": directory, "hpc": null,
    });
    std::fs::write(&path, text.to_string()).unwrap();
    path
}

#[test]
fn wrong_usage_is_2_and_failure_is_1_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let missing = directory.path().join("missing.json");
    for (config, words, status, reason) in [
        (&config, ["stop", ""], 2, "usage: teselad"),
        (&missing, ["report", "init"], 1, "missing.json"),
        (&config, ["report", "init"], 1, "cannot report to 127.0.0.1:"),
    ] {
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let Output { status: ended, stderr, .. } = teselad(config, &words).output().unwrap();
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(ended.code() == Some(status) && stderr.contains(reason), "{ended}: {stderr}");
    }
    let Output { status, stdout, .. } = teselad(&missing, &["--help"]).output().unwrap();
    assert!(status.success() && String::from_utf8_lossy(&stdout).starts_with("usage: teselad"));
}

#[test]
fn without_a_master_it_goes_on_trying_and_ends_on_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    let mut agent = teselad(&config(directory.path()), &[])
        .env("NOTIFY_SOCKET", &socket)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let heard = || {
        let mut buffer = [0; 1024];
        let length = systemd.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    // It has been started, whether or not there is a master.
    assert_eq!(heard(), "READY=1\nSTATUS=looks for the master 127.0.0.1");
    let status = heard();
    assert!(status.starts_with("STATUS=no connection to the master 127.0.0.1"), "{status}");
    // Without keys it looks for no others either, and says so first.
    let mut lines = BufReader::new(agent.stderr.take().unwrap()).lines().map(Result::unwrap);
    for key in ["cluster.key", "node.key"] {
        assert!(lines.any(|line| line.contains(key)), "{key}");
    }
    kill(Pid::from_raw(agent.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(heard(), "STOPPING=1");
    assert!(agent.wait().unwrap().success());
}
