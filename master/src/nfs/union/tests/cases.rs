//! Single cases that the model does not reach: handles, verifiers, cookies, a full disk.

use super::*;
use crate::nfs::fs::{Make, SetTime, Status, Time};

fn fill(root: &Path) {
    std::fs::create_dir_all(root.join("usr/share/doc")).unwrap();
    std::fs::write(root.join("usr/share/doc/a"), b"image a").unwrap();
    std::fs::write(root.join("usr/share/doc/b"), b"image b").unwrap();
    std::fs::write(root.join("passwd"), b"root:x:0:0").unwrap();
    std::os::unix::fs::symlink("/etc/shadow", root.join("out")).unwrap();
}

fn code<T>(answer: Answer<T>) -> u32 {
    answer.err().map_or(0, |status| status as u32)
}

fn is<T>(answer: Answer<T>, status: Status) -> bool {
    code(answer) == status as u32
}

#[test]
fn a_handle_holds_over_copy_up_rename_link_and_restart() {
    let mut fixture = Fixture::new(fill);
    let handle = fixture.at("usr/share/doc/a");
    let before = fixture.attr("usr/share/doc/a");
    fixture.write("usr/share/doc/a", b"node");
    let (from, to) = (fixture.at("usr/share/doc"), fixture.root());
    fixture.union.rename(&root(), (&from, b"a"), (&to, b"moved")).unwrap();
    fixture.union.link(&root(), &handle, &from, b"also").unwrap();
    fixture.union.rename(&root(), (&fixture.at("usr"), b"share"), (&to, b"share")).unwrap();
    fixture.restart();
    assert_eq!(fixture.at("moved"), handle);
    assert_eq!(fixture.at("share/doc/also"), handle);
    let after = fixture.union.getattr(&root(), &handle).unwrap();
    assert_eq!((after.fileid, after.nlink), (before.fileid, 2));
    assert_eq!(fixture.content(&handle), b"nodee a", "the rest was copied up");
    assert_eq!(fixture.cat("share/doc/b"), b"image b");
    assert_eq!(fixture.names("usr"), [".", ".."]);
    let image = fixture.directory.path().join("images/base/b1/root/usr/share/doc/a");
    assert_eq!(std::fs::read(image).unwrap(), b"image a", "the image is read-only");
}

#[test]
fn a_handle_is_the_nodes_own() {
    let fixture = Fixture::new(fill);
    let handle = fixture.root();
    let other = Caller { address: "10.0.0.2".parse().unwrap(), ..root() };
    assert!(is(fixture.union.getattr(&other, &handle), Status::NFS3ERR_ACCES));
    assert!(is(fixture.union.mount(&other, b"/nodes/n1"), Status::NFS3ERR_ACCES));
    assert!(is(fixture.union.mount(&root(), b"/nodes/n2"), Status::NFS3ERR_ACCES));
    assert!(is(fixture.union.mount(&root(), b"/nodes/../nodes/n1"), Status::NFS3ERR_ACCES));
    assert!(fixture.union.exports(&other).is_empty());
    assert_eq!(fixture.union.exports(&root()), [b"/nodes/n1".to_vec()]);
    let mapped = Caller { address: "::ffff:10.0.0.1".parse().unwrap(), ..root() };
    assert!(fixture.union.getattr(&mapped, &handle).is_ok());

    let mut forged: Vec<u8> = handle.as_bytes().to_vec();
    forged[15] += 1;
    let forged = Handle::new(&forged).unwrap();
    assert!(is(fixture.union.getattr(&root(), &forged), Status::NFS3ERR_BADHANDLE));
    let short = Handle::new(&handle.as_bytes()[..31]).unwrap();
    assert!(is(fixture.union.getattr(&root(), &short), Status::NFS3ERR_BADHANDLE));

    fixture.union.set_address("n1", Some(other.address)).unwrap();
    assert!(is(fixture.union.getattr(&root(), &handle), Status::NFS3ERR_ACCES));
    assert!(fixture.union.getattr(&other, &handle).is_ok());
}

#[test]
fn a_removed_object_is_stale_and_its_number_not_used_again() {
    let mut fixture = Fixture::new(fill);
    let made = fixture.create("usr/new");
    let image = fixture.at("passwd");
    let directory = fixture.at("usr");
    fixture.union.remove(&root(), &directory, b"new").unwrap();
    fixture.union.remove(&root(), &fixture.root(), b"passwd").unwrap();
    for _ in 0..2 {
        assert!(is(fixture.union.getattr(&root(), &made.handle), Status::NFS3ERR_STALE));
        assert!(is(fixture.union.read(&root(), &image, 0, 1), Status::NFS3ERR_STALE));
        fixture.restart();
    }
    assert!(fixture.create("usr/new").attr.fileid > made.attr.fileid);
    assert!(is(fixture.walk(&root(), "passwd"), Status::NFS3ERR_NOENT));
    let again = fixture.create("passwd");
    assert_ne!(again.handle, image);
    assert_eq!(fixture.cat("passwd"), b"");
}

#[test]
fn a_node_made_anew_has_no_old_handles() {
    let fixture = Fixture::new(fill);
    let old = fixture.root();
    assert!(matches!(fixture.union.forget("n1"), Err(UnionError::Path { .. })), "it is served");
    fixture.union.set_nodes(&[]).unwrap();
    assert!(is(fixture.union.getattr(&root(), &old), Status::NFS3ERR_STALE));
    let state = fixture.directory.path();
    assert_eq!(builds_in_use(state).unwrap(), [("n1".to_owned(), fixture.export().image_dir)]);
    for name in ["../images", "", ".numbers", "a/b"] {
        assert!(matches!(fixture.union.forget(name), Err(UnionError::Path { .. })), "{name}");
    }
    fixture.union.forget("n1").unwrap();
    fixture.union.forget("n1").unwrap();
    assert_eq!(builds_in_use(state).unwrap(), []);
    // As if the master had ended just before.
    std::fs::create_dir(state.join("nodes/.forgotten-n2")).unwrap();
    Union::open(state).unwrap();
    assert!(!state.join("nodes/.forgotten-n2").exists() && state.join("images").exists());
    fixture.set();
    assert!(is(fixture.union.getattr(&root(), &old), Status::NFS3ERR_STALE));
}

#[test]
fn an_exclusive_create_is_repeated_over_a_restart() {
    let mut fixture = Fixture::new(fill);
    let how = CreateHow::Exclusive(*b"verifier");
    let made = fixture.union.create(&root(), &fixture.root(), b"lock", how).unwrap();
    fixture.restart();
    let again = fixture.union.create(&root(), &fixture.root(), b"lock", how).unwrap();
    assert_eq!(again.handle, made.handle);
    let other = CreateHow::Exclusive(*b"another1");
    let refused = fixture.union.create(&root(), &fixture.root(), b"lock", other);
    assert!(is(refused, Status::NFS3ERR_EXIST));
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    fixture.union.setattr(&root(), &made.handle, &set, None).unwrap();
    let late = fixture.union.create(&root(), &fixture.root(), b"lock", how);
    assert!(is(late, Status::NFS3ERR_EXIST));
}

#[test]
fn unchecked_create_takes_what_is_there() {
    let fixture = Fixture::new(fill);
    let set = SetAttr { size: Some(0), ..SetAttr::default() };
    let how = CreateHow::Unchecked(set);
    let taken = fixture.union.create(&root(), &fixture.root(), b"passwd", how).unwrap();
    assert_eq!((taken.handle, taken.attr.size), (fixture.at("passwd"), 0));
    let on_directory = fixture.union.create(&root(), &fixture.root(), b"usr", how);
    assert!(is(on_directory, Status::NFS3ERR_EXIST));
}

#[test]
fn cookies_hold_while_the_directory_changes() {
    let fixture = Fixture::new(|root| {
        for name in 0..20 {
            std::fs::write(root.join(format!("image{name:02}")), b"").unwrap();
        }
    });
    for name in 0..20 {
        fixture.create(&format!("own{name:02}"));
    }
    let directory = fixture.root();
    let mut seen = Vec::new();
    let mut removed: Vec<String> = Vec::new();
    let mut cookie = 0;
    for round in 0.. {
        let page = fixture.union.readdir(&root(), &directory, cookie, [0; 8], 300, false).unwrap();
        for entry in page.entries {
            cookie = entry.cookie;
            seen.push(String::from_utf8(entry.name).unwrap());
        }
        if page.eof {
            break;
        }
        // What was read and what is to come change; the rest must come once, and only once.
        let taken = |name: &&String| name.ends_with(['1', '2', '3']) && !removed.contains(*name);
        if let Some(name) = seen.iter().rfind(taken) {
            fixture.union.remove(&root(), &directory, name.as_bytes()).unwrap();
            removed.push(name.clone());
        }
        fixture.create(&format!("late{round}"));
    }
    for name in 0..20 {
        for kind in ["image", "own"] {
            let name = format!("{kind}{name:02}");
            assert_eq!(seen.iter().filter(|seen| **seen == name).count(), 1, "{name}");
        }
    }
    let small = fixture.union.readdir(&root(), &directory, 0, [0; 8], 100, false);
    assert!(is(small, Status::NFS3ERR_TOOSMALL));
}

#[test]
fn a_guard_and_times_are_kept() {
    let mut fixture = Fixture::new(fill);
    let handle = fixture.at("passwd");
    let ctime = fixture.attr("passwd").ctime;
    let time = Time { seconds: 7, nanos: 9 };
    let set = SetAttr { mtime: Some(SetTime::To(time)), ..SetAttr::default() };
    let wcc = fixture.union.setattr(&root(), &handle, &set, Some(ctime)).unwrap();
    assert_eq!((wcc.before.ctime, wcc.after.mtime), (ctime, time));
    assert!(wcc.after.ctime > ctime);
    let late = fixture.union.setattr(&root(), &handle, &set, Some(ctime));
    assert!(is(late, Status::NFS3ERR_NOT_SYNC));

    fixture.write("passwd", b"x");
    fixture.union.setattr(&root(), &handle, &set, None).unwrap();
    fixture.restart();
    assert_eq!(fixture.attr("passwd").mtime, time, "set after the write");
    fixture.write("passwd", b"y");
    let written = fixture.attr("passwd");
    assert!(written.mtime > time);
    fixture.restart();
    assert_eq!(fixture.attr("passwd").mtime, written.mtime, "written after it was set");
}

#[test]
fn what_is_no_file_is_told_apart() {
    let fixture = Fixture::new(fill);
    let fs = &fixture.union;
    let link = fixture.at("out");
    assert!(is(fs.read(&root(), &link, 0, 9), Status::NFS3ERR_INVAL));
    assert!(is(fs.read(&root(), &fixture.root(), 0, 9), Status::NFS3ERR_ISDIR));
    assert!(is(fs.lookup(&root(), &link, b"x"), Status::NFS3ERR_NOTDIR));
    assert!(is(fs.readlink(&root(), &fixture.root()), Status::NFS3ERR_INVAL));
    assert!(is(fs.rmdir(&root(), &fixture.root(), b"passwd"), Status::NFS3ERR_NOTDIR));
    assert!(is(fs.remove(&root(), &fixture.root(), b"usr"), Status::NFS3ERR_ISDIR));
    assert!(is(fs.rmdir(&root(), &fixture.root(), b"usr"), Status::NFS3ERR_NOTEMPTY));
    let device = Make::Node(Kind::Char(1, 3));
    let user = caller(1000);
    let open = SetAttr { mode: Some(0o777), ..SetAttr::default() };
    fs.setattr(&root(), &fixture.root(), &open, None).unwrap();
    let made = fs.make(&user, &fixture.root(), b"null", device, &SetAttr::default());
    assert!(is(made, Status::NFS3ERR_PERM));
    let (into, from) = (fixture.at("usr/share"), fixture.root());
    assert!(is(fs.rename(&root(), (&from, b"usr"), (&into, b"x")), Status::NFS3ERR_INVAL));
    let target = vec![b'x'; 5000];
    let long = fs.make(&root(), &from, b"l", Make::Symlink(&target), &SetAttr::default());
    assert!(is(long, Status::NFS3ERR_NAMETOOLONG));
}

#[test]
fn what_stands_in_the_image_leads_nowhere_else() {
    let fixture = Fixture::new(fill);
    let handle = fixture.at("usr/share/doc/a");
    let tree = fixture.directory.path().join("images/base/b1/root/usr/share/doc");
    // As if someone changed the tree behind the index.
    std::fs::rename(&tree, tree.with_file_name("was")).unwrap();
    std::os::unix::fs::symlink("was", &tree).unwrap();
    assert!(is(fixture.union.read(&root(), &handle, 0, 9), Status::NFS3ERR_IO));
}

#[test]
fn the_journal_is_written_anew_when_it_is_long() {
    let mut fixture = Fixture::new(fill);
    for round in 0..3000_u32 {
        let set = SetAttr { mode: Some(round & 0o777), ..SetAttr::default() };
        fixture.union.setattr(&root(), &fixture.root(), &set, None).unwrap();
    }
    let usage = fixture.union.disk_usage("n1").unwrap();
    assert!(usage.journal < 1 << 20, "{usage:?}");
    let tree = fixture.tree();
    fixture.restart();
    assert_eq!(fixture.tree(), tree);
}

#[test]
fn differences_are_listed() {
    let fixture = Fixture::new(fill);
    fixture.write("usr/share/doc/a", b"changed");
    fixture.create("usr/new");
    fixture.union.remove(&root(), &fixture.root(), b"passwd").unwrap();
    let list = fixture.union.list("n1").unwrap();
    let list: Vec<_> = list.iter().map(|entry| (entry.path.to_str().unwrap(), entry.how)).collect();
    let expected = [("/passwd", How::Removed), ("/usr/new", How::Added), ("/usr/share/doc/a", How::Changed)];
    assert_eq!(list, expected);
    let found = fixture.union.read_path("n1", Path::new("/usr/share/doc/a"), 4).unwrap();
    assert_eq!(found.content, b"chan");
    assert!(fixture.union.read_path("n1", Path::new("/out"), 4).is_err(), "not the master's own");
}

#[test]
fn a_cookie_that_nobody_gave_is_the_end() {
    let fixture = Fixture::new(fill);
    fixture.create("usr/own");
    for directory in ["", "usr"] {
        let page = fixture.union.readdir(&root(), &fixture.at(directory), u64::MAX, [0; 8], 1000, true);
        let page = page.unwrap();
        assert!(page.eof && page.entries.is_empty(), "{:?}", page.entries);
    }
}

/// A node can make directories as deep as it likes: nothing that walks them may do so by recursion.
#[test]
fn no_depth_of_directories_ends_the_master() {
    let fixture = Fixture::new(fill);
    let deep = |name: &[u8]| {
        let mut at = fixture.at("usr");
        for name in std::iter::once(name).chain(std::iter::repeat_n(&b"d"[..], 20_000)) {
            let set = SetAttr { mode: Some(0o755), ..SetAttr::default() };
            at = fixture.union.make(&root(), &at, name, Make::Directory, &set).unwrap().handle;
        }
    };
    let file = |content: &str| {
        let kind = RenderedKind::File(content.as_bytes().into());
        [RenderedFile { path: "/usr/rendered".into(), kind, mode: 0o644, uid: 0, gid: 0 }]
    };
    for round in ["one", "two"] {
        // Over the first it is kept aside; over the second the first is let go.
        deep(b"rendered");
        fixture.union.apply("n1", &file(round)).unwrap();
        fixture.union.remove(&root(), &fixture.at("usr"), b"rendered").unwrap();
    }
    let objects = fixture.union.disk_usage("n1").unwrap().objects;
    assert!((20_000..40_000).contains(&objects), "{objects}");
    deep(b"deep");
    let listed = fixture.union.list("n1").unwrap();
    assert!((2000..2100).contains(&listed.len()), "as deep as a path can say: {}", listed.len());
    fixture.union.rebase("n1", &file("three")).unwrap();
    // And the rendered file.
    assert_eq!(fixture.union.disk_usage("n1").unwrap().objects, objects + 20_002);
}
