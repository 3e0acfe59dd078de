# bmapfs: build, try, test, measure, install. `make help` lists what there is.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR

bindir = $(DESTDIR)$(PREFIX)/bin
mandir = $(DESTDIR)$(PREFIX)/share/man/man8
bashdir = $(DESTDIR)$(PREFIX)/share/bash-completion/completions
zshdir = $(DESTDIR)$(PREFIX)/share/zsh/site-functions
fishdir = $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
unitdir = $(DESTDIR)$(PREFIX)/lib/systemd/system
exampledir = $(DESTDIR)$(PREFIX)/share/doc/bmapfs/examples
# mount(8) and umount(8) look for their helpers here and nowhere else, whatever PREFIX is.
sbindir = $(DESTDIR)/sbin

BMAPFS = $(CARGO_TARGET_DIR)/release/bmapfs
HELPERS = mount.bmapfs umount.fuse.bmapfs
UNITS = bmapfs@.service bmapfs@.timer
MANUALS = doc/bmapfs.8 doc/mount.bmapfs.8 doc/umount.fuse.bmapfs.8

# Debian packages. The demo's are among the test suite's, so that there is one list.
DEMO_PACKAGES = gcc libc6-dev fuse3 rsync mount util-linux e2fsprogs
BENCH_PACKAGES = gcc libc6-dev fuse3 mount util-linux util-linux-extra fio rsync iproute2 openssh-server openssh-client xfsprogs b3sum \
	qemu-utils libnbd-bin libvirt-daemon-system libvirt-clients qemu-system-x86
TEST_PACKAGES = $(DEMO_PACKAGES) util-linux-extra bsdutils fdisk bmap-tools curl jq fio attr acl procps passwd kmod strace mandoc \
	b3sum dmsetup qemu-utils xfsprogs btrfs-progs squashfs-tools openssh-server openssh-client restic borgbackup rclone \
	thin-provisioning-tools libnbd-bin make $(DEB_PACKAGES) mmdebstrap systemd-container lintian \
	libvirt-daemon-system libvirt-clients qemu-system-x86 $(GUEST_PACKAGES)
# What a guest with an agent is made of. Debian has such a kernel for few machines.
GUEST_PACKAGES = busybox cpio qemu-guest-agent $(filter linux-image-cloud-amd64,linux-image-cloud-$(shell dpkg --print-architecture 2>/dev/null))
DEB_PACKAGES = gcc libc6-dev dpkg-dev
PACKAGES = $(TEST_PACKAGES)

# More than the machine has processors: a test of times mostly waits for a second to end.
TEST_THREADS ?= 10

# What `make deb` makes.
DEB_VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
DEB ?= $(CARGO_TARGET_DIR)/debian/bmapfs_$(DEB_VERSION)_$(shell dpkg --print-architecture).deb
COMPLETIONS = $(CARGO_TARGET_DIR)/release/completions
# The one of PATH, or one that is built once in a directory of its own.
CARGO_DEB_DIR = $(CURDIR)/target/cargo-deb
CARGO_DEB ?= $(or $(shell command -v cargo-deb),$(CARGO_DEB_DIR)/bin/cargo-deb)

.PHONY: all build help demo quick test bench check deb pack install uninstall clean deps install-missing cargo-there

all: build

help:
	@echo 'make quick      formatting, lints, and the tests that need neither root nor FUSE: a minute, as any user'
	@echo 'make            build the release binary'
	@echo 'make demo       install what is missing, build, and show the main job on a real image (SRC=image: on yours)'
	@echo 'make test       install what is missing and run all tests, as root'
	@echo 'make bench      measure mounts, scans and resyncs (BENCH_QUICK=1: a short run); see bench/README.md'
	@echo 'make check      formatting, lints and documentation, all with warnings as errors'
	@echo 'make deb        make the Debian package, $(DEB)'
	@echo 'make install    install to PREFIX ($(PREFIX)) and /sbin, below DESTDIR; make uninstall removes it again'
	@echo 'make deps       install the Debian packages that the tests need'

cargo-there:
	@command -v $(CARGO) >/dev/null || { echo 'make: cargo is missing: install Rust 1.85 or newer, from https://rustup.rs or (Debian 13 and later) with apt install cargo' >&2; exit 1; }

build: cargo-there
	@$(CARGO) build --release --locked --quiet

# Installs the Debian packages of PACKAGES that are missing; asks nothing, does nothing if all are there. A second time for what
# made way: QEMU's packages are of one version, and a qemu-utils of another is removed.
deps:
	@$(MAKE) --no-print-directory install-missing && $(MAKE) --no-print-directory install-missing

install-missing:
	@command -v dpkg-query >/dev/null || { echo 'make: not a Debian system; these must be there: $(PACKAGES)' >&2; exit 0; }; \
	missing=; for p in $(PACKAGES); do \
		case $$(dpkg-query -W -f '$${Status}' $$p 2>/dev/null) in *' installed') ;; *) missing="$$missing $$p" ;; esac; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	sudo=; if [ "$$(id -u)" != 0 ]; then \
		command -v sudo >/dev/null || { echo "make: missing, and not root to install them:$$missing" >&2; exit 1; }; \
		sudo=sudo; \
	fi; \
	echo "installing$$missing"; \
	$$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get install -y -qq --no-install-recommends $$missing >/dev/null

demo: cargo-there
	@$(MAKE) --no-print-directory deps PACKAGES='$(DEMO_PACKAGES)'
	@$(CARGO) build --release --locked
	@BMAPFS='$(BMAPFS)' SRC='$(SRC)' doc/demo.sh

# Fewer random cases than `make test` has; PROPTEST_CASES says how many.
quick: cargo-there
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --locked --all-targets --quiet -- -D warnings
	@PROPTEST_CASES=$${PROPTEST_CASES:-400} $(CARGO) test --locked --quiet --lib --bins
	@$(CARGO) test --locked --quiet --test integration -- documents:: --skip manual_pages

# Also the tests that `cargo test` by itself leaves out, because they need root or other programs.
test: cargo-there
	@$(MAKE) --no-print-directory deps $(CARGO_DEB)
	@RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --locked -- --include-ignored

bench: cargo-there
	@$(MAKE) --no-print-directory deps PACKAGES='$(BENCH_PACKAGES)'
	@$(CARGO) build --release --locked --bin bmapfs --example bare-hash
	@BMAPFS='$(BMAPFS)' BARE_HASH='$(CARGO_TARGET_DIR)/release/examples/bare-hash' bench/run.sh

check: cargo-there
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --locked --all-targets -- -D warnings
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps
	@said=$$($(CARGO) package --locked --no-verify --allow-dirty --quiet 2>&1) && [ -z "$$said" ] || { echo "$$said" >&2; exit 1; }

deb: cargo-there
	@$(MAKE) --no-print-directory deps PACKAGES='$(DEB_PACKAGES)'
	@$(MAKE) --no-print-directory $(CARGO_DEB)
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory pack

# Without its optimization, which takes longer than it saves.
$(CARGO_DEB_DIR)/bin/cargo-deb:
	@CARGO_TARGET_DIR='$(CARGO_DEB_DIR)/build' $(CARGO) install --quiet --locked --debug --version '^3.8' --root '$(CARGO_DEB_DIR)' cargo-deb
	@rm -r '$(CARGO_DEB_DIR)/build'

# The package of what is built.
pack:
	@mkdir -p '$(COMPLETIONS)'
	@'$(BMAPFS)' --completions bash > '$(COMPLETIONS)/bmapfs'
	@'$(BMAPFS)' --completions zsh > '$(COMPLETIONS)/_bmapfs'
	@'$(BMAPFS)' --completions fish > '$(COMPLETIONS)/bmapfs.fish'
	@$(CARGO_DEB) --no-build --locked --strip --deb-version '$(DEB_VERSION)' --output '$(DEB)' $(DEB_OPTIONS)

# Builds only what is not there, so that `make && sudo make install` needs no Rust for root.
$(BMAPFS):
	@$(MAKE) --no-print-directory build

install: $(BMAPFS)
	install -d '$(bindir)' '$(sbindir)' '$(mandir)' '$(bashdir)' '$(zshdir)' '$(fishdir)'
	install -m 755 '$(BMAPFS)' '$(bindir)/bmapfs'
	install -m 755 $(HELPERS) '$(sbindir)/'
	install -m 644 $(MANUALS) '$(mandir)/'
	'$(BMAPFS)' --completions bash > '$(bashdir)/bmapfs'
	'$(BMAPFS)' --completions zsh > '$(zshdir)/_bmapfs'
	'$(BMAPFS)' --completions fish > '$(fishdir)/bmapfs.fish'
	install -d '$(unitdir)' '$(exampledir)'
	for unit in $(UNITS); do sed 's|/usr/bin/|$(PREFIX)/bin/|' systemd/$$unit > '$(unitdir)/'$$unit || exit; done
	install -m 644 systemd/example.conf '$(exampledir)/'

uninstall:
	rm -f '$(bindir)/bmapfs' $(HELPERS:%='$(sbindir)/%') $(MANUALS:doc/%='$(mandir)/%')
	rm -f $(UNITS:%='$(unitdir)/%') '$(exampledir)/example.conf'
	rm -f '$(bashdir)/bmapfs' '$(zshdir)/_bmapfs' '$(fishdir)/bmapfs.fish'

clean: cargo-there
	$(CARGO) clean
