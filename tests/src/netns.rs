//! Private network namespaces for a test, gone when it ends. Needs root and iproute2.

use std::fs::File;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

/// A network namespace with its loopback up.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A new one. Panics where it cannot be made: the test cannot run.
    #[expect(clippy::new_without_default, reason = "it makes something outside of this process")]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tesela-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// Its name, as `ip netns` has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` with these words inside it; panics where that fails.
    pub fn ip(&self, words: &str) {
        let mut arguments = vec!["-n", &self.name];
        arguments.extend(words.split_ascii_whitespace());
        ip(&arguments);
    }

    /// Links this namespace with another by a veth pair, both ends up, each with its address
    /// (`10.0.0.1/24`; empty: none).
    pub fn link(&self, end: &str, address: &str, other: &Namespace, other_end: &str, other_address: &str) {
        self.ip(&format!("link add name {end} type veth peer name {other_end} netns {}", other.name));
        for (namespace, end, address) in [(self, end, address), (other, other_end, other_address)] {
            if !address.is_empty() {
                namespace.ip(&format!("addr add {address} dev {end}"));
            }
            namespace.ip(&format!("link set dev {end} up"));
        }
    }

    /// A command to be run inside it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs the code in a thread inside it.
    pub fn run<T: Send>(&self, code: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let namespace = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
                setns(namespace, CloneFlags::CLONE_NEWNET)
                    .unwrap_or_else(|error| panic!("setns {path}: {error}"));
                code()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) {
    let Output { status, stderr, .. } =
        Command::new("ip").args(arguments).output().unwrap_or_else(|error| panic!("ip: {error}"));
    assert!(
        status.success() || std::thread::panicking(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&stderr)
    );
}
