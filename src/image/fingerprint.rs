//! Evidence whether an image was written: noted once, compared later (promises P23 and P24).
//!
//! Invariant: a proof is about one instance of the image, and a fingerprint says which: for a file by the boot and the
//! mount of its file system, for a device by its sequence number. A proof holds only where each write leaves a trace, and
//! only for writes that have ended. Where any of that is missing or differs, there is no proof, and the image is read.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, SYSFS_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};
use serde::{Deserialize, Serialize};

use super::activity::{self, Counters};
use crate::sys::{self, device::DeviceNumber};

#[cfg(test)]
mod tests;

/// Between two processes a file's times count only if they are older than this many seconds (promise P23).
const SETTLED_AFTER: i64 = 2;

/// The longest tick of the kernel's clock for file times: a second write within the same tick does not change them.
const TICK: Duration = Duration::from_millis(12);

/// Other file systems that nobody writes but through this kernel, which sees who has a file open: tmpfs, ZFS, F2FS and
/// bcachefs (from their sources).
const OTHER_LOCAL: [FsType; 4] = [
    TMPFS_MAGIC,
    FsType(0x2FC1_2FC1),
    FsType(0xF2F5_2010),
    FsType(0xCA45_1A4E),
];

/// File systems that are made once: squashfs and EROFS (from their sources).
const NEVER_WRITTEN: [FsType; 2] = [FsType(0x7371_7368), FsType(0xE0F5_E1E2)];

/// The file system that a file is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// Ext4, XFS or Btrfs, whose times are well known.
    WellKnown,
    /// Another that only this kernel writes.
    Local,
    /// One that nobody can write, whatever its times are.
    NeverWritten,
    /// Any other.
    Other,
}

/// What is noted of an image. Made after an fsync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fingerprint {
    /// Nothing that could prove anything.
    Unknown,
    /// A regular file's.
    File(FileFingerprint),
    /// A device's.
    Device(DeviceFingerprint),
}

/// What identifies a regular file and its content, and what its times can prove. An index of an older version lacks some
/// of it, and so proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileFingerprint {
    /// A later write gives it other times: a file system of this machine keeps them, finer than a second, the last write
    /// is longer ago than a tick, and nobody had it open for writing. Or there can be none.
    pub(crate) trusted: bool,
    /// The same for another process, later: the file system is one whose times are well known, and the last write is
    /// longer ago than `SETTLED_AFTER`.
    #[serde(default)]
    pub(crate) lasting: bool,
    /// Somebody had it open, or mapped, for writing. `None`: that could not be seen.
    #[serde(default)]
    pub(crate) writers: Option<bool>,
    pub(crate) boot: Option<String>,
    /// The mount of its file system. No other gets this number before the next boot.
    #[serde(default)]
    pub(crate) mount: Option<u64>,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime: (i64, i64),
    pub(crate) ctime: (i64, i64),
    /// The image is what the file holds in this format, and not the bytes of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) format: Option<String>,
}

/// What identifies a device, and its statistics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceFingerprint {
    /// Its statistics count every write to its content: nothing can be written below it.
    #[serde(default)]
    pub(crate) counts_all: bool,
    pub(crate) boot: String,
    pub(crate) major: u64,
    pub(crate) minor: u64,
    pub(crate) sectors_written: u64,
    pub(crate) sectors_discarded: u64,
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) sequence: Option<u64>,
}

impl Fingerprint {
    /// Whether the image was certainly not written between `earlier` and this fingerprint, which was made later.
    /// `held`: one process had the image open all the time, so it is the same instance.
    #[must_use]
    pub(crate) fn proves_unwritten_since(&self, earlier: &Self, held: bool) -> bool {
        match (self, earlier) {
            (Self::File(now), Self::File(then)) => {
                let known = then.lasting && then.boot.is_some() && then.mount.is_some();
                then.trusted && (held || known) && now.looks_like(then)
            }
            (Self::Device(now), Self::Device(then)) => {
                now == then && then.counts_all && (held || then.sequence.is_some())
            }
            _ => false,
        }
    }

    /// Whether anything shows that the image was written between `earlier` and this fingerprint. `None`: somebody may
    /// be writing it, or nothing that would show it is known. `Some(false)` is no proof.
    #[must_use]
    pub(crate) fn differs_from(&self, earlier: &Self) -> Option<bool> {
        match (self, earlier) {
            (Self::File(now), Self::File(then)) if !now.looks_like(then) => Some(true),
            (Self::File(now), Self::File(then)) => {
                let written = now.writers == Some(true) || then.writers == Some(true);
                (!written).then_some(false)
            }
            (Self::Device(now), Self::Device(then)) => Some(now != then),
            _ => None,
        }
    }

    /// The second of the file's last write, if a later one is certain to be seen and to have another.
    #[must_use]
    pub(crate) fn last_write(&self) -> Option<i64> {
        match self {
            Self::File(now) if now.trusted => Some(now.mtime.0.max(now.ctime.0)),
            _ => None,
        }
    }

    /// The file's mtime, in seconds and nanoseconds, if a later write is certain to be seen and to give it another.
    #[must_use]
    pub(crate) fn certain_mtime(&self) -> Option<(i64, i64)> {
        match self {
            Self::File(now) if now.trusted => Some(now.mtime),
            _ => None,
        }
    }

    /// Waits until a write would give the file another time than it has. Not for long, if it is written all the time.
    pub(super) fn let_tick_pass(file: &File) -> io::Result<()> {
        for _ in 0..4 {
            if age_of_last(&file.metadata()?) >= TICK {
                break;
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Of an open regular file that has just been flushed.
    pub(super) fn of_file(file: &File) -> io::Result<Self> {
        let stat = file.metadata()?;
        // After the times were read: of a writer that has closed the file before that, no write is still to come.
        let writers = sys::is_open_for_writing(file.as_fd()).ok();
        let last_age = age_of_last(&stat);
        let kind = fstatfs(file)?.filesystem_type();
        let keeper = Keeper::of(kind);
        let unjudged = FileFingerprint {
            trusted: false,
            lasting: false,
            writers,
            boot: activity::boot_id(),
            mount: mount_of(file, stat.dev(), kind),
            device: stat.dev(),
            inode: stat.ino(),
            size: stat.len(),
            mtime: (stat.mtime(), stat.mtime_nsec()),
            ctime: (stat.ctime(), stat.ctime_nsec()),
            format: None,
        };
        Ok(Self::File(unjudged.judged(keeper, last_age, seconds_now())))
    }

    /// The image is what the file holds in this format.
    pub(super) fn read_as(self, format: &str) -> Self {
        match self {
            Self::File(file) => Self::File(FileFingerprint {
                format: Some(format.to_owned()),
                ..file
            }),
            other => other,
        }
    }

    /// Of an open device that has just been flushed.
    pub(super) fn of_device(file: &File, number: DeviceNumber) -> Self {
        let Some((boot, counters)) = activity::boot_id().zip(activity::counters(number)) else {
            return Self::Unknown;
        };
        let Counters {
            sectors_written,
            sectors_discarded,
            start,
            size,
            sequence,
            counts_all,
        } = counters;
        // The name may stand for another device by now than the one that is open.
        if sequence.is_some_and(|named| {
            sys::device::sequence(file.as_fd()).is_ok_and(|open| open != named)
        }) {
            return Self::Unknown;
        }
        let DeviceNumber { major, minor } = number;
        Self::Device(DeviceFingerprint {
            counts_all,
            boot,
            major,
            minor,
            sectors_written,
            sectors_discarded,
            start,
            size,
            sequence,
        })
    }
}

impl Keeper {
    fn of(kind: FsType) -> Self {
        if [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC].contains(&kind) {
            Self::WellKnown
        } else if OTHER_LOCAL.contains(&kind) {
            Self::Local
        } else if NEVER_WRITTEN.contains(&kind) {
            Self::NeverWritten
        } else {
            Self::Other
        }
    }
}

impl FileFingerprint {
    /// Fills in what its times can prove in second `now`. `last_age`: how long ago the later of the two was.
    pub(crate) fn judged(self, keeper: Keeper, last_age: Duration, now: i64) -> Self {
        let last = self.mtime.0.max(self.ctime.0);
        // Where times are whole seconds, a clock that is set back can repeat one. Only the kernel sets ctime.
        let finer_than_seconds = self.ctime.1 != 0;
        let unwritten = last_age >= TICK && self.writers == Some(false);
        Self {
            trusted: match keeper {
                Keeper::WellKnown | Keeper::Local => finer_than_seconds && unwritten,
                Keeper::NeverWritten => true,
                Keeper::Other => false,
            },
            lasting: keeper == Keeper::WellKnown && last <= now - SETTLED_AFTER,
            ..self
        }
    }

    /// The same instance with the same size and times.
    fn looks_like(&self, other: &Self) -> bool {
        let look = |of: &Self| (of.mount, of.device, of.inode, of.size, of.mtime, of.ctime);
        let named = self.boot == other.boot && self.format == other.format;
        named && look(self) == look(other)
    }
}

/// The mount of the file system that a file is on: the inode of the directory that the kernel makes for it in sysfs, and
/// removes when it is unmounted everywhere. It is the same in each mount namespace. `None`: it has no such directory.
fn mount_of(file: &File, device: u64, kind: FsType) -> Option<u64> {
    let directory = match kind {
        EXT4_SUPER_MAGIC => Path::new("/sys/fs/ext4").join(name_of(device)?),
        XFS_SUPER_MAGIC => Path::new("/sys/fs/xfs").join(name_of(device)?),
        BTRFS_SUPER_MAGIC => {
            let id = sys::files::btrfs_id(file.as_fd()).ok()?;
            Path::new("/sys/fs/btrfs").join(uuid(id))
        }
        _ => return None,
    };
    let directory = File::open(directory).ok()?;
    let is_sysfs = fstatfs(&directory).is_ok_and(|stat| stat.filesystem_type() == SYSFS_MAGIC);
    is_sysfs.then(|| directory.metadata().ok().map(|stat| stat.ino()))?
}

/// The kernel's name of a block device.
fn name_of(device: u64) -> Option<OsString> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    link.file_name().map(OsStr::to_owned)
}

fn uuid(id: [u8; 16]) -> String {
    let mut text = String::new();
    for (at, byte) in id.iter().enumerate() {
        let dash = if [4, 6, 8, 10].contains(&at) { "-" } else { "" };
        // Writing to a String does not fail.
        let _ = write!(text, "{dash}{byte:02x}");
    }
    text
}

/// How long ago a file's later time is; 0 for a time in the future.
fn age_of_last(stat: &Metadata) -> Duration {
    let age = |seconds, nanos| {
        let since = u64::try_from(seconds).ok().zip(u32::try_from(nanos).ok());
        since.map_or(Duration::MAX, |(seconds, nanos)| {
            let time = UNIX_EPOCH + Duration::new(seconds, nanos);
            time.elapsed().unwrap_or_default()
        })
    };
    age(stat.mtime(), stat.mtime_nsec()).min(age(stat.ctime(), stat.ctime_nsec()))
}

fn seconds_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(i64::MIN)
}
