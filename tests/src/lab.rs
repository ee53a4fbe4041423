//! A lab for a test: virtual nodes as members of a whole cluster, gone when the test ends.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Images are kept here between runs, for they are rebuilt when what they are made of changes;
/// `TESELA_TEST_STATE` says another place.
fn state() -> PathBuf {
    std::env::var_os("TESELA_TEST_STATE").map_or_else(|| "/var/tmp/tesela-tests".into(), PathBuf::from)
}

/// The state directory of a lab's master; what it holds of images is there before and after.
pub fn master_state() -> PathBuf {
    state().join("lab/master")
}

/// A command on a node answers in this time, however busy the machine is.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(900);

/// A lab that is up. Needs root, QEMU, and the `tesela` executable built.
#[derive(Debug)]
pub struct Lab {
    templates: PathBuf,
}

impl Lab {
    /// A lab of this cluster.yaml; like [`Lab::up`].
    pub fn of(cluster: &str, words: &[&str]) -> Self {
        let path = state().join("given.yaml");
        fs::create_dir_all(state()).unwrap();
        fs::write(&path, cluster).unwrap();
        Self::up(&[words, &["--config", path.to_str().unwrap()]].concat())
    }

    /// Begins with nothing but the images of an earlier run, and waits until all nodes are members.
    pub fn up(words: &[&str]) -> Self {
        let lab = Self { templates: state().join("templates") };
        lab.tesela(&["lab", "down"]);
        for left in ["master/nodes", "master/keys", "cluster.yaml"] {
            remove(&state().join("lab").join(left));
        }
        for database in ["tesela.db", "leases.db"] {
            for file in ["", "-wal", "-shm"] {
                remove(&lab.master_state().join(format!("{database}{file}")));
            }
        }
        remove(&lab.templates);
        fs::create_dir_all(&lab.templates).unwrap();
        let status = lab.command(&["lab", "up"]).args(words).status().unwrap();
        assert!(status.success(), "`tesela lab up` ended with {status}");
        lab
    }

    /// The state directory of the lab's master.
    pub fn master_state(&self) -> PathBuf {
        master_state()
    }

    /// Templates that win over the shipped ones.
    pub fn templates(&self) -> &Path {
        &self.templates
    }

    /// `tesela` with the lab's state and the lab's master's socket.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(tesela());
        command
            .env("TESELA_STATE", state())
            .env("TESELA_TEMPLATES", &self.templates)
            .env("TESELA_SOCKET", state().join("lab/tesela.sock"))
            .args(words);
        command
    }

    /// Runs it to its end.
    pub fn tesela(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// `tesela` that is ended when it takes longer than `limit`.
    pub fn bounded(&self, limit: Duration, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .envs(self.command(&[]).get_envs().filter_map(|(key, value)| Some((key, value?))))
            .arg(limit.as_secs().to_string())
            .arg(tesela())
            .args(words);
        command
    }

    /// A command line for a node's shell, as root.
    pub fn on(&self, node: &str, script: &str) -> Command {
        self.bounded(COMMAND_LIMIT, &["lab", "exec", node, "--", "sh", "-c", script])
    }

    /// What it says there, without the end of the line; panics if it fails.
    pub fn said(&self, node: &str, script: &str) -> String {
        let output = self.on(node, script).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{script}` on {node} ended with {}: {stderr}", output.status);
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The addresses in the map of a node, its own first.
    pub fn map(&self, node: &str) -> Vec<String> {
        let map = self.said(node, "showmap");
        map.lines().skip(4).map(|row| row.split_whitespace().nth(1).unwrap().to_owned()).collect()
    }

    /// What it says with this as its input.
    pub fn fed(&self, node: &str, script: &str, input: &[u8]) -> Output {
        let mut child = self
            .on(node, script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What `tesela` answers as JSON; panics if it fails.
    pub fn json(&self, words: &[&str]) -> Vec<serde_json::Value> {
        let output = self.tesela(&[words, &["--json"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`tesela {words:?}` ended with {}: {stderr}", output.status);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A node as `tesela node list` has it.
    pub fn node(&self, name: &str) -> serde_json::Value {
        self.json(&["node", "list"]).into_iter().find(|node| node["name"] == name).unwrap()
    }

    /// The stage of a node as `tesela node list` has it.
    pub fn stage(&self, node: &str) -> String {
        self.node(node)["state"]["stage"].as_str().unwrap_or("none").to_owned()
    }

    /// The history of a node, line by line.
    pub fn history(&self, node: &str) -> Vec<String> {
        let text = |event: serde_json::Value| event["text"].as_str().unwrap().to_owned();
        self.json(&["node", "log", node]).into_iter().map(text).collect()
    }

    /// What a machine has said on its serial line.
    pub fn console(&self, machine: &str) -> String {
        let log = state().join("lab/machines").join(machine).join("console.log");
        String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned()
    }

    /// What happens from now on, as `tesela events` tells it; it ends after `limit`.
    pub fn events(&self, limit: Duration) -> Events {
        let mut command = Command::new("timeout");
        command.envs(self.command(&[]).get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.arg(limit.as_secs().to_string()).arg(tesela()).args(["events", "--lines", "0", "--json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Events { child, lines }
    }

    /// Waits until `is` holds, asking again and again; panics after `limit`, telling `what` did not come.
    pub fn wait(&self, what: &str, limit: Duration, mut is: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        }
    }
}

/// Events as they happen.
#[derive(Debug)]
pub struct Events {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Events {
    /// Waits until `node` reaches `stage`; panics if it does not before the events end.
    pub fn await_stage(&mut self, node: &str, stage: &str) {
        for line in &mut self.lines {
            let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            if event["node"] == node && event["stage"] == stage {
                return;
            }
        }
        panic!("{node} did not reach {stage} in time");
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.tesela(&["lab", "down"]);
    }
}

/// The executable that was built beside the running test's.
pub fn tesela() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let found = own.ancestors().map(|directory| directory.join("tesela")).find(|path| path.is_file());
    found.expect("build it first: cargo build --bin tesela")
}

fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{}: {error}", path.display()),
        _ => {}
    }
}
