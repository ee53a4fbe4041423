//! `cargo run --release -p tesela-tests --bin bench-dhcp`: four-way exchanges a second, ours (leases in
//! SQLite, fsynced before each ACK) against Kea (memfile), under PXE clients behind a relay, in network
//! namespaces of its own. Server and clients share the processors. Prints the table of SPECIFICATION.md. Needs
//! root and kea-dhcp4-server.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tesela_tests::cpu_time;
use tesela_tests::dhcp::load::{self, Load};
use tesela_tests::netns::Namespace;
use tesela_tests::ready::{Port, PortWatch};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 2);
const RANGE: [&str; 2] = ["10.65.0.0", "10.72.255.255"];
/// Share of lost packets that a rate may have to count.
const DROPS: f64 = 0.001;
/// Seconds of each trial, and how long its last replies are waited for.
const TRIAL: f64 = 3.0;
const PATIENCE: Duration = Duration::from_secs(1);
/// Rounds of the search for each server, taken in turn.
const ROUNDS: usize = 8;
/// How often a rate has to fail: what else the machine does may cost a trial, and must not end the search.
const ATTEMPTS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tesela,
    Kea,
}

/// What one run of the load showed.
#[derive(Clone, Copy, Debug, Default)]
struct Trial {
    /// Exchanges completed a second, up to the last ACK.
    rate: f64,
    /// Exchanges that came to nothing, as a share of those begun.
    drops: f64,
    /// Microseconds of the server's CPU an exchange, and of the clients'.
    cpu: f64,
    clients_cpu: f64,
    /// The clients could not begin exchanges as fast as they should.
    late: bool,
}

fn main() {
    let (server, client) = (Namespace::new(), Namespace::new());
    server.link("srv", &format!("{SERVER}/12"), &client, "cli", &format!("{RELAY}/12"));
    let bench = Bench { server, client };
    // The first run of each warms caches and is not counted.
    for kind in [Kind::Tesela, Kind::Kea] {
        bench.trial(kind, 500.0);
    }
    let [ours, kea] = bench.highest();
    let common = (kea.rate * 0.7).min(ours.rate * 0.7);
    let cpu = |kind| median((0..3).map(|_| bench.trial(kind, common).cpu).collect());
    let (our_cpu, kea_cpu) = (cpu(Kind::Tesela), cpu(Kind::Kea));
    println!(
        "| DHCP, four-way exchanges of PXE clients | tesela (SQLite, fsynced) | Kea 2.2 (memfile) | ratio |"
    );
    println!("|---|---|---|---|");
    println!(
        "| highest rate with under 0.1 % lost, a second | {:.0}{} | {:.0}{} | {:.2} × |",
        ours.rate,
        limited(ours.late),
        kea.rate,
        limited(kea.late),
        ours.rate / kea.rate
    );
    println!(
        "| server CPU an exchange at that rate, µs (the clients') | {:.0} ({:.0}) | {:.0} ({:.0}) | {:.2} × |",
        ours.cpu,
        ours.clients_cpu,
        kea.cpu,
        kea.clients_cpu,
        ours.cpu / kea.cpu
    );
    println!(
        "| server CPU an exchange at {common:.0} a second, µs | {our_cpu:.0} | {kea_cpu:.0} | {:.2} × |",
        our_cpu / kea_cpu
    );
}

fn limited(by_load: bool) -> &'static str {
    if by_load { " (the clients' limit)" } else { "" }
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
}

impl Bench {
    fn highest(&self) -> [Trial; 2] {
        let mut searches =
            [Kind::Tesela, Kind::Kea].map(|kind| (kind, Search { good: Trial::default(), bad: None }));
        for _ in 0..ROUNDS {
            for (kind, search) in &mut searches {
                let asked = match search.bad {
                    None => (search.good.rate * 1.5).max(4000.0),
                    Some(bad) => (search.good.rate + bad) / 2.0,
                };
                for attempt in 1..=ATTEMPTS {
                    let trial = self.trial(*kind, asked);
                    eprintln!("{kind:?}: asked {asked:.0}, {trial:.3?}");
                    if trial.drops < DROPS && trial.rate > search.good.rate {
                        search.good = trial;
                    }
                    // It may have lost nothing and still have fallen behind.
                    if trial.drops < DROPS && trial.rate >= 0.95 * asked {
                        break;
                    }
                    if attempt == ATTEMPTS {
                        search.bad = Some(search.bad.map_or(asked, |bad| bad.min(asked)));
                    }
                }
            }
        }
        searches.map(|(_, search)| search.good)
    }

    fn trial(&self, kind: Kind, rate: f64) -> Trial {
        let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let server = match kind {
            Kind::Tesela => self.tesela(directory.path()),
            Kind::Kea => self.kea(directory.path()),
        };
        let pid = i32::try_from(server.0.id()).unwrap_or_else(|error| panic!("{error}"));
        let before = cpu_time(pid);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it counts exchanges")]
        let exchanges = (rate * TRIAL) as u32;
        let result = self.load(rate, exchanges, PATIENCE);
        let done = f64::from(result.done);
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / done.max(1.0);
        Trial {
            rate: done / result.time.as_secs_f64().max(TRIAL),
            drops: 1.0 - done / f64::from(exchanges),
            cpu: each(cpu_time(pid) - before),
            clients_cpu: each(result.cpu),
            late: result.begun.as_secs_f64() > TRIAL / 0.95,
        }
    }

    fn load(&self, rate: f64, exchanges: u32, patience: Duration) -> load::Result {
        let load = Load { server: SERVER, relay: RELAY, rate, exchanges, patience };
        let result = self.client.run(|| load::run(&load));
        result.unwrap_or_else(|error| panic!("the clients: {error}"))
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
        assert_eq!(self.load(1.0, 1, Duration::from_secs(30)).done, 1, "Kea does not answer");
        process
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
