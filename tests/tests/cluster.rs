//! A whole cluster: a BIOS and a UEFI machine boot over the network to members, and live through what
//! their master does. One test, for a boot in software emulation takes its time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tesela_tests::lab::{COMMAND_LIMIT, Lab, tesela};
use tesela_tests::programs::{Tour, Tried, cluster, tour, tried};

const MIB: u64 = 1 << 20;
/// For how long a node's kernel keeps what it knows of a file that nobody tells it of (`acregmin` of its root).
const ATTRIBUTES_KEPT: Duration = Duration::from_secs(60);

#[test]
fn two_machines_become_members_and_stay() {
    // With all programs of the tests on namespaces: the image is the same.
    let lab = Lab::of(
        &cluster("programs", tried(Tried::OnNamespaces)),
        &["--nodes", "2", "--firmware", "bios,uefi"],
    );
    for node in ["n1", "n2"] {
        assert_eq!(lab.stage(node), "member");
        assert_eq!(lab.said(node, "hostname"), node);
        assert_eq!(lab.said(node, "stat -f -c %T /"), "nfs");
    }
    one_lab_at_a_time(&lab);
    a_command_keeps_its_streams_and_status(&lab);
    members_reach_each_other(&lab);
    a_process_moves_and_comes_home(&lab);
    tour(
        &lab,
        Tour { places: &["n2", "home", "n2", "home"], size: 400_000, limit: COMMAND_LIMIT },
        tried(Tried::OnMachines),
    );
    a_node_costs_what_it_changed(&lab);
    another_nodes_root_is_refused(&lab);
    a_user_does_not_speak_for_his_node(&lab);
    an_edited_template_is_seen(&lab);
    a_crash_of_the_master_is_not_noticed(&lab);
    kept_writes_are_there_at_the_next_boot(&lab);
    a_node_that_ends_sends_its_guests_home(&lab);
    the_packaged_service_works(&lab);
}

fn one_lab_at_a_time(lab: &Lab) {
    let second = lab.tesela(&["lab", "up"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("a lab is already up"), "{second:?}");
}

fn a_command_keeps_its_streams_and_status(lab: &Lab) {
    for status in [0, 1, 7, 255] {
        assert_eq!(lab.on("n1", &format!("exit {status}")).status().unwrap().code(), Some(status));
    }
    let input: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    assert_eq!(lab.fed("n2", "cat", &input).stdout, input);
    let demo = lab.tesela(&[
        "lab",
        "exec",
        "--user",
        "demo",
        "n1",
        "--",
        "sh",
        "-c",
        "id -un; echo \"$HOME\"; exit 3",
    ]);
    assert_eq!(String::from_utf8_lossy(&demo.stdout), "demo\n/home/demo\n");
    assert_eq!(demo.status.code(), Some(3));
    let nobody = lab.tesela(&["lab", "exec", "n9", "--", "true"]);
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("it has n1, n2"), "{nobody:?}");
}

fn members_reach_each_other(lab: &Lab) {
    for (from, to) in [("n1", "n2"), ("n2", "n1")] {
        assert_eq!(lab.said(from, &format!("ssh -o BatchMode=yes {to} hostname")), to);
        // Each has found the other by itself.
        lab.wait("both are in the map", Duration::from_secs(30), || lab.map(from).len() == 2);
    }
}

/// By its own user, with the tool, between the agents that the nodes have booted with.
fn a_process_moves_and_comes_home(lab: &Lab) {
    let adder = "$| = 1; print qq($$\\n); while (<STDIN>) { $n += $_; print qq($n\\n) } exit 7";
    let words = ["lab", "exec", "--user", "demo", "n1", "--", "perl", "-e", adder];
    let mut program = lab.command(&words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = program.stdin.take().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let pid = lines.next().unwrap().unwrap();
    let mut adds = |number: u32, sum: &str| {
        writeln!(input, "{number}").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), sum);
    };
    let migrate = |words: &[&str]| {
        let output = lab.tesela(&[&["lab", "exec", "--user", "demo", "n1", "--", "migrate"], words].concat());
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap().trim_end().to_owned())
    };
    adds(1, "1");
    // It is not to come home by itself meanwhile.
    lab.said("n1", "mosctl stay");
    for round in 0..2 {
        assert_eq!(migrate(&[&pid, "n2"]), (0, format!("{pid}: on n2, at home on n1")));
        adds(10, &(11 + 20 * round).to_string());
        let guests = lab.said("n2", "migrate --list");
        assert!(guests.contains("guest") && guests.contains("n1") && guests.contains("perl"), "{guests}");
        assert_eq!(migrate(&[&pid, "home"]), (0, format!("{pid}: at home (n1)")));
        adds(10, &(21 + 20 * round).to_string());
    }
    let (status, why) = migrate(&["1", "n2"]);
    assert!(status == 1 && why.contains("only root can move it"), "{why}");
    drop(input);
    assert_eq!(program.wait().unwrap().code(), Some(7));
}

/// A node's first boot costs the master less than 1 MB, apart from what the node itself logged.
fn a_node_costs_what_it_changed(lab: &Lab) {
    let on_disk = size_of(&lab.master_state().join("nodes/n2"));
    let logged: u64 = lab.said("n2", "du -s -B1 /var/log | cut -f1").parse().unwrap();
    let cost = on_disk.saturating_sub(logged);
    assert!(cost < MIB, "n2 costs {cost} octets: {on_disk} on the disk, of which {logged} are its logs");
}

/// Octets of a tree on the disk.
fn size_of(path: &Path) -> u64 {
    let metadata = fs::symlink_metadata(path).unwrap();
    let own = metadata.blocks() * 512;
    if !metadata.is_dir() {
        return own;
    }
    own + fs::read_dir(path).unwrap().map(|entry| size_of(&entry.unwrap().path())).sum::<u64>()
}

fn another_nodes_root_is_refused(lab: &Lab) {
    // `-i`: by the kernel itself, as stage1 mounts; the image has no mount.nfs.
    let mount = |export: &str| {
        let options = "vers=3,nolock,proto=tcp,port=2049,mountproto=tcp,mountport=2049,addr=10.77.0.1";
        lab.on("n1", &format!("mount -i -t nfs -o {options} 10.77.0.1:{export} /mnt && umount /mnt"))
            .output()
            .unwrap()
    };
    assert!(mount("/nodes/n1").status.success());
    let refused = mount("/nodes/n2");
    assert!(!refused.status.success());
    let why = String::from_utf8_lossy(&refused.stderr);
    // mount(8) tries EACCES again read-only, and tells of that.
    assert!(why.contains("denied") || why.contains("cannot mount 10.77.0.1:/nodes/n2 read-only"), "{why}");
}

/// With the word that a node boots, a user could have its writes discarded under it.
fn a_user_does_not_speak_for_his_node(lab: &Lab) {
    let report = r#"{"node": "n1", "mac": "52:54:00:7e:5e:01", "stage": "stage1"}"#;
    let script = format!(
        "exec 3<>/dev/tcp/10.77.0.1/80; printf 'POST /report HTTP/1.0\r\nContent-Length: {}\r\n\r\n%s' '{report}' >&3; \
         head -n 1 <&3",
        report.len()
    );
    let user = lab.tesela(&["lab", "exec", "--user", "demo", "n1", "--", "bash", "-c", &script]);
    let answer = String::from_utf8_lossy(&user.stdout);
    assert!(answer.contains(" 403 "), "{user:?}");
    assert_eq!(lab.stage("n1"), "member");
}

/// An open after `apply` sees the new file, which the node's kernel by itself would do a minute later.
fn an_edited_template_is_seen(lab: &Lab) {
    let template = lab.templates().join("root/etc/greeting");
    fs::create_dir_all(template.parent().unwrap()).unwrap();
    let write = |text: &str| {
        fs::write(&template, text).unwrap();
        let applied = lab.tesela(&["apply"]);
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    };
    write("first, {{ node.name }}\n");
    lab.wait("the new file", Duration::from_secs(30), || {
        lab.on("n2", "cat /etc/greeting").output().unwrap().stdout == b"first, n2\n"
    });
    let mut watcher = lab
        .on("n2", "exec 3</etc/greeting; echo ready; until grep -q second /etc/greeting; do sleep 0.1; done; echo seen; cat <&3")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    write("second, {{ node.name }}\n");
    let applied = Instant::now();
    assert_eq!(lines.next().unwrap().unwrap(), "seen");
    let took = applied.elapsed();
    assert_eq!(lines.next().unwrap().unwrap(), "first, n2", "whoever has the old file open keeps it");
    assert!(watcher.wait().unwrap().success());
    println!("the new file was seen {took:?} after `apply`");
    assert!(took < ATTRIBUTES_KEPT / 2, "{took:?} after `apply`: nobody has made the kernel look again");
}

/// SIGKILL of the master while a node reads and writes its root; nothing of it is lost or wrong.
fn a_crash_of_the_master_is_not_noticed(lab: &Lab) {
    let script = "set -e; cd /root; rm -f log; echo begun; i=0
        while [ $i -lt 300 ]; do
            echo $i >> log; sync log; i=$((i+1)); cat /etc/hostname > /dev/null
            [ $((i % 50)) -ne 0 ] || { echo 3 > /proc/sys/vm/drop_caches; sha256sum /usr/bin/bash > sum.$i; }
        done
        [ \"$(cat log | wc -l)\" -eq 300 ]; [ \"$(tail -n 1 log)\" = 299 ]; [ \"$(cat sum.* | uniq | wc -l)\" -eq 1 ]
        echo done";
    let mut writer = lab.on("n1", script).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "begun");
    let restarted = lab.tesela(&["lab", "restart", "--kill"]);
    assert!(restarted.status.success(), "{}", String::from_utf8_lossy(&restarted.stderr));
    assert!(writer.try_wait().unwrap().is_none(), "the writer was to be at work over the crash");
    assert_eq!(lines.next().unwrap().unwrap(), "done");
    assert!(writer.wait().unwrap().success());
    for node in ["n1", "n2"] {
        lab.wait("the member is back", Duration::from_secs(60), || lab.stage(node) == "member");
    }
}

fn kept_writes_are_there_at_the_next_boot(lab: &Lab) {
    lab.said("n1", "echo kept > /root/kept; ln /root/kept /root/link; chown 1:2 /root/kept; sync");
    let boot = lab.said("n1", "cat /proc/sys/kernel/random/boot_id");
    let mut events = lab.events(Duration::from_secs(300));
    assert!(lab.tesela(&["lab", "power", "n1", "reset"]).status.success());
    events.await_stage("n1", "kernel");
    events.await_stage("n1", "member");
    assert_ne!(lab.said("n1", "cat /proc/sys/kernel/random/boot_id"), boot);
    assert_eq!(lab.said("n1", "cat /root/link; stat -c '%u:%g %h' /root/kept"), "kept\n1:2 2");
}

/// It boots again, as the master has told it.
fn a_node_that_ends_sends_its_guests_home(lab: &Lab) {
    let mut program = lab.on(
        "n1",
        "awk 'BEGIN { while (getline < \"/root/end\" < 0) i++; print \"done\" }' & echo $!; wait $!",
    );
    let mut program = program.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let pid = lines.next().unwrap().unwrap();
    assert_eq!(lab.said("n1", &format!("migrate {pid} n2")), format!("{pid}: on n2, at home on n1"));
    let boot = lab.said("n2", "cat /proc/sys/kernel/random/boot_id");
    let mut events = lab.events(Duration::from_secs(300));
    let told = lab.tesela(&["node", "power", "n2", "reboot"]);
    assert_eq!(String::from_utf8_lossy(&told.stdout), "n2 boots again\n", "{told:?}");
    events.await_stage("n2", "kernel");
    assert_eq!(lab.said("n1", "migrate --list"), "nothing is away, and nothing is here from elsewhere");
    lab.said("n1", "touch /root/end");
    assert_eq!(lines.next().unwrap().unwrap(), "done");
    assert!(program.wait().unwrap().success());
    events.await_stage("n2", "member");
    assert_ne!(lab.said("n2", "cat /proc/sys/kernel/random/boot_id"), boot);
}

/// The packages on a Debian of its own: the service, confined as it is, serves, reloads and comes back.
fn the_packaged_service_works(lab: &Lab) {
    let kit = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let packed = Command::new(source.join("scripts/deb.sh"))
        .args([tesela().as_path(), kit.path()])
        .env("DPKG_DEB_COMPRESSOR_TYPE", "none")
        .output()
        .unwrap();
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    fs::copy(source.join("tests/data/service.sh"), kit.path().join("service.sh")).unwrap();
    let packed = Command::new("tar").arg("-C").arg(kit.path()).args(["-cf", "-", "."]).output().unwrap();
    let unpack = "mkdir /root/kit && cd /root/kit && tar -xf - && sh service.sh";
    let done = lab.fed("n2", unpack, &packed.stdout);
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}\n{stderr}", String::from_utf8_lossy(&done.stdout));
    let expected = "tesela: tesela init writes a first /etc/tesela/cluster.yaml, tesela image build makes its image,\n\
                    tesela: and systemctl enable --now tesela begins to serve.\ndisabled\n\
                    active\ndrwxrwx--T root\ndrwxr-xr-x root\nsrw------- tesela\n1\nnot for demo\n\
                    drwx------ tesela\ndrwxr-xr-x root\nMy Node-Id: 0x0001\n\
                    0x0001       10.99.0.1        1\n1\n\
                    private\n-rwsr-xr-x 1234\nprivate\nwritten\nNRestarts=1\n\
                    2\n2\nnot reloaded\n2\nactive\nstarted again\n2\nResult=success\n-rw------- root\n\
                    tesela: /var/lib/tesela is kept, with the cluster's keys and what its nodes have written.\n\
                    LoadState=not-found\n/var/lib/tesela/keys\n";
    assert_eq!(String::from_utf8_lossy(&done.stdout), expected, "{stderr}");
}
