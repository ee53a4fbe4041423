//! Builds the blob (see `blob/`), which is for no operating system and so is built by a cargo of its own.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    for watched in ["blob/src", "blob/Cargo.toml", "blob/Cargo.lock", "shim/src", "shim/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", here.join(watched).display());
    }
    let target = out.join("blob");
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets it"));
    // What the outer build was told is for another kind of program.
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_TARGET",
    ] {
        cargo.env_remove(name);
    }
    let status = cargo
        .env("RUSTFLAGS", "-C link-arg=-nostdlib -C link-arg=-nostartfiles -C link-arg=-static-pie")
        .args(["build", "--release", "--locked", "--quiet", "--target", TARGET, "--target-dir"])
        .arg(&target)
        .arg("--manifest-path")
        .arg(here.join("blob/Cargo.toml"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the blob could not be built: {status}");
    let built = target.join(TARGET).join("release/tesela-blob");
    fs::copy(&built, out.join("blob.elf")).expect("the blob was built");
}
