//! What is left after a crash, and on a full disk.

use super::*;
use crate::nfs::fs::{Make, Status};

fn fill(root: &Path) {
    std::fs::create_dir_all(root.join("etc/a/b")).unwrap();
    for name in ["etc/a/b/c", "etc/d", "etc/e"] {
        std::fs::write(root.join(name), name).unwrap();
    }
}

/// Names, kinds, modes and links of all that is there: what the journal alone tells.
fn outline(fixture: &Fixture) -> Vec<(PathBuf, Kind, u32, u32)> {
    let tree = fixture.tree().into_iter();
    tree.map(|(path, seen)| (path, seen.kind, seen.mode, seen.nlink)).collect()
}

#[test]
fn a_journal_cut_anywhere_gives_the_state_after_a_whole_operation() {
    let mut fixture = Fixture::new(fill);
    let journal = fixture.directory.path().join("nodes/n1/journal");
    let length = || {
        let octets = std::fs::read(&journal).unwrap();
        let records = super::journal::records(&octets);
        16 + records.iter().map(|record| 12 + record.len()).sum::<usize>()
    };
    let mut states = vec![(length(), outline(&fixture))];
    let union = Arc::clone(&fixture.union);
    let (base, etc, file) = (fixture.root(), fixture.at("etc"), fixture.at("etc/d"));
    let set = SetAttr { mode: Some(0o700), ..SetAttr::default() };
    let user = root();
    let steps: [&dyn Fn() -> bool; 8] = [
        &|| union.create(&user, &etc, b"new", CreateHow::Guarded(set)).is_ok(),
        &|| union.rename(&user, (&etc, b"a"), (&base, b"moved")).is_ok(),
        &|| union.make(&user, &base, b"dir", Make::Directory, &set).is_ok(),
        &|| union.rename(&user, (&etc, b"d"), (&etc, b"e")).is_ok(),
        &|| union.link(&user, &file, &base, b"l").is_ok(),
        &|| union.remove(&user, &etc, b"new").is_ok(),
        &|| union.rmdir(&user, &base, b"dir").is_ok(),
        &|| union.setattr(&user, &etc, &set, None).is_ok(),
    ];
    for step in &steps {
        assert!(step());
        states.push((length(), outline(&fixture)));
    }
    let whole = std::fs::read(&journal).unwrap();
    for cut in states[0].0..=states[states.len() - 1].0 {
        // Whatever lies behind the cut: nothing, or what the disk had there before.
        for rest in [vec![], vec![0; 4096], vec![0xa5; 40]] {
            let octets = [&whole[..cut], &rest].concat();
            std::fs::write(&journal, &octets).unwrap();
            fixture.restart();
            let is_whole = |end: usize| octets.get(..end) == Some(&whole[..end]);
            let expected = states.iter().rfind(|(end, _)| is_whole(*end)).unwrap();
            assert_eq!(outline(&fixture), expected.1, "cut at {cut}");
        }
    }
    // It goes on from where it was cut.
    fixture.create("after");
    fixture.restart();
    fixture.at("after");
}

#[test]
fn data_without_a_record_is_swept_and_damage_is_told() {
    let mut fixture = Fixture::new(fill);
    fixture.write("etc/d", b"written");
    let data = fixture.directory.path().join("nodes/n1/data");
    std::fs::write(data.join("10000999"), b"of no one").unwrap();
    std::fs::write(data.join("2.new"), b"half copied").unwrap();
    fixture.restart();
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 1);
    assert_eq!(fixture.cat("etc/d"), b"written");

    let journal = fixture.directory.path().join("nodes/n1/journal");
    std::fs::write(&journal, b"not a journal").unwrap();
    fixture.union = Union::open(fixture.directory.path()).unwrap();
    let export = fixture.export();
    let errors = fixture.union.set_nodes(&[export]).unwrap_err();
    assert!(matches!(errors[..], [Unserved { error: UnionError::Journal { .. }, .. }]), "{errors:?}");
}

#[test]
fn a_full_disk_refuses_and_keeps() {
    // A small file system that only this thread sees.
    std::thread::spawn(|| {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let mut fixture = Fixture::new(fill);
        let nodes = fixture.directory.path().join("nodes");
        let numbers = std::fs::read(nodes.join(".numbers")).unwrap();
        mount(Some("small"), &nodes, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        std::fs::write(nodes.join(".numbers"), numbers).unwrap();
        fixture.restart();
        let fs = Arc::clone(&fixture.union);
        fixture.write("etc/d", &[7; 1000]);
        // Until nothing more goes in, by data and then by names.
        let big = fixture.create("big").handle;
        let mut size = 0;
        loop {
            match fs.write(&root(), &big, size, &[1; 4096], Stable::Unstable) {
                Ok(written) => size += u64::from(written.count),
                Err(status) => break assert_eq!(status as u32, Status::NFS3ERR_NOSPC as u32),
            }
        }
        let mut made = 0;
        let refused = loop {
            let name = format!("{made:0200}");
            match fs.make(&root(), &fixture.root(), name.as_bytes(), Make::Directory, &SetAttr::default()) {
                Ok(_) => made += 1,
                Err(status) => break status,
            }
        };
        assert_eq!(refused as u32, Status::NFS3ERR_NOSPC as u32);
        let files = [RenderedFile {
            path: "/etc/big".into(),
            kind: RenderedKind::File(vec![b'x'; 1 << 20].into()),
            mode: 0o644,
            uid: 0,
            gid: 0,
        }];
        assert!(fs.apply("n1", &files).is_err());
        let copied_up = fs.write(&root(), &fixture.at("etc/e"), 0, b"no", Stable::FileSync);
        assert_eq!(copied_up.unwrap_err() as u32, Status::NFS3ERR_NOSPC as u32);
        // What is there already may be written over, through a flush of its own.
        fs.write(&root(), &fixture.at("etc/d"), 3, b"over", Stable::FileSync).unwrap();
        let tree = fixture.tree();
        // With all that it has open.
        drop(fs);
        fixture.restart();
        assert_eq!(fixture.tree(), tree, "nothing lost, nothing half done");
        assert_eq!(fixture.cat("etc/e"), b"etc/e");
        // Room again.
        fixture.union.remove(&root(), &fixture.root(), b"big").unwrap();
        fixture.write("etc/e", b"now");
        fixture.restart();
        assert_eq!(fixture.cat("etc/e"), b"now/e");
    })
    .join()
    .unwrap();
}

/// What a crash can leave of the data files.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Left {
    /// All that was written, as after kill -9.
    Everything,
    /// What was flushed, and nothing else.
    Flushed,
    /// That, and the names of the others.
    Names,
}

type DataFiles = BTreeMap<std::ffi::OsString, Vec<u8>>;
type Timed = Vec<(PathBuf, Seen, crate::nfs::fs::Time)>;

/// After an operation: the length of the journal, what the node sees, the data files, and what is flushed.
type State = (usize, Timed, DataFiles, DataFiles);

fn data_files(directory: &Path) -> DataFiles {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
}

/// All that a node sees, with the times of the content.
fn timed_tree(fixture: &Fixture) -> Timed {
    let tree = fixture.tree().into_iter();
    tree.map(|(path, seen)| (path.clone(), seen, fixture.attr(path.to_str().unwrap()).mtime)).collect()
}

#[test]
fn answered_writes_come_back_from_the_journal() {
    let mut fixture = Fixture::new(fill);
    let node = fixture.directory.path().join("nodes/n1");
    let (journal, data) = (node.join("journal"), node.join("data"));
    let union = Arc::clone(&fixture.union);
    let (user, base) = (root(), fixture.root());
    let old = fixture.write("old", b"flushed before");
    let new = union.create(&user, &base, b"new", CreateHow::Exclusive([7; 8])).unwrap().handle;
    let gone = fixture.create("gone").handle;
    let image = fixture.at("etc/d");
    let stable = |file: &Handle, at: u64, content: &[u8]| {
        union
            .write(&user, file, at, content, Stable::FileSync)
            .is_ok_and(|it| (it.count as usize, it.committed) == (content.len(), Stable::FileSync))
    };
    let set = |file: &Handle, set: SetAttr| union.setattr(&user, file, &set, None).is_ok();
    let cut = |size| SetAttr { size: Some(size), ..SetAttr::default() };
    let time = crate::nfs::fs::Time { seconds: 1_700_000_000, nanos: 0 };
    let mtime = SetAttr { mtime: Some(crate::nfs::fs::SetTime::To(time)), ..SetAttr::default() };
    // Each with the file that is flushed on the way.
    let steps: [(&dyn Fn() -> bool, Option<&Handle>); 20] = [
        (&|| set(&new, SetAttr { mode: Some(0o644), ..SetAttr::default() }), None),
        (&|| stable(&new, 0, b"first"), None),
        (&|| stable(&new, 3, b"second piece"), None),
        (&|| set(&new, mtime), None),
        (&|| stable(&old, 4, b"over"), None),
        (&|| set(&old, cut(6)), None),
        (&|| set(&old, cut(9)), None),
        (&|| union.link(&user, &new, &base, b"also").is_ok(), None),
        (&|| union.commit(&user, &old).is_ok(), Some(&old)),
        (&|| stable(&old, 2, b"again"), None),
        (&|| stable(&old, 0, &vec![b'l'; super::recorded::LONGEST + 1]), Some(&old)),
        (&|| stable(&old, 1, b"small on long"), None),
        (&|| set(&old, cut(20)), None),
        (&|| stable(&gone, 0, b"soon gone"), None),
        (&|| union.remove(&user, &base, b"gone").is_ok(), None),
        // A copy is flushed before its record.
        (&|| union.write(&user, &image, 0, b"", Stable::Unstable).is_ok(), Some(&image)),
        (&|| stable(&image, 1, b"copied up"), None),
        (&|| set(&image, cut(0)), None),
        (&|| stable(&image, 0, b"rewritten"), None),
        (&|| union.rename(&user, (&base, b"new"), (&base, b"old")).is_ok(), None),
    ];
    let length = |octets: &[u8]| {
        16 + super::journal::records(octets).iter().map(|record| 12 + record.len()).sum::<usize>()
    };
    let mut flushed = data_files(&data);
    let mut states: Vec<State> = Vec::new();
    let mut state = |flushed: &DataFiles| {
        let octets = std::fs::read(&journal).unwrap();
        states.push((length(&octets), timed_tree(&fixture), data_files(&data), flushed.clone()));
    };
    state(&flushed);
    for (step, flushes) in steps {
        let of = flushes.map(|file| format!("{:x}", union.getattr(&user, file).unwrap().fileid));
        assert!(step());
        if let Some(name) = of {
            let path = data.join(&name);
            flushed.insert(name.into(), std::fs::read(path).unwrap());
        }
        state(&flushed);
    }
    let whole = std::fs::read(&journal).unwrap();
    let mut crash = |cut: usize, left: Left, (_, tree, all, flushed): &State| {
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::create_dir(&data).unwrap();
        for (name, content) in all {
            let content = match (left, flushed.get(name)) {
                (Left::Everything, _) => content,
                (_, Some(content)) => content,
                (Left::Names, None) => &vec![],
                (Left::Flushed, None) => continue,
            };
            std::fs::write(data.join(name), content).unwrap();
        }
        std::fs::write(&journal, &whole[..cut]).unwrap();
        fixture.restart();
        let seen = timed_tree(&fixture);
        assert_eq!(seen.len(), tree.len(), "{left:?}, cut at {cut}");
        for (expected, seen) in tree.iter().zip(&seen) {
            assert_eq!((&seen.0, &seen.1), (&expected.0, &expected.1), "{left:?}, cut at {cut}");
            // Other files have been made just now by this test.
            assert_eq!(seen.2 == time, expected.2 == time, "{left:?}, cut at {cut}");
        }
    };
    for (at, state) in states.iter().enumerate() {
        let next = states.get(at + 1).map_or(state.0 + 1, |(end, ..)| *end);
        for cut in state.0..next {
            crash(cut, Left::Flushed, state);
        }
        crash(state.0, Left::Everything, state);
        crash(state.0, Left::Names, state);
    }
}

#[test]
fn no_piece_comes_back_over_what_is_newer() {
    let mut fixture = Fixture::new(fill);
    let union = Arc::clone(&fixture.union);
    let file = fixture.create("file").handle;
    for (content, stable) in [(&b"journalled"[..], Stable::FileSync), (b"unstable", Stable::Unstable)] {
        union.write(&root(), &file, 0, content, stable).unwrap();
    }
    fixture.restart();
    assert_eq!(fixture.cat("file"), b"unstableed");
    let usage = fixture.union.disk_usage("n1").unwrap();
    assert!(usage.journal < 1 << 17, "{usage:?}");
}

#[test]
fn a_journal_takes_a_bounded_part_of_what_is_written_and_lets_go_of_it() {
    let fixture = Fixture::new(fill);
    let file = fixture.create("file").handle;
    let block = vec![1; 64 << 10];
    let mut most = 0;
    for at in 0..512 {
        let written = fixture.union.write(&root(), &file, at << 16, &block, Stable::FileSync).unwrap();
        assert_eq!(written.committed, Stable::FileSync);
        most = most.max(fixture.union.disk_usage("n1").unwrap().journal);
    }
    assert!(most > 1 << 20, "{most}");
    assert!(most < super::recorded::MOST + (4 << 20), "{most}");
    fixture.union.table.load().by_name["n1"].shorten();
    let left = fixture.union.disk_usage("n1").unwrap().journal;
    assert!(left < 1 << 14, "{left}");
    assert_eq!(fixture.attr("file").size, 512 << 16);
}

#[test]
fn a_journal_written_anew_has_its_data_in_the_files() {
    let mut fixture = Fixture::new(fill);
    let union = Arc::clone(&fixture.union);
    let data = fixture.directory.path().join("nodes/n1/data");
    let files = [fixture.create("one").handle, fixture.create("two").handle];
    let write = |file: &Handle, at: u64, content: &[u8]| {
        union.write(&root(), file, at, content, Stable::FileSync).unwrap();
    };
    write(&files[0], 0, b"first");
    write(&files[1], 0, b"second");
    union.table.load().by_name["n1"].shorten();
    let flushed = data_files(&data);
    write(&files[0], 3, b"after");
    for (name, content) in flushed {
        std::fs::write(data.join(name), content).unwrap();
    }
    fixture.restart();
    assert_eq!(fixture.cat("one"), b"firafter");
    assert_eq!(fixture.cat("two"), b"second");
}
