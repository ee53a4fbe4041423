//! Places for connections: so many in all, and so many of one origin (an address, a user), so that nobody takes
//! what all others need.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of one port or socket.
#[derive(Debug)]
pub struct Places<K> {
    all: Arc<Semaphore>,
    each: usize,
    taken: Mutex<HashMap<K, usize>>,
}

impl<K: Copy + Eq + Hash> Places<K> {
    /// `all` places, of which one origin has `each` at the most.
    pub fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all: Arc::new(Semaphore::new(all)), each, taken: Mutex::default() })
    }

    /// Waits until a connection may come, from wherever.
    pub async fn next(&self) -> OwnedSemaphorePermit {
        #[expect(clippy::unwrap_used, reason = "it is never closed")]
        Arc::clone(&self.all).acquire_owned().await.unwrap()
    }

    /// The place of a connection that has come from there; `None`: its origin has all that it may have.
    pub fn take(self: &Arc<Self>, permit: OwnedSemaphorePermit, origin: K) -> Option<Place<K>> {
        let mut taken = self.taken();
        let count = taken.entry(origin).or_default();
        (*count < self.each).then(|| {
            *count += 1;
            Place { places: Arc::clone(self), origin, _permit: permit }
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        // A count is whole before anything can fail.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place<K: Copy + Eq + Hash> {
    places: Arc<Places<K>>,
    origin: K,
    _permit: OwnedSemaphorePermit,
}

impl<K: Copy + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.places.taken().entry(self.origin) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_origin_leaves_places_to_others() {
        let places = Places::new(3, 2);
        let first = places.take(places.next().await, 'a');
        let _second = places.take(places.next().await, 'a').unwrap();
        assert!(places.take(places.next().await, 'a').is_none(), "it has two");
        let other = places.take(places.next().await, 'b');
        assert!(other.is_some());
        assert_eq!(places.all.available_permits(), 0, "one that is refused holds no place");
        drop((first, other));
        assert_eq!(places.taken().len(), 1, "who has none is forgotten");
        assert!(places.take(places.next().await, 'a').is_some());
    }
}
