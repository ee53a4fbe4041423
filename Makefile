# make lab · make test · make bench · make soak · make deb: each installs what it needs on Debian 12 with Rust.
#
# Everything is built as the caller. What runs needs root, for it makes network namespaces and serves
# low ports: scripts/as-root.sh is root already, or asks sudo.

TARGET := x86_64-unknown-linux-gnu
ROOT   := scripts/as-root.sh
# Every test program runs through this; cargo itself does not.
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER := $(CURDIR)/$(ROOT)

.PHONY: lab test lint bench soak deb node-binaries deps-run deps-test deps-bench deps-deb

# From nothing to two diskless members, one with a BIOS and one with UEFI.
lab: deps-run node-binaries
	cargo build --package tesela
	$(ROOT) target/debug/tesela lab up --nodes 2 --firmware bios,uefi
	@echo
	@echo "Here the program is target/debug/tesela, and the lab wants root: sudo target/debug/tesela lab ssh n1"

test: deps-test node-binaries
	cargo build --workspace --bins
	cargo test --workspace
	$(MAKE) lint

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	if cargo deny --version >/dev/null 2>&1; then cargo deny --log-level error check bans licenses sources; fi

# Each program compares one part with its peers in one run, and prints a table for SPECIFICATION.md.
bench: deps-bench node-binaries
	cargo build --release --workspace --bins
	mkdir -p target/bench
	set -e; for program in target/release/bench-*; do \
	  case $$program in *.d) continue ;; esac; \
	  name=$${program##*/}; echo "== $$name"; \
	  $(ROOT) $$program > target/bench/$$name.md.part; \
	  mv target/bench/$$name.md.part target/bench/$$name.md; \
	  cat target/bench/$$name.md; \
	done

# What takes long: moves back and forth, 1,000 of each kind of process unless MOVES says otherwise; and all the programs
# that README names, on nodes that are namespaces and on virtual ones. NODES=vm PROGRAMS="gzip nginx": only these, there.
MOVES ?= 1000
NODES ?= namespace vm
PROGRAMS ?=
soak: deps-test node-binaries
	cargo test --package tesela-runtime --test soak -- $(MOVES)
	cargo build --package tesela
	set -e; for nodes in $(NODES); do \
	  cargo test --package tesela-tests --test programs -- $$nodes $(PROGRAMS); \
	done

# Debian packages, in target/deb: `tesela` for a master, `tesela-node` for it and for any machine that joins.
deb: deps-deb node-binaries
	cargo build --release --package tesela
	rm -rf target/deb
	scripts/deb.sh target/release/tesela target/deb

# stage1 and the agent run in images of any age: static. `--target` keeps the flag from build scripts.
node-binaries:
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --profile node \
	  --package tesela-node-image --bin stage1 --package tesela-runtime --bin teselad --bin tesela-tools \
	  --target $(TARGET) --target-dir target/static

deps-run deps-test deps-bench deps-deb: deps-%:
	scripts/deps.sh $*
