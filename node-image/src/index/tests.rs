use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn tree() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    std::fs::create_dir_all(root.join("usr/bin")).unwrap();
    std::fs::write(root.join("usr/bin/true"), b"\x7fELF").unwrap();
    std::fs::hard_link(root.join("usr/bin/true"), root.join("usr/bin/also")).unwrap();
    let suid = std::fs::Permissions::from_mode(0o4755);
    std::fs::set_permissions(root.join("usr/bin/true"), suid).unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    directory
}

#[test]
fn a_tree_is_read_back_from_its_file() {
    let directory = tree();
    let index = scan(directory.path()).unwrap();
    let file = directory.path().with_extension("index");
    index.write(&file).unwrap();
    assert_eq!(Index::load(&file).unwrap(), index);
    std::fs::remove_file(&file).unwrap();

    assert_eq!(index.len(), 6);
    let truth = index.find(Path::new("usr/bin/true")).unwrap();
    assert_eq!(index.find(Path::new("/usr/bin/also")), Some(truth), "hard links share a number");
    let attributes = index.attributes(truth).unwrap();
    assert_eq!((attributes.kind, attributes.mode, attributes.nlink), (Kind::File(4), 0o4755, 2));
    assert_eq!(index.path(truth).unwrap(), Path::new("usr/bin/also"));
    assert_eq!(index.target(index.find(Path::new("bin")).unwrap()), b"usr/bin");
    assert_eq!(index.find(Path::new("bin/true")), None, "symbolic links are not followed");
    let names: Vec<_> = index.read_directory(ROOT, 1).map(|(name, _)| name.to_vec()).collect();
    assert_eq!(names, [b"fifo".to_vec(), b"usr".to_vec()]);
    assert_eq!(index.attributes(ROOT).unwrap().nlink, 3);
    assert_eq!(index.attributes(0), None);
    assert!(index.memory() < 6 * 100);
}

#[test]
fn what_the_tree_lacks_is_put_in() {
    let directory = tree();
    let index = scan_with(directory.path(), |path, attributes| {
        attributes.uid = 12;
        if path == Path::new("usr/bin/also") {
            attributes.kind = Kind::Char(1, 3);
        }
        if path == Path::new("usr") {
            attributes.kind = Kind::Fifo;
        }
    })
    .unwrap();
    let at = |path: &str| *index.attributes(index.find(Path::new(path)).unwrap()).unwrap();
    assert_eq!((at("usr/bin/true").kind, at("").uid), (Kind::Char(1, 3), 12));
    assert_eq!(at("usr").kind, Kind::Directory);
}

#[test]
fn a_damaged_index_is_an_error() {
    let directory = tree();
    let whole = scan(directory.path()).unwrap().encode();
    for length in 0..whole.len() {
        assert!(Index::parse(&whole[..length]).is_err());
    }
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x41;
        assert!(Index::parse(&damaged).is_err());
        // With the digest made to match, it may hold or not, but nothing breaks.
        fuzz(&damaged[..whole.len() - blake3::OUT_LEN]);
    }
}

/// What the fuzzer found worth keeping is read again.
#[test]
fn the_corpus_of_indexes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/image_index");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        fuzz(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0);
}
