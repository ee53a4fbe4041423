//! `tune`: what moves and calls cost. openMosix's measured that for a network once, and set it by hand; here the agent
//! keeps it, and this shows it, and can try a node.

use std::env;
use std::hint::black_box;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Ended, ask, other, socket_of, wants_help};
use crate::wire::local::{Answer, Request};

const USAGE: &str = "\
usage: tune [--socket PATH] [NODE]
Shows by what costs the balance decides: how long a move takes, what it sends in a second, and what a call takes more
that a process makes at home from away. They are measured as processes move; before that they are those of 1 Gbit/s.
With a node, by its name, number or address, a small process that computes goes there and home five times before, and
how long each move took is told.
Exit status: 0 done, 1 not done, 2 wrong usage.";

/// There and home.
const ROUNDS: usize = 5;
/// The word that makes this tool the process that computes.
const COMPUTE: &str = "--compute";
/// How long that lives if nobody ends it.
const LIFE: Duration = Duration::from_secs(60);

/// The tool.
pub fn run(words: &[String]) -> Ended {
    if wants_help(words) {
        return Ended::Done(USAGE.to_owned());
    }
    let (socket, words) = socket_of(words);
    let told = match words {
        [] => costs(&socket),
        [word] if word == COMPUTE => return compute(),
        [word, ..] if word.starts_with('-') => {
            return Ended::Usage(format!("there is no option {word}\n{USAGE}"));
        }
        [node] => computing().and_then(|mut command| tried(&socket, node, &mut command)),
        [_, word, ..] => return Ended::Usage(format!("`{word}` is not expected\n{USAGE}")),
    };
    told.map_or_else(|ended| ended, Ended::Done)
}

/// What the agent reckons with.
fn costs(socket: &Path) -> Result<String, Ended> {
    match ask(socket, &Request::Costs {})? {
        #[expect(clippy::cast_precision_loss, reason = "it is shown with one digit")]
        Answer::Costs { move_us, kib_per_second, call_us } => Ok(format!(
            "the balance reckons with {:.1} ms for a move, and {:.1} MiB/s for what it sends,\n\
             and with {call_us} µs more for a call that a process makes at home from away",
            move_us as f64 / 1000.0,
            kib_per_second as f64 / 1024.0,
        )),
        answer => Err(other(&answer)),
    }
}

/// What is started to be moved.
fn computing() -> Result<Command, Ended> {
    let program = env::current_exe().map_err(|error| Ended::Failed(format!("its own program: {error}")))?;
    let mut command = Command::new(program);
    command.args(["tune", COMPUTE]);
    Ok(command)
}

fn compute() -> Ended {
    let begun = Instant::now();
    let mut count = 0_u64;
    while begun.elapsed() < LIFE {
        for _ in 0..1_000_000 {
            count = black_box(count.wrapping_add(1));
        }
    }
    Ended::Done(String::new())
}

/// A process that has ended when this is dropped.
struct Own(Child);

impl Drop for Own {
    fn drop(&mut self) {
        // Where it has ended by itself there is nothing to end.
        let _killed = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// Starts a process, and moves it there and home.
fn tried(socket: &Path, node: &str, command: &mut Command) -> Result<String, Ended> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().map_err(|error| Ended::Failed(format!("a process of its own: {error}")))?;
    let own = Own(child);
    let pid = own.0.id().cast_signed();
    let (mut there, mut home) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (to, took) in [(node, &mut there), ("home", &mut home)] {
            let begun = Instant::now();
            match ask(socket, &Request::Migrate { pid, to: to.to_owned() })? {
                Answer::At { node, home, .. } if to != "home" && node == home => {
                    return Err(Ended::Failed(format!("{node} is this node: another one is due")));
                }
                Answer::At { .. } => took.push(begun.elapsed()),
                answer => return Err(other(&answer)),
            }
        }
    }
    drop(own);
    let rows = [(node, there), ("home", home)].map(|(to, took)| row(to, took));
    Ok(format!("{}\n{}\n{}", rows[0], rows[1], costs(socket)?))
}

/// The times as they were, and the median.
fn row(to: &str, mut took: Vec<Duration>) -> String {
    let text = |took: &Duration| format!("{:.1}", took.as_secs_f64() * 1000.0);
    let all = took.iter().map(text).collect::<Vec<_>>().join(" ");
    took.sort();
    let median = took.get(took.len() / 2).map(text).unwrap_or_default();
    format!("to {to}: {all} ms, the median {median}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::local::line;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;
    use std::thread;

    /// Runs a tool against an agent that answers so.
    fn asked<T>(
        answer: impl Fn(&Request) -> Answer + Send + 'static,
        tool: impl FnOnce(&Path) -> T,
    ) -> (T, Vec<Request>) {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (tell, heard) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut text = String::new();
                let mut stream = BufReader::new(stream.unwrap());
                stream.read_line(&mut text).unwrap();
                let request = serde_json::from_str(&text).unwrap();
                let answer = line(&answer(&request)).unwrap();
                tell.send(request).unwrap();
                stream.get_mut().write_all(&answer).unwrap();
            }
        });
        let done = tool(&socket);
        (done, heard.try_iter().collect())
    }

    fn agent(request: &Request) -> Answer {
        match request {
            Request::Migrate { pid, to } => {
                let node = if to == "home" { "n1" } else { to };
                Answer::At { pid: *pid, node: node.to_owned(), home: "n1".to_owned() }
            }
            Request::Costs {} => Answer::Costs { move_us: 34_300, kib_per_second: 102_400, call_us: 98 },
            _ => Answer::Failed { reason: "it is something else".to_owned() },
        }
    }

    #[test]
    fn costs_are_told() {
        let (told, _) = asked(agent, costs);
        assert_eq!(
            told.unwrap(),
            "the balance reckons with 34.3 ms for a move, and 100.0 MiB/s for what it sends,\n\
             and with 98 µs more for a call that a process makes at home from away"
        );
    }

    #[test]
    fn a_process_goes_there_and_home_and_has_ended() {
        let tool =
            |node: &'static str| move |socket: &Path| tried(socket, node, Command::new("sleep").arg("60"));
        let ended = |requests: &[Request]| match &requests[0] {
            Request::Migrate { pid, .. } => !Path::new(&format!("/proc/{pid}")).exists(),
            request => panic!("{request:?}"),
        };
        let (told, requests) = asked(agent, tool("n3"));
        let told = told.unwrap();
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines[0].starts_with("to n3: ") && lines[1].starts_with("to home: "), "{told}");
        assert_eq!(requests.len(), 2 * ROUNDS + 1);
        assert!(ended(&requests), "{requests:?}");
        // One that does not move has ended, too.
        let (told, requests) = asked(agent, tool("n1"));
        assert_eq!(told, Err(Ended::Failed("n1 is this node: another one is due".to_owned())));
        assert!(ended(&requests), "{requests:?}");
        let refuse = |_: &Request| Answer::Failed { reason: "n3 lets no guests in".to_owned() };
        let (told, requests) = asked(refuse, tool("n3"));
        assert_eq!(told, Err(Ended::Failed("n3 lets no guests in".to_owned())));
        assert!(requests.len() == 1 && ended(&requests), "{requests:?}");
    }

    #[test]
    fn the_median_is_no_mean() {
        let took = [30, 10, 500].map(Duration::from_millis).to_vec();
        assert_eq!(row("n3", took), "to n3: 30.0 10.0 500.0 ms, the median 30.0");
        let run = |word: &str| run(&[word.to_owned(), "x".to_owned()]);
        assert!(matches!(run("-x"), Ended::Usage(text) if text.starts_with("there is no option -x")));
        assert!(matches!(run("n3"), Ended::Usage(text) if text.starts_with("`x` is not expected")));
    }
}
