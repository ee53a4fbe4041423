//! Open files of images and of nodes' writes: a bounded number of them, the latest used.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::object::ObjectId;

/// Whose file it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Owner {
    /// A build of an image, by its number in this process.
    Build(u32),
    /// A node, by its number.
    Node(u32),
}

/// The cache of open files.
pub struct Files {
    most: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    files: HashMap<(Owner, ObjectId), (Arc<File>, u64)>,
    uses: u64,
}

impl Files {
    /// A cache of at most so many files.
    pub fn new(most: usize) -> Self {
        Self { most, open: Mutex::default() }
    }

    /// The file of an object, opened by `open` if it is not.
    pub fn get(
        &self,
        owner: Owner,
        object: ObjectId,
        open: impl FnOnce() -> std::io::Result<File>,
    ) -> std::io::Result<Arc<File>> {
        if let Some(file) = self.lock().touch(owner, object) {
            return Ok(file);
        }
        // Two threads may open the same file at once: either serves.
        let file = Arc::new(open()?);
        let mut cache = self.lock();
        cache.uses += 1;
        let used = cache.uses;
        cache.files.insert((owner, object), (Arc::clone(&file), used));
        if cache.files.len() > self.most {
            cache.evict(self.most - self.most / 8);
        }
        Ok(file)
    }

    /// Forgets the file of an object that is removed or replaced.
    pub fn forget(&self, owner: Owner, object: ObjectId) {
        self.lock().files.remove(&(owner, object));
    }

    /// Forgets all files of a node or build.
    pub fn forget_all(&self, owner: Owner) {
        self.lock().files.retain(|(of, _), _| *of != owner);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        // Nothing in here can be left half done.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn touch(&mut self, owner: Owner, object: ObjectId) -> Option<Arc<File>> {
        self.uses += 1;
        let (file, used) = self.files.get_mut(&(owner, object))?;
        *used = self.uses;
        Some(Arc::clone(file))
    }

    /// Closes those longest unused until so many are left.
    fn evict(&mut self, left: usize) {
        let mut uses: Vec<u64> = self.files.values().map(|(_, used)| *used).collect();
        let surplus = uses.len().saturating_sub(left);
        if let Some((_, limit, _)) = (surplus > 0).then(|| uses.select_nth_unstable(surplus - 1)) {
            let limit = *limit;
            self.files.retain(|_, (_, used)| *used > limit);
        }
    }
}

/// Makes the entries of a path's directory durable.
pub fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// Octets that nobody can guess.
pub fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_are_closed() {
        let files = Files::new(8);
        let open = || File::open("/dev/null");
        for object in 0..8 {
            files.get(Owner::Node(1), object, open).unwrap();
        }
        files.get(Owner::Node(1), 0, || unreachable!("it is open")).unwrap();
        files.get(Owner::Node(1), 8, open).unwrap();
        let fails = || Err(std::io::ErrorKind::NotFound.into());
        assert!(files.get(Owner::Node(1), 0, fails).is_ok());
        assert!(files.get(Owner::Node(1), 1, fails).is_err(), "closed");
        files.forget_all(Owner::Node(1));
        assert!(files.get(Owner::Node(1), 8, fails).is_err());
    }
}
