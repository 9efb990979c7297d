# Every target is one cargo xtask command; see crates/xtask.

.DEFAULT_GOAL := help
.PHONY: quickstart test vm lint bench build install uninstall deb setup clean help

quickstart: ## build everything, start Cofferdam, run a project's tests in an agent (needs root)
	@cargo xtask quickstart

test: ## system packages, lints, build, and all tests
	@cargo xtask test

vm: ## all tests in a Debian 12 machine under QEMU (needs root; takes an hour)
	@cargo xtask vm --whole

lint: ## formatting, clippy, and the design's invariants
	@cargo xtask lint

bench: ## measure against runc and bwrap (needs root)
	@cargo xtask bench

build: ## release binaries in target/release
	@cargo xtask build

install: ## binaries, units, users, configuration; DESTDIR and PREFIX (/usr/local) say where (needs root)
	@cargo xtask install

uninstall: ## take them away again; configuration and data stay (needs root)
	@cargo xtask uninstall

deb: ## a Debian package, in target/deb
	@cargo xtask deb

setup: ## install missing system packages (needs root)
	@cargo xtask setup

clean: ## remove build results; agents and their data stay
	@cargo clean

help: ## this text
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
