//! What home holds of a body's memory: only what differs from it travels home.
//!
//! Home keeps the memory of a process as it was when it left. Every page that comes is remembered by a hash of it,
//! under the address that it has at home; a page with another hash has changed. The hash has a seed that nobody knows, so
//! nobody can make two pages that have the same.
//!
//! Home may give its copy up where it is short of memory ([`Known::forget`]).

use std::io;
use std::sync::{Mutex, PoisonError};

use twox_hash::XxHash3_128;

use super::look::PAGE;

/// In place of a hash: home may have anything there.
const ANYTHING: u128 = 1;

/// Hashes of pages.
#[derive(Debug, Default)]
pub struct Known {
    /// Ranges in order: where they begin, and a hash for each page; 0: home has zeros there.
    ranges: Mutex<Vec<(u64, Vec<u128>)>>,
    seed: u64,
}

impl Known {
    /// Of a process whose memory at home has content in these ranges, none of which has come yet.
    ///
    /// # Errors
    /// Those of getrandom(2).
    pub fn new(content: impl Iterator<Item = (u64, u64)>) -> io::Result<Self> {
        let pages = |(start, end): (u64, u64)| usize::try_from((end - start) / PAGE).unwrap_or(0);
        let ranges = content.map(|range| (range.0, vec![0; pages(range)])).collect();
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(io::Error::from)?;
        Ok(Self { ranges: Mutex::new(ranges), seed: u64::from_ne_bytes(seed) })
    }

    fn with<T>(&self, address: u64, look: impl FnOnce(&mut u128) -> T) -> Option<T> {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let place = ranges.partition_point(|(start, _)| *start <= address).checked_sub(1)?;
        let (start, hashes) = ranges.get_mut(place)?;
        hashes.get_mut(usize::try_from((address - *start) / PAGE).ok()?).map(look)
    }

    /// Pages have come from this address on.
    pub fn note(&self, address: u64, memory: &[u8]) {
        let page = usize::try_from(PAGE).unwrap_or(usize::MAX);
        for (number, page) in (0..).zip(memory.chunks_exact(page)) {
            self.with(address + number * PAGE, |hash| {
                *hash = XxHash3_128::oneshot_with_seed(self.seed, page)
            });
        }
    }

    /// Home may have anything in these ranges, which are in order, from now on.
    pub fn forget(&self, ranges: &[(u64, u64)]) {
        let mut known = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        for (start, hashes) in known.iter_mut() {
            let place = |at: u64| usize::try_from(at.saturating_sub(*start) / PAGE).unwrap_or(usize::MAX);
            let end = *start + hashes.len() as u64 * PAGE;
            let first = ranges.partition_point(|(_, to)| to <= start);
            for (from, to) in ranges[first..].iter().take_while(|(from, _)| *from < end) {
                let to = place(*to).min(hashes.len());
                hashes[place(*from).min(to)..to].fill(ANYTHING);
            }
        }
    }

    /// What home has to be told of a page.
    pub fn compare(&self, address: u64, page: &[u8]) -> Change {
        let known = self.with(address, |hash| *hash).unwrap_or(0);
        let zero = page.iter().all(|octet| *octet == 0);
        match (known, zero) {
            (0, true) => Change::None,
            (_, true) => Change::Zero,
            (0, false) => Change::Content,
            _ if known == XxHash3_128::oneshot_with_seed(self.seed, page) => Change::None,
            _ => Change::Content,
        }
    }
}

/// What has become of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is as home has it.
    None,
    /// It is zero now.
    Zero,
    /// It has other content.
    Content,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_and_not_changed_is_known() {
        let page = |octet| vec![octet; usize::try_from(PAGE).unwrap()];
        let known = Known::new([(PAGE, 3 * PAGE), (9 * PAGE, 11 * PAGE)].into_iter()).unwrap();
        known.note(2 * PAGE, &page(7));
        known.note(9 * PAGE, &[page(8), page(9)].concat());
        assert_eq!(known.compare(2 * PAGE, &page(7)), Change::None);
        assert_eq!(known.compare(2 * PAGE, &page(8)), Change::Content);
        assert_eq!(known.compare(2 * PAGE, &page(0)), Change::Zero);
        known.forget(&[(0, 2 * PAGE), (5 * PAGE, 10 * PAGE)]);
        assert_eq!(known.compare(2 * PAGE, &page(7)), Change::None);
        assert_eq!(known.compare(9 * PAGE, &page(8)), Change::Content);
        assert_eq!([PAGE, 9 * PAGE].map(|at| known.compare(at, &page(0))), [Change::Zero; 2]);
        assert_eq!(known.compare(10 * PAGE, &page(9)), Change::None);
        // Zero at home, for it has not come; and one that is none of home's.
        for address in [0, 3 * PAGE, 11 * PAGE] {
            assert_eq!(known.compare(address, &page(0)), Change::None);
            assert_eq!(known.compare(address, &page(1)), Change::Content);
        }
    }
}
