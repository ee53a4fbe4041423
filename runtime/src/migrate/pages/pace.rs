//! What is sent ahead makes way for the program that has just resumed, and for whatever else its node does: the threads
//! that do so have the last turn. Who waits for a page waits for them, so they have theirs as long as somebody does; and in
//! a program's first [`Moments`] they wait for what it asks for next.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{Pid, gettid};

use crate::migrate::sys;

/// How long it makes way. A program whose node is never idle is whole some day, too.
const FIRST: Duration = Duration::from_secs(1);
/// How long a thread keeps its turn after a page was asked for.
const KEPT: Duration = Duration::from_millis(10);
/// setpriority(2)
const LAST: i32 = 19;
/// How long a program that has just resumed asks for one page after the other, all over its memory.
const MOMENTS: Duration = Duration::from_millis(50);
/// What it takes from an answer to the next question, where the nodes are near each other. Farther apart this spares
/// less, and costs as little.
const NEXT: Duration = Duration::from_millis(1);

/// In the first moments what is sent ahead would only stand in the way of what is asked for next: after each question
/// it is waited for another one.
#[derive(Debug)]
pub struct Moments {
    end: Instant,
    next: Instant,
}

impl Moments {
    /// They begin.
    pub fn begin() -> Self {
        let now = Instant::now();
        Self { end: now + MOMENTS, next: now + NEXT }
    }

    /// There are none.
    pub fn none() -> Self {
        let now = Instant::now();
        Self { end: now, next: now }
    }

    /// A page has been asked for. Where that is the one that comes next anyhow, what is sent ahead is what will be asked
    /// for.
    pub fn asked(&mut self, is_next: bool) {
        if !is_next {
            self.next = Instant::now() + NEXT;
        }
    }

    /// How long nothing is sent ahead.
    pub fn wait(&self) -> Duration {
        self.next.min(self.end).saturating_duration_since(Instant::now())
    }
}

/// When the other side is told that somebody waits for what it does not send: as often as it forgets that.
#[derive(Debug)]
pub struct Calm {
    end: Instant,
    next: Instant,
}

impl Calm {
    /// From now on, for as long as there are [`Moments`].
    pub fn begin() -> Self {
        let now = Instant::now();
        Self { end: now + MOMENTS, next: now }
    }

    /// It is to be told now.
    pub fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.next <= now && now < self.end;
        if is_due {
            self.next = now + NEXT / 2;
        }
        is_due
    }
}

/// Does this work of the calling thread's. `asks` tells, as an edge of epoll(7), that somebody waits.
pub fn aside<T>(asks: BorrowedFd<'_>, work: impl FnOnce() -> T) -> T {
    aside_for(FIRST, asks, work)
}

fn aside_for<T>(first: Duration, asks: BorrowedFd<'_>, work: impl FnOnce() -> T) -> T {
    let thread = gettid();
    let Ok(done) = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK) else { return work() };
    thread::scope(|scope| {
        let watch = || {
            if let Err(error) = watch(thread, first, asks, &done) {
                tracing::debug!(%error, "pages have their turn from the beginning");
            }
        };
        let watches = thread::Builder::new().name("pace".into()).spawn_scoped(scope, watch);
        let worked = work();
        if watches.is_ok() {
            // The counter would have to overflow for this to fail.
            let _told = done.write(1);
        }
        worked
    })
}

fn watch(thread: Pid, first: Duration, asks: BorrowedFd<'_>, done: &EventFd) -> io::Result<()> {
    let usual = sys::nice(thread)?;
    let ready = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    ready.add(asks, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
    ready.add(done.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    let until = Instant::now() + first;
    let left = || until.saturating_duration_since(Instant::now());
    let timeout =
        |wait: Duration| PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    let mut events = [EpollEvent::empty(); 2];
    // Somebody does from the beginning. This is not woken by all who follow.
    while !is_told(done, timeout(left().min(KEPT)))? && !left().is_zero() {
        if ready.wait(&mut events, PollTimeout::ZERO)? > 0 {
            continue;
        }
        sys::set_nice(thread, LAST)?;
        let waited = ready.wait(&mut events, timeout(left()));
        sys::set_nice(thread, usual)?;
        if !matches!(waited, Ok(_) | Err(Errno::EINTR)) {
            waited?;
        }
    }
    Ok(())
}

fn is_told(event: &EventFd, wait: PollTimeout) -> io::Result<bool> {
    match poll(&mut [PollFd::new(event.as_fd(), PollFlags::POLLIN)], wait) {
        Ok(told) => Ok(told > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_not_kept_waiting_by_what_is_sent_ahead() {
        let mut moments = Moments::begin();
        moments.next = Instant::now();
        assert_eq!(moments.wait(), Duration::ZERO);
        moments.asked(true);
        assert_eq!(moments.wait(), Duration::ZERO, "what is sent ahead is what is asked for");
        moments.asked(false);
        assert!(moments.wait() > Duration::ZERO && moments.wait() <= NEXT);
        moments.end = Instant::now();
        assert_eq!(moments.wait(), Duration::ZERO);
        assert_eq!(Moments::none().wait(), Duration::ZERO);
        let mut calm = Calm::begin();
        assert_eq!([calm.is_due(), calm.is_due()], [true, false]);
        (calm.next, calm.end) = (Instant::now(), Instant::now());
        assert!(!calm.is_due());
    }

    #[test]
    fn a_thread_has_its_turn_while_somebody_waits_for_it() {
        let asks = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
        let usual = sys::nice(gettid()).unwrap();
        let long = Duration::from_secs(60);
        let until = Instant::now() + long;
        let is = |wanted: i32| {
            assert!(Instant::now() < until, "it does not become {wanted}");
            thread::yield_now();
            sys::nice(gettid()).unwrap() == wanted
        };
        aside_for(long, asks.as_fd(), || {
            while !is(LAST) {}
            for _ in 0..2 {
                // It has its turn for some milliseconds, in which it may not run itself.
                while !is(usual) {
                    asks.write(1).unwrap();
                }
                while !is(LAST) {}
            }
        });
        assert_eq!(sys::nice(gettid()).unwrap(), usual);
    }
}
