//! The entry for fuzzing: what comes by the network, from those who have the cluster's key and from those who do not.

use std::net::Ipv4Addr;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::{Core, Packet, Run, Seal};

/// Takes the data as datagrams, each behind an octet that says how long it is, in units of 8 octets, and one that says
/// who sends it, and how much later. A sender that is 0 gives its packet the address that is in it.
///
/// # Panics
/// Where the node takes itself for another, has a member twice, or has one that it should not believe.
pub fn datagrams(data: &[u8]) {
    let mut now = Duration::from_secs(1);
    let run = Run { address: Ipv4Addr::new(10, 0, 0, 1), number: 5 };
    let mut core = Core::new(now, run, SmallRng::seed_from_u64(1), SmallRng::seed_from_u64(2));
    let seal = Seal::new(&[7; 32]);
    let mut rest = data;
    while let [length, who, octets @ ..] = rest {
        let (datagram, left) = octets.split_at(octets.len().min(usize::from(*length) * 8));
        rest = left;
        assert_eq!(seal.open(datagram), None, "nobody has the key");
        let said = postcard::from_bytes::<Packet>(datagram).map(|packet| packet.run.address);
        let from = match (who & 7, said) {
            (0, Ok(address)) => address,
            (number, _) => Ipv4Addr::new(10, 0, 0, number),
        };
        now += Duration::from_millis(u64::from(who >> 3) * 50);
        core.elapse(now);
        let before = core.members().to_vec();
        let taken = core.receive(now, from, datagram);
        assert!(taken.is_ok() || core.members() == before, "{taken:?}");
        assert!(core.members().iter().all(|member| member.address != run.address));
        assert!(core.members().is_sorted_by(|one, other| one.address < other.address));
        while core.output().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    #[test]
    fn the_corpus_holds() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/discovery_packet");
        let files: Vec<_> = fs::read_dir(corpus).unwrap().collect();
        assert!(!files.is_empty());
        for file in files {
            super::datagrams(&fs::read(file.unwrap().path()).unwrap());
        }
    }
}
