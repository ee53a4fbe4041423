//! The map of the cluster as openMosix's files have it (`/etc/openmosix.map`, also `hpc.map` and `mosix.map`):
//!
//! ```text
//! # first number   address         how many
//! 1                192.168.10.1    4
//! 2780             192.168.10.220  1
//! 2780             10.0.0.220      ALIAS
//! ```
//!
//! A line is of so many nodes, whose numbers and addresses count up; an alias is another address of one that has a line.

use std::fmt;
use std::net::Ipv4Addr;

use super::NodeId;

/// Lines of a map at the most.
pub const MAX_LINES: usize = 256;

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The first number.
    pub first: NodeId,
    /// Its address.
    pub address: Ipv4Addr,
    /// How many nodes; none: an alias.
    pub count: Option<u16>,
}

/// A map that holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map(Vec<Line>);

/// A map that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// A line of it.
    #[error("line {line}: {what}")]
    Line {
        /// From 1 on.
        line: usize,
        /// What is wrong, and what is due.
        what: String,
    },
    /// It has too many.
    #[error("it has more than {MAX_LINES} lines of nodes: put those that count up into one")]
    Long,
}

impl Map {
    /// Reads one. `resolve` knows hosts by their names.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn parse(text: &str, resolve: impl Fn(&str) -> Option<Ipv4Addr>) -> Result<Self, MapError> {
        let mut lines: Vec<Line> = Vec::new();
        for (index, text) in text.lines().enumerate() {
            let text = text.split('#').next().unwrap_or_default();
            let words: Vec<&str> = text.split_whitespace().collect();
            if words.is_empty() {
                continue;
            }
            let line = line(&words, &resolve)
                .and_then(|line| unlike(&lines, line).map(|()| line))
                .map_err(|what| MapError::Line { line: index + 1, what })?;
            lines.push(line);
            if lines.len() > MAX_LINES {
                return Err(MapError::Long);
            }
        }
        Ok(Self(lines))
    }

    /// Its lines.
    pub fn lines(&self) -> &[Line] {
        &self.0
    }

    /// The number of the node at an address.
    pub fn id_of(&self, address: Ipv4Addr) -> Option<NodeId> {
        self.0.iter().find_map(|line| {
            let step = u32::from(address).checked_sub(u32::from(line.address))?;
            let step = u16::try_from(step).ok().filter(|step| *step < line.count.unwrap_or(1))?;
            line.first.0.checked_add(step).map(NodeId)
        })
    }

    /// The address of the node with a number.
    pub fn address_of(&self, id: NodeId) -> Option<Ipv4Addr> {
        self.0.iter().find_map(|line| {
            let step = id.0.checked_sub(line.first.0).filter(|step| *step < line.count.unwrap_or(0))?;
            Some(Ipv4Addr::from(u32::from(line.address) + u32::from(step)))
        })
    }
}

fn line(words: &[&str], resolve: impl Fn(&str) -> Option<Ipv4Addr>) -> Result<Line, String> {
    let [first, host, count] = *words else {
        return Err(format!("a number, an address and how many are due, and here are {} words", words.len()));
    };
    let first: NodeId =
        first.parse().map_err(|_| format!("`{first}` is no number of a node, from 1 to 65535"))?;
    if first.0 == 0 {
        return Err("a node's number is from 1 to 65535".to_owned());
    }
    let address = host.parse().ok().or_else(|| resolve(host));
    let address =
        address.ok_or_else(|| format!("`{host}` is no address, and no host of that name is known"))?;
    if count == "ALIAS" {
        return Ok(Line { first, address, count: None });
    }
    let count: u16 = count
        .parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| format!("`{count}` is no number of nodes, from 1 on, nor ALIAS"))?;
    let last = (first.0.checked_add(count - 1), u32::from(address).checked_add(u32::from(count) - 1));
    if last.0.is_none() || last.1.is_none() {
        return Err(format!(
            "{count} nodes from {first} on go beyond the last number, 65535, or the last address"
        ));
    }
    Ok(Line { first, address, count: Some(count) })
}

/// No node stands in two lines, and an alias is of one that does stand in one.
fn unlike(lines: &[Line], new: Line) -> Result<(), String> {
    let numbers = |line: &Line| {
        let first = u32::from(line.first.0);
        (first, first + u32::from(line.count.unwrap_or(1)) - 1)
    };
    let addresses = |line: &Line| {
        let first = u32::from(line.address);
        (first, first + u32::from(line.count.unwrap_or(1)) - 1)
    };
    let meet = |one: (u32, u32), other: (u32, u32)| one.0 <= other.1 && other.0 <= one.1;
    let known = lines.iter().any(|line| line.count.is_some() && meet(numbers(line), numbers(&new)));
    match new.count {
        None if !known => {
            return Err(format!("no line before has the node {}, of which it is an alias", new.first));
        }
        Some(_) if known => return Err("a line before has one of these numbers".to_owned()),
        _ => {}
    }
    if lines.iter().any(|line| meet(addresses(line), addresses(&new))) {
        return Err("a line before has one of these addresses".to_owned());
    }
    Ok(())
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Line { first, address, count } in &self.0 {
            match count {
                Some(count) => writeln!(f, "{:<8} {:<16} {count}", first.0, address.to_string())?,
                None => writeln!(f, "{:<8} {:<16} ALIAS", first.0, address.to_string())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Map, String> {
        let resolve = |host: &str| (host == "oscar0").then_some(Ipv4Addr::new(192, 168, 10, 220));
        Map::parse(text, resolve).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_and_addresses_count_up() {
        let map =
            parsed("# a cluster\n1 192.168.10.1 4\n\n2780 oscar0 1 # the first\n2780 10.0.0.220 ALIAS\n")
                .unwrap();
        let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        assert_eq!(map.id_of(address("192.168.10.4")), Some(NodeId(4)));
        assert_eq!(map.id_of(address("192.168.10.5")), None);
        assert_eq!(map.id_of(address("10.0.0.220")), Some(NodeId(2780)));
        assert_eq!(map.address_of(NodeId(2)), Some(address("192.168.10.2")));
        assert_eq!(map.address_of(NodeId(2780)), Some(address("192.168.10.220")));
        assert_eq!(map.address_of(NodeId(5)), None);
        assert_eq!(parsed(&map.to_string()), Ok(map));
    }

    #[test]
    fn a_line_that_does_not_hold_is_named() {
        for (text, problem) in [
            ("1 10.0.0.1", "line 1: a number, an address and how many are due, and here are 2 words"),
            ("\n0 10.0.0.1 1", "line 2: a node's number is from 1"),
            ("x 10.0.0.1 1", "line 1: `x` is no number"),
            ("1 nowhere 1", "line 1: `nowhere` is no address"),
            ("1 10.0.0.1 0", "line 1: `0` is no number of nodes"),
            ("65535 10.0.0.1 2", "go beyond the last number"),
            ("1 10.0.0.1 4\n3 10.0.1.1 1", "line 2: a line before has one of these numbers"),
            ("1 10.0.0.1 4\n9 10.0.0.4 1", "line 2: a line before has one of these addresses"),
            ("1 10.0.0.1 ALIAS", "line 1: no line before has the node 1"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
        let long: String = (1..=257)
            .map(|number| format!("{number} 10.0.{}.{} 1\n", number / 200, number % 200 + 1))
            .collect();
        assert!(parsed(&long).unwrap_err().contains("more than 256 lines"));
    }
}
