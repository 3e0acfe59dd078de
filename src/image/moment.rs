//! A moment in an image's history, noted so that a later look can prove that nothing was written since.
//!
//! Promise P23 for files, P24's statistics for devices. In any doubt there is no proof.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};
use serde::{Deserialize, Serialize};

use super::activity::{self, Counters, DeviceNumber};

/// A timestamp must be older than this many seconds to count: within its grain, a second write would not move it.
const SETTLED_AFTER: i64 = 2;

/// No kernel's clock for file times ticks more slowly.
const TICK: Duration = Duration::from_millis(12);

/// What is noted. Made after an fsync, so that nothing is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// Nothing that could prove anything.
    Unknown,
    /// A regular file's identity.
    File(FileMoment),
    /// A device's identity and statistics.
    Device(DeviceMoment),
}

/// What a regular file looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMoment {
    /// The timestamps are those of a file system that keeps them well, and are old enough: see `SETTLED_AFTER`.
    trusted: bool,
    boot: Option<String>,
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

/// What a device looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMoment {
    boot: String,
    major: u64,
    minor: u64,
    sectors_written: u64,
    sectors_discarded: u64,
    start: u64,
    size: u64,
    sequence: Option<u64>,
}

impl Moment {
    /// Whether the image was certainly not written between `earlier` and this moment, which was noted later.
    /// `held`: the image was open all the time, so it is the same device.
    #[must_use]
    pub fn proves_unwritten_since(&self, earlier: &Self, held: bool) -> bool {
        let certain = match earlier {
            Self::Unknown => false,
            Self::File(then) => then.trusted && then.boot.is_some(),
            Self::Device(then) => held || then.sequence.is_some(),
        };
        certain && self.differs_from(earlier) == Some(false)
    }

    /// Whether anything shows that the image was written between `earlier` and this moment. `None`: nothing that
    /// would show it is known.
    #[must_use]
    pub fn differs_from(&self, earlier: &Self) -> Option<bool> {
        match (self, earlier) {
            (Self::File(now), Self::File(then)) => Some(
                FileMoment {
                    trusted: then.trusted,
                    ..now.clone()
                } != *then,
            ),
            (Self::Device(now), Self::Device(then)) => Some(now != then),
            _ => None,
        }
    }

    /// Waits until a write would give the file another time than it has: the kernel's clock for files ticks every
    /// few milliseconds. Not for long, if it is written all the time.
    pub(super) fn let_tick_pass(file: &File) -> io::Result<()> {
        for _ in 0..4 {
            let age = file.metadata()?.modified()?.elapsed();
            if age.is_ok_and(|age| age >= TICK) {
                break;
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Of an open regular file that has just been flushed.
    pub(super) fn of_file(file: &File) -> io::Result<Self> {
        let trusted = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC];
        let stat = file.metadata()?;
        let old_enough = stat.mtime().max(stat.ctime()) <= seconds_now() - SETTLED_AFTER;
        let on_trusted = trusted.contains(&fstatfs(file)?.filesystem_type());
        Ok(Self::File(FileMoment {
            trusted: old_enough && on_trusted,
            boot: activity::boot_id(),
            device: stat.dev(),
            inode: stat.ino(),
            size: stat.len(),
            mtime: (stat.mtime(), stat.mtime_nsec()),
            ctime: (stat.ctime(), stat.ctime_nsec()),
        }))
    }

    /// Of a device that has just been flushed.
    pub(super) fn of_device(number: DeviceNumber) -> Self {
        let Some((boot, counters)) = activity::boot_id().zip(activity::counters(number)) else {
            return Self::Unknown;
        };
        let Counters {
            sectors_written,
            sectors_discarded,
            start,
            size,
            sequence,
        } = counters;
        let DeviceNumber { major, minor } = number;
        Self::Device(DeviceMoment {
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

fn seconds_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(i64::MIN)
}
