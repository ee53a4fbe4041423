//! `mosctl VERB`: how a node takes part, and what it knows of the others. The verbs are openMosix's.

use std::path::Path;

use super::{Ended, ask, other, socket_of, wants_help};
use crate::discovery::NodeId;
use crate::load::{Load, STANDARD_SPEED, Status};
use crate::wire::local::{Answer, ByHand, Change, Decay, Node, Request, Settings};

const USAGE: &str = "\
usage: mosctl [--socket PATH] VERB [WORDS]
How this node takes part; only root changes it, and it holds until the node boots again:
  stay|nostay       nothing leaves this node by itself, or it does
  lstay|nolstay     its own processes do not leave it by themselves, or they do
  block|noblock     it lets no guests in, or it does
  quiet|noquiet     it tells nobody of its load, or it does
  share|noshare|autoshare   it shares its load, or not, or as its pool says
  bring             fetch home all processes of this node
  expel             send home all guests of this node, and block
  setspeed N        the speed of one of its processors, where a standard one has 10000; 0: as it is measured
  setyard N|this|ID a standard processor's speed for what is shown: N, this node's, or another node's;
                    or of a type, as PIII/733MHz: a Pentium III of 1 GHz has 10000
  setdecay SECONDS [SLOW FAST]   how old statistics of processes fade: thousandths that are kept after each interval
What it knows, of itself or of a node by its number, name or address:
  whois [NODE]      numbers, addresses and names
  getload [NODE]    load: 100 is one process that computes on a standard processor
  getspeed [NODE]   speed of a processor
  getutil [NODE]    how much of its processors is in use, in percent
  getmem [NODE]     memory that processes can still have, in MiB
  getfree [NODE]    memory that nothing is in, in MiB
  status [NODE]     what it takes part in
  isup [NODE]       whether it is there
  getdecay|getyard|gettune  what is set, and what moves and calls cost
Exit status: 0 done, 1 not done, 2 wrong usage.";

/// The tool.
pub fn run(words: &[String]) -> Ended {
    if wants_help(words) {
        return Ended::Done(USAGE.to_owned());
    }
    let (socket, words) = socket_of(words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match Verb::parse(&words) {
        Ok(verb) => verb.run(&socket).unwrap_or_else(|ended| ended),
        Err(problem) => Ended::Usage(format!("{problem}\n{USAGE}")),
    }
}

/// What one node is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    Load,
    Speed,
    Util,
    Mem,
    Free,
    Status,
    IsUp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verb {
    Set(Change),
    Bring,
    Expel,
    Whois(Option<String>),
    Get(Figure, Option<String>),
    /// Another node's speed becomes the yardstick; none: this one's.
    YardOf(Option<String>),
    GetDecay,
    GetYard,
    GetTune,
    Mfs(String),
}

impl Verb {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let set = |change| Ok(Self::Set(change));
        let none = Change::default();
        let number = |word: &str, most: u32| {
            word.parse::<u32>()
                .ok()
                .filter(|number| *number <= most)
                .ok_or_else(|| format!("`{word}` is no number from 0 to {most}"))
        };
        let thousandths =
            |word: &str| number(word, 1000).and_then(|it| u16::try_from(it).map_err(|e| e.to_string()));
        let (verb, rest) = words.split_first().ok_or("one verb is due")?;
        let yes = !verb.starts_with("no") && !verb.starts_with('-') && *verb != "nblock";
        match (*verb, rest) {
            ("stay" | "nostay" | "-stay", []) => set(Change { stay: Some(yes), ..none }),
            ("lstay" | "nolstay", []) => set(Change { lstay: Some(yes), ..none }),
            ("block" | "noblock" | "nblock", []) => set(Change { block: Some(yes), ..none }),
            ("quiet" | "noquiet", []) => set(Change { quiet: Some(yes), ..none }),
            ("share", []) => set(Change { share: Some(ByHand::Yes), ..none }),
            ("noshare", []) => set(Change { share: Some(ByHand::No), ..none }),
            ("autoshare", []) => set(Change { share: Some(ByHand::Pool), ..none }),
            ("bring", []) => Ok(Self::Bring),
            ("expel", []) => Ok(Self::Expel),
            ("mfs" | "nomfs" | "dfsalinks", _) => Ok(Self::Mfs((*verb).to_owned())),
            ("setspeed", [speed]) => set(Change { speed: Some(number(speed, 100_000_000)?), ..none }),
            ("setyard", ["this"]) => Ok(Self::YardOf(None)),
            ("setyard", [yard]) => match number(yard, 100_000_000) {
                Ok(yard @ 100..) => set(Change { yard: Some(yard), ..none }),
                _ if yard.contains('/') => set(Change { yard: Some(speed_of(yard)?), ..none }),
                _ => Ok(Self::YardOf(Some((*yard).to_owned()))),
            },
            ("setdecay", [interval]) => set(Change {
                decay: Some(Decay { interval: interval_of(interval)?, ..Decay::default() }),
                ..none
            }),
            ("setdecay", [interval, slow, fast]) => {
                let (slow, fast) = (thousandths(slow)?, thousandths(fast)?);
                set(Change { decay: Some(Decay { interval: interval_of(interval)?, slow, fast }), ..none })
            }
            ("whois", [] | [_]) => Ok(Self::Whois(rest.first().map(|word| (*word).to_owned()))),
            ("getdecay", []) => Ok(Self::GetDecay),
            ("getyard", []) => Ok(Self::GetYard),
            ("gettune", []) => Ok(Self::GetTune),
            (_, [] | [_]) => {
                let figure = figure(verb).ok_or_else(|| format!("there is no verb {verb}"))?;
                Ok(Self::Get(figure, rest.first().map(|word| (*word).to_owned())))
            }
            _ => Err(format!("{verb} does not take {}", rest.join(" "))),
        }
    }

    fn run(self, socket: &Path) -> Result<Ended, Ended> {
        match self {
            Self::Set(change) => done(&ask(socket, &Request::Set(change))?),
            Self::Bring => done(&ask(socket, &Request::Bring {})?),
            Self::Expel => done(&ask(socket, &Request::Expel {})?),
            Self::Mfs(verb) => Err(Ended::Failed(format!("{verb}: there is no MFS on this cluster yet"))),
            Self::GetDecay => {
                let Decay { interval, slow, fast } = settings(socket)?.decay;
                Ok(Ended::Done(format!(
                    "interval: {interval} s, slow: {slow}, fast: {fast} (thousandths kept)"
                )))
            }
            Self::GetYard => {
                let yard = settings(socket)?.yard;
                Ok(Ended::Done(format!("a standard processor has the speed {yard}")))
            }
            Self::GetTune => match ask(socket, &Request::Costs {})? {
                Answer::Costs { move_us, kib_per_second, call_us } => Ok(Ended::Done(format!(
                    "a move: {move_us} us and a second for {kib_per_second} KiB; a call that is made at home: {call_us} us"
                ))),
                answer => Err(other(&answer)),
            },
            Self::Whois(word) => {
                let (own, nodes) = nodes(socket)?;
                let chosen = match word {
                    Some(word) => vec![find(own, &nodes, Some(&word))?],
                    None => nodes.iter().collect(),
                };
                Ok(Ended::Done(chosen.into_iter().map(who).collect::<Vec<_>>().join("\n")))
            }
            Self::YardOf(word) => {
                let (own, nodes) = nodes(socket)?;
                let node = find(own, &nodes, word.as_deref())?;
                let yard = Some(told(node)?.speed);
                done(&ask(socket, &Request::Set(Change { yard, ..Change::default() }))?)
            }
            Self::Get(figure, word) => {
                let (own, nodes) = nodes(socket)?;
                if figure == Figure::IsUp {
                    let up = find(own, &nodes, word.as_deref()).is_ok_and(|node| node.up);
                    return if up {
                        Ok(Ended::Done("yes".to_owned()))
                    } else {
                        Err(Ended::Failed("no".to_owned()))
                    };
                }
                let yard = settings(socket)?.yard;
                figure_of(figure, find(own, &nodes, word.as_deref())?, yard).map(Ended::Done)
            }
        }
    }
}

/// The speed of a processor of this type and clock: openMosix's speeds are in relation to a Pentium III of 1 GHz.
fn speed_of(word: &str) -> Result<u32, String> {
    let speed = || {
        let clock = word.strip_prefix("PIII/")?;
        let mhz = match (clock.strip_suffix("MHz"), clock.strip_suffix("GHz")) {
            (Some(mhz), _) => mhz.parse::<f64>().ok()?,
            (None, ghz) => ghz?.parse::<f64>().ok()? * 1000.0,
        };
        let speed = mhz / 1000.0 * f64::from(STANDARD_SPEED);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in these bounds")]
        (100.0..1e8).contains(&speed).then_some(speed.round() as u32)
    };
    speed().ok_or_else(|| format!("`{word}` is no type of processor with its clock, as PIII/733MHz"))
}

fn interval_of(word: &str) -> Result<u32, String> {
    word.parse()
        .ok()
        .filter(|interval| *interval > 0)
        .ok_or_else(|| format!("`{word}` is no number of seconds"))
}

fn figure(verb: &str) -> Option<Figure> {
    Some(match verb {
        "getload" => Figure::Load,
        "getspeed" => Figure::Speed,
        "getutil" => Figure::Util,
        "getmem" => Figure::Mem,
        "getfree" => Figure::Free,
        "status" => Figure::Status,
        "isup" => Figure::IsUp,
        _ => return None,
    })
}

fn done(answer: &Answer) -> Result<Ended, Ended> {
    match answer {
        Answer::Settings(_) => Ok(Ended::Done(String::new())),
        Answer::Moved { count: 1 } => Ok(Ended::Done("1 process came home".to_owned())),
        Answer::Moved { count } => Ok(Ended::Done(format!("{count} processes came home"))),
        answer => Err(other(answer)),
    }
}

/// How this node takes part.
pub(super) fn settings(socket: &Path) -> Result<Settings, Ended> {
    match ask(socket, &Request::Settings {})? {
        Answer::Settings(settings) => Ok(settings),
        answer => Err(other(&answer)),
    }
}

/// This node's number, and all nodes that are there.
pub(super) fn nodes(socket: &Path) -> Result<(NodeId, Vec<Node>), Ended> {
    match ask(socket, &Request::Nodes {})? {
        Answer::Nodes { own, nodes, .. } => Ok((own, nodes)),
        answer => Err(other(&answer)),
    }
}

/// The node that is meant; this one where none is.
pub(super) fn find<'a>(own: NodeId, nodes: &'a [Node], word: Option<&str>) -> Result<&'a Node, Ended> {
    let is = |node: &&Node| match word {
        None => node.id == own,
        Some(word) => {
            node.name.as_deref() == Some(word)
                || word.parse() == Ok(node.id)
                || word.parse() == Ok(node.address)
        }
    };
    nodes.iter().find(is).ok_or_else(|| {
        let word = word.map_or_else(|| own.to_string(), str::to_owned);
        Ended::Failed(format!("no node that is there has the number, name or address {word}: see `showmap`"))
    })
}

fn who(node: &Node) -> String {
    let Node { id, address, name, .. } = node;
    format!("{id} (0x{id:04x})  {address}  {}", name.as_deref().unwrap_or("-"))
}

fn told(node: &Node) -> Result<Load, Ended> {
    node.load.ok_or_else(|| {
        Ended::Failed(format!("node {} has told nothing of itself: it is quiet, or just there", node.id))
    })
}

fn figure_of(figure: Figure, node: &Node, yard: u32) -> Result<String, Ended> {
    let load = told(node)?;
    let by_yard = |value: u32, up: u32, down: u32| u64::from(value) * u64::from(up) / u64::from(down.max(1));
    Ok(match figure {
        Figure::Load => by_yard(load.load, yard, STANDARD_SPEED).to_string(),
        Figure::Speed => by_yard(load.speed, STANDARD_SPEED, yard).to_string(),
        Figure::Util => format!("{} %", load.util),
        Figure::Mem => format!("{} MiB of {}", load.mem / 1024, load.tmem / 1024),
        Figure::Free => format!("{} MiB of {}", load.rmem / 1024, load.tmem / 1024),
        Figure::Status | Figure::IsUp => status(load.status),
    })
}

/// A node's flags in words.
pub(super) fn status(status: Status) -> String {
    let flags = [
        (Status::UP, "up"),
        (Status::STAY, "stay"),
        (Status::LSTAY, "lstay"),
        (Status::BLOCK, "block"),
        (Status::QUIET, "quiet"),
        (Status::NOMFS, "nomfs"),
    ];
    let set = flags.into_iter().filter(|(flag, _)| status.has(*flag)).map(|(_, name)| name);
    format!("{} ({})", set.collect::<Vec<_>>().join(" "), status.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_openmosixs() {
        let parsed = |line: &str| Verb::parse(&line.split_whitespace().collect::<Vec<_>>());
        let set = |change| Ok(Verb::Set(change));
        let none = Change::default;
        for (line, verb) in [
            ("stay", set(Change { stay: Some(true), ..none() })),
            ("-stay", set(Change { stay: Some(false), ..none() })),
            ("nolstay", set(Change { lstay: Some(false), ..none() })),
            ("nblock", set(Change { block: Some(false), ..none() })),
            ("quiet", set(Change { quiet: Some(true), ..none() })),
            ("noshare", set(Change { share: Some(ByHand::No), ..none() })),
            ("setspeed 20000", set(Change { speed: Some(20_000), ..none() })),
            (
                "setdecay 5",
                set(Change { decay: Some(Decay { interval: 5, slow: 975, fast: 926 }), ..none() }),
            ),
            (
                "setdecay 2 900 800",
                set(Change { decay: Some(Decay { interval: 2, slow: 900, fast: 800 }), ..none() }),
            ),
            ("setyard 15000", set(Change { yard: Some(15_000), ..none() })),
            ("setyard this", Ok(Verb::YardOf(None))),
            ("setyard PIII/733MHz", set(Change { yard: Some(7330), ..none() })),
            ("setyard PIII/1.1GHz", set(Change { yard: Some(11_000), ..none() })),
            ("setyard n2", Ok(Verb::YardOf(Some("n2".into())))),
            ("getload 2780", Ok(Verb::Get(Figure::Load, Some("2780".into())))),
            ("whois", Ok(Verb::Whois(None))),
        ] {
            assert_eq!(parsed(line), verb, "{line}");
        }
        for (line, problem) in [
            ("", "one verb is due"),
            ("exple", "there is no verb exple"),
            ("stay 5", "there is no verb stay"),
            ("setspeed fast", "`fast` is no number"),
            ("setdecay 0", "`0` is no number of seconds"),
            ("setdecay 1 2000 3", "`2000` is no number from 0 to 1000"),
            ("setyard P4/2GHz", "`P4/2GHz` is no type of processor"),
            ("getload n1 n2", "getload does not take n1 n2"),
        ] {
            assert!(parsed(line).unwrap_err().contains(problem), "{line}: {:?}", parsed(line));
        }
    }

    #[test]
    fn a_node_is_found_by_number_name_and_address() {
        let node = |address: &str, name: Option<&str>| {
            let address = address.parse::<std::net::Ipv4Addr>().unwrap();
            let name = name.map(str::to_owned);
            Node { id: address.into(), name, address, up: true, age_ms: None, load: None, multicast: None }
        };
        let nodes = [node("192.168.10.220", Some("oscar0")), node("192.168.10.78", None)];
        let found = |word| find(NodeId(2638), &nodes, word).map(|node| node.id.0).ok();
        for (word, id) in [
            (None, Some(2638)),
            (Some("oscar0"), Some(2780)),
            (Some("0x0adc"), Some(2780)),
            (Some("192.168.10.78"), Some(2638)),
            (Some("7"), None),
        ] {
            assert_eq!(found(word), id, "{word:?}");
        }
        assert_eq!(who(&nodes[0]), "2780 (0x0adc)  192.168.10.220  oscar0");
        assert!(matches!(told(&nodes[0]), Err(Ended::Failed(text)) if text.contains("told nothing")));
        assert_eq!(status(Status::UP.with(Status::BLOCK)), "up block (9)");
    }

    #[test]
    fn an_agent_is_due() {
        let words = ["--socket", "/nonexistent", "bring"].map(str::to_owned);
        assert!(
            matches!(run(&words), Ended::Failed(text) if text.starts_with("no agent listens at /nonexistent"))
        );
        let words = ["--socket", "/nonexistent", "nomfs"].map(str::to_owned);
        assert!(matches!(run(&words), Ended::Failed(text) if text.contains("no MFS")));
    }
}
