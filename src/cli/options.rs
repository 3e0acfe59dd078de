//! From options as typed to settings: flags and `-o` words take one and the same way.
//!
//! Invariant: every option is either a row of `words::OWN`, handed to the kernel, or known to be without meaning
//! for bmapfs; anything else is a usage error that names it. This module asks the system nothing.

mod changes;
mod split;
mod word;
mod words;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;

pub use word::Word;

use changes::ChangesDraft;
use words::{Set, Use};

use crate::config::{
    Access, FreezeConfig, Freezing, IndexConfig, IndexPlace, KernelConfig, OwnerConfig,
    SnapshotConfig, Typed, Verbosity, VolumeConfig,
};
use crate::exit::{Failure, Result};
use crate::geometry::BlockSize;

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
// Each is an option of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct Settings {
    /// How the source is opened and cut.
    pub volume: VolumeConfig,
    /// What a directory as source takes in another way.
    pub typed: Typed,
    /// Where stamps are kept, if they are.
    pub index: Option<IndexConfig>,
    /// `shrunk`
    pub shrunk: bool,
    /// `strict`
    pub strict: bool,
    /// An option that means one source and no more, as typed.
    pub one_source_only: Option<String>,
    /// An option that only `bmapfs run` has a use for, as typed.
    run_only: Option<String>,
    /// An option that has no meaning for a domain, as typed.
    not_for_domain: Option<String>,
    /// `freeze`, as typed, and what it says, without `snapshot`.
    freeze: Option<(String, Freezing)>,
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

impl Settings {
    /// An option that has no meaning for a domain of libvirt's, as typed.
    #[must_use]
    pub fn not_for_domain(&self) -> Option<&str> {
        let other = self.one_source_only.as_deref();
        other.or(self.not_for_domain.as_deref())
    }

    /// How what is written is stopped, which is an error unless SRC is a `domain`.
    pub fn freeze_has_use(&self, domain: bool) -> Result<Option<Freezing>> {
        match &self.freeze {
            Some((typed, _)) if !domain => Err(Failure::usage(format!(
                "{typed} has no meaning without --snapshot"
            ))),
            freeze => Ok(freeze.as_ref().map(|(_, freeze)| freeze.clone())),
        }
    }

    /// Refuses what only `bmapfs run` has a use for.
    pub fn not_for_run(self) -> Result<Self> {
        match &self.run_only {
            Some(typed) => Err(Failure::usage(format!("{typed}: only for bmapfs run"))),
            None => Ok(self),
        }
    }
}

/// Resolves options, in the order in which they were typed: of two values for one thing the later counts.
///
/// # Errors
/// A usage error for an option that is unknown (unless `unknown` says otherwise), has a bad value, none or one
/// too many, is refused on principle, or contradicts another.
pub fn resolve(words: &[Word], unknown: Unknown) -> Result<Settings> {
    let mut draft = Draft::new();
    for word in words {
        if !(draft.take_own(word)? || draft.take_kernels(word)?) {
            if unknown == Unknown::Refuse {
                return Err(word.refused("unknown option; see bmapfs --help"));
            }
            draft.settings.ignored.push(word.to_string());
        }
    }
    draft.finish()
}

/// Refuses every option that is not among `names`, the first names of words: `face` has no use for it.
pub fn only(words: &[Word], names: &[&str], face: &str) -> Result<()> {
    let known = |word: &Word| {
        let name = word.name().replace('_', "-");
        let mut rows = words::OWN.iter();
        rows.any(|own| own.names.contains(&name.as_str()) && names.contains(&own.names[0]))
    };
    match words.iter().find(|word| !known(word)) {
        Some(word) => Err(word.refused(&format!("has no meaning for bmapfs {face}"))),
        None => Ok(()),
    }
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

/// Settings in the making.
struct Draft {
    settings: Settings,
    index: IndexConfig,
    changes: ChangesDraft,
    snapshot_keep: bool,
    /// `None` also if it was given without a command.
    freeze: Option<OsString>,
    thaw: Option<OsString>,
    staging: Option<u64>,
    /// Whether zeros are looked for.
    zero: Option<bool>,
    /// The options that were given, as typed, by their first names.
    given: BTreeMap<&'static str, String>,
}

impl Draft {
    fn new() -> Self {
        Self {
            settings: Settings {
                volume: VolumeConfig {
                    block_size: BlockSize::DEFAULT,
                    writable: false,
                    force: false,
                    latch: true,
                    salvage: false,
                    sparse: false,
                    resize: false,
                    snapshot: None,
                    detect_zeros: false,
                    staging: 0,
                    owner: OwnerConfig::default(),
                },
                typed: Typed::default(),
                index: None,
                shrunk: false,
                strict: false,
                one_source_only: None,
                run_only: None,
                not_for_domain: None,
                freeze: None,
                kernel: KernelConfig::default(),
                threads: None,
                foreground: false,
                verbosity: Verbosity::default(),
                read_only_asked: false,
                ignored: Vec::new(),
            },
            index: IndexConfig::default(),
            changes: ChangesDraft::default(),
            snapshot_keep: true,
            freeze: None,
            thaw: None,
            staging: None,
            zero: None,
            given: BTreeMap::new(),
        }
    }

    /// Takes a word that bmapfs gives a meaning of its own; `false`: it has none.
    fn take_own(&mut self, word: &Word) -> Result<bool> {
        let name = word.name().replace('_', "-");
        let mut rows = words::OWN.iter();
        let Some(own) = rows.find(|own| own.names.contains(&name.as_str())) else {
            return Ok(false);
        };
        match own.set {
            Set::Alone(set) => word.alone(set)?(self),
            Set::Value(set) => set(self, word)?,
        }
        let typed = word.to_string();
        if own.used != Use::Everywhere {
            let first = &mut self.settings.typed.image_only;
            first.get_or_insert_with(|| typed.clone());
        }
        if own.used == Use::Run {
            self.settings.run_only = Some(typed.clone());
        }
        self.given.insert(own.names[0], typed);
        Ok(true)
    }

    /// Takes a word that is the kernel's, or is there for others; `false`: it is not known.
    fn take_kernels(&mut self, word: &Word) -> Result<bool> {
        let refused = match word.name() {
            "ro" => {
                word.alone(())?;
                self.given.insert("ro", word.to_string());
                return Ok(true);
            }
            // It takes back an earlier `ro` and never means write: mount(8) passes it unasked.
            "rw" => {
                word.alone(())?;
                self.given.remove("ro");
                return Ok(true);
            }
            "fsname" => {
                self.settings.kernel.fsname = Some(word.value()?.to_owned());
                return Ok(true);
            }
            "context" | "fscontext" | "defcontext" | "rootcontext" | "max_read" => {
                if word.name() == "max_read" {
                    word.number(0..=u32::MAX)?;
                }
                self.settings.kernel.data.push(word.data()?);
                return Ok(true);
            }
            "subtype" if word.value()? == "bmapfs" => return Ok(true),
            "subtype" => "the subtype is always bmapfs",
            "auto_unmount" => {
                "not offered, since it can unmount what was mounted there meanwhile; end bmapfs with umount or SIGTERM"
            }
            "blkdev" => "not offered: bmapfs opens block devices itself, under any mount",
            "remount" => "a bmapfs mount cannot be changed; unmount it and mount it again",
            name => {
                let Some((flag, opposite)) = kernel_flag(name) else {
                    return Ok(is_noise(name));
                };
                word.alone(())?;
                let flags = &mut self.settings.kernel.flags;
                flags.retain(|given| given != flag && Some(given.as_str()) != opposite);
                flags.push(flag.to_owned());
                return Ok(true);
            }
        };
        Err(word.refused(refused))
    }

    fn finish(self) -> Result<Settings> {
        self.conflict("ro", "write", "")?;
        let why = "; the page cache is for images that nobody writes";
        self.conflict("kernel-cache", "write", why)?;
        self.check_snapshot()?;
        if let (Some(resize), None) = (self.given.get("resize"), self.given.get("write")) {
            return Err(Failure::usage(format!(
                "{resize} has no meaning without -w: only what is written can grow and shrink"
            )));
        }
        for changes in changes::WORDS {
            let why = "; a state that is being written has no name";
            self.conflict(changes, "write", why)?;
        }
        self.conflict("kernel-cache", "direct-io", "")?;
        self.conflict("allow-other", "allow-root", "")?;
        let given = |name: &str| self.given.get(name);
        if given("index").is_none() {
            let mut needing = ["id", "rescan", "recheck"]
                .into_iter()
                .chain(changes::WORDS);
            if let Some(typed) = needing.find_map(given) {
                return Err(Failure::usage(format!(
                    "{typed} has no meaning without --index"
                )));
            }
        }
        let one_source_only = match &self.index.place {
            IndexPlace::File(_) => given("index"),
            IndexPlace::State | IndexPlace::Directory(_) => {
                ["id"].into_iter().chain(changes::WORDS).find_map(given)
            }
        };
        let one_source_only = one_source_only.cloned();
        let agent = given("freeze").map(|_| Freezing::Agent);
        let commands = self.freeze.zip(self.thaw);
        let freeze = commands
            .map(|(freeze, thaw)| Freezing::Commands(FreezeConfig { freeze, thaw }))
            .or(agent);
        let changes = self.changes.finish(&given)?;
        let mut settings = self.settings;
        settings.index = given("index").map(|_| IndexConfig {
            changes,
            ..self.index
        });
        settings.one_source_only = one_source_only;
        settings.read_only_asked = given("ro").is_some();
        settings.kernel.access = match (given("allow-other"), given("allow-root")) {
            (Some(_), _) => Access::Everybody,
            (None, Some(_)) => Access::OwnerAndRoot,
            (None, None) => Access::Owner,
        };
        let volume = &mut settings.volume;
        volume.block_size = settings.typed.block_size.unwrap_or(BlockSize::DEFAULT);
        let (of_snapshot, of_domain) = match (given("snapshot"), freeze) {
            (Some(_), Some(Freezing::Commands(commands))) => (Some(commands), None),
            (_, freeze) => (None, freeze),
        };
        volume.snapshot = given("snapshot").map(|typed| SnapshotConfig {
            typed: typed.clone(),
            keep: self.snapshot_keep,
            freeze: of_snapshot,
        });
        settings.freeze = given("freeze").cloned().zip(of_domain);
        let mut of_images = ["write", "resize", "snapshot", "snapshot-keep"].into_iter();
        settings.not_for_domain = of_images.find_map(given).cloned();
        volume.detect_zeros = self.zero.unwrap_or(volume.sparse);
        let usual = (STAGED_BLOCKS * volume.block_size.bytes()).min(MOST_STAGED);
        volume.staging = self.staging.unwrap_or(usual);
        Ok(settings)
    }

    fn check_snapshot(&self) -> Result<()> {
        if self.given.contains_key("snapshot") {
            for other in ["write", "resize"] {
                let why = "; what is written must go to the image itself";
                self.conflict("snapshot", other, why)?;
            }
            for changes in changes::WORDS {
                let why = "; a snapshot tells by itself what changed";
                self.conflict("snapshot", changes, why)?;
            }
        } else if let Some(typed) = self.given.get("snapshot-keep") {
            return Err(Failure::usage(format!(
                "{typed} has no meaning without --snapshot"
            )));
        }
        let given = |word: &str| self.given.get(word);
        let alone = self.freeze.is_none();
        match (given("freeze"), given("thaw")) {
            (Some(_), Some(thaw)) if alone => Err(Failure::usage(format!(
                "{thaw} has no meaning with --freeze without a command"
            ))),
            (Some(typed), None) if alone && given("snapshot").is_some() => Err(Failure::usage(
                format!("{typed}: a value is missing: only libvirt:DOMAIN has a guest agent"),
            )),
            (Some(typed), None) if !alone => Err(Failure::usage(format!(
                "{typed} has no meaning without --thaw: what it stops would stay so"
            ))),
            (None, Some(typed)) => Err(Failure::usage(format!(
                "{typed} has no meaning without --freeze"
            ))),
            _ => Ok(()),
        }
    }

    fn conflict(&self, one: &str, other: &str, why: &str) -> Result<()> {
        match (self.given.get(one), self.given.get(other)) {
            (Some(one), Some(other)) => Err(Failure::usage(format!(
                "{one} and {other} exclude each other{why}"
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
