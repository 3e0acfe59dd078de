//! From options as typed to settings: flags and `-o` words take one and the same way.
//!
//! Invariant: every option is either a setting here, handed to the kernel, or known to be without meaning
//! for bmapfs; anything else is a usage error that names it. This module asks the system nothing.

mod changes;
mod split;
mod word;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

pub use split::{RawWord, SplitError, split};
pub use word::Word;

use changes::{ChangesDraft, ChangesSetting};

use crate::config::{
    Access, IndexConfig, KernelConfig, OwnerConfig, SnapshotConfig, Typed, Verbosity, VolumeConfig,
};
use crate::exit::{Failure, Result};
use crate::geometry::BlockSize;

/// The most FUSE worker threads that can be asked for.
pub const MAX_THREADS: usize = 256;

/// Unless -o staging says otherwise, temporary files may take the memory of this many blocks together...
const STAGED_BLOCKS: u64 = 64;
/// ... and no more than this many bytes.
const MOST_STAGED: u64 = 1 << 30;

/// What is done with an option that bmapfs does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// It is a usage error.
    Refuse,
    /// It is left out (`mount -s`).
    Ignore,
}

/// What a list of options comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How the source is opened and cut.
    pub volume: VolumeConfig,
    /// What a directory as source takes in another way.
    pub typed: Typed,
    /// Where stamps are kept, if they are.
    pub index: Option<IndexConfig>,
    /// `shrunk` and `strict`, as typed: for `bmapfs run` alone.
    pub only_run: OnlyRun,
    /// What the kernel is told at the mount.
    pub kernel: KernelConfig,
    /// FUSE worker threads, if a number was given.
    pub threads: Option<NonZeroUsize>,
    /// Stay in the foreground.
    pub foreground: bool,
    /// How much is logged.
    pub verbosity: Verbosity,
    /// Whether `ro` was asked for in so many words.
    pub read_only_asked: bool,
    /// Unknown options that were left out, as typed.
    pub ignored: Vec<String>,
}

/// Options that only `bmapfs run` has a use for, as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnlyRun {
    /// `shrunk`
    pub shrunk: Option<String>,
    /// `strict`
    pub strict: Option<String>,
}

impl OnlyRun {
    /// Refuses them where they would do nothing.
    pub fn refuse(&self) -> Result<()> {
        match self.shrunk.as_ref().or(self.strict.as_ref()) {
            Some(typed) => Err(Failure::usage(format!("{typed}: only for bmapfs run"))),
            None => Ok(()),
        }
    }
}

/// Resolves options, in the order in which they were typed: of two values for one thing the later counts.
///
/// # Errors
/// A usage error for an option that is unknown (unless `unknown` says otherwise), has a bad value, none or one
/// too many, is refused on principle, or contradicts another.
pub fn resolve(words: &[Word], unknown: Unknown) -> Result<Settings> {
    let mut draft = Draft::default();
    for word in words {
        match meaning(word)? {
            Meaning::Setting(setting) => draft.apply(setting, word),
            Meaning::Nothing => {}
            Meaning::Unknown if unknown == Unknown::Ignore => draft.ignored.push(word.to_string()),
            Meaning::Unknown => {
                return Err(Failure::usage(format!(
                    "{word}: unknown option; see bmapfs --help"
                )));
            }
        }
    }
    draft.finish()
}

/// What one word stands for.
enum Meaning {
    Setting(Setting),
    /// For mount(8), systemd or libfuse, or what bmapfs does anyway.
    Nothing,
    Unknown,
}

enum Setting {
    BlockSize(BlockSize),
    Write,
    ReadOnly,
    /// `rw`, which takes back an earlier `ro` and never means write: mount(8) passes it unasked.
    NotReadOnly,
    Force,
    NoLatch,
    /// In bytes.
    Staging(u64),
    Sparse,
    Resize,
    Snapshot,
    /// Whether snapshots stay for the next one.
    SnapshotKeep(bool),
    /// Whether zeros are looked for.
    Zero(bool),
    /// The file, if one is named.
    Index(Option<PathBuf>),
    Id(String),
    Rescan,
    Changes(ChangesSetting),
    Shrunk,
    Strict,
    Uid(u32),
    Gid(u32),
    Umask(u32),
    Threads(NonZeroUsize),
    Foreground,
    Debug,
    Quiet,
    AllowOther,
    AllowRoot,
    KernelCache,
    DirectIo,
    FsName(OsString),
    /// A mount flag and the one that it takes back.
    Flag(&'static str, Option<&'static str>),
    Data(OsString),
}

impl Setting {
    /// Whether it means nothing where SRC is a directory of block files.
    fn is_for_images_only(&self) -> bool {
        matches!(
            self,
            Self::NoLatch
                | Self::Staging(_)
                | Self::Resize
                | Self::Snapshot
                | Self::SnapshotKeep(_)
                | Self::Index(_)
                | Self::Id(_)
                | Self::Rescan
                | Self::Changes(_)
                | Self::Shrunk
                | Self::Strict
        )
    }
}

fn meaning(word: &Word) -> Result<Meaning> {
    if let Some(setting) = own(word)? {
        return Ok(Meaning::Setting(setting));
    }
    let setting = match word.name() {
        "ro" => word.alone(Setting::ReadOnly)?,
        "rw" => word.alone(Setting::NotReadOnly)?,
        "fsname" => Setting::FsName(word.value()?.to_owned()),
        "context" | "fscontext" | "defcontext" | "rootcontext" => Setting::Data(word.data()?),
        "max_read" => {
            word.number(0..=u32::MAX)?;
            Setting::Data(word.data()?)
        }
        "subtype" if word.value()? == "bmapfs" => return Ok(Meaning::Nothing),
        "subtype" => return Err(word.refused("the subtype is always bmapfs")),
        "auto_unmount" => {
            return Err(word.refused(
                "not offered, since it can unmount what was mounted there meanwhile; end bmapfs with umount or SIGTERM",
            ));
        }
        "blkdev" => {
            return Err(
                word.refused("not offered: bmapfs opens block devices itself, under any mount")
            );
        }
        "remount" => {
            return Err(
                word.refused("a bmapfs mount cannot be changed; unmount it and mount it again")
            );
        }
        name => match kernel_flag(name) {
            Some((flag, opposite)) => word.alone(Setting::Flag(flag, opposite))?,
            None if is_noise(name) => return Ok(Meaning::Nothing),
            None => return Ok(Meaning::Unknown),
        },
    };
    Ok(Meaning::Setting(setting))
}

/// The words that bmapfs gives a meaning of its own. In these '-' and '_' are the same.
fn own(word: &Word) -> Result<Option<Setting>> {
    Ok(Some(match word.name().replace('_', "-").as_str() {
        "block-size" | "bs" => Setting::BlockSize(word.parse()?),
        "write" => word.alone(Setting::Write)?,
        "threads" => Setting::Threads(word.threads(MAX_THREADS)?),
        // The highest number is chown(2)'s "leave it as it is".
        "uid" => Setting::Uid(word.number(0..=u32::MAX - 1)?),
        "gid" => Setting::Gid(word.number(0..=u32::MAX - 1)?),
        "umask" => Setting::Umask(word.umask()?),
        "allow-other" => word.alone(Setting::AllowOther)?,
        "allow-root" => word.alone(Setting::AllowRoot)?,
        "foreground" => word.alone(Setting::Foreground)?,
        "debug" => word.alone(Setting::Debug)?,
        "quiet" => word.alone(Setting::Quiet)?,
        "force" => word.alone(Setting::Force)?,
        "no-latch" => word.alone(Setting::NoLatch)?,
        "staging" => Setting::Staging(word.size()?),
        "sparse" => word.alone(Setting::Sparse)?,
        "resize" => word.alone(Setting::Resize)?,
        "snapshot" => word.alone(Setting::Snapshot)?,
        "snapshot-keep" => Setting::SnapshotKeep(match word.text()?.as_str() {
            "yes" => true,
            "no" => false,
            _ => return Err(word.refused("must be yes or no")),
        }),
        "zero" => Setting::Zero(match word.text()?.as_str() {
            "detect" => true,
            "keep" => false,
            _ => return Err(word.refused("must be detect or keep")),
        }),
        "index" => Setting::Index(word.optional_path()?),
        "id" => Setting::Id(word.text()?),
        "rescan" => word.alone(Setting::Rescan)?,
        "changed" => Setting::Changes(ChangesSetting::Changed(changes::map_file(word)?)),
        "since" => Setting::Changes(ChangesSetting::Since(changes::state(word)?)),
        "as" => Setting::Changes(ChangesSetting::As(changes::state(word)?)),
        "era-block-size" => Setting::Changes(ChangesSetting::EraBlock(changes::era_block(word)?)),
        "shrunk" => word.alone(Setting::Shrunk)?,
        "strict" => word.alone(Setting::Strict)?,
        "kernel-cache" => word.alone(Setting::KernelCache)?,
        "direct-io" => word.alone(Setting::DirectIo)?,
        _ => return Ok(None),
    }))
}

/// Flags that mount(2) and every fusermount3 know, each with the flag that it takes back.
fn kernel_flag(name: &str) -> Option<(&'static str, Option<&'static str>)> {
    const FLAGS: [(&str, Option<&str>); 10] = [
        ("suid", Some("nosuid")),
        ("nosuid", Some("suid")),
        ("dev", Some("nodev")),
        ("nodev", Some("dev")),
        ("exec", Some("noexec")),
        ("noexec", Some("exec")),
        ("sync", Some("async")),
        ("async", Some("sync")),
        ("dirsync", None),
        ("noatime", None),
    ];
    FLAGS.into_iter().find(|(flag, _)| *flag == name)
}

/// Words for mount(8), systemd or older libfuse, which the kernel or fusermount3 would refuse, and words for
/// what bmapfs has no use for: it keeps no access times and shows no symbolic links.
fn is_noise(name: &str) -> bool {
    const NOISE: &str = " defaults auto noauto user users nouser nousers owner noowner group nogroup nofail \
        _netdev _rnetdev comment relatime norelatime strictatime nostrictatime lazytime nolazytime atime \
        diratime nodiratime silent loud iversion noiversion mand nomand symfollow nosymfollow uhelper helper \
        nonempty default_permissions ";
    let listed = NOISE.split_ascii_whitespace().any(|word| word == name);
    listed || name.starts_with("x-") || name.starts_with("X-")
}

/// Settings in the making. Where options exclude each other, the one that was given is kept as typed.
#[derive(Default)]
// As VolumeConfig, which it becomes.
#[allow(clippy::struct_excessive_bools)]
struct Draft {
    typed: Typed,
    write: Option<String>,
    read_only: Option<String>,
    force: bool,
    no_latch: bool,
    staging: Option<u64>,
    sparse: bool,
    resize: Option<String>,
    snapshot: Option<String>,
    snapshot_keep: Option<(bool, String)>,
    zero: Option<bool>,
    index: Option<IndexConfig>,
    id: Option<(String, String)>,
    rescan: Option<String>,
    changes: ChangesDraft,
    only_run: OnlyRun,
    owner: OwnerConfig,
    threads: Option<NonZeroUsize>,
    foreground: bool,
    verbosity: Verbosity,
    allow_other: Option<String>,
    allow_root: Option<String>,
    kernel_cache: Option<String>,
    direct_io: Option<String>,
    kernel: KernelConfig,
    ignored: Vec<String>,
}

impl Draft {
    fn apply(&mut self, setting: Setting, word: &Word) {
        let typed = || Some(word.to_string());
        if setting.is_for_images_only() && self.typed.image_only.is_none() {
            self.typed.image_only = typed();
        }
        match setting {
            Setting::BlockSize(size) => self.typed.block_size = Some(size),
            Setting::Write => self.write = typed(),
            Setting::ReadOnly => self.read_only = typed(),
            Setting::NotReadOnly => self.read_only = None,
            Setting::Force => self.force = true,
            Setting::NoLatch => self.no_latch = true,
            Setting::Staging(bytes) => self.staging = Some(bytes),
            Setting::Sparse => self.sparse = true,
            Setting::Resize => self.resize = typed(),
            Setting::Snapshot => self.snapshot = typed(),
            Setting::SnapshotKeep(keep) => self.snapshot_keep = Some((keep, word.to_string())),
            Setting::Zero(detect) => self.zero = Some(detect),
            Setting::Index(file) => {
                self.index = Some(IndexConfig {
                    file,
                    ..IndexConfig::default()
                });
            }
            Setting::Id(id) => self.id = Some((id, word.to_string())),
            Setting::Rescan => self.rescan = typed(),
            Setting::Changes(setting) => self.changes.apply(setting, word.to_string()),
            Setting::Shrunk => self.only_run.shrunk = typed(),
            Setting::Strict => self.only_run.strict = typed(),
            Setting::Uid(uid) => self.owner.uid = Some(uid),
            Setting::Gid(gid) => self.owner.gid = Some(gid),
            Setting::Umask(umask) => self.owner.umask = Some(umask),
            Setting::Threads(threads) => self.threads = Some(threads),
            Setting::Foreground => self.foreground = true,
            Setting::Debug => {
                self.foreground = true;
                self.verbosity = Verbosity::Debug;
            }
            Setting::Quiet => self.verbosity = Verbosity::Quiet,
            Setting::AllowOther => self.allow_other = typed(),
            Setting::AllowRoot => self.allow_root = typed(),
            Setting::KernelCache => self.kernel_cache = typed(),
            Setting::DirectIo => self.direct_io = typed(),
            Setting::FsName(name) => self.kernel.fsname = Some(name),
            Setting::Flag(flag, opposite) => {
                let flags = &mut self.kernel.flags;
                flags.retain(|given| given != flag && Some(given.as_str()) != opposite);
                flags.push(flag.to_owned());
            }
            Setting::Data(data) => self.kernel.data.push(data),
        }
    }

    fn finish(self) -> Result<Settings> {
        conflict(self.read_only.as_ref(), self.write.as_ref(), "")?;
        conflict(
            self.kernel_cache.as_ref(),
            self.write.as_ref(),
            "; the page cache is for images that nobody writes",
        )?;
        let snapshot = self.snapshot()?;
        if let (Some(resize), None) = (&self.resize, &self.write) {
            return Err(Failure::usage(format!(
                "{resize} has no meaning without -w: only what is written can grow and shrink"
            )));
        }
        conflict(
            self.changes.typed(),
            self.write.as_ref(),
            "; a state that is being written has no name",
        )?;
        conflict(self.kernel_cache.as_ref(), self.direct_io.as_ref(), "")?;
        conflict(self.allow_other.as_ref(), self.allow_root.as_ref(), "")?;
        let index = match self.index {
            Some(index) => Some(IndexConfig {
                id: self.id.map(|(id, _)| id),
                rescan: self.rescan.is_some(),
                changes: self.changes.finish()?,
                ..index
            }),
            None => match (self.id.map(|(_, typed)| typed))
                .or(self.rescan)
                .or(self.changes.typed().cloned())
            {
                Some(typed) => {
                    return Err(Failure::usage(format!(
                        "{typed} has no meaning without --index"
                    )));
                }
                None => None,
            },
        };
        let access = match (&self.allow_other, &self.allow_root) {
            (Some(_), _) => Access::Everybody,
            (None, Some(_)) => Access::OwnerAndRoot,
            (None, None) => Access::Owner,
        };
        let block_size = self.typed.block_size.unwrap_or(BlockSize::DEFAULT);
        Ok(Settings {
            typed: self.typed,
            volume: VolumeConfig {
                block_size,
                writable: self.write.is_some(),
                force: self.force,
                latch: !self.no_latch,
                sparse: self.sparse,
                resize: self.resize.is_some(),
                snapshot,
                detect_zeros: self.zero.unwrap_or(self.sparse),
                staging: self
                    .staging
                    .unwrap_or((STAGED_BLOCKS * block_size.bytes()).min(MOST_STAGED)),
                owner: self.owner,
            },
            index,
            only_run: self.only_run,
            kernel: KernelConfig {
                access,
                page_cache: self.kernel_cache.is_some(),
                ..self.kernel
            },
            threads: self.threads,
            foreground: self.foreground,
            verbosity: self.verbosity,
            read_only_asked: self.read_only.is_some(),
            ignored: self.ignored,
        })
    }
}

impl Draft {
    fn snapshot(&self) -> Result<Option<SnapshotConfig>> {
        let Some(typed) = &self.snapshot else {
            return match &self.snapshot_keep {
                Some((_, typed)) => Err(Failure::usage(format!(
                    "{typed} has no meaning without --snapshot"
                ))),
                None => Ok(None),
            };
        };
        for other in [&self.write, &self.resize] {
            let why = "; what is written must go to the image itself";
            conflict(Some(typed), other.as_ref(), why)?;
        }
        let why = "; a snapshot tells by itself what changed";
        conflict(Some(typed), self.changes.typed(), why)?;
        Ok(Some(SnapshotConfig {
            typed: typed.clone(),
            keep: self.snapshot_keep.as_ref().is_none_or(|(keep, _)| *keep),
        }))
    }
}

fn conflict(one: Option<&String>, other: Option<&String>, why: &str) -> Result<()> {
    match (one, other) {
        (Some(one), Some(other)) => Err(Failure::usage(format!(
            "{one} and {other} exclude each other{why}"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
