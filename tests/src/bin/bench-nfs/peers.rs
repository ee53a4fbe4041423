//! The servers that are measured, each a process of its own in a network namespace without a way out.

use crate::mirror::Mirror;
use crate::work;
use nfsserve::tcp::{NFSTcp, NFSTcpListener};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tesela::nfs::memory::Memory;
use tesela::nfs::union::{NodeExport, Union, Writes};
use tesela::nfs::{FileSystem, Limits};
use tesela_tests::nfs::{Client, Serving};
use tesela_tests::ready::{Port, PortWatch};

/// The image of the node that the union serves, below its state directory.
const BUILD: &str = "images/bench/1";

/// A server that runs.
pub struct Peer {
    /// What it is called in the table.
    pub name: &'static str,
    nfs: SocketAddr,
    mount: SocketAddr,
    path: String,
    child: Child,
}

impl Peer {
    /// Ours, over the union of an image and a node's writes, with its state in a directory.
    pub fn union(port: u16, state: &Path) -> io::Result<Self> {
        let build = state.join(BUILD);
        work::make_tree(&build.join("root"))?;
        let index = tesela_node_image::index::scan(&build.join("root")).map_err(io::Error::other)?;
        index.write(&build.join("index")).map_err(io::Error::other)?;
        Self::own("tesela", "union", port, state, "/nodes/n1")
    }

    /// Ours, over a file system in memory that says of itself that it cannot block: the protocol alone.
    pub fn memory(port: u16) -> io::Result<Self> {
        Self::own("tesela, in memory", "memory", port, Path::new("/"), "/")
    }

    /// The nfsserve crate over a directory.
    pub fn nfsserve(port: u16, directory: &Path) -> io::Result<Self> {
        work::make_tree(directory)?;
        Self::own("nfsserve", "nfsserve", port, directory, "/")
    }

    fn own(name: &'static str, kind: &str, port: u16, directory: &Path, path: &str) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", kind, &port.to_string()]).arg(directory);
        Self::start(name, &command, port, port, path)
    }

    /// NFS-Ganesha over a directory.
    pub fn ganesha(port: u16, directory: &Path, scratch: &Path) -> io::Result<Self> {
        work::make_tree(directory)?;
        let (config, mount, path) = (scratch.join("ganesha.conf"), port + 1, directory.display());
        std::fs::write(
            &config,
            format!(
                "NFS_CORE_PARAM {{ NFS_Port={port}; MNT_Port={mount}; Enable_NLM=false; Enable_RQUOTA=false; \
                 Protocols=3; }}\n\
                 EXPORT {{ Export_Id=1; Path={path}; Pseudo={path}; Access_Type=RW; Squash=No_Root_Squash; \
                 SecType=sys; Protocols=3; Transports=TCP; Disable_ACL=true; FSAL {{ Name=VFS; }} }}\n\
                 LOG {{ Default_Log_Level=CRIT; }}\n"
            ),
        )?;
        let mut command = Command::new("ganesha.nfsd");
        command.arg("-F").arg("-f").arg(&config).arg("-L").arg(scratch.join("ganesha.log"));
        command.arg("-p").arg(scratch.join("ganesha.pid"));
        Self::start("NFS-Ganesha", &command, port, mount, &path.to_string())
    }

    fn start(name: &'static str, command: &Command, nfs: u16, mount: u16, path: &str) -> io::Result<Self> {
        let watch = PortWatch::new();
        let child = watch.watched(command).stdin(Stdio::null()).spawn()?;
        watch.wait(&[Port::Tcp(nfs), Port::Tcp(mount)], &child);
        let [nfs, mount] = [nfs, mount].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Ok(Self { name, nfs, mount, path: path.to_owned(), child })
    }

    /// A new connection.
    pub fn client(&self) -> io::Result<Client> {
        let mut client = Client::connect(self.nfs)?;
        client.stream().set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(client)
    }

    /// The handle of the root.
    pub fn root(&self) -> io::Result<Vec<u8>> {
        Client::connect(self.mount)?.mount(&self.path)
    }

    /// Gives it the last processor and the clients the first until this is dropped, at a real-time priority: how
    /// long a lone call takes is else a matter of where the scheduler happens to have put the two.
    pub fn apart(&self) -> io::Result<Apart> {
        let last = std::thread::available_parallelism()?.get() - 1;
        let apart = Apart { pids: [self.child.id(), std::process::id()], processors: format!("0-{last}") };
        for (pid, processor) in apart.pids.into_iter().zip([last, 0]) {
            place(pid, &processor.to_string(), ["-f", "10"])?;
        }
        Ok(apart)
    }

    /// CPU time that it has taken.
    pub fn cpu(&self) -> io::Result<Duration> {
        Ok(tesela_tests::cpu_time(i32::try_from(self.child.id()).map_err(io::Error::other)?))
    }
}

/// A server and its clients, each on a processor of its own.
pub struct Apart {
    pids: [u32; 2],
    processors: String,
}

impl Drop for Apart {
    fn drop(&mut self) {
        for pid in self.pids {
            place(pid, &self.processors, ["-o", "0"]).expect("what could be set can be set back");
        }
    }
}

/// Sets processors and scheduling of all threads of a process.
fn place(pid: u32, processors: &str, [policy, priority]: [&str; 2]) -> io::Result<()> {
    let pid = pid.to_string();
    for command in [["taskset", "-a", "-c", "-p", processors], ["chrt", "-a", policy, "-p", priority]] {
        let output = Command::new(command[0]).args(&command[1..]).arg(&pid).output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
    }
    Ok(())
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It holds nothing worth an orderly end, and may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process of ours does that was started to serve: it ends only by being killed.
pub fn serve(kind: &str, port: u16, directory: PathBuf) -> io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let fs: Arc<dyn FileSystem> = match kind {
        "memory" => Arc::new(Memory::new(8 << 30, false)),
        "union" => {
            let union = Union::open(&directory).map_err(io::Error::other)?;
            let node = NodeExport {
                name: "n1".into(),
                address: Some(Ipv4Addr::LOCALHOST.into()),
                image_dir: directory.join(BUILD),
                writes: Writes::Keep,
            };
            union.set_nodes(&[node]).map_err(|errors| io::Error::other(format!("{errors:?}")))?;
            union.booted("n1", &[]).map_err(io::Error::other)?;
            union
        }
        "nfsserve" => {
            return tokio::runtime::Runtime::new()?.block_on(async {
                let listener = NFSTcpListener::bind(&address.to_string(), Mirror::new(directory)).await?;
                listener.handle_forever().await
            });
        }
        other => return Err(io::Error::other(format!("nothing is called {other}"))),
    };
    let _serving = Serving::start_at(address, fs, Limits::default())?;
    loop {
        std::thread::park();
    }
}
