//! The Linux kernel's NFS client: Debian's kernel in a virtual machine mounts our server and works on it,
//! over a restart of the server, too. Needs QEMU, busybox-static, cpio, kmod and Debian's package server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tesela::nfs::Limits;
use tesela::nfs::memory::Memory;
use tesela_tests::nfs::Serving;

/// What the guest needs of the kernel's modules; their dependencies come with them.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_net", "nfsv3"];
/// How long the guest may take; without hardware acceleration it takes about 20 seconds.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn the_linux_client_works_over_a_restart_of_the_server() {
    let memory = Arc::new(Memory::new(1 << 30, true));
    // QEMU's network for users calls from ports of its own choice, whatever the guest's are.
    let limits = Limits { only_root_calls: false, ..Limits::default() };
    let serving = Serving::start(memory.clone(), limits).unwrap();
    let address = serving.address;
    let mut serving = Some(serving);
    let mut guest = Guest::boot(address.port());
    let mut console = String::new();
    for line in guest.lines() {
        console.push_str(&line);
        console.push('\n');
        if line.contains("RESTART") {
            drop(serving.take());
            serving = Some(Serving::start_at(address, memory.clone(), limits).unwrap());
        }
    }
    assert!(console.contains("ALL GOOD"), "{console}");
    assert!(console.contains("MOUNTED 10.0.2.2:/ /mnt nfs"), "{console}");
}

/// A virtual machine; it is gone when dropped.
struct Guest(Child);

impl Guest {
    /// Boots the guest, which mounts what is served on this port of the host's loopback.
    fn boot(port: u16) -> Self {
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nfs-kernel");
        let kernel = kernel(&scratch);
        let initramfs = initramfs(&scratch, &kernel);
        // The timer check fails where the host is so busy that the guest stands still meanwhile.
        let words = format!("console=ttyS0 quiet panic=-1 no_timer_check nfs={port}");
        let guest = Command::new("timeout")
            .arg(PATIENCE.as_secs().to_string())
            .args([
                "qemu-system-x86_64",
                "-accel",
                "tcg",
                "-m",
                "384",
                "-nographic",
                "-no-reboot",
                "-nodefaults",
            ])
            .args(["-serial", "stdio", "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile="])
            .arg("-kernel")
            .arg(only_entry(&kernel.join("boot"), "vmlinuz-"))
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", &words])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("timeout(1) starts");
        Self(guest)
    }

    /// What it prints, until it ends.
    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        let console = self.0.stdout.take().expect("its output is piped");
        BufReader::new(console)
            .split(b'\n')
            .map(|line| String::from_utf8_lossy(&line.expect("the pipe is read")).trim_end().to_owned())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Debian's kernel with its modules, unpacked; kept for the next run.
fn kernel(scratch: &Path) -> PathBuf {
    let kernel = scratch.join("kernel");
    if kernel.exists() {
        return kernel;
    }
    let download = scratch.join("download");
    fs::create_dir_all(&download).unwrap();
    let depends = output(Command::new("apt-cache").args(["depends", "linux-image-amd64"]));
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).unwrap();
    output(Command::new("apt-get").args(["download", package]).current_dir(&download));
    let half = scratch.join("kernel.new");
    output(Command::new("dpkg-deb").arg("-x").arg(only_entry(&download, "linux-image-")).arg(&half));
    output(Command::new("depmod").arg("-b").arg(&half).arg(version(&half)));
    fs::rename(&half, &kernel).unwrap();
    kernel
}

/// An initramfs of busybox, the modules and the script.
fn initramfs(scratch: &Path, kernel: &Path) -> PathBuf {
    let root = tempfile::tempdir_in(scratch).unwrap();
    let within = |path: &str| root.path().join(path);
    for directory in ["bin", "proc", "dev", "modules"] {
        fs::create_dir(within(directory)).unwrap();
    }
    fs::copy("/usr/bin/busybox", within("bin/busybox")).unwrap();
    for applet in output(Command::new("/usr/bin/busybox").arg("--list")).lines() {
        // `busybox` itself is in the list.
        if applet != "busybox" {
            symlink("busybox", within("bin").join(applet)).unwrap();
        }
    }
    fs::write(within("init"), include_str!("../guest/nfs.sh")).unwrap();
    fs::set_permissions(within("init"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut modprobe = Command::new("modprobe");
    modprobe.arg("-d").arg(kernel).args(["-S", &version(kernel), "--show-depends", "-a"]).args(MODULES);
    let mut seen = Vec::new();
    for module in output(&mut modprobe).lines().filter_map(|line| line.strip_prefix("insmod ")) {
        let module = Path::new(module.trim());
        if !seen.contains(&module.to_owned()) {
            let name = format!("{:02}-{}", seen.len(), module.file_name().unwrap().to_str().unwrap());
            fs::copy(module, within("modules").join(name)).unwrap();
            seen.push(module.to_owned());
        }
    }
    let mut archiver = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet"])
        .current_dir(root.path())
        .stdin(Stdio::piped())
        .stdout(fs::File::create(scratch.join("initramfs")).unwrap())
        .spawn()
        .unwrap();
    let list = output(Command::new("find").arg(".").current_dir(root.path()));
    archiver.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    assert!(archiver.wait().unwrap().success());
    scratch.join("initramfs")
}

fn version(kernel: &Path) -> String {
    let modules = only_entry(&kernel.join("lib/modules"), "");
    modules.file_name().unwrap().to_str().unwrap().to_owned()
}

fn only_entry(directory: &Path, prefix: &str) -> PathBuf {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let mut found = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    found.next().unwrap_or_else(|| panic!("{prefix}* in {}", directory.display())).path()
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
