//! The program that moves. It times itself, and says what it finds on its standard output.

use std::hint::black_box;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::{getppid, getuid};

/// Octets between two of a page.
const PAGE: usize = 4096;
/// Looks at the clock after the word to end: about a second of them.
const MORE_LOOKS: u32 = 20_000_000;
/// How often all memory is gone over.
const PASSES: usize = 12;

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Local,
    Shim,
    Forwarded,
    Computing,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Local, Self::Shim, Self::Forwarded, Self::Computing];

    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Shim => "shim",
            Self::Forwarded => "forwarded",
            Self::Computing => "computing",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Local => "getuid(2), which the filter lets through",
            Self::Shim => "rt_sigprocmask(2), done by the shim",
            Self::Forwarded => "getppid(2), forwarded",
            Self::Computing => "1,000 multiplications",
        }
    }

    fn once(self) {
        match self {
            Self::Local => drop(black_box(getuid())),
            Self::Shim => {
                let mut old = SigSet::empty();
                pthread_sigmask(SigmaskHow::SIG_BLOCK, None, Some(&mut old)).unwrap();
                black_box(old);
            }
            Self::Forwarded => drop(black_box(getppid())),
            Self::Computing => {
                let mut value = 1_u64;
                for factor in 0..1000 {
                    value = black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(factor));
                }
            }
        }
    }
}

/// What a moved process does: `pauses MIB`, `touches MIB`, or `times KIND`.
pub fn run(words: &[&str]) {
    match words {
        ["pauses", size] => pauses(&memory(size)),
        ["touches", size] => touches(&memory(size)),
        ["times", name] => times(Kind::ALL.into_iter().find(|kind| kind.name() == *name).unwrap()),
        _ => panic!("bench-migrate program: {words:?}"),
    }
}

/// Memory without a page of zeros, or one that is like another.
fn memory(mebibytes: &str) -> Vec<u8> {
    let mut memory = vec![0; mebibytes.parse::<usize>().unwrap() << 20];
    let mut value = 88_172_645_463_325_252_u64;
    for word in memory.as_chunks_mut::<8>().0 {
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        *word = value.to_le_bytes();
    }
    memory
}

/// Says that all is ready.
fn say(text: &str) {
    println!("{text}");
}

/// Waits for a line.
fn told() {
    let mut octet = [0];
    std::io::stdin().read_exact(&mut octet).unwrap();
}

/// Looks at the clock until it is told to end, and some millions of times more, so that what a move leaves to be
/// done in the first moments there counts; then says the longest time between two looks.
fn pauses(memory: &[u8]) {
    say("ready");
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let waits = std::sync::Arc::clone(&ended);
    std::thread::spawn(move || {
        told();
        waits.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let (mut last, mut longest, mut left) = (Instant::now(), Duration::ZERO, MORE_LOOKS);
    while left > 0 {
        let now = Instant::now();
        longest = longest.max(now - last);
        last = now;
        if ended.load(std::sync::atomic::Ordering::Relaxed) {
            left -= 1;
        }
    }
    black_box(memory);
    say(&longest.as_secs_f64().to_string());
}

/// Goes over all its memory, over and over, and says how long that took.
fn touches(memory: &[u8]) {
    say("ready");
    told();
    let begun = Instant::now();
    let mut sum = 0_u64;
    for _ in 0..PASSES {
        for page in memory.chunks(PAGE) {
            for word in page.as_chunks::<8>().0 {
                sum = sum.rotate_left(5).wrapping_add(u64::from_le_bytes(*word));
            }
        }
    }
    black_box(sum);
    say(&begun.elapsed().as_secs_f64().to_string());
}

/// Times the same over and over, and says the nanoseconds of one.
fn times(kind: Kind) {
    say("ready");
    loop {
        let (begun, mut count) = (Instant::now(), 0_u32);
        let taken = loop {
            for _ in 0..100 {
                kind.once();
            }
            count += 100;
            let taken = begun.elapsed();
            if taken > Duration::from_millis(20) {
                break taken;
            }
        };
        say(&(taken.as_secs_f64() * 1e9 / f64::from(count)).to_string());
    }
}

/// Such a program that runs, with memory made ready.
pub struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    pub fn start(words: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("program").args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut program = Self { child, input, output };
        assert_eq!(program.line(), "ready");
        program
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it says next.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the program has ended");
        line.trim_end().to_owned()
    }

    /// Tells it to go on, or to end.
    pub fn go_on(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    /// What it says in the time that comes, in its order of size; the first is of the time before.
    pub fn times(&mut self, time: Duration) -> Vec<f64> {
        let until = Instant::now() + time;
        self.line();
        let mut times = Vec::new();
        while Instant::now() < until {
            times.push(self.line().parse().unwrap());
        }
        times.sort_by(f64::total_cmp);
        times
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}
