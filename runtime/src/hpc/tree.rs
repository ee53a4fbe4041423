//! The files, what is in them, and what a write to one of them does.

use std::fs;
use std::io;

use nix::errno::Errno;

use crate::discovery::NodeId;
use crate::load::Load;
use crate::wire::local::{Answer, ByHand, Change, Hint, Moved, Node, Request, Settings, Shown};

/// Who reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its user.
    pub uid: u32,
    /// Its process.
    pub pid: i32,
}

/// What answers.
pub trait Source {
    /// Asks in the name of a user.
    ///
    /// # Errors
    /// The agent is not there.
    fn ask(&self, uid: u32, request: Request) -> io::Result<Answer>;
}

/// A file or a directory of the tree; its number is its inode's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// `/hpc`.
    Root,
    /// One of its directories.
    Top(Top),
    /// A file of `admin`.
    Admin(u8),
    /// A file of `decay`.
    Decay(u8),
    /// A directory of `nodes`, `remote` or `pid`, of this number.
    Of(Top, u32),
    /// A file in one of those.
    In(Top, u32, u8),
}

/// A directory of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top {
    /// `admin`.
    Admin,
    /// `decay`.
    Decay,
    /// `nodes`.
    Nodes,
    /// `remote`.
    Remote,
    /// `pid`.
    Pid,
}

const TOPS: [(Top, &str); 5] = [
    (Top::Admin, "admin"),
    (Top::Decay, "decay"),
    (Top::Nodes, "nodes"),
    (Top::Remote, "remote"),
    (Top::Pid, "pid"),
];

const ADMIN: [&str; 20] = [
    "block",
    "bring",
    "config",
    "decay-interval",
    "dfsalinks",
    "expel",
    "fast-decay",
    "gateways",
    "lstay",
    "mfscosts",
    "mospe",
    "nomfs",
    "overheads",
    "quiet",
    "slow-decay",
    "speed",
    "sspeed",
    "stay",
    "version",
    "yard",
];
const DECAY: [(&str, Hint); 5] = [
    ("clear", Hint::Clear),
    ("cpujob", Hint::Cpujob),
    ("iojob", Hint::Iojob),
    ("slow", Hint::Slow),
    ("fast", Hint::Fast),
];
const NODE: [&str; 8] = ["CPUs", "load", "mem", "rmem", "speed", "status", "tmem", "util"];
const REMOTE: [&str; 4] = ["from", "identity", "statm", "stats"];
const PROCESS: [&str; 6] = ["cantmove", "goto", "lock", "migrate", "nmigs", "where"];
/// Those of a process and of `admin` that can only be read.
const READ_ONLY: [&str; 9] =
    ["cantmove", "nmigs", "where", "dfsalinks", "gateways", "mfscosts", "overheads", "sspeed", "version"];

impl Top {
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Nodes => &NODE,
            Self::Remote => &REMOTE,
            Self::Pid => &PROCESS,
            Self::Admin | Self::Decay => &[],
        }
    }

    fn number(self) -> u64 {
        // Its place in `TOPS`, from 2 on: 1 is the root.
        2 + TOPS.iter().position(|(top, _)| *top == self).map_or(0, |place| place as u64)
    }
}

impl Entry {
    /// The number of its inode.
    pub fn inode(self) -> u64 {
        let of = |top: Top, number: u32, file: u64| top.number() << 48 | u64::from(number) << 8 | file;
        match self {
            Self::Root => 1,
            Self::Top(top) => top.number(),
            Self::Admin(file) => of(Top::Admin, 0, u64::from(file) + 1),
            Self::Decay(file) => of(Top::Decay, 0, u64::from(file) + 1),
            Self::Of(top, number) => of(top, number, 0),
            Self::In(top, number, file) => of(top, number, u64::from(file) + 1),
        }
    }

    /// The other way round.
    pub fn of_inode(inode: u64) -> Option<Self> {
        let top = |number: u64| TOPS.iter().find(|(top, _)| top.number() == number).map(|(top, _)| *top);
        if inode == 1 {
            return Some(Self::Root);
        }
        if inode < 1 << 48 {
            return top(inode).map(Self::Top);
        }
        let number = u32::try_from(inode >> 8 & 0xFFFF_FFFF).ok()?;
        let file = u8::try_from(inode & 0xFF).ok()?;
        let within = |files: usize| (usize::from(file) <= files).then_some(file.checked_sub(1)?);
        match top(inode >> 48)? {
            Top::Admin => within(ADMIN.len()).map(Self::Admin),
            Top::Decay => within(DECAY.len()).map(Self::Decay),
            top if file == 0 => Some(Self::Of(top, number)),
            top => within(top.files().len()).map(|file| Self::In(top, number, file)),
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(self) -> bool {
        matches!(self, Self::Root | Self::Top(_) | Self::Of(..))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Admin(file) => ADMIN.get(usize::from(file)).copied().unwrap_or_default(),
            Self::Decay(file) => DECAY.get(usize::from(file)).map_or("", |(name, _)| name),
            Self::In(top, _, file) => top.files().get(usize::from(file)).copied().unwrap_or_default(),
            Self::Root | Self::Top(_) | Self::Of(..) => "",
        }
    }

    /// Its permissions: rights go by who asks, and this is for whoever looks.
    pub fn mode(self) -> u16 {
        let read_only =
            matches!(self, Self::In(Top::Nodes | Top::Remote, ..)) || READ_ONLY.contains(&self.name());
        match self {
            _ if self.is_directory() => 0o555,
            Self::Decay(_) => 0o222,
            _ if read_only => 0o444,
            Self::In(..) => 0o666,
            _ => 0o644,
        }
    }
}

/// The tree, over what answers.
#[derive(Debug)]
pub struct Tree<S>(pub S);

impl<S: Source> Tree<S> {
    /// What is in a directory.
    ///
    /// # Errors
    /// `ENOTDIR`; `EIO`: the agent does not answer.
    pub fn list(&self, directory: Entry, caller: Caller) -> Result<Vec<(String, Entry)>, Errno> {
        let files = |names: &[&str], entry: &dyn Fn(u8) -> Entry| {
            let number = |index: usize| u8::try_from(index).unwrap_or(u8::MAX);
            names.iter().enumerate().map(|(index, name)| ((*name).to_owned(), entry(number(index)))).collect()
        };
        Ok(match directory {
            Entry::Root => TOPS.iter().map(|(top, name)| ((*name).to_owned(), Entry::Top(*top))).collect(),
            Entry::Top(Top::Admin) => files(&ADMIN, &Entry::Admin),
            Entry::Top(Top::Decay) => files(&DECAY.map(|(name, _)| name), &Entry::Decay),
            Entry::Top(top) => {
                let numbers = self.numbers(top, caller)?;
                numbers.into_iter().map(|number| (number.to_string(), Entry::Of(top, number))).collect()
            }
            Entry::Of(top, number) => files(top.files(), &|file| Entry::In(top, number, file)),
            Entry::Admin(_) | Entry::Decay(_) | Entry::In(..) => return Err(Errno::ENOTDIR),
        })
    }

    /// What has this name in a directory.
    ///
    /// # Errors
    /// `ENOENT`, and those of [`Self::list`].
    pub fn find(&self, directory: Entry, name: &str, caller: Caller) -> Result<Entry, Errno> {
        if let Entry::Top(top @ Top::Pid) = directory {
            // All processes are there, and few are asked for.
            let pid = name.parse::<u32>().map_err(|_| Errno::ENOENT)?;
            let there = fs::exists(format!("/proc/{pid}/stat")).unwrap_or(false);
            return if there { Ok(Entry::Of(top, pid)) } else { Err(Errno::ENOENT) };
        }
        let found = self.list(directory, caller)?.into_iter().find(|(other, _)| other == name);
        found.map(|(_, entry)| entry).ok_or(Errno::ENOENT)
    }

    fn numbers(&self, top: Top, caller: Caller) -> Result<Vec<u32>, Errno> {
        Ok(match top {
            Top::Nodes => self.nodes(caller)?.1.iter().map(|node| node.id.0.into()).collect(),
            Top::Remote => self.guests(caller)?.iter().map(|guest| guest.here.unsigned_abs()).collect(),
            _ => {
                let entries = fs::read_dir("/proc").map_err(|_| Errno::EIO)?.flatten();
                entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
            }
        })
    }

    /// The content of a file.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `EACCES`, `EIO`.
    pub fn read(&self, file: Entry, caller: Caller) -> Result<String, Errno> {
        let text = match file {
            Entry::Admin(_) => self.admin(file.name(), caller)?,
            Entry::Decay(_) => return Err(Errno::EACCES),
            Entry::In(Top::Nodes, number, _) => {
                let (_, nodes) = self.nodes(caller)?;
                let node = nodes.iter().find(|node| u32::from(node.id.0) == number).ok_or(Errno::ENOENT)?;
                node.load.map_or(0, |load| figure(file.name(), &load)).to_string()
            }
            Entry::In(Top::Remote, pid, _) => self.remote(file.name(), pid, caller)?,
            Entry::In(_, pid, _) => self.process(file.name(), pid, caller)?,
            Entry::Root | Entry::Top(_) | Entry::Of(..) => return Err(Errno::EISDIR),
        };
        Ok(if text.is_empty() || text.ends_with('\n') { text } else { text + "\n" })
    }

    fn admin(&self, name: &str, caller: Caller) -> Result<String, Errno> {
        let flag = |is: bool| u8::from(is).to_string();
        let settings = || match self.ask(caller, Request::Settings {})? {
            Answer::Settings(settings) => Ok::<Settings, Errno>(settings),
            _ => Err(Errno::EIO),
        };
        Ok(match name {
            "block" => flag(settings()?.block),
            "lstay" => flag(settings()?.lstay),
            "stay" => flag(settings()?.stay),
            "quiet" => flag(settings()?.quiet),
            "decay-interval" => settings()?.decay.interval.to_string(),
            "slow-decay" => settings()?.decay.slow.to_string(),
            "fast-decay" => settings()?.decay.fast.to_string(),
            "yard" => settings()?.yard.to_string(),
            "sspeed" => settings()?.speed.to_string(),
            "mospe" => match settings()?.share {
                ByHand::No => "0".to_owned(),
                _ => self.nodes(caller)?.0.to_string(),
            },
            "speed" => {
                let (own, nodes) = self.nodes(caller)?;
                let load = nodes.iter().find(|node| node.id == own).and_then(|node| node.load);
                load.map_or(0, |load| load.speed).to_string()
            }
            "config" => match self.ask(caller, Request::Map {})? {
                Answer::Map { map: Some(map) } => map,
                _ => {
                    let (_, nodes) = self.nodes(caller)?;
                    nodes.iter().map(|node| format!("{} {} 1\n", node.id, node.address)).collect()
                }
            },
            "overheads" => match self.ask(caller, Request::Costs {})? {
                Answer::Costs { move_us, kib_per_second, call_us } => {
                    format!("{move_us} {kib_per_second} {call_us}")
                }
                _ => return Err(Errno::EIO),
            },
            "version" => env!("CARGO_PKG_VERSION").to_owned(),
            // Until there is MFS.
            "nomfs" => flag(true),
            "dfsalinks" | "mfscosts" => String::new(),
            "bring" | "expel" | "gateways" => flag(false),
            _ => return Err(Errno::ENOENT),
        })
    }

    fn remote(&self, name: &str, pid: u32, caller: Caller) -> Result<String, Errno> {
        let guests = self.guests(caller)?;
        let guest = guests.iter().find(|guest| guest.here.unsigned_abs() == pid).ok_or(Errno::ENOENT)?;
        let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|_| Errno::ENOENT);
        Ok(match name {
            "from" => self.number_of(&guest.node, caller)?.to_string(),
            "identity" => format!("pid={} uid={} name={}", guest.pid, guest.uid, guest.name),
            "statm" => of("statm")?,
            "stats" => of("stat")?,
            _ => return Err(Errno::ENOENT),
        })
    }

    fn process(&self, name: &str, pid: u32, caller: Caller) -> Result<String, Errno> {
        let pid = i32::try_from(pid).map_err(|_| Errno::ENOENT)?;
        let shown: Shown = match self.ask(caller, Request::Show { pid })? {
            Answer::Shown(shown) => shown,
            _ => return Err(Errno::ENOENT),
        };
        let number = |node: &str| self.number_of(node, caller);
        Ok(match name {
            "cantmove" => shown.cantmove.unwrap_or_default(),
            "lock" => u8::from(shown.lock).to_string(),
            "nmigs" => shown.nmigs.to_string(),
            "where" if shown.place == shown.home => "0".to_owned(),
            "where" => number(&shown.place)?.to_string(),
            "goto" | "migrate" => match shown.goto {
                Some(node) => number(&node)?.to_string(),
                None => "0".to_owned(),
            },
            _ => return Err(Errno::ENOENT),
        })
    }

    /// Does what a write asks for, or nothing.
    ///
    /// # Errors
    /// `EINVAL`: it makes no sense; `EPERM`: it is not the caller's to ask; `EACCES`: the file is only read;
    /// `EBUSY`: the agent could not, and its log or the tool says why.
    pub fn write(&self, file: Entry, text: &str, caller: Caller) -> Result<(), Errno> {
        let word = text.trim();
        let name = file.name();
        let none = Change::default();
        let request = match file {
            Entry::Root | Entry::Top(_) | Entry::Of(..) => return Err(Errno::EISDIR),
            _ if file.mode() & 0o222 == 0 => return Err(Errno::EACCES),
            Entry::Decay(_) => {
                let hint = DECAY.iter().find(|(other, _)| *other == name).map(|(_, hint)| *hint);
                flag(word)?.then_some(()).ok_or(Errno::EINVAL)?;
                Request::Hint { pid: caller.pid, hint: hint.ok_or(Errno::ENOENT)? }
            }
            Entry::In(_, pid, _) => {
                let pid = i32::try_from(pid).map_err(|_| Errno::ENOENT)?;
                match name {
                    "lock" => Request::Lock { pid, locked: flag(word)? },
                    // 0 is home, as everywhere in the tree.
                    "goto" | "migrate" if word == "0" || word == "home" => {
                        Request::Migrate { pid, to: "home".to_owned() }
                    }
                    _ => {
                        word.parse::<NodeId>().map_err(|_| Errno::EINVAL)?;
                        Request::Migrate { pid, to: word.to_owned() }
                    }
                }
            }
            Entry::Admin(_) => {
                let mut change = none;
                match name {
                    "block" => change.block = Some(flag(word)?),
                    "lstay" => change.lstay = Some(flag(word)?),
                    "stay" => change.stay = Some(flag(word)?),
                    "quiet" => change.quiet = Some(flag(word)?),
                    "speed" => change.speed = Some(number(word, 0, 100_000_000)?),
                    "yard" => change.yard = Some(number(word, 1, 100_000_000)?),
                    "decay-interval" | "slow-decay" | "fast-decay" => {
                        let Answer::Settings(Settings { mut decay, .. }) =
                            self.ask(caller, Request::Settings {})?
                        else {
                            return Err(Errno::EIO);
                        };
                        let thousandths = || number(word, 0, 1000).map(|it| u16::try_from(it).unwrap_or(0));
                        match name {
                            "decay-interval" => decay.interval = number(word, 1, 86_400)?,
                            "slow-decay" => decay.slow = thousandths()?,
                            _ => decay.fast = thousandths()?,
                        }
                        change.decay = Some(decay);
                    }
                    "mospe" => {
                        number(word, 0, 0)?;
                        change.share = Some(ByHand::No);
                    }
                    "bring" => {
                        return if flag(word)? { self.done(caller, Request::Bring {}) } else { Ok(()) };
                    }
                    "expel" => {
                        return if flag(word)? { self.done(caller, Request::Expel {}) } else { Ok(()) };
                    }
                    "config" => {
                        return self.done(caller, Request::SetMap { map: Some(text.to_owned()) });
                    }
                    "nomfs" => {
                        return if flag(word)? { Ok(()) } else { Err(Errno::EOPNOTSUPP) };
                    }
                    _ => return Err(Errno::EACCES),
                }
                Request::Set(change)
            }
        };
        self.done(caller, request)
    }

    fn done(&self, caller: Caller, request: Request) -> Result<(), Errno> {
        self.ask(caller, request).map(|_| ())
    }

    fn nodes(&self, caller: Caller) -> Result<(NodeId, Vec<Node>), Errno> {
        match self.ask(caller, Request::Nodes {})? {
            Answer::Nodes { own, nodes, .. } => Ok((own, nodes)),
            _ => Err(Errno::EIO),
        }
    }

    fn guests(&self, caller: Caller) -> Result<Vec<Moved>, Errno> {
        match self.ask(caller, Request::List {})? {
            Answer::Listed { guests, .. } => Ok(guests),
            _ => Err(Errno::EIO),
        }
    }

    /// A node's number, by its name; 0 where it is not there any more.
    fn number_of(&self, name: &str, caller: Caller) -> Result<u16, Errno> {
        let (_, nodes) = self.nodes(caller)?;
        Ok(nodes.iter().find(|node| node.name.as_deref() == Some(name)).map_or(0, |node| node.id.0))
    }

    fn ask(&self, caller: Caller, request: Request) -> Result<Answer, Errno> {
        match self.0.ask(caller.uid, request) {
            Ok(Answer::Failed { reason }) => Err(errno(&reason)),
            Ok(answer) => Ok(answer),
            Err(error) => {
                tracing::debug!(%error, "the agent does not answer its own tree");
                Err(Errno::EIO)
            }
        }
    }
}

/// A number for what the agent says in words.
fn errno(reason: &str) -> Errno {
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if says(&["only root can", "another user's"]) {
        Errno::EPERM
    } else if says(&["there is no process"]) {
        Errno::ESRCH
    } else if says(&["no node is called", "the map:", "the supplied table", "not a request"]) {
        Errno::EINVAL
    } else {
        Errno::EBUSY
    }
}

fn flag(word: &str) -> Result<bool, Errno> {
    match word {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(Errno::EINVAL),
    }
}

fn number(word: &str, least: u32, most: u32) -> Result<u32, Errno> {
    word.parse().ok().filter(|number| (least..=most).contains(number)).ok_or(Errno::EINVAL)
}

/// Memory is in octets, as in openMosix.
fn figure(name: &str, load: &Load) -> u64 {
    match name {
        "CPUs" => u64::from(load.cpus).div_ceil(100),
        "load" => load.load.into(),
        "speed" => load.speed.into(),
        "util" => load.util.into(),
        "status" => load.status.0.into(),
        "mem" => load.mem * 1024,
        "rmem" => load.rmem * 1024,
        _ => load.tmem * 1024,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::load::Status;

    /// Two nodes, one guest; it keeps what it was asked to change.
    #[derive(Default)]
    struct Fake(RefCell<Vec<(u32, Request)>>);

    impl Source for Fake {
        fn ask(&self, uid: u32, request: Request) -> io::Result<Answer> {
            let load = Load {
                load: 150,
                speed: 12_000,
                cpus: 150,
                util: 75,
                mem: 4,
                rmem: 2,
                tmem: 8,
                status: Status::UP,
            };
            let node = |address: &str, name: &str, load| Node {
                id: NodeId::from(address.parse::<std::net::Ipv4Addr>().unwrap()),
                name: Some(name.to_owned()),
                address: address.parse().unwrap(),
                up: true,
                age_ms: Some(5),
                load,
                multicast: None,
            };
            let nodes = vec![node("10.0.0.1", "n1", None), node("10.0.10.220", "n2", Some(load))];
            Ok(match request {
                Request::Nodes {} => Answer::Nodes { own: NodeId(1), nodes, gone: Vec::new() },
                Request::Settings {} => Answer::Settings(Settings::default()),
                Request::Costs {} => Answer::Costs { move_us: 1, kib_per_second: 2, call_us: 3 },
                Request::Map {} => Answer::Map { map: None },
                Request::List {} => Answer::Listed {
                    away: Vec::new(),
                    guests: vec![Moved {
                        pid: 77,
                        here: 5,
                        node: "n2".into(),
                        uid: 1000,
                        name: "perl".into(),
                    }],
                },
                Request::Show { pid: 1 } => Answer::Shown(Shown {
                    pid: 1,
                    place: "n2".into(),
                    home: "n1".into(),
                    goto: None,
                    nmigs: 3,
                    lock: true,
                    cantmove: None,
                }),
                Request::Show { .. } => {
                    Answer::Failed { reason: "there is no process 9 on this node".into() }
                }
                Request::Set(_) if uid != 0 => {
                    Answer::Failed { reason: "only root can change how a node takes part".into() }
                }
                request => {
                    self.0.borrow_mut().push((uid, request));
                    Answer::Done {}
                }
            })
        }
    }

    const ROOT: Caller = Caller { uid: 0, pid: 44 };
    const USER: Caller = Caller { uid: 1000, pid: 45 };

    fn at(tree: &Tree<Fake>, path: &str) -> Result<Entry, Errno> {
        path.split('/').try_fold(Entry::Root, |entry, name| tree.find(entry, name, USER))
    }

    #[test]
    fn every_file_is_found_again_by_its_inode() {
        let tree = Tree(Fake::default());
        let mut left = vec![Entry::Root];
        let (mut count, mut inodes) = (0, std::collections::HashSet::new());
        while let Some(entry) = left.pop() {
            assert_eq!(Entry::of_inode(entry.inode()), Some(entry));
            assert!(inodes.insert(entry.inode()));
            count += 1;
            if entry.is_directory() && entry != Entry::Top(Top::Pid) {
                left.extend(tree.list(entry, USER).unwrap().into_iter().map(|(_, entry)| entry));
            }
        }
        assert!(count > 50, "{count}");
        for inode in [0, 7, 2 << 48, 2 << 48 | 99, 4 << 48 | 99, 9 << 48 | 1] {
            assert_eq!(Entry::of_inode(inode), None, "{inode:x}");
        }
    }

    #[test]
    fn files_hold_what_the_manual_says() {
        let tree = Tree(Fake::default());
        let said = |path: &str| tree.read(at(&tree, path).unwrap(), USER).unwrap();
        for (path, text) in [
            ("admin/stay", "0\n"),
            ("admin/slow-decay", "975\n"),
            ("admin/fast-decay", "926\n"),
            ("admin/mospe", "1\n"),
            ("admin/overheads", "1 2 3\n"),
            ("admin/config", "1 10.0.0.1 1\n2780 10.0.10.220 1\n"),
            ("nodes/2780/load", "150\n"),
            ("nodes/2780/CPUs", "2\n"),
            ("nodes/2780/mem", "4096\n"),
            ("nodes/1/load", "0\n"),
            ("remote/5/from", "2780\n"),
            ("remote/5/identity", "pid=77 uid=1000 name=perl\n"),
            ("pid/1/where", "2780\n"),
            ("pid/1/nmigs", "3\n"),
            ("pid/1/lock", "1\n"),
            ("pid/1/cantmove", ""),
        ] {
            assert_eq!(said(path), text, "{path}");
        }
        assert_eq!(at(&tree, "nodes/7"), Err(Errno::ENOENT));
        assert_eq!(at(&tree, "admin/nosuch"), Err(Errno::ENOENT));
        assert_eq!(tree.read(at(&tree, "admin").unwrap(), USER), Err(Errno::EISDIR));
    }

    #[test]
    fn a_write_asks_in_the_name_of_who_writes() {
        let tree = Tree(Fake::default());
        let write = |path: &str, text: &str, caller| tree.write(at(&tree, path).unwrap(), text, caller);
        write("decay/cpujob", "1\n", USER).unwrap();
        write("pid/1/goto", "2780\n", USER).unwrap();
        write("pid/1/migrate", "0", USER).unwrap();
        write("admin/stay", "1\n", ROOT).unwrap();
        write("admin/decay-interval", "5", ROOT).unwrap();
        assert_eq!(write("admin/stay", "1", USER), Err(Errno::EPERM));
        let asked = tree.0.0.borrow();
        assert_eq!(asked[0], (1000, Request::Hint { pid: 45, hint: Hint::Cpujob }));
        assert_eq!(asked[1], (1000, Request::Migrate { pid: 1, to: "2780".into() }));
        assert_eq!(asked[2], (1000, Request::Migrate { pid: 1, to: "home".into() }));
        assert_eq!(asked[3], (0, Request::Set(Change { stay: Some(true), ..Change::default() })));
        let Request::Set(change) = &asked[4].1 else { panic!("{asked:?}") };
        assert_eq!(change.decay.unwrap().interval, 5);
    }

    #[test]
    fn nonsense_is_refused_and_changes_nothing() {
        let tree = Tree(Fake::default());
        let mut files =
            vec![at(&tree, "admin").unwrap(), at(&tree, "decay").unwrap(), at(&tree, "pid/1").unwrap()];
        files = files.into_iter().flat_map(|it| tree.list(it, ROOT).unwrap()).map(|(_, file)| file).collect();
        for file in files.into_iter().filter(|file| file.name() != "config") {
            for text in ["", "nonsense\n", "-1", "2.5", "99999999999999999999", "1 1"] {
                let refused = tree.write(file, text, ROOT).unwrap_err();
                assert!(matches!(refused, Errno::EINVAL | Errno::EACCES), "{file:?} {text:?}: {refused}");
            }
        }
        assert_eq!(*tree.0.0.borrow(), []);
    }

    #[test]
    fn every_file_is_in_the_manual() {
        let page = include_str!("../../../packaging/man/hpc.5");
        let told = |name: &str| page.split([' ', '\n', '"', ',']).any(|word| word == name);
        let decay = DECAY.map(|(name, _)| name);
        for name in [&ADMIN[..], &decay, &NODE, &REMOTE, &PROCESS].concat() {
            assert!(told(name), "{name}");
        }
    }
}
