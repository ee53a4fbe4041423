//! News for the one thread of a side that does the work, from those that wait for something on its behalf: a
//! queue that poll(2) can wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// The end that tells.
#[derive(Debug)]
pub struct Bell<T> {
    told: mpsc::Sender<T>,
    rings: Arc<EventFd>,
}

/// The end that hears: readable where there is news.
#[derive(Debug)]
pub struct Inbox<T> {
    told: mpsc::Receiver<T>,
    rings: Arc<EventFd>,
}

/// A queue.
///
/// # Errors
/// Those of eventfd(2).
pub fn bell<T>() -> io::Result<(Bell<T>, Inbox<T>)> {
    let rings = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
    let (tell, told) = mpsc::channel();
    Ok((Bell { told: tell, rings: Arc::clone(&rings) }, Inbox { told, rings }))
}

impl<T> Clone for Bell<T> {
    fn clone(&self) -> Self {
        Self { told: self.told.clone(), rings: Arc::clone(&self.rings) }
    }
}

impl<T> Bell<T> {
    /// Tells it. `false`: nobody hears any more.
    pub fn ring(&self, news: T) -> bool {
        // The counter would have to overflow for this to fail.
        self.told.send(news).is_ok() && self.rings.write(1).is_ok()
    }
}

impl<T> Inbox<T> {
    /// The oldest news.
    pub fn next(&self) -> Option<T> {
        if let Ok(news) = self.told.try_recv() {
            return Some(news);
        }
        // EAGAIN: it has not rung since. What is told from here on rings again.
        let _count = self.rings.read();
        self.told.try_recv().ok()
    }
}

impl<T> AsFd for Inbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.rings.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::bell;

    #[test]
    fn it_rings_as_long_as_there_is_news() {
        let (tell, news) = bell().unwrap();
        let rings = || {
            poll(&mut [PollFd::new(std::os::fd::AsFd::as_fd(&news), PollFlags::POLLIN)], PollTimeout::ZERO)
        };
        assert_eq!(rings(), Ok(0));
        assert!(tell.ring(1) && tell.clone().ring(2));
        assert_eq!((rings(), news.next()), (Ok(1), Some(1)));
        assert_eq!((rings(), news.next()), (Ok(1), Some(2)));
        assert_eq!((news.next(), rings()), (None, Ok(0)));
        drop(news);
        assert!(!tell.ring(3));
    }
}
