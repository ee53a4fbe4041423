//! Rendered files: new objects, conflicts, boots.

use super::*;
use crate::nfs::fs::Status;

fn fill(root: &Path) {
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/hosts"), b"image").unwrap();
    std::fs::create_dir_all(root.join("usr/lib")).unwrap();
    std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
}

fn file(path: &str, content: &str) -> RenderedFile {
    let kind = RenderedKind::File(content.as_bytes().into());
    RenderedFile { path: path.into(), kind, mode: 0o644, uid: 0, gid: 0 }
}

fn link(path: &str, target: &str) -> RenderedFile {
    RenderedFile { kind: RenderedKind::Symlink(target.into()), ..file(path, "") }
}

impl Fixture {
    fn render(&self, files: &[RenderedFile]) -> Vec<String> {
        let applied = self.union.apply("n1", files).unwrap();
        applied.paths.iter().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    fn states(&self) -> Vec<(String, ConflictState)> {
        let conflicts = self.union.conflicts("n1").unwrap().into_iter();
        conflicts.map(|one| (one.path.to_str().unwrap().to_owned(), one.state)).collect()
    }
}

#[test]
fn a_changed_file_is_a_new_object_and_the_old_one_is_still_read() {
    let mut fixture = Fixture::new(fill);
    let image = fixture.at("etc/hosts");
    let both = [file("/etc/hosts", "one"), file("/etc/fixed", "same"), link("/lib/units/x", "/dev/null")];
    assert_eq!(fixture.render(&both), ["/etc/fixed", "/etc/hosts", "/lib/units/x"]);
    let (old, fixed) = (fixture.at("etc/hosts"), fixture.at("etc/fixed"));
    let times = fixture.attr("etc");
    assert_eq!(fixture.union.readlink(&root(), &fixture.at("usr/lib/units/x")).unwrap().0, b"/dev/null");
    fixture.restart();
    assert_eq!(fixture.render(&both), Vec::<String>::new());
    assert_eq!((fixture.at("etc/hosts"), fixture.at("etc/fixed")), (old, fixed));

    let changed = [file("/etc/hosts", "two"), both[1].clone()];
    assert_eq!(fixture.render(&changed), ["/etc/hosts", "/lib/units/x"]);
    assert_ne!(fixture.at("etc/hosts"), old);
    assert_ne!(fixture.attr("etc").mtime, times.mtime, "the client looks the name up again");
    for _ in 0..2 {
        assert_eq!(fixture.cat("etc/hosts"), b"two");
        assert_eq!(fixture.content(&old), b"one", "who has it open keeps it");
        assert_eq!(fixture.content(&image), b"image");
        assert_eq!(fixture.at("etc/fixed"), fixed);
        fixture.restart();
    }
    assert!(fixture.states().is_empty());
    assert!(fixture.union.list("n1").unwrap().iter().all(|one| one.path.starts_with("/usr/lib/units")));

    fixture.render(&[]);
    assert_eq!(fixture.cat("etc/hosts"), b"image", "the image's again");
    assert_eq!(fixture.names("etc"), [".", "..", "hosts"]);
    fixture.union.booted("n1", &[]).unwrap();
    assert_eq!(fixture.union.getattr(&root(), &old).unwrap_err() as u32, Status::NFS3ERR_STALE as u32);
}

#[test]
fn what_the_node_wrote_holds_until_the_rendering_changes() {
    let mut fixture = Fixture::new(fill);
    fixture.render(&[file("/etc/hosts", "one"), file("/etc/motd", "hello")]);
    fixture.write("etc/hosts", b"mine");
    fixture.union.remove(&root(), &fixture.at("etc"), b"motd").unwrap();
    let held =
        [("/etc/hosts".to_owned(), ConflictState::Held), ("/etc/motd".to_owned(), ConflictState::Held)];
    for _ in 0..2 {
        fixture.render(&[file("/etc/hosts", "one"), file("/etc/motd", "hello")]);
        assert_eq!(fixture.cat("etc/hosts"), b"mine");
        assert_eq!(fixture.names("etc"), [".", "..", "hosts"]);
        assert_eq!(fixture.states(), held);
        fixture.restart();
    }
    fixture.render(&[file("/etc/hosts", "two"), file("/etc/motd", "again")]);
    for _ in 0..2 {
        assert_eq!(fixture.cat("etc/hosts"), b"two");
        assert_eq!(fixture.cat("etc/motd"), b"again");
        assert_eq!(fixture.states(), [("/etc/hosts".to_owned(), ConflictState::Aside { size: 4 })]);
        fixture.union.booted("n1", &[file("/etc/hosts", "two"), file("/etc/motd", "again")]).unwrap();
        fixture.restart();
    }
}

#[test]
fn what_the_node_changed_of_the_image_comes_back() {
    let mut fixture = Fixture::new(fill);
    let handle = fixture.write("etc/hosts", b"mine!");
    fixture.render(&[file("/etc/hosts", "template")]);
    assert_eq!(fixture.cat("etc/hosts"), b"template");
    assert_eq!(fixture.content(&handle), b"mine!");
    assert_eq!(fixture.states(), [("/etc/hosts".to_owned(), ConflictState::Aside { size: 5 })]);
    fixture.render(&[]);
    fixture.restart();
    assert_eq!((fixture.cat("etc/hosts"), fixture.attr("etc/hosts").nlink), (b"mine!".to_vec(), 1));
    assert!(fixture.states().is_empty());
}

#[test]
fn a_directory_in_the_way_is_put_aside() {
    let fixture = Fixture::new(fill);
    fixture.render(&[file("/etc/a/b", "one")]);
    let nlink = fixture.attr("etc").nlink;
    fixture.render(&[file("/etc/a", "now a file")]);
    // The directory that was made on the way stays, for it may hold more: it is the node's now.
    assert_eq!(fixture.cat("etc/a"), b"now a file");
    assert_eq!(fixture.attr("etc").nlink, nlink - 1);
    fixture.render(&[file("/etc/a/b/c", "and back")]);
    assert_eq!(fixture.cat("etc/a/b/c"), b"and back");
}

#[test]
fn a_boot_discards_or_keeps() {
    let mut fixture = Fixture::new(fill);
    let files = [file("/etc/hosts", "one")];
    fixture.union.booted("n1", &files).unwrap();
    fixture.write("etc/note", b"kept");
    fixture.write("etc/.nfs0000000000000a1b00000001", b"left behind");
    fixture.write("etc/.nfs-notes", b"the user's own");
    fixture.union.booted("n1", &files).unwrap();
    assert_eq!(fixture.names("etc"), [".", "..", "hosts", "note", ".nfs-notes"]);
    let old = fixture.at("etc/note");

    make_build(fixture.directory.path(), "b2", |root| {
        fill(root);
        std::fs::write(root.join("etc/added"), b"").unwrap();
    });
    fixture.build = "b2";
    fixture.set();
    fixture.union.booted("n1", &files).unwrap();
    assert_eq!(fixture.at("etc/note"), old, "writes are kept, so is the build");

    fixture.writes = Writes::Discard;
    fixture.set();
    assert_eq!(fixture.at("etc/note"), old, "until the next boot");
    fixture.union.booted("n1", &files).unwrap();
    for _ in 0..2 {
        assert_eq!(fixture.names("etc"), [".", "..", "added", "hosts"]);
        assert_eq!(fixture.cat("etc/hosts"), b"one");
        let stale = fixture.union.getattr(&root(), &old).unwrap_err();
        assert_eq!(stale as u32, Status::NFS3ERR_STALE as u32);
        assert_eq!(fixture.union.disk_usage("n1").unwrap().data, 0);
        fixture.restart();
    }
    assert!(builds_in_use(fixture.directory.path()).unwrap()[0].1.ends_with("images/base/b2"));
}

#[test]
fn what_cannot_be_rendered_is_refused_whole() {
    let fixture = Fixture::new(fill);
    let bad = [file("/etc/good", ""), file("/etc/../../bad", "")];
    assert!(matches!(fixture.union.apply("n1", &bad), Err(UnionError::Path { .. })));
    let bad = [file("relative", "")];
    assert!(matches!(fixture.union.apply("n1", &bad), Err(UnionError::Path { .. })));
    let big = "x".repeat(9 << 20);
    assert!(matches!(fixture.union.apply("n1", &[file("/big", &big)]), Err(UnionError::TooMuch { .. })));
    assert!(matches!(fixture.union.apply("n2", &[]), Err(UnionError::UnknownNode(_))));
    assert_eq!(fixture.names("etc"), [".", "..", "hosts"]);
}

#[test]
fn names_that_the_node_gave_a_rendered_file_hold() {
    let mut fixture = Fixture::new(fill);
    let link = |fixture: &Fixture, name: &[u8]| {
        let (object, directory) = (fixture.at("etc/hosts"), fixture.at("usr"));
        fixture.union.link(&root(), &object, &directory, name).unwrap();
    };
    fixture.render(&[file("/etc/hosts", "one")]);
    link(&fixture, b"withdrawn");
    fixture.render(&[]);
    fixture.render(&[file("/etc/hosts", "two")]);
    fixture.write("etc/hosts", b"mine");
    link(&fixture, b"kept");
    link(&fixture, b"removed");
    fixture.render(&[file("/etc/hosts", "three")]);
    fixture.write("etc/hosts", b"again");
    link(&fixture, b"last");
    // Another one is kept aside from now on.
    fixture.render(&[file("/etc/hosts", "four")]);
    for name in [&b"removed"[..], b"last"] {
        fixture.union.remove(&root(), &fixture.at("usr"), name).unwrap();
    }
    let files = [file("/etc/hosts", "four")];
    for boot in ["booted", "rebased"] {
        match boot {
            "booted" => drop(fixture.union.booted("n1", &files).unwrap()),
            _ => fixture.union.rebase("n1", &files).unwrap(),
        }
        fixture.restart();
        for (path, content) in [("usr/withdrawn", "one"), ("usr/kept", "mine"), ("etc/hosts", "four")] {
            assert_eq!(fixture.cat(path), content.as_bytes(), "{path}, {boot}");
            assert_eq!(fixture.attr(path).nlink, 1, "{path}, {boot}");
        }
        assert_eq!(fixture.names("usr").len(), 5, "{boot}: ., .., lib, kept, withdrawn");
        let aside = ConflictState::Aside { size: 5 };
        assert_eq!(fixture.states(), [("/etc/hosts".to_owned(), aside)], "{boot}");
    }
}

#[test]
fn however_many_files_a_client_left_behind_they_are_swept() {
    let fixture = Fixture::new(fill);
    // More than fit one record with what is reserved for each.
    for number in 0..8300 {
        fixture.create(&format!("etc/.nfs{number:024x}"));
    }
    fixture.union.booted("n1", &[file("/etc/hosts", "one")]).unwrap();
    assert_eq!(fixture.names("etc"), [".", "..", "hosts"]);
}
