# make lab · make test · make bench · make deb: each installs what it needs.
.PHONY: test
test:
	cargo test --workspace
