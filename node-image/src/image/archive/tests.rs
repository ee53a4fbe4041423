use std::fs;
use std::os::unix::fs::MetadataExt;

use sha2::{Digest, Sha256};

use super::*;

enum Made<'a> {
    Folder,
    File(&'a [u8]),
    Symlink(&'a str),
    Link(&'a str),
    Fifo,
}

/// Packs entries without any of the checks that a tar program makes.
fn pack(entries: &[(&str, Made<'_>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, made) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        let name = path.as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        let (kind, target, content): (_, &str, &[u8]) = match *made {
            Made::Folder => (tar::EntryType::Directory, "", b""),
            Made::File(content) => (tar::EntryType::Regular, "", content),
            Made::Symlink(target) => (tar::EntryType::Symlink, target, b""),
            Made::Link(target) => (tar::EntryType::Link, target, b""),
            Made::Fifo => (tar::EntryType::Fifo, "", b""),
        };
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

struct Trial {
    folder: tempfile::TempDir,
    root: Rooted,
}

impl Trial {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::write(folder.path().join("outside"), "untouched").unwrap();
        let root = Rooted::open(&folder.path().join("root")).unwrap();
        Self { folder, root }
    }

    fn unpack(&self, archive: &[u8]) -> Result<Lost, ArchiveError> {
        let path = self.folder.path().join("archive.tar");
        fs::write(&path, archive).unwrap();
        unpack(&path, &self.root, &self.folder.path().join("scratch"))
    }

    fn untouched(&self) -> bool {
        fs::read(self.folder.path().join("outside")).unwrap() == b"untouched"
    }
}

#[test]
fn a_plain_archive_however_compressed() {
    let archive = pack(&[
        ("./", Made::Folder),
        ("./bin/", Made::Folder),
        ("./bin/sh", Made::File(b"shell")),
        ("bin/bash", Made::Link("./bin/sh")),
        ("/etc/deep/file", Made::File(b"text")),
        ("lib", Made::Symlink("usr/lib")),
        ("fifo", Made::Fifo),
    ]);
    let zstd = zstd::encode_all(archive.as_slice(), 1).unwrap();
    for archive in [archive, zstd] {
        let trial = Trial::new();
        trial.unpack(&archive).unwrap();
        let path = |name: &str| trial.root.path().join(name);
        assert_eq!(fs::read(path("bin/bash")).unwrap(), b"shell");
        assert_eq!(fs::metadata(path("bin/sh")).unwrap().nlink(), 2);
        assert_eq!(fs::metadata(path("bin")).unwrap().mtime(), 1_000_000);
        assert_eq!(fs::read(path("etc/deep/file")).unwrap(), b"text");
        assert_eq!(fs::read_link(path("lib")).unwrap(), Path::new("usr/lib"));
    }
}

#[test]
fn no_entry_gets_out() {
    let refused = [
        pack(&[("../outside", Made::File(b"x"))]),
        pack(&[("a/../../outside", Made::File(b"x"))]),
        pack(&[("link", Made::Link("../outside"))]),
    ];
    for archive in refused {
        let trial = Trial::new();
        assert!(matches!(trial.unpack(&archive), Err(ArchiveError::Escapes(_))));
        assert!(trial.untouched());
    }
    // These are taken, but with the image as the root of all that they name.
    let trial = Trial::new();
    let up = "../../../../../../../../../../../../../../..";
    let outside = trial.folder.path().join("outside").to_string_lossy().into_owned();
    let archives = [
        pack(&[("up", Made::Symlink("..")), ("up/outside", Made::File(b"x"))]),
        pack(&[("out", Made::Symlink(up)), ("out/made", Made::File(b"x"))]),
        pack(&[("file", Made::Symlink(&outside)), ("file", Made::File(b"x"))]),
        pack(&[
            ("hard", Made::Symlink(&outside)),
            ("other", Made::Link("hard")),
            ("other", Made::File(b"x")),
        ]),
        pack(&[("a", Made::Symlink("/b")), ("a/c", Made::File(b"x"))]),
    ];
    for archive in archives {
        // Whether there is such a folder in the image decides if it can be unpacked.
        let _ = trial.unpack(&archive);
        assert!(trial.untouched());
    }
    assert_eq!(fs::read(trial.root.path().join("made")).unwrap(), b"x");
    assert_eq!(fs::read(trial.root.path().join("file")).unwrap(), b"x");
    let outside_image = trial.folder.path().read_dir().unwrap().count();
    assert_eq!(outside_image, 3, "nothing else was made beside root, archive and outside");
}

fn hex(octets: &[u8]) -> String {
    Sha256::digest(octets).iter().map(|octet| format!("{octet:02x}")).collect()
}

fn layers() -> [Vec<u8>; 2] {
    let below = pack(&[
        ("etc/gone", Made::File(b"1")),
        ("etc/stays", Made::File(b"1")),
        ("dir/old", Made::File(b"1")),
        ("sub/deep/old", Made::File(b"1")),
    ]);
    // The marks come after what the layer itself brings, and must not take that away.
    let above = pack(&[
        ("dir/new", Made::File(b"2")),
        ("dir/.wh..wh..opq", Made::File(b"")),
        ("etc/.wh.gone", Made::File(b"")),
        ("sub/.wh.deep", Made::File(b"")),
        (".wh..", Made::File(b"")),
    ]);
    [below, zstd::encode_all(above.as_slice(), 1).unwrap()]
}

fn check_layers(trial: &Trial) {
    let there = |name: &str| trial.root.exists(name);
    assert!(there("etc/stays") && there("dir/new") && there("sub"));
    for gone in ["etc/gone", "dir/old", "sub/deep", "dir/.wh..wh..opq", "etc/.wh.gone"] {
        assert!(!there(gone), "{gone}");
    }
}

#[test]
fn a_saved_docker_image_with_whiteouts() {
    let [below, above] = layers();
    let manifest = br#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["1/layer.tar","2/layer.tar"]}]"#;
    let trial = Trial::new();
    let archive = pack(&[
        ("1/layer.tar", Made::File(&below)),
        ("3/layer.tar", Made::File(&above)),
        ("2/layer.tar", Made::Symlink("../3/layer.tar")),
        ("manifest.json", Made::File(manifest)),
    ]);
    trial.unpack(&archive).unwrap();
    check_layers(&trial);
}

#[test]
fn an_oci_archive_and_a_damaged_one() {
    let [below, above] = layers();
    let manifest = format!(
        r#"{{"layers":[{{"digest":"sha256:{}","mediaType":"a"}},{{"digest":"sha256:{}"}}]}}"#,
        hex(&below),
        hex(&above)
    );
    let index = format!(
        r#"{{"manifests":[{{"digest":"sha256:{}","platform":{{"os":"linux","architecture":"arm64"}}}},
            {{"digest":"sha256:{}","platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#,
        "0".repeat(64),
        hex(manifest.as_bytes())
    );
    let blob = |content: &[u8]| format!("blobs/sha256/{}", hex(content));
    let (first, second, third) = (blob(&below), blob(&above), blob(manifest.as_bytes()));
    let archive = |below: &[u8]| {
        pack(&[
            ("oci-layout", Made::File(b"{}")),
            ("index.json", Made::File(index.as_bytes())),
            (&first, Made::File(below)),
            (&second, Made::File(&above)),
            (&third, Made::File(manifest.as_bytes())),
        ])
    };
    let trial = Trial::new();
    trial.unpack(&archive(&below)).unwrap();
    check_layers(&trial);
    let error = Trial::new().unpack(&archive(b"damaged")).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
}

#[test]
fn the_corpus_of_the_fuzzer() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/image_archive");
    let mut replayed = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        fuzz(&fs::read(entry.unwrap().path()).unwrap());
        replayed += 1;
    }
    assert!(replayed > 0);
}
