//! The union: each node's root is the image, what is rendered for the node, and what it wrote.
//!
//! The image is read-only and shared by all nodes that have it: its inodes and names are answered
//! from the index in memory, its files read from the tree. Whatever is otherwise on a node is in its
//! [`state`], in memory as a whole and on the disk as a journal (`STATE/nodes/NAME/journal`) and the
//! content of files that it wrote (`STATE/nodes/NAME/data/`, mode 0600, named by object number):
//! owners, modes, devices, whiteouts and symbolic links are never files of the master's own.
//!
//! Every object has one number for good, whichever layer its content is in, so a handle holds over
//! copying up, renaming, linking and a restart. An image's directory can be renamed as it is, for
//! names lead to numbers and not to places.
//!
//! The journal also has the data of small stable writes until the data files are flushed ([`recorded`]).
//!
//! What is promised: a change is on stable storage when its call returns, whole or not at all, also
//! over kill -9 and power loss; a full disk refuses a change and keeps all that was. Reads never
//! change the atime: it is what was set last. Limits: no extended attributes, ACLs or locks, as
//! NFSv3 has none; `used` is the size in whole blocks, also of sparse files.

mod access;
mod attributes;
mod error;
mod files;
mod handle;
mod image;
mod io;
mod journal;
mod keeper;
mod look;
mod names;
mod node;
mod numbers;
mod object;
mod rebase;
mod record;
mod recorded;
mod rendered;
mod report;
mod serve;
mod state;
mod sys;
mod txn;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use arc_swap::ArcSwap;

pub use error::{UnionError, Unserved};
pub use rendered::{Applied, Conflict, ConflictState, RenderedFile, RenderedKind};
pub use report::{Difference, Found, How, Usage, builds_in_use};

use files::Files;
use handle::Key;
use image::Build;
use keeper::Keeper;
use node::{Node, Shared, lock};
use numbers::Numbers;
use object::FIRST_OWN;
use record::Head;
use state::State;
use txn::Txn;

/// How the directory of a node begins that is being forgotten; no node's name does.
const FORGOTTEN: &str = ".forgotten-";

/// How many files of images and of nodes' writes are kept open.
const OPEN_FILES: usize = 512;

/// What becomes of a node's writes at its next boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writes {
    /// They are there again, and the node stays on its build of the image.
    Keep,
    /// They are gone.
    Discard,
}

/// A node that has an NFS root, exported as `/nodes/NAME`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeExport {
    /// Its name: one path component, which does not begin with a dot.
    pub name: String,
    /// The address that it holds now; without one, nobody may mount it.
    pub address: Option<IpAddr>,
    /// The build that it takes at its next boot: `STATE/images/NAME/BUILD`, not a symbolic link to it.
    pub image_dir: PathBuf,
    /// What becomes of its writes then.
    pub writes: Writes,
}

/// The builds of its image that concern a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Builds {
    /// The one that its root is of.
    pub on: PathBuf,
    /// The one that it is to have.
    pub newest: PathBuf,
    /// Whether it has writes that are kept, and so stays where it is.
    pub kept: bool,
}

impl Builds {
    /// The one that it has at its next boot: its kernel must be of the same one.
    pub fn at_next_boot(&self) -> &Path {
        if self.kept { &self.on } else { &self.newest }
    }
}

/// The roots of all nodes.
pub struct Union {
    shared: Arc<Shared>,
    table: ArcSwap<Table>,
    builds: Mutex<HashMap<PathBuf, Weak<Build>>>,
    numbers: Mutex<Numbers>,
    verifier: [u8; 8],
}

#[derive(Default)]
struct Table {
    by_number: HashMap<u32, Arc<Node>>,
    by_name: HashMap<String, Arc<Node>>,
}

impl Union {
    /// Opens the state directory: makes the handle key if there is none. No node is served yet.
    ///
    /// # Errors
    /// [`UnionError::Io`] with the path that cannot be read or made.
    pub fn open(state_dir: &Path) -> Result<Arc<Self>, UnionError> {
        let key_path = state_dir.join("keys/nfs-handle.key");
        let key = Key::load(&key_path).map_err(UnionError::io(&key_path))?;
        let nodes = state_dir.join("nodes");
        std::fs::create_dir_all(&nodes).map_err(UnionError::io(&nodes))?;
        sweep_forgotten(&nodes).map_err(UnionError::io(&nodes))?;
        let path = nodes.join(".numbers");
        let numbers = Numbers::load(&path).map_err(UnionError::io(&path))?;
        let verifier = files::random().map_err(UnionError::io(&nodes))?;
        let files = Files::new(OPEN_FILES);
        let (keeper, asked) = Keeper::new();
        let union = Arc::new(Self {
            shared: Arc::new(Shared { key, files, state_dir: state_dir.to_owned(), keeper }),
            table: ArcSwap::default(),
            builds: Mutex::default(),
            numbers: Mutex::new(numbers),
            verifier,
        });
        asked.serve(Arc::downgrade(&union)).map_err(UnionError::io(&nodes))?;
        Ok(union)
    }

    /// Writes the journal of a node anew, if the node is served.
    fn shorten(&self, node: u32) {
        if let Some(node) = self.table.load().by_number.get(&node) {
            node.shorten();
        }
    }

    /// Makes these the nodes that are served. Those that were before go on where they are: another
    /// build, or another word on their writes, counts from their next boot. Nodes that are not among
    /// them are served no more, but keep what they wrote.
    ///
    /// # Errors
    /// One for each node that cannot be served; the others are.
    pub fn set_nodes(&self, exports: &[NodeExport]) -> Result<(), Vec<Unserved>> {
        let mut numbers = lock(&self.numbers);
        let names: Vec<&str> = exports.iter().map(|export| export.name.as_str()).collect();
        let path = self.shared.state_dir.join("nodes/.numbers");
        let none = |error| vec![Unserved { node: None, error: UnionError::io(&path)(error) }];
        let given = numbers.of(&names).map_err(none)?;
        let old = self.table.load();
        let mut table = Table::default();
        let mut errors = Vec::new();
        for (export, number) in exports.iter().zip(given) {
            let node = match old.by_name.get(&export.name).filter(|node| node.number == number) {
                Some(node) => {
                    node.set_next(&export.image_dir, export.writes);
                    node.set_address(export.address);
                    Arc::clone(node)
                }
                None => {
                    let builds = |directory: &Path| self.build(&export.name, directory);
                    match Node::open(&self.shared, number, export, &builds) {
                        Ok(node) => Arc::new(node),
                        Err(error) => {
                            errors.push(Unserved { node: Some(export.name.clone()), error });
                            continue;
                        }
                    }
                }
            };
            table.by_number.insert(number, Arc::clone(&node));
            table.by_name.insert(export.name.clone(), node);
        }
        self.table.store(Arc::new(table));
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Sets the address that a node holds.
    ///
    /// # Errors
    /// [`UnionError::UnknownNode`].
    pub fn set_address(&self, node: &str, address: Option<IpAddr>) -> Result<(), UnionError> {
        self.node_named(node)?.set_address(address);
        Ok(())
    }

    /// Makes these the rendered files of a node: it sees all of them at once, or none. Answers what
    /// changed.
    ///
    /// # Errors
    /// [`UnionError::Path`] or [`UnionError::TooMuch`] for files that cannot be,
    /// [`UnionError::Refused`] if the disk is full or fails; the node sees what it saw before.
    pub fn apply(&self, node: &str, files: &[RenderedFile]) -> Result<Applied, UnionError> {
        self.node_named(node)?.apply(files)
    }

    /// Tells that a node boots, and what is rendered for it from now on: its writes are discarded if
    /// that is said, it takes the build that it is to have (one that keeps writes stays on the build
    /// of them), and what its last run left behind is swept: `.nfs*` files, and rendered files that
    /// only it had open.
    ///
    /// # Errors
    /// As [`Union::apply`]; and [`UnionError::Image`] if the build cannot be read.
    pub fn booted(&self, node: &str, files: &[RenderedFile]) -> Result<Applied, UnionError> {
        let node = self.node_named(node)?;
        let (image_dir, writes) = node.next();
        let wanted = node::build_name(&self.shared, &image_dir);
        let stays = match (node.read(), writes) {
            (state, _) if !state.wrote => state.head.build == wanted,
            (_, writes) => writes == Writes::Keep,
        };
        if stays {
            return node.swept(files);
        }
        let build = self.build(&node.name, &image_dir)?;
        rendered::record_size(&node.name, files)?;
        node.remake(|old| {
            let head = Head {
                generation: old.head.generation.wrapping_add(1),
                build: wanted,
                next_object: old.head.next_object.max(FIRST_OWN),
                ..old.head
            };
            let mut new = State::new(head, build);
            let mut txn = Txn::new(&mut new);
            let applied = rendered::render(&mut txn, files);
            Ok((new, applied))
        })
    }

    /// The builds of its image that concern a node.
    ///
    /// # Errors
    /// [`UnionError::UnknownNode`].
    pub fn builds_of(&self, node: &str) -> Result<Builds, UnionError> {
        let node = self.node_named(node)?;
        let (newest, writes) = node.next();
        let state = node.read();
        let kept = state.wrote && writes == Writes::Keep;
        Ok(Builds { on: state.build.directory.clone(), newest, kept })
    }

    /// Takes a node's writes and its number away for good; whether there was anything. It must not be served any
    /// more.
    ///
    /// # Errors
    /// [`UnionError::Io`]; [`UnionError::Path`] if it is still served.
    pub fn forget(&self, node: &str) -> Result<bool, UnionError> {
        let nodes = self.shared.state_dir.join("nodes");
        let directory = nodes.join(node);
        let refused = |what| Err(UnionError::Path { node: node.to_owned(), path: directory.clone(), what });
        if node.is_empty() || node.starts_with('.') || node.contains('/') {
            return refused("this is no node's name");
        }
        let mut numbers = lock(&self.numbers);
        if self.table.load().by_name.contains_key(node) {
            return refused("the node is still served");
        }
        // First out of the way as a whole: whatever stops us, there is all of it or nothing.
        let gone = nodes.join(format!("{FORGOTTEN}{node}"));
        let is_there = |result: std::io::Result<()>| match result {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        };
        is_there(std::fs::remove_dir_all(&gone)).map_err(UnionError::io(&gone))?;
        let was_there = is_there(std::fs::rename(&directory, &gone)).map_err(UnionError::io(&directory))?;
        numbers.forget(node).map_err(UnionError::io(&directory))?;
        is_there(std::fs::remove_dir_all(&gone)).map_err(UnionError::io(&gone))?;
        Ok(was_there)
    }

    fn node_named(&self, name: &str) -> Result<Arc<Node>, UnionError> {
        let table = self.table.load();
        table.by_name.get(name).cloned().ok_or_else(|| UnionError::UnknownNode(name.to_owned()))
    }

    /// A build, loaded once for all nodes.
    fn build(&self, node: &str, directory: &Path) -> Result<Arc<Build>, UnionError> {
        let mut builds = lock(&self.builds);
        if let Some(build) = builds.get(directory).and_then(Weak::upgrade) {
            return Ok(build);
        }
        let name = directory.parent().and_then(Path::file_name).unwrap_or_default();
        let (node, name) = (node.to_owned(), name.to_string_lossy().into_owned());
        let image = |source| UnionError::Image { node, image: name, source };
        let build = Arc::new(Build::load(directory).map_err(image)?);
        builds.retain(|_, build| build.strong_count() > 0);
        builds.insert(directory.to_owned(), Arc::downgrade(&build));
        Ok(build)
    }
}

/// Removes what is left of nodes that were being forgotten when the master ended.
fn sweep_forgotten(nodes: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(nodes)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(FORGOTTEN) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The entry of the fuzz target `journal`: reads what `data` says as a journal and makes its changes.
pub fn fuzz_journal(data: &[u8]) {
    report::fuzz_journal(data);
}
