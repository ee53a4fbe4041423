//! A bounded number of threads for the calls that can block on the disk.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

/// The threads and their queue, in the order of arrival. The queue is bounded by who submits: every
/// connection has a limit of calls in progress.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    closed: bool,
}

impl Pool {
    /// Starts `threads` threads.
    pub fn start(threads: usize) -> io::Result<Self> {
        let pool = Self { shared: Arc::default() };
        for number in 0..threads {
            let shared = Arc::clone(&pool.shared);
            thread::Builder::new().name(format!("nfs-{number}")).spawn(move || shared.work())?;
        }
        Ok(pool)
    }

    /// Has a job done. It must not panic.
    pub fn submit(&self, job: Job) {
        let mut queue = self.shared.lock();
        queue.jobs.push_back(job);
        // A thread that is about to look at the queue anyway needs no waking.
        let wake = queue.idle > 0;
        drop(queue);
        if wake {
            self.shared.more.notify_one();
        }
    }
}

impl Drop for Pool {
    /// The threads end when the queue is empty; nobody waits for them.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.more.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = self.lock();
            } else if queue.closed {
                return;
            } else {
                queue.idle += 1;
                queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queue = self.lock();
        write!(f, "{} jobs waiting, {} threads idle", queue.jobs.len(), queue.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn all_jobs_are_done_even_those_left_when_the_pool_goes() {
        let (done, results) = mpsc::channel();
        let pool = Pool::start(3).unwrap();
        for number in 0..100 {
            let done = done.clone();
            pool.submit(Box::new(move || done.send(number).unwrap()));
        }
        drop((pool, done));
        let mut results: Vec<i32> = results.iter().collect();
        results.sort_unstable();
        assert_eq!(results, (0..100).collect::<Vec<_>>());
    }
}
