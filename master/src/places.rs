//! Places for connections: so many in all, and so many of one address, so that no client can take what
//! the others need.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Places {
    most: usize,
    most_each: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    address: IpAddr,
}

impl Places {
    /// `most` places, `most_each` of them for one address.
    pub fn new(most: usize, most_each: usize) -> Self {
        Self { most, most_each, taken: Arc::default() }
    }

    /// A place for a connection from this address; `None` if there is none left for it.
    pub fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.lock();
        let own = taken.by_address.get(&address).copied().unwrap_or(0);
        if own >= self.most_each || taken.total >= self.most {
            return None;
        }
        taken.total += 1;
        taken.by_address.insert(address, own + 1);
        Some(Place { places: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing that holds it can panic halfway through a change.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.total -= 1;
        match taken.by_address.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.by_address.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_all_and_by_address_and_come_back() {
        let places = Places::new(5, 2);
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut held: Vec<Place> = (0..3).filter_map(|_| places.take(address(1))).collect();
        assert_eq!(held.len(), 2);
        held.extend((2..9).filter_map(|last| places.take(address(last))));
        assert_eq!(held.len(), 5);
        held.remove(0);
        assert!(places.take(address(1)).is_some());
        drop(held);
        assert!(places.lock().by_address.is_empty());
        assert_eq!(places.lock().total, 0);
    }
}
