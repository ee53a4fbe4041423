//! The numbers of nodes: never given twice, also not to a node of the same name made anew.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use tesela_runtime::durable;

/// The file of numbers: a line `next N`, then lines `NUMBER NAME`.
pub struct Numbers {
    path: PathBuf,
    next: u32,
    known: BTreeMap<String, u32>,
}

impl Numbers {
    /// Reads the file; none are given out where there is none.
    pub fn load(path: &Path) -> io::Result<Self> {
        let mut numbers = Self { path: path.to_owned(), next: 1, known: BTreeMap::new() };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(numbers),
            Err(error) => return Err(error),
        };
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
            let number = |text: &str| text.parse().map_err(|_| io::ErrorKind::InvalidData);
            if word == "next" {
                numbers.next = number(rest)?;
            } else {
                numbers.known.insert(rest.to_owned(), number(word)?);
            }
        }
        Ok(numbers)
    }

    /// The numbers of these nodes, on stable storage.
    pub fn of(&mut self, names: &[&str]) -> io::Result<Vec<u32>> {
        let (next, mut known) = (self.next, self.known.clone());
        for name in names {
            if !known.contains_key(*name) {
                known.insert((*name).to_owned(), self.next);
                self.next += 1;
            }
        }
        if self.next != next {
            let old = std::mem::replace(&mut self.known, known);
            if let Err(error) = self.save() {
                (self.next, self.known) = (next, old);
                return Err(error);
            }
        }
        Ok(names.iter().map(|name| self.known[*name]).collect())
    }

    /// Forgets a node: one made under its name has another number.
    pub fn forget(&mut self, name: &str) -> io::Result<()> {
        match self.known.remove(name) {
            Some(_) => self.save(),
            None => Ok(()),
        }
    }

    fn save(&self) -> io::Result<()> {
        let mut text = format!("next {}\n", self.next);
        for (name, number) in &self.known {
            text.push_str(&format!("{number} {name}\n"));
        }
        durable::replace(&self.path, text.as_bytes(), Some(0o600))
    }
}
