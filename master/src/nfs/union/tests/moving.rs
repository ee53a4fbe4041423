//! Moving a node's writes to another build of its image.

use super::*;

fn fill(root: &Path) {
    std::fs::create_dir_all(root.join("etc/old")).unwrap();
    for name in ["etc/a", "etc/b", "etc/c", "etc/d", "etc/e", "etc/old/x", "etc/old/y", "etc/z"] {
        std::fs::write(root.join(name), name).unwrap();
    }
}

#[test]
fn what_the_node_did_is_done_on_the_new_build() {
    let mut fixture = Fixture::new(fill);
    let rendered = ["hosts", "held", "removed"].map(|name| RenderedFile {
        path: Path::new("/etc").join(name),
        kind: RenderedKind::File(name.as_bytes().into()),
        mode: 0o644,
        uid: 0,
        gid: 0,
    });
    fixture.union.booted("n1", &rendered).unwrap();
    let (fs, etc) = (Arc::clone(&fixture.union), fixture.at("etc"));
    fixture.write("etc/e", b"mine!");
    fixture.write("etc/held", b"mine!");
    fs.remove(&root(), &etc, b"removed").unwrap();
    fs.link(&root(), &fixture.at("etc/hosts"), &fixture.root(), b"hosts").unwrap();
    fixture.write("etc/a", b"mine!");
    fixture.write("etc/own", b"own");
    fs.remove(&root(), &etc, b"b").unwrap();
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    fs.setattr(&root(), &fixture.at("etc/c"), &set, None).unwrap();
    fs.rename(&root(), (&etc, b"old"), (&fixture.root(), b"moved")).unwrap();
    fixture.write("moved/note", b"note");
    fs.rename(&root(), (&etc, b"z"), (&etc, b"zz")).unwrap();
    fs.link(&root(), &fixture.at("etc/own"), &fixture.root(), b"link").unwrap();

    make_build(fixture.directory.path(), "b2", |root| {
        fill(root);
        std::fs::write(root.join("etc/a"), b"changed by the image").unwrap();
        std::fs::write(root.join("etc/c"), b"newer c").unwrap();
        std::fs::write(root.join("etc/d"), b"newer d").unwrap();
        std::fs::write(root.join("etc/new"), b"new").unwrap();
        std::fs::remove_file(root.join("etc/z")).unwrap();
        std::fs::remove_file(root.join("etc/old/y")).unwrap();
    });
    fixture.build = "b2";
    fixture.set();
    let conflicts = fixture.union.rebase_conflicts("n1").unwrap();
    let differ = |path: &str| conflicts.contains(&PathBuf::from(path));
    assert!(differ("/etc/a") && differ("/etc/c") && !differ("/etc/own"), "{conflicts:?}");
    assert!(!differ("/etc/e"), "the newer build has the same, but for its time: {conflicts:?}");
    let old = fixture.at("etc/own");
    fixture.union.rebase("n1", &rendered).unwrap();
    drop(fs);
    for _ in 0..2 {
        assert!(fixture.union.getattr(&root(), &old).is_err(), "the node has to boot again");
        assert_eq!(fixture.cat("etc/a"), b"mine!");
        assert_eq!(fixture.cat("etc/own"), b"own");
        assert_eq!((fixture.at("link"), fixture.attr("link").nlink), (fixture.at("etc/own"), 2));
        assert_eq!((fixture.cat("etc/c"), fixture.attr("etc/c").mode), (b"newer c".to_vec(), 0o600));
        assert_eq!(fixture.cat("etc/d"), b"newer d");
        assert_eq!(fixture.cat("etc/zz"), b"etc/z", "copied, for the new image lacks it");
        assert_eq!((fixture.cat("etc/hosts"), fixture.attr("etc/hosts").nlink), (b"hosts".to_vec(), 1));
        assert_eq!(fixture.cat("hosts"), b"hosts", "the node's own name of a rendered file");
        assert_eq!(fixture.cat("etc/held"), b"mine!", "until the rendering changes");
        assert_eq!(fixture.union.conflicts("n1").unwrap().len(), 2);
        let mut names = fixture.names("etc");
        names.sort();
        assert_eq!(names, [".", "..", "a", "c", "d", "e", "held", "hosts", "new", "own", "zz"]);
        let mut names = fixture.names("moved");
        names.sort();
        assert_eq!(names, [".", "..", "note", "x"]);
        assert_eq!((fixture.attr("").nlink, fixture.attr("etc").nlink), (4, 2));
        assert!(builds_in_use(fixture.directory.path()).unwrap()[0].1.ends_with("b2"));
        fixture.restart();
    }
}
