//! What is sent ahead makes way for the program that has just resumed, and for whatever else its node does: the threads
//! that do so have the last turn. Who waits for a page waits for them, so they have theirs as long as somebody does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollTimeout;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{Pid, gettid};

use crate::migrate::sys;

/// How long it makes way. A program whose node is never idle is whole some day, too.
const FIRST: Duration = Duration::from_secs(1);
/// How long a thread keeps its turn after a page was asked for.
const CALM: Duration = Duration::from_millis(10);
/// setpriority(2)
const LAST: i32 = 19;

/// Does this work of the calling thread's. `asks` tells, as an edge of epoll(7), that somebody waits.
pub fn aside<T>(asks: BorrowedFd<'_>, work: impl FnOnce() -> T) -> T {
    let thread = gettid();
    let Ok(done) = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK) else { return work() };
    thread::scope(|scope| {
        let watch = || {
            if let Err(error) = watch(thread, asks, &done) {
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

fn watch(thread: Pid, asks: BorrowedFd<'_>, done: &EventFd) -> io::Result<()> {
    const ASKED: u64 = 0;
    const DONE: u64 = 1;
    let usual = sys::nice(thread)?;
    let ready = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    ready.add(asks, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, ASKED))?;
    ready.add(done.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, DONE))?;
    let until = Instant::now() + FIRST;
    let mut waited_for = false;
    sys::set_nice(thread, LAST)?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let wait = if waited_for { left.min(CALM) } else { left } + Duration::from_millis(1);
        let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        let mut events = [EpollEvent::empty(); 2];
        let told = match ready.wait(&mut events, wait) {
            Ok(count) => &events[..count],
            Err(Errno::EINTR) => continue,
            Err(error) => {
                sys::set_nice(thread, usual)?;
                return Err(error.into());
            }
        };
        if told.iter().any(|event| event.data() == DONE) {
            break;
        }
        if waited_for == told.is_empty() {
            waited_for = !waited_for;
            sys::set_nice(thread, if waited_for { usual } else { LAST })?;
        }
    }
    sys::set_nice(thread, usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_its_turn_while_somebody_waits_for_it() {
        let asks = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
        let usual = sys::nice(gettid()).unwrap();
        let becomes = |wanted: i32| {
            let until = Instant::now() + FIRST / 2;
            while sys::nice(gettid()).unwrap() != wanted {
                assert!(Instant::now() < until, "it does not become {wanted}");
                thread::yield_now();
            }
        };
        aside(asks.as_fd(), || {
            becomes(LAST);
            for _ in 0..2 {
                asks.write(1).unwrap();
                becomes(usual);
                becomes(LAST);
            }
        });
        assert_eq!(sys::nice(gettid()).unwrap(), usual);
    }
}
