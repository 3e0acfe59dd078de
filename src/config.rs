//! Resolved settings: what a mount is to be, after flags and `-o` options have become one.
//!
//! Everything here has been checked against the other settings, but not yet against the system:
//! paths are as the user typed them (made absolute), nothing has been opened.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::geometry::{BlockSize, Part};

/// Everything that `bmapfs SRC MOUNTPOINT` was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountConfig {
    /// What is shown, at least one; several are all of one kind, images or directories of block files.
    pub sources: Vec<SourceConfig>,
    /// MOUNTPOINT as typed; `/dev/fd/N` names a /dev/fuse descriptor that is mounted already.
    pub mountpoint: PathBuf,
    /// How the source is opened and cut.
    pub volume: VolumeConfig,
    /// For a source that is a directory.
    pub typed: Typed,
    /// `--index`: where block files' times are kept; `None`: they follow the source.
    pub index: Option<IndexConfig>,
    /// What the kernel is told at the mount.
    pub kernel: KernelConfig,
    /// FUSE worker threads; `None`: chosen from the number of processors.
    pub threads: Option<NonZeroUsize>,
    /// Stay in the foreground and log to stderr.
    pub foreground: bool,
    /// How much is logged.
    pub verbosity: Verbosity,
}

/// One SRC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceConfig {
    /// As typed (made absolute).
    pub path: PathBuf,
    /// The directory of the mount that shows it. `None`: the mount's root does; then it is the only one.
    pub name: Option<OsString>,
}

/// What was typed, as far as it means something else for a directory of block files than for an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Typed {
    /// `-b`, if it was given; else block 0 tells.
    pub block_size: Option<BlockSize>,
    /// The first option that has a meaning for images only, as typed.
    pub image_only: Option<String>,
}

/// Where stamps are kept between mounts (`--index[=FILE]`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexConfig {
    /// Where it is.
    pub place: IndexPlace,
    /// `-o id=NAME`: what the source is called there, in place of its path.
    pub id: Option<String>,
    /// `-o rescan`: read everything, whatever is known.
    pub rescan: bool,
    /// `-o recheck=N`: of what need not be read, every N-th part is read all the same; 0 is none. `None`: the default.
    pub recheck: Option<u32>,
    /// `--changed`, `--since`, `--as`: what changed, if somebody can tell.
    pub changes: ChangesConfig,
}

/// Where an index is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum IndexPlace {
    /// In the state directory, under a name of the source's.
    #[default]
    State,
    /// In this directory, under the same name (`--index=DIR/`).
    Directory(PathBuf),
    /// This file (`--index=FILE`).
    File(PathBuf),
}

/// What an administrator tells of the image's states.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangesConfig {
    /// `--changed` and `--since`.
    pub map: Option<MapConfig>,
    /// `--as`: what the present state is called.
    pub now: Option<String>,
}

/// A map of changes that another program has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapConfig {
    /// `--changed FILE`
    pub file: MapFile,
    /// `--since ID`: the state from which on it tells what changed.
    pub since: String,
    /// `-o era-block-size=SIZE`, in bytes.
    pub era_block: Option<u64>,
}

/// Where a map of changes is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapFile {
    /// `-`
    Stdin,
    /// A file as typed (made absolute).
    Path(PathBuf),
}

/// `libvirt:DOMAIN` as SRC: the disks of a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainConfig {
    /// DOMAIN.
    pub name: String,
    /// `libvirt:DOMAIN/TARGET`: this disk only.
    pub target: Option<String>,
    /// `--connect`: whose domain it is.
    pub connect: String,
    /// `--freeze`: what stops whoever writes its disks at that moment.
    pub freeze: Option<Freezing>,
}

impl DomainConfig {
    /// As it was typed.
    #[must_use]
    pub fn shown(&self) -> String {
        match &self.target {
            Some(target) => format!("libvirt:{}/{target}", self.name),
            None => format!("libvirt:{}", self.name),
        }
    }
}

/// How whoever writes SRC is stopped for a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freezing {
    /// `--freeze` alone: by the guest agent of a domain.
    Agent,
    /// By commands.
    Commands(FreezeConfig),
}

/// Everything that `bmapfs run SRC -- CMD` was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunConfig {
    /// What to mount; its mount point is found later.
    pub mount: MountConfig,
    /// In place of its sources.
    pub domain: Option<DomainConfig>,
    /// `-o shrunk`: go on although the image is empty, or smaller than the index remembers.
    pub shrunk: bool,
    /// `-o strict`: status 9 if the image was written meanwhile, or if changed blocks were not copied.
    pub strict: bool,
    /// `--report`: the file that tells how it ended.
    pub report: Option<PathBuf>,
    /// The command and its arguments; `{}` in them stands for the mount point.
    pub command: Vec<OsString>,
}

/// Everything that `bmapfs scan SRC` was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanConfig {
    /// What is scanned, at least one image, or none with a domain.
    pub sources: Vec<SourceConfig>,
    /// In place of images.
    pub domain: Option<DomainConfig>,
    /// How they are cut; never writable.
    pub volume: VolumeConfig,
    /// Which index.
    pub index: IndexConfig,
    /// Threads that scan; `None`: one a processor.
    pub threads: Option<NonZeroUsize>,
    /// How much is logged.
    pub verbosity: Verbosity,
    /// `--dry-run`: leave the index as it is.
    pub dry_run: bool,
    /// `-v`: list the blocks that got new stamps.
    pub list: bool,
    /// `--bmap`: the file that a block map is written to.
    pub bmap: Option<PathBuf>,
    /// `--report`: the file that tells how it ended.
    pub report: Option<PathBuf>,
    /// `--json`: print one object.
    pub json: bool,
}

/// Everything that `bmapfs sums SRC` was asked to do, and which index `bmapfs verify` goes by. SRC need not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumsConfig {
    /// SRC as typed.
    pub source: PathBuf,
    /// Length of every block but the last.
    pub block_size: BlockSize,
    /// Which index.
    pub index: IndexConfig,
    /// `--sparse`: blocks of zeros need no file.
    pub sparse: bool,
}

/// Everything that `bmapfs verify SRC BACKUP` was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyConfig {
    /// By which index.
    pub known: SumsConfig,
    /// BACKUP as typed.
    pub backup: PathBuf,
    /// `--part`: which blocks.
    pub part: Part,
    /// How much is logged.
    pub verbosity: Verbosity,
    /// Threads that read; `None`: one a processor.
    pub threads: Option<NonZeroUsize>,
    /// `-v`: list the blocks that are not right.
    pub list: bool,
    /// `--json`: print one object.
    pub json: bool,
}

/// How the source is opened, cut and shown: all that the block directory needs.
#[derive(Debug, Clone, PartialEq, Eq)]
// Each is an option of its own, and any of them goes with any other.
#[allow(clippy::struct_excessive_bools)]
pub struct VolumeConfig {
    /// Length of every block but the last.
    pub block_size: BlockSize,
    /// `-w`: the image may be written.
    pub writable: bool,
    /// `-o force`: conflicts with other users of the source are warnings.
    pub force: bool,
    /// `-o no-latch` turns this off: after a refused truncate or a write past a block's end, refuse every write.
    pub latch: bool,
    /// `-o salvage`: blocks that cannot be read are opened all the same, for what is left of them.
    pub salvage: bool,
    /// `--sparse`: blocks without data have no file.
    pub sparse: bool,
    /// `--resize`: a regular image may grow and shrink.
    pub resize: bool,
    /// `--snapshot`: a clone of the image is shown in its place.
    pub snapshot: Option<SnapshotConfig>,
    /// `-o zero=detect`: long runs of zeros that are written become holes.
    pub detect_zeros: bool,
    /// `-o staging=SIZE`: bytes of memory that files under temporary names may take together.
    pub staging: u64,
    /// Owner and mode that block files show, where the user overrides the source's.
    pub owner: OwnerConfig,
}

/// How a snapshot is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotConfig {
    /// The option as typed.
    pub typed: String,
    /// `-o snapshot-keep=no` turns this off: it stays until the next one, to tell what changed.
    pub keep: bool,
    /// `--freeze` and `--thaw`
    pub freeze: Option<FreezeConfig>,
}

/// Commands for /bin/sh: what stops whoever writes the sources while they are cloned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreezeConfig {
    /// `--freeze`: before the first clone.
    pub freeze: OsString,
    /// `--thaw`: after the last.
    pub thaw: OsString,
}

/// Overrides of owner and permissions (`--uid`, `--gid`, `--umask`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnerConfig {
    /// Owner of all files.
    pub uid: Option<u32>,
    /// Group of all files.
    pub gid: Option<u32>,
    /// Permission bits to take away (never the owner's read and write).
    pub umask: Option<u32>,
}

/// What mount(2) or fusermount3 is told, beside what bmapfs always says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelConfig {
    /// Who may use the mount, beside the user who made it.
    pub access: Access,
    /// `kernel_cache`: let the kernel keep pages, for images that nobody else writes.
    pub page_cache: bool,
    /// Flags as words in mount(8)'s spelling, in the order given: `nodev`, `suid`, `noexec`, `noatime`, `sync`...
    /// `ro` and `rw` are not among them: `writable` decides that.
    pub flags: Vec<String>,
    /// Data options handed through as they are: `context="..."`, `max_read=N`.
    pub data: Vec<OsString>,
    /// `fsname=`: shown as the source in place of SRC's canonical path.
    pub fsname: Option<OsString>,
}

/// Who may use a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// Only the user who mounted.
    #[default]
    Owner,
    /// That user and root (`allow_root`).
    OwnerAndRoot,
    /// Everybody, as far as mode bits let them (`allow_other`).
    Everybody,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// `-q`: warnings and errors only; no progress, no summary.
    Quiet,
    /// Mounts, unmounts and what an administrator should know.
    #[default]
    Normal,
    /// `-d`: one line an operation.
    Debug,
}

/// Everything that umount(8) asks of its helper (`umount.fuse.bmapfs`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UmountConfig {
    /// The mount point, or the source of the mount, as typed (made absolute).
    pub mountpoint: PathBuf,
    /// `-l`: detach now, let the daemon end when nobody uses the mount any more.
    pub lazy: bool,
    /// `-f`: abort what is under way instead of waiting for it.
    pub force: bool,
    /// `-v`: say what was done.
    pub verbose: bool,
    /// `-N`: the mount namespace in which this is meant. `main` has entered it before anything else.
    pub namespace: Option<PathBuf>,
}
