//! From the record of a call to its reply: which program, whether it can block, and the carrying out.

use super::args::{Arguments, Procedure};
use super::counters::Counters;
use super::fs::{Call as CallKind, Caller, FileSystem};
use super::mount::{self, Mounts};
use super::rpc::{Call, Denial, put_denial, put_success};
use super::{PROGRAM, VERSION, portmap, procedures};
use bytes::{Bytes, BytesMut};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The programs that a port serves.
pub enum Programs {
    /// NFS and MOUNT.
    Nfs {
        /// What is served.
        fs: Arc<dyn FileSystem>,
        /// Who has mounted it.
        mounts: Mounts,
    },
    /// The portmapper, telling where NFS and MOUNT are.
    Portmapper(SocketAddr),
}

/// A port's programs and counters.
pub struct Service {
    programs: Programs,
    counters: Arc<Counters>,
}

/// A call that will be carried out.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    target: Target,
    /// Its transaction id.
    pub xid: u32,
    /// Whether it can block on the disk.
    pub blocks: bool,
    /// Whether it goes through the reply cache.
    pub replayed: bool,
    /// About how many octets the reply may take, 0 if few.
    pub reply_size: usize,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Nfs(Procedure),
    Mount(u32),
    Portmapper { version: u32, procedure: u32 },
}

impl Service {
    /// A service of these programs.
    pub fn new(programs: Programs, counters: Arc<Counters>) -> Self {
        Self { programs, counters }
    }

    /// What it counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Finds out what a call is and what it takes.
    pub fn judge(&self, call: &Call<'_>) -> Result<Task, Denial> {
        let quick = |target| Task { target, xid: call.xid, blocks: false, replayed: false, reply_size: 0 };
        match (&self.programs, call.program) {
            (Programs::Nfs { fs, .. }, PROGRAM) => {
                check_version(call, VERSION, VERSION)?;
                let procedure = Procedure::from_number(call.procedure).ok_or(Denial::NoProcedure)?;
                let reply_size = match procedure {
                    Procedure::Read | Procedure::ReadDir | Procedure::ReadDirPlus => {
                        Arguments::decode(procedure, call.arguments)
                            .map_err(|_| Denial::GarbageArguments)?
                            .reply_size()
                    }
                    _ => 0,
                };
                Ok(Task {
                    blocks: procedure != Procedure::Null && fs.may_block(procedure.kind()),
                    replayed: procedure.is_replayed(),
                    reply_size,
                    ..quick(Target::Nfs(procedure))
                })
            }
            (Programs::Nfs { fs, .. }, mount::PROGRAM) => {
                check_version(call, mount::VERSION, mount::VERSION)?;
                let blocks = mount::may_block(call.procedure) && fs.may_block(CallKind::Change);
                Ok(Task { blocks, ..quick(Target::Mount(call.procedure)) })
            }
            (Programs::Portmapper(_), portmap::PROGRAM) => {
                check_version(call, portmap::VERSIONS.0, portmap::VERSIONS.1)?;
                Ok(quick(Target::Portmapper { version: call.version, procedure: call.procedure }))
            }
            _ => Err(Denial::NoProgram),
        }
    }

    /// Carries out a task and writes its reply behind what `out` holds; the data of a READ belongs behind
    /// it and is given back. A panic is answered with SYSTEM_ERR, and `Err` says so.
    pub fn run(
        &self,
        task: Task,
        who: &Caller,
        arguments: &[u8],
        out: &mut BytesMut,
    ) -> Result<Option<Bytes>, Fault> {
        let start = out.len();
        put_success(out, task.xid);
        let result = catch_unwind(AssertUnwindSafe(|| self.execute(task.target, who, arguments, out)));
        let denial = match result {
            Ok(Ok(data)) => return Ok(data),
            Ok(Err(denial)) => denial,
            Err(_) => {
                Counters::count(&self.counters.faults, 1);
                tracing::error!(task = ?task.target, peer = %who.address, "an NFS call panicked (our fault)");
                Denial::SystemError
            }
        };
        out.truncate(start);
        self.deny(task.xid, denial, out);
        if denial == Denial::SystemError { Err(Fault) } else { Ok(None) }
    }

    /// Writes the reply to a call that is not carried out.
    pub fn deny(&self, xid: u32, denial: Denial, out: &mut BytesMut) {
        Counters::count(&self.counters.denied, 1);
        put_denial(out, xid, denial);
    }

    fn execute(
        &self,
        target: Target,
        who: &Caller,
        arguments: &[u8],
        out: &mut BytesMut,
    ) -> Result<Option<Bytes>, Denial> {
        match (target, &self.programs) {
            (Target::Nfs(procedure), Programs::Nfs { fs, .. }) => {
                let arguments =
                    Arguments::decode(procedure, arguments).map_err(|_| Denial::GarbageArguments)?;
                let outcome = procedures::execute(&**fs, who, &arguments, out);
                self.counters.call(procedure, outcome.failed);
                Ok(outcome.data)
            }
            (Target::Mount(procedure), Programs::Nfs { fs, mounts }) => {
                mount::execute(&**fs, mounts, who, procedure, arguments, out).map(|()| None)
            }
            (Target::Portmapper { version, procedure }, Programs::Portmapper(nfs)) => {
                portmap::execute(*nfs, version, procedure, arguments, out).map(|()| None)
            }
            _ => Err(Denial::NoProgram),
        }
    }
}

/// The call met a fault of this server and may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

fn check_version(call: &Call<'_>, low: u32, high: u32) -> Result<(), Denial> {
    if (low..=high).contains(&call.version) { Ok(()) } else { Err(Denial::NoVersion(low, high)) }
}
