//! `bench-nfs [ROUNDS] [WORK...]`: tesela's NFS server beside NFS-Ganesha and the nfsserve crate, in one run.
//!
//! Without a WORK all are measured; their names are those of [`Work::name`].
//! Every round measures every server with every work, one after the other, so that what else the
//! machine does falls on all of them; the table has medians, and the median of the rounds' ratios.
//! Needs root, nfs-ganesha-vfs and rpcbind; it works in namespaces of its own.

mod mirror;
mod peers;
mod work;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use peers::Peer;
use std::io;
use std::path::Path;
use std::process::{Child, Command};
use work::{Sample, Tree, Work};

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", kind, port, directory] => {
            let port = port.parse().map_err(io::Error::other)?;
            peers::serve(kind, port, directory.into())
        }
        words => {
            let (rounds, names) = match words.split_first().map(|(first, rest)| (first.parse(), rest)) {
                Some((Ok(rounds), names)) => (rounds, names),
                _ => (5, words),
            };
            let works: Vec<Work> = names.iter().map(|name| Work::named(name)).collect::<io::Result<_>>()?;
            bench(rounds, if works.is_empty() { &Work::ALL } else { &works })
        }
    }
}

fn bench(rounds: usize, works: &[Work]) -> io::Result<()> {
    let _rpcbind = isolate()?;
    // On a disk, not in memory: a part of what is measured is how writes get there.
    let scratch = tempfile::Builder::new().prefix("bench-nfs-").tempdir_in("/var/tmp")?;
    let directory = |name: &str| -> io::Result<_> {
        let path = scratch.path().join(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    };
    let peers = [
        Peer::union(12001, &directory("union")?)?,
        Peer::memory(12002)?,
        Peer::ganesha(12003, &directory("ganesha")?, scratch.path())?,
        Peer::nfsserve(12005, &directory("nfsserve")?)?,
    ];
    let tree = Tree::read(Path::new("/usr/include"), 1500)?;
    println!("The source tree: {}. Rounds: {rounds}.\n", tree.describe());
    for peer in &peers {
        work::prepare(peer)?;
    }
    print!("| work |");
    for peer in &peers {
        print!(" {} |", peer.name);
    }
    println!(" ratio to NFS-Ganesha | to nfsserve | CPU a unit, to NFS-Ganesha |");
    println!("|---|{}---|---|---|", "---|".repeat(peers.len()));
    for work in works {
        let mut samples: Vec<Vec<Option<Sample>>> = vec![Vec::new(); peers.len()];
        for round in 0..rounds {
            for (peer, samples) in peers.iter().zip(&mut samples) {
                let sample = work.measure(peer, &tree, round);
                if let Err(error) = &sample {
                    eprintln!("{}, {work:?}: {error}", peer.name);
                }
                samples.push(sample.ok());
            }
        }
        let (title, unit) = work.title();
        print!("| {title}, {unit} |");
        for samples in &samples {
            print!(" {} |", show(median(samples.iter().map(|sample| Some((*sample)?.rate)))));
        }
        let ratio = |peer: usize, of: fn(Sample) -> f64| {
            median(
                samples[0].iter().zip(&samples[peer]).map(|(own, other)| Some(of((*own)?) / of((*other)?))),
            )
        };
        println!(
            " **{}** | {} | {} |",
            show(ratio(2, |sample| sample.rate)),
            show(ratio(3, |sample| sample.rate)),
            show(ratio(2, |sample| sample.cpu))
        );
    }
    Ok(())
}

/// Moves this process into network and mount namespaces of its own, and starts the rpcbind there that
/// NFS-Ganesha insists on.
fn isolate() -> io::Result<Rpcbind> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    for directory in ["/run/rpcbind", "/run/ganesha"] {
        std::fs::create_dir(directory)?;
    }
    if !Command::new("ip").args(["link", "set", "lo", "up"]).status()?.success() {
        return Err(io::Error::other("ip link set lo up: failed"));
    }
    Ok(Rpcbind(Command::new("rpcbind").args(["-f", "-w"]).spawn()?))
}

struct Rpcbind(Child);

impl Drop for Rpcbind {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn median(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let mut values: Vec<f64> = values.flatten().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn show(value: Option<f64>) -> String {
    match value {
        None => "—".into(),
        Some(value) if value < 100. => format!("{value:.2}"),
        Some(value) => format!("{value:.0}"),
    }
}
