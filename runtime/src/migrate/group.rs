//! Which processes move together, for they share memory: found, stopped, and read one after the other.

use std::collections::{BTreeSet, HashMap};

use nix::unistd::Pid;

use super::freeze::{
    self, Ahead, FreezeError, Frozen, SPACE, Stopped, has_ended, held, movable, read_process, release,
    stop_process,
};
use super::look::{self, Status};
use super::shared::{self, Object};

/// Processes that move together, for they share memory. Most often it is one, which shares none.
#[derive(Debug, Default)]
pub struct Group {
    /// The one that was meant first.
    pub members: Vec<Frozen>,
    /// What they share.
    pub objects: Vec<Object>,
}

/// What the other node has agreed to: processes, each with its [`look::Status::rights`].
pub type Agreed = HashMap<i32, String>;

/// Other processes that this one shares memory with, and that move with it; nothing is stopped.
///
/// # Errors
/// [`FreezeError`]: it does not move.
pub fn company(pid: Pid) -> Result<BTreeSet<i32>, FreezeError> {
    let mut members = BTreeSet::from([pid.as_raw()]);
    let mut objects = Vec::new();
    let mut fresh = members.clone();
    while !fresh.is_empty() {
        for member in fresh {
            let mut look = || {
                let one = Pid::from_raw(member);
                held(one, &Status::of(one)?)?;
                let lines = look::maps(one)?;
                shared::collect(one, &lines, &mut objects)?;
                movable(&lines, &objects).map(drop).map_err(FreezeError::CantMove)
            };
            match look() {
                Err(_) if member != pid.as_raw() && has_ended(Pid::from_raw(member)) => {
                    members.remove(&member);
                }
                looked => with(pid, Pid::from_raw(member), looked)?,
            }
        }
        fresh = if objects.is_empty() { BTreeSet::new() } else { shared::sharers(&objects, &members)? };
        members.extend(&fresh);
    }
    if !objects.is_empty() {
        shared::alone(&objects, &members)?;
    }
    members.remove(&pid.as_raw());
    Ok(members)
}

/// Stops a process and those that it shares memory with, and reads them. Where it was `agreed` about, others do not
/// go along: a process may have executed a program that belongs to someone else since, or be another one of the
/// same id. What is known `ahead` is not looked for again.
///
/// # Errors
/// [`FreezeError`]; the processes go on as they were.
pub fn freeze(pid: Pid, agreed: Option<&Agreed>, ahead: &Ahead) -> Result<Group, FreezeError> {
    let mut stopped = Vec::new();
    let mut group = Group::default();
    match stop_group(pid, agreed, &mut stopped, &mut group.objects)
        .and_then(|()| read_group(pid, &mut stopped, &mut group, ahead))
    {
        Ok(()) => Ok(group),
        Err(error) => {
            for frozen in group.members {
                let tgid = frozen.image.tgid;
                // One that is gone needs nothing any more, and the others have to go on.
                if let Err(error) = frozen.release() {
                    tracing::warn!(tgid, %error, "a process that was being stopped cannot be let go");
                }
            }
            release(stopped.into_iter().flat_map(|process| process.threads));
            Err(error)
        }
    }
}

/// Stops processes until none is left that has anything of theirs.
fn stop_group(
    first: Pid,
    agreed: Option<&Agreed>,
    stopped: &mut Vec<Stopped>,
    objects: &mut Vec<Object>,
) -> Result<(), FreezeError> {
    let mut members = BTreeSet::new();
    let mut fresh = BTreeSet::from([first.as_raw()]);
    while !fresh.is_empty() {
        members.extend(&fresh);
        for pid in fresh.into_iter().map(Pid::from_raw) {
            let mut process = Stopped { pid, threads: Vec::new(), lines: Vec::new() };
            let done = stop_process(&mut process, agreed)
                .and_then(|()| shared::collect(pid, &process.lines, objects));
            if done.is_err() && pid != first && has_ended(pid) {
                release(process.threads);
                continue;
            }
            stopped.push(process);
            with(first, pid, done)?;
        }
        fresh = if objects.is_empty() { BTreeSet::new() } else { shared::sharers(objects, &members)? };
    }
    if objects.is_empty() { Ok(()) } else { shared::alone(objects, &members) }
}

/// Puts the region into each of them, at the same place in all, and reads them.
fn read_group(
    first: Pid,
    stopped: &mut Vec<Stopped>,
    group: &mut Group,
    ahead: &Ahead,
) -> Result<(), FreezeError> {
    let lines = stopped.iter().flat_map(|process| &process.lines);
    let blob = ahead.blob.as_ref().ok_or(FreezeError::CantMove("no_room"))?;
    if !look::is_free(lines, blob.base, SPACE) {
        return Err(FreezeError::CantMove("no_room"));
    }
    let mut first_fd = 0;
    let (mut last_fd, mut used) = (u64::MAX, None);
    for process in stopped.iter() {
        let (own, last) = freeze::descriptors(process.pid)?;
        let highest = freeze::highest_fd(process.pid)?;
        (first_fd, last_fd) = (first_fd.max(own), last_fd.min(last));
        used = used.max(highest);
    }
    // The program's own would be taken for ours.
    if first_fd > last_fd || used.is_some_and(|used| used >= first_fd) {
        return Err(FreezeError::CantMove("no_room"));
    }
    while !stopped.is_empty() {
        let pid = stopped[0].pid;
        let read = read_process(&mut stopped[0], (blob, first_fd), &group.objects, ahead);
        let (image, entry, labels) = with(first, pid, read)?;
        let Stopped { threads, lines, .. } = stopped.remove(0);
        group.members.push(Frozen { threads, image, lines, entry, labels });
    }
    Ok(())
}

/// Says whose failure it is, where it is not the first one's.
fn with<T>(first: Pid, pid: Pid, done: Result<T, FreezeError>) -> Result<T, FreezeError> {
    done.map_err(|reason| match reason {
        reason if pid != first => FreezeError::With { pid, reason: Box::new(reason) },
        reason => reason,
    })
}
