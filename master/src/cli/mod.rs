//! The command line: one file a noun. It reads flags and prints; the work is done elsewhere.

mod check;
mod doctor;
mod file;
mod image;
mod init;
mod lab;
mod man;
mod node;
mod plan;
mod serve;
mod table;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use miette::{IntoDiagnostic as _, MietteHandlerOpts};

use crate::inventory::Event;
use crate::web::client;
use crate::web::views::Applied;

/// A room of PCs as one machine: network boot, images and the state of every node from one cluster.yaml.
#[derive(Parser, Debug)]
#[command(name = "tesela", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Where things are, the same for every command. What is not given has its place, but what is given counts first.
#[derive(Args, Debug, Clone)]
pub struct Common {
    /// The cluster's description; /etc/tesela/cluster.yaml unless said, and in a lab the lab's own.
    #[arg(long, global = true, env = "TESELA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Images, nodes' writes and the database; /var/lib/tesela unless said.
    #[arg(long, global = true, env = "TESELA_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The running master's socket; /run/tesela/tesela.sock unless said.
    #[arg(long, global = true, env = "TESELA_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Templates that win over the shipped ones.
    #[arg(
        long,
        global = true,
        env = "TESELA_TEMPLATES",
        default_value = "/etc/tesela/templates",
        value_name = "DIR"
    )]
    pub templates: PathBuf,
}

impl Common {
    fn config(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new("/etc/tesela/cluster.yaml"))
    }

    fn state(&self) -> &Path {
        self.state.as_deref().unwrap_or(Path::new("/var/lib/tesela"))
    }

    fn socket(&self) -> &Path {
        self.socket.as_deref().unwrap_or(Path::new("/run/tesela/tesela.sock"))
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Writes a first cluster.yaml from this machine's interfaces.
    Init(init::Init),
    /// Says whether a cluster.yaml holds, and all that is wrong with it.
    Check(check::Check),
    /// Tests what keeps nodes from booting and from seeing each other, and says what is wrong, with the mend.
    ///
    /// A line for each check, and below what is not as it should be the mend. Exit status 0: nothing is wrong; 1:
    /// something is. On a node, the tool `doctor` does the same.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Says what would change, node by node, and which nodes must reboot for it.
    Plan(plan::Plan),
    /// Virtual nodes that boot from this machine, in a private network.
    #[command(subcommand)]
    Lab(lab::Command),
    /// Runs all services, in the foreground.
    Serve {
        /// How the log is written.
        #[arg(long, value_enum, default_value_t = LogFormat::Text)]
        log: LogFormat,
    },
    /// Images: what nodes boot.
    #[command(subcommand)]
    Image(image::Image),
    /// The nodes, and the machines that could be some.
    #[command(subcommand)]
    Node(node::Node),
    /// Puts cluster.yaml and the templates in force on the running master, as a whole or not at all.
    Apply,
    /// Prints what a node sees at a path.
    Render {
        /// Which node.
        node: String,
        /// An absolute path on it.
        path: String,
    },
    /// Follows what happens.
    Events {
        /// Begins with the newest so many.
        #[arg(long, short = 'n', default_value_t = 20)]
        lines: u32,
        /// As JSON, one event a line.
        #[arg(long)]
        json: bool,
    },
    /// Prints the completion script for a shell.
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages, of this program and of the tools of a node.
    Man(man::Man),
}

/// How a log is written.
#[derive(clap::ValueEnum, Debug, Clone, Copy)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a command did not do what it was told.
pub(crate) enum Failure {
    /// It failed: exit status 1.
    Failed(miette::Report),
    /// Wrong usage, or a cluster.yaml that does not hold; it has been printed: exit status 2.
    DoesNotHold,
    /// A command on a node ended with this status, which is passed on.
    Status(ExitCode),
}

pub(crate) type Outcome = Result<(), Failure>;

impl<E: Into<miette::Report>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Failed(error.into())
    }
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    // What is laid out in lines, as a caret below a column is, stays so; a terminal breaks what is too long for it.
    let laid_out =
        miette::set_hook(Box::new(|_| Box::new(MietteHandlerOpts::new().wrap_lines(false).build())));
    debug_assert!(laid_out.is_ok(), "nobody else sets it");
    let cli = Cli::parse();
    let common = &cli.common;
    let outcome: Outcome = match &cli.command {
        Command::Init(command) => init::run(common, command),
        Command::Check(command) => check::run(common, command),
        Command::Doctor { json } => doctor::run(common, *json),
        Command::Plan(command) => plan::run(common, command),
        Command::Lab(command) => lab::run(common, command),
        Command::Serve { log } => serve::run(common, *log),
        Command::Image(command) => image::run(common, command),
        Command::Node(command) => node::run(common, command),
        Command::Apply => apply(common),
        Command::Render { node, path } => render(common, node, path),
        Command::Events { lines, json } => events(common, *lines, *json),
        Command::Completion { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "tesela", &mut std::io::stdout());
            Ok(())
        }
        Command::Man(command) => man::run(command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(report)) => match does_not_hold(&report) {
            Some(problems) => {
                eprintln!("{}", problems.trim_end());
                ExitCode::from(2)
            }
            None => {
                eprintln!("error: {report:?}");
                ExitCode::FAILURE
            }
        },
        Err(Failure::DoesNotHold) => ExitCode::from(2),
        Err(Failure::Status(status)) => status,
    }
}

/// The problems of a cluster.yaml that does not hold, if that is what an error tells of.
fn does_not_hold(report: &miette::Report) -> Option<&str> {
    match (report.downcast_ref(), report.downcast_ref()) {
        (Some(client::Error::DoesNotHold(problems)), _) | (_, Some(crate::lab::Error::Cluster(problems))) => {
            Some(problems)
        }
        _ => None,
    }
}

fn apply(common: &Common) -> Outcome {
    let applied: Applied = client::post(common.socket(), "/v1/apply", &())?;
    let Applied { generation, changed, due } = applied;
    if changed {
        println!("generation {generation} is in force");
        due.iter().for_each(|due| println!("{due}"));
    } else {
        println!("cluster.yaml is as it was (generation {generation}); the templates were read again");
    }
    Ok(())
}

fn render(common: &Common, node: &str, path: &str) -> Outcome {
    let content = client::raw(
        common.socket(),
        &format!("/v1/nodes/{}/file?path={}", client::escape(node), client::escape(path)),
    )?;
    std::io::stdout().write_all(&content).into_diagnostic()?;
    Ok(())
}

fn events(common: &Common, lines: u32, json: bool) -> Outcome {
    let mut out = std::io::stdout();
    let told =
        client::lines(
            common.socket(),
            &format!("/v1/events?limit={lines}"),
            |line| match serde_json::from_str::<Event>(line) {
                Ok(event) if !json => writeln!(out, "{}", node::event_line(&event)),
                _ => writeln!(out, "{line}"),
            },
        );
    match told {
        // Whoever read has read enough.
        Err(client::Error::Broken(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        told => Ok(told?),
    }
}

fn print_json(value: &impl serde::Serialize) -> Outcome {
    println!("{}", serde_json::to_string_pretty(value).into_diagnostic()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_counts_though_it_is_what_would_be_without() {
        let common = |words: &[&str]| Cli::try_parse_from([&["tesela"], words].concat()).unwrap().common;
        let usual = "/etc/tesela/cluster.yaml";
        for words in [["--config", usual, "lab", "up"], ["lab", "up", "--config", usual]] {
            assert_eq!(common(&words).config.as_deref(), Some(Path::new(usual)));
        }
        assert_eq!(Common { config: None, ..common(&["check"]) }.config(), Path::new(usual));
    }
}
