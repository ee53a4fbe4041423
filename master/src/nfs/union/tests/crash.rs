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
    assert!(matches!(errors[..], [UnionError::Journal { .. }]), "{errors:?}");
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
