//! Tests of the union as a whole.

mod cases;
mod crash;
mod model;
mod moving;
mod rendering;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::nfs::fs::{
    Attr, Caller, CreateHow, FileSystem, Handle, Kind, Made, Result as Answer, SetAttr, Stable,
};

/// A union of one node, `n1`, on an image made by a closure.
struct Fixture {
    directory: tempfile::TempDir,
    union: Arc<Union>,
    writes: Writes,
    build: &'static str,
}

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

fn caller(uid: u32) -> Caller {
    Caller { address: ADDRESS, uid, gid: uid, groups: vec![] }
}

fn root() -> Caller {
    caller(0)
}

/// Makes a build of an image.
fn make_build(state_dir: &Path, name: &str, fill: impl FnOnce(&Path)) {
    let build = state_dir.join("images/base").join(name);
    std::fs::create_dir_all(build.join("root")).unwrap();
    fill(&build.join("root"));
    let index = tesela_node_image::index::scan(&build.join("root")).unwrap();
    index.write(&build.join("index")).unwrap();
}

impl Fixture {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        // In memory where that can be: the tests are of what is written, not of the disk.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        make_build(directory.path(), "b1", fill);
        let union = Union::open(directory.path()).unwrap();
        let fixture = Self { directory, union, writes: Writes::Keep, build: "b1" };
        fixture.set();
        fixture
    }

    fn export(&self) -> NodeExport {
        NodeExport {
            name: "n1".into(),
            address: Some(ADDRESS),
            image_dir: self.directory.path().join("images/base").join(self.build),
            writes: self.writes,
        }
    }

    fn set(&self) {
        self.union.set_nodes(&[self.export()]).unwrap();
    }

    /// As after kill -9: nothing is told to the old one.
    fn restart(&mut self) {
        self.union = Union::open(self.directory.path()).unwrap();
        self.set();
    }

    fn root(&self) -> Handle {
        self.union.mount(&root(), b"/nodes/n1").unwrap()
    }

    fn walk(&self, who: &Caller, path: &str) -> Answer<Handle> {
        let parts = path.split('/').filter(|part| !part.is_empty());
        parts.into_iter().try_fold(self.root(), |at, name| {
            self.union.lookup(who, &at, name.as_bytes()).map(|(handle, _)| handle)
        })
    }

    fn at(&self, path: &str) -> Handle {
        self.walk(&root(), path).unwrap_or_else(|status| panic!("{path}: {status:?}"))
    }

    fn attr(&self, path: &str) -> Attr {
        self.union.getattr(&root(), &self.at(path)).unwrap()
    }

    fn split<'a>(&self, path: &'a str) -> (Handle, &'a [u8]) {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.at(directory), name.as_bytes())
    }

    fn create(&self, path: &str) -> Made {
        let (directory, name) = self.split(path);
        let set = SetAttr { mode: Some(0o644), ..SetAttr::default() };
        self.union.create(&root(), &directory, name, CreateHow::Guarded(set)).unwrap()
    }

    fn write(&self, path: &str, content: &[u8]) -> Handle {
        let handle = match self.walk(&root(), path) {
            Ok(handle) => handle,
            Err(_) => self.create(path).handle,
        };
        self.union.write(&root(), &handle, 0, content, Stable::Unstable).unwrap();
        self.union.commit(&root(), &handle).unwrap();
        handle
    }

    fn content(&self, handle: &Handle) -> Vec<u8> {
        self.union.read(&root(), handle, 0, 1 << 20).unwrap().data.to_vec()
    }

    fn cat(&self, path: &str) -> Vec<u8> {
        self.content(&self.at(path))
    }

    fn names(&self, path: &str) -> Vec<String> {
        let mut names = Vec::new();
        let (directory, mut cookie) = (self.at(path), 0);
        loop {
            let page = self.union.readdir(&root(), &directory, cookie, [0; 8], 1000, true).unwrap();
            for entry in page.entries {
                cookie = entry.cookie;
                let (handle, attr) = entry.plus.unwrap();
                assert_eq!(attr.fileid, entry.fileid);
                assert_eq!(self.union.getattr(&root(), &handle).unwrap(), attr);
                names.push(String::from_utf8(entry.name).unwrap());
            }
            if page.eof {
                return names;
            }
        }
    }

    /// All that a node sees, by path.
    fn tree(&self) -> BTreeMap<PathBuf, Seen> {
        let mut tree = BTreeMap::new();
        let mut first = BTreeMap::new();
        self.tree_below(Path::new(""), &mut tree, &mut first);
        tree
    }

    fn tree_below(
        &self,
        path: &Path,
        tree: &mut BTreeMap<PathBuf, Seen>,
        first: &mut BTreeMap<u64, PathBuf>,
    ) {
        let text = path.to_str().unwrap();
        let handle = self.at(text);
        let attr = self.union.getattr(&root(), &handle).unwrap();
        let content = match attr.kind {
            Kind::File => self.content(&handle),
            Kind::Symlink => self.union.readlink(&root(), &handle).unwrap().0,
            _ => vec![],
        };
        let directory = attr.kind == Kind::Directory;
        let seen = Seen {
            kind: attr.kind,
            mode: attr.mode,
            owner: (attr.uid, attr.gid),
            nlink: attr.nlink,
            size: if directory { 0 } else { attr.size },
            content: digest(&content),
            same_as: first.entry(attr.fileid).or_insert_with(|| path.to_owned()).clone(),
        };
        tree.insert(path.to_owned(), seen);
        if directory {
            let mut names = self.names(text);
            names.retain(|name| name != "." && name != "..");
            names.sort();
            for name in names {
                self.tree_below(&path.join(name), tree, first);
            }
        }
    }
}

fn digest(content: &[u8]) -> String {
    blake3::hash(content).to_hex()[..8].to_owned()
}

/// What is seen at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    nlink: u32,
    size: u64,
    /// A digest of its content.
    content: String,
    /// The first path of the same object.
    same_as: PathBuf,
}

/// What the fuzzer found worth keeping is read again.
#[test]
fn the_corpus_of_journals() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/journal");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        fuzz_journal(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0);
}
