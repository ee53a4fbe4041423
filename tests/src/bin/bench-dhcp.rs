//! `cargo run --release -p tesela-tests --bin bench-dhcp`: four-way exchanges a second, ours (leases in
//! SQLite, fsynced before each ACK) against Kea (memfile), under perfdhcp as PXE clients, in network
//! namespaces of its own. Prints the table of SPECIFICATION.md. Needs root, kea-dhcp4-server and kea-admin.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tesela_tests::cpu_time;
use tesela_tests::netns::Namespace;
use tesela_tests::ready::{Port, PortWatch};

const SERVER: &str = "10.64.0.1";
const RANGE: [&str; 2] = ["10.65.0.0", "10.72.255.255"];
/// Share of lost packets that a rate may have to count.
const DROPS: f64 = 0.001;
/// Seconds of each trial.
const TRIAL: u32 = 3;
/// Rounds of the search for each server, taken in turn.
const ROUNDS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tesela,
    Kea,
}

/// What one run of perfdhcp showed.
#[derive(Clone, Copy, Debug, Default)]
struct Trial {
    /// Exchanges a second that were completed.
    rate: f64,
    /// Lost packets, as a share of those sent.
    drops: f64,
    /// Microseconds of the server's CPU an exchange.
    cpu: f64,
}

fn main() {
    let (server, client) = (Namespace::new(), Namespace::new());
    server.link("srv", &format!("{SERVER}/12"), &client, "cli", "10.64.0.2/12");
    let bench = Bench { server, client };
    // The first run of each warms caches and is not counted.
    for kind in [Kind::Tesela, Kind::Kea] {
        bench.trial(kind, 500.0);
    }
    let [(ours, ours_limit), (kea, kea_limit)] = bench.highest();
    let common = (kea.rate * 0.7).min(ours.rate * 0.7);
    let cpu = |kind| median((0..3).map(|_| bench.trial(kind, common).cpu).collect());
    let (our_cpu, kea_cpu) = (cpu(Kind::Tesela), cpu(Kind::Kea));
    println!(
        "| DHCP, four-way exchanges of PXE clients | tesela (SQLite, fsynced) | Kea 2.2 (memfile) | ratio |"
    );
    println!("|---|---|---|---|");
    println!(
        "| highest rate with under 0.1 % drops, a second | {:.0}{} | {:.0}{} | {:.2} × |",
        ours.rate,
        limited(ours_limit),
        kea.rate,
        limited(kea_limit),
        ours.rate / kea.rate
    );
    println!(
        "| server CPU an exchange at {common:.0} a second, µs | {our_cpu:.0} | {kea_cpu:.0} | {:.2} × |",
        our_cpu / kea_cpu
    );
}

fn limited(by_perfdhcp: bool) -> &'static str {
    if by_perfdhcp { " (perfdhcp's limit)" } else { "" }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Bench {
    server: Namespace,
    client: Namespace,
}

/// The search for one server's highest rate: up by half until it fails, then by halves in between.
#[derive(Clone, Copy)]
struct Search {
    good: Trial,
    bad: Option<f64>,
    /// The best trial lost nothing, and still perfdhcp did not reach the rate that it was asked for.
    short: bool,
}

impl Bench {
    fn highest(&self) -> [(Trial, bool); 2] {
        let mut searches = [Kind::Tesela, Kind::Kea]
            .map(|kind| (kind, Search { good: Trial::default(), bad: None, short: false }));
        for _ in 0..ROUNDS {
            for (kind, search) in &mut searches {
                let asked = match search.bad {
                    None => (search.good.rate * 1.5).max(4000.0),
                    Some(bad) => (search.good.rate + bad) / 2.0,
                };
                let trial = self.trial(*kind, asked);
                eprintln!("{kind:?}: asked {asked:.0}, {trial:.3?}");
                if trial.drops >= DROPS {
                    search.bad = Some(asked);
                } else {
                    let short = trial.rate < 0.95 * asked;
                    if short {
                        search.bad = Some(search.bad.map_or(asked, |bad| bad.min(asked)));
                    }
                    if trial.rate > search.good.rate {
                        (search.good, search.short) = (trial, short);
                    }
                }
            }
        }
        searches.map(|(_, search)| (search.good, search.short))
    }

    fn trial(&self, kind: Kind, rate: f64) -> Trial {
        let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let server = match kind {
            Kind::Tesela => self.tesela(directory.path()),
            Kind::Kea => self.kea(directory.path()),
        };
        let pid = i32::try_from(server.0.id()).unwrap_or_else(|error| panic!("{error}"));
        let before = cpu_time(pid);
        let mut perfdhcp = self.client.command("perfdhcp");
        perfdhcp.args(["-4", "-R", "400000", "-W", "1000000", "-r"]).arg(format!("{rate:.0}"));
        perfdhcp.arg("-p").arg(TRIAL.to_string());
        perfdhcp.args(["-o", "60,505845436c69656e743a417263683a30303030373a554e44493a303033303136"]);
        perfdhcp.args(["-o", "93,0007", SERVER]);
        let buffers = ReceiveBuffers::raise();
        let output = perfdhcp.output().unwrap_or_else(|error| panic!("perfdhcp: {error}"));
        drop(buffers);
        let text = String::from_utf8_lossy(&output.stdout);
        let cpu = (cpu_time(pid) - before).as_secs_f64();
        let numbers = |name: &str| -> Vec<f64> {
            let lines = text.lines().filter_map(|line| line.trim().strip_prefix(name));
            lines.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
        };
        let (sent, received, drops) =
            (numbers("sent packets:"), numbers("received packets:"), numbers("drops:"));
        let ([sent, _], [_, done]) = (&sent[..], &received[..]) else {
            panic!("perfdhcp: {text}{}", String::from_utf8_lossy(&output.stderr));
        };
        // Its own figure counts the time that it waits for stragglers as well.
        Trial {
            rate: done / f64::from(TRIAL),
            drops: drops.iter().sum::<f64>() / sent.max(1.0),
            cpu: cpu * 1e6 / done.max(1.0),
        }
    }

    fn tesela(&self, directory: &Path) -> Process {
        let program =
            std::env::current_exe().unwrap_or_else(|error| panic!("{error}")).with_file_name("dhcp-server");
        let mut command = self.server.command(&program.to_string_lossy());
        command.args(["srv", &format!("{SERVER}/12"), RANGE[0], RANGE[1]]).arg(directory.join("leases.db"));
        let mut process = Process::start(&mut command);
        let output = process.0.stdout.as_mut().unwrap_or_else(|| panic!("no output"));
        let ready = BufReader::new(output).lines().next();
        assert!(
            matches!(ready, Some(Ok(_))),
            "dhcp-server is not there: cargo build --release -p tesela-tests"
        );
        process
    }

    fn kea(&self, directory: &Path) -> Process {
        let leases = directory.join("leases.csv");
        let config = format!(
            r#"{{"Dhcp4": {{
            "interfaces-config": {{"interfaces": ["srv"], "dhcp-socket-type": "udp"}},
            "lease-database": {{"type": "memfile", "persist": true, "name": "{}", "lfc-interval": 0}},
            "multi-threading": {{"enable-multi-threading": true, "thread-pool-size": 2, "packet-queue-size": 64}},
            "client-classes": [{{"name": "pxe", "test": "substring(option[60].hex,0,9) == 'PXEClient'",
                "next-server": "{SERVER}", "boot-file-name": "loader"}}],
            "valid-lifetime": 3600,
            "option-data": [{{"name": "routers", "data": "{SERVER}"}}, {{"name": "domain-name-servers", "data": "{SERVER}"}},
                {{"name": "domain-name", "data": "aula"}}],
            "subnet4": [{{"subnet": "10.64.0.0/12", "pools": [{{"pool": "{} - {}"}}]}}],
            "loggers": [{{"name": "kea-dhcp4", "severity": "ERROR", "output_options": [{{"output": "stderr"}}]}}]
            }}}}"#,
            leases.display(),
            RANGE[0],
            RANGE[1]
        );
        let file = directory.join("kea.json");
        std::fs::write(&file, config).unwrap_or_else(|error| panic!("{error}"));
        let mut command = self.server.command("kea-dhcp4");
        command.arg("-c").arg(&file).env("KEA_PIDFILE_DIR", directory).env("KEA_LOCKFILE_DIR", directory);
        let watch = PortWatch::new();
        let process = Process::start(&mut watch.watched(&command));
        watch.wait(&[Port::Udp(67)], &process.0);
        // It waits for its answer, however long Kea takes for its first.
        let mut ping = self.client.command("perfdhcp");
        let output = ping.args(["-4", "-n", "1", "-r", "10", "-W", "30000000", SERVER]).output();
        let output = output.unwrap_or_else(|error| panic!("perfdhcp: {error}"));
        assert!(output.status.success(), "Kea does not answer: {}", String::from_utf8_lossy(&output.stdout));
        process
    }
}

/// perfdhcp takes the replies of all its clients through one socket with the system's default buffer,
/// which holds some 150 of them: real clients each have their own. While this lives, new sockets get more.
struct ReceiveBuffers(String);

impl ReceiveBuffers {
    const DEFAULT: &str = "/proc/sys/net/core/rmem_default";

    fn raise() -> Self {
        let before = std::fs::read_to_string(Self::DEFAULT).unwrap_or_else(|error| panic!("{error}"));
        std::fs::write(Self::DEFAULT, "8388608").unwrap_or_else(|error| panic!("{error}"));
        Self(before)
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(Self::DEFAULT, &self.0) {
            eprintln!("{} is not as it was ({}): {error}", Self::DEFAULT, self.0);
        }
    }
}

/// A server, killed when its trial is over.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}
