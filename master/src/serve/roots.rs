//! The nodes' roots, which follow the cluster in force.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::boot::{self, Rebase, Roots, Site};
use crate::cluster::{self, Boot, Node, NodeSet, Root};
use crate::nfs::FileSystem;
use crate::nfs::union::{
    Builds, ConflictState, NodeExport, RenderedFile, RenderedKind, Union, UnionError, Unserved, Writes,
};
use crate::render::{self, Content};

/// Octets of a file that `tesela render` prints at most.
const MOST_PRINTED: usize = 64 << 20;

/// Makes the kernel of a node look again at these directories.
pub(super) type Refresh = Box<dyn Fn(&str, Vec<String>) + Send + Sync>;

/// The union, told of each generation.
pub(super) struct UnionRoots {
    union: Arc<Union>,
    refresh: Refresh,
    /// What the union serves now; held while that changes.
    exports: Mutex<Exports>,
    /// Nodes whose files are as they were, for they could not be rendered anew.
    stale: Mutex<Troubles>,
    /// Held from the rendering of a node's files until it has them: the newest are the last.
    rendering: Mutex<()>,
}

#[derive(Default)]
struct Exports {
    nodes: Vec<NodeExport>,
    /// Why others, or some of them, are not.
    unserved: Troubles,
    /// Whether all of them are: what stood against one (a full disk) may be gone when it boots.
    all_served: bool,
}

/// What is wrong, by the names of the nodes.
type Troubles = HashMap<String, String>;

impl UnionRoots {
    pub(super) fn open(state: &Path, refresh: Refresh) -> Result<Self, UnionError> {
        Ok(Self {
            union: Union::open(state)?,
            refresh,
            exports: Mutex::default(),
            stale: Mutex::default(),
            rendering: Mutex::default(),
        })
    }

    /// What NFS serves.
    pub(super) fn file_system(&self) -> Arc<dyn FileSystem> {
        Arc::clone(&self.union) as _
    }

    /// Serves the nodes of the generation in force. A node whose image is not built is not served yet, which is
    /// told once.
    fn export(&self, site: &Site) {
        let mut exports = self.exports();
        let (mut nodes, mut unserved, mut unbuilt) = (Vec::new(), Troubles::new(), BTreeMap::new());
        for node in site.current().nodes() {
            match export_of(site, node) {
                Ok(export) => nodes.extend(export),
                Err(NoBuild(image)) => {
                    let why = boot::not_built(&image);
                    if exports.unserved.get(&node.name) != Some(&why) {
                        unbuilt.entry(image).or_insert_with(Vec::new).push(node.name.clone());
                    }
                    unserved.insert(node.name.clone(), why);
                }
            }
        }
        for (image, waiting) in unbuilt {
            let nodes: NodeSet = waiting.into_iter().collect();
            site.inventory.event(None, None, None, format!("{} ({nodes} boot it)", boot::not_built(&image)));
        }
        if exports.nodes == nodes && exports.all_served {
            exports.unserved = unserved;
            return;
        }
        let refused = self.union.set_nodes(&nodes).err().unwrap_or_default();
        let all_served = refused.is_empty();
        for Unserved { node, error } in refused {
            tracing::error!("{error}");
            let concerned =
                node.map_or_else(|| nodes.iter().map(|node| node.name.clone()).collect(), |node| vec![node]);
            unserved.extend(concerned.into_iter().map(|node| (node, error.to_string())));
        }
        *exports = Exports { nodes, unserved, all_served };
    }

    fn exports(&self) -> MutexGuard<'_, Exports> {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error of the union, or why it does not know the node.
    fn told(&self, error: &UnionError) -> String {
        match error {
            UnionError::UnknownNode(node) => self.exports().unserved.get(node).cloned(),
            _ => None,
        }
        .unwrap_or_else(|| error.to_string())
    }

    fn stale(&self) -> MutexGuard<'_, Troubles> {
        self.stale.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one_rendering(&self) -> MutexGuard<'_, ()> {
        self.rendering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn render(&self, site: &Site, node: &Node) {
        if node.settings().root.value != Root::Nfs || node.settings().boot.value != Boot::Network {
            return;
        }
        let applied = {
            let _newest_last = self.one_rendering();
            files_of(site, node)
                .and_then(|files| self.union.apply(&node.name, &files).map_err(|error| error.to_string()))
        };
        match applied {
            Ok(applied) if !applied.directories.is_empty() => {
                self.stale().remove(&node.name);
                let directories = applied.directories.iter();
                (self.refresh)(
                    &node.name,
                    directories.map(|path| path.to_string_lossy().into_owned()).collect(),
                );
            }
            Ok(_) => drop(self.stale().remove(&node.name)),
            Err(error) => {
                let why = format!("its files are as they were: {error}");
                let before = self.stale().insert(node.name.clone(), why.clone());
                if before.as_ref() != Some(&why) {
                    site.inventory.event(Some(&node.name), None, None, why);
                }
            }
        }
    }
}

impl Roots for UnionRoots {
    fn follow(&self, site: &Site) {
        self.export(site);
        let exported = self.exports().nodes.clone();
        let generation = site.current();
        self.stale().retain(|node, _| generation.node(node).is_some());
        for node in exported.iter().filter_map(|export| generation.node(&export.name)) {
            self.render(site, node);
        }
    }

    fn moved(&self, site: &Site, node: &str, address: Ipv4Addr) {
        let generation = site.current();
        let Some(node) = generation.node(node) else { return };
        // A node that is not exported yet gets its address with its export.
        if self.union.set_address(&node.name, Some(IpAddr::V4(address))).is_ok() {
            self.render(site, node);
        }
    }

    fn vacated(&self, node: &str) {
        // One that is not served has no address here either.
        if let Err(error) = self.union.set_address(node, None) {
            tracing::debug!(node, %error, "its address is another machine's now");
        }
    }

    fn booting(&self, site: &Site, node: &str) -> Result<(), String> {
        // An image may have been built since the last generation.
        self.export(site);
        let generation = site.current();
        let node = generation.node(node).ok_or("it is no node any more")?;
        if node.settings().root.value != Root::Nfs {
            return Ok(());
        }
        let _newest_last = self.one_rendering();
        self.union.booted(&node.name, &files_of(site, node)?).map_err(|error| self.told(&error))?;
        self.stale().remove(&node.name);
        Ok(())
    }

    fn next_build(&self, site: &Site, node: &str) -> Option<PathBuf> {
        // An image may have been built since the last generation.
        self.export(site);
        self.union.builds_of(node).ok().map(|builds| builds.at_next_boot().to_owned())
    }

    fn rebase(&self, site: &Site, node: &Node, only_look: bool) -> Result<Rebase, String> {
        // An image may have been built since the last generation.
        self.export(site);
        let told = |error: UnionError| self.told(&error);
        let Builds { on, newest, kept } = self.union.builds_of(&node.name).map_err(told)?;
        let name = |build: &Path| {
            let images = site.paths().state.join("images");
            build.strip_prefix(images).unwrap_or(build).display().to_string()
        };
        let rebase = |conflicts| Rebase { from: name(&on), to: name(&newest), kept, conflicts };
        if on == newest || !kept {
            return Ok(rebase(Vec::new()));
        }
        let conflicts = self.union.rebase_conflicts(&node.name).map_err(told)?;
        if !only_look {
            let _newest_last = self.one_rendering();
            self.union.rebase(&node.name, &files_of(site, node)?).map_err(told)?;
        }
        Ok(rebase(conflicts.iter().map(|path| path.display().to_string()).collect()))
    }

    fn forget(&self, node: &str) -> Result<bool, String> {
        self.union.forget(node).map_err(|error| error.to_string())
    }

    fn read(&self, site: &Site, node: &str, path: &str) -> Result<Vec<u8>, String> {
        // An image may have been built since the last generation.
        self.export(site);
        self.union
            .read_path(node, Path::new(path), MOST_PRINTED)
            .map(|found| found.content)
            .map_err(|error| self.told(&error))
    }

    fn troubles(&self, site: &Site) -> HashMap<String, String> {
        // An image may have been built since the last generation.
        self.export(site);
        let mut troubles = self.stale().clone();
        troubles.extend(self.exports().unserved.clone());
        troubles
    }

    fn conflicts(&self, node: &str) -> Vec<String> {
        // A node that was never served has none.
        let conflicts = self.union.conflicts(node).unwrap_or_default();
        let told = conflicts.iter().map(|conflict| {
            let path = conflict.path.display();
            match conflict.state {
                ConflictState::Held => {
                    format!("{path}: the node's own version holds until the template changes")
                }
                ConflictState::Aside { size } => {
                    format!(
                        "{path}: the template's version holds; the node's, of {size} octets, is kept aside"
                    )
                }
            }
        });
        told.collect()
    }
}

/// The image of a node has no build yet.
struct NoBuild(String);

/// What a node mounts over NFS; `None` where it is none that does.
fn export_of(site: &Site, node: &Node) -> Result<Option<NodeExport>, NoBuild> {
    let settings = node.settings();
    let Some(image) = settings.image.value.as_deref().filter(|_| settings.boot.value == Boot::Network) else {
        return Ok(None);
    };
    let image_dir = image_directory(site, image).ok_or_else(|| NoBuild(image.to_owned()))?;
    if settings.root.value != Root::Nfs {
        return Ok(None);
    }
    let writes = match settings.writes.value {
        cluster::Writes::Keep => Writes::Keep,
        cluster::Writes::Discard => Writes::Discard,
    };
    let address = site.address_of(node).map(IpAddr::V4);
    Ok(Some(NodeExport { name: node.name.clone(), address, image_dir, writes }))
}

/// The directory of the image's build for new boots; `None` if there is none yet.
fn image_directory(site: &Site, image: &str) -> Option<PathBuf> {
    let images = site.paths().state.join("images").join(image);
    std::fs::read_link(images.join("current")).ok().map(|build| images.join(build))
}

fn files_of(site: &Site, node: &Node) -> Result<Vec<RenderedFile>, String> {
    let files = site.rendered(node).map_err(|error| error.to_string())?;
    Ok(files.into_iter().map(to_union).collect())
}

fn to_union(file: render::RenderedFile) -> RenderedFile {
    RenderedFile {
        path: file.path.into(),
        kind: match file.content {
            Content::File(content) => RenderedKind::File(content),
            Content::Link(target) => RenderedKind::Symlink(target.into()),
        },
        mode: u16::try_from(file.mode).unwrap_or(0o644),
        uid: 0,
        gid: 0,
    }
}
