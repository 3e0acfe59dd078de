//! Owner, group, mode and atime of block files: the source's, until a client sets others (promises P11, P15).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

use super::inode::Inode;
use super::{Attr, Change, FileKind, SetTime};
use crate::clock::Clock;
use crate::config::OwnerConfig;
use crate::image::Ownership;

/// What a client has set on one file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Override {
    mode: Option<u16>,
    uid: Option<u32>,
    gid: Option<u32>,
    atime: Option<i64>,
    /// Not of a block file, whose time is its stamp.
    mtime: Option<SetMtime>,
}

/// An mtime that was set on a file whose time is else the newest of all. It holds until there is a new stamp; the times
/// that clients set on blocks do not count, since a restore sets them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SetMtime {
    set: i64,
    /// How many stamps had been made when it was set, or anything else that tells.
    made: i64,
}

/// What is in a file or directory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content {
    /// It is a directory.
    Names,
    /// It is a file of `size` bytes, which take `sectors` units of 512 bytes.
    Bytes { size: u64, sectors: u64 },
}

/// The owner and mode of all files, and what clients have changed for some.
#[derive(Debug)]
pub(crate) struct Owners {
    uid: u32,
    gid: u32,
    file_mode: u16,
    overrides: RwLock<HashMap<Inode, Override>>,
    any: AtomicBool,
}

impl Owners {
    /// From the source's owner and mode, and what the user overrides.
    pub(crate) fn new(source: Ownership, config: OwnerConfig) -> Self {
        let allowed = source.mode & 0o666 & !config.umask.unwrap_or(0);
        Self {
            uid: config.uid.unwrap_or(source.uid),
            gid: config.gid.unwrap_or(source.gid),
            file_mode: u16::try_from(allowed | 0o600).unwrap_or(0o600),
            overrides: RwLock::default(),
            any: AtomicBool::new(false),
        }
    }

    /// The most that a mode can have: the source's bits, and always the owner's read and write. A directory can
    /// be searched by whoever can read it.
    pub(crate) fn widest(&self, inode: Inode) -> u16 {
        match inode {
            Inode::Root => self.file_mode | ((self.file_mode & 0o444) >> 2),
            _ => self.file_mode,
        }
    }

    /// What stat(2) shows of a file with this content, whose time is `stamp` unless a client has set another: that
    /// holds while there are so many `stamps`.
    pub(crate) fn attr(&self, inode: Inode, content: Content, stamp: i64, stamps: i64) -> Attr {
        let set = self.of(inode);
        let (kind, links, size, sectors) = match content {
            Content::Names => (FileKind::Directory, 2, 0, 0),
            Content::Bytes { size, sectors } => (FileKind::File, 1, size, sectors),
        };
        let stamp = set
            .mtime
            .filter(|time| time.made == stamps)
            .map_or(stamp, |time| time.set);
        Attr {
            inode,
            kind,
            size,
            sectors,
            stamp,
            atime: set.atime.unwrap_or(stamp),
            mode: set.mode.unwrap_or_else(|| self.widest(inode)),
            links,
            uid: set.uid.unwrap_or(self.uid),
            gid: set.gid.unwrap_or(self.gid),
        }
    }

    /// What clients have set on this file.
    fn of(&self, inode: Inode) -> Override {
        if !self.any.load(Relaxed) {
            return Override::default();
        }
        let overrides = self
            .overrides
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        overrides.get(&inode).copied().unwrap_or_default()
    }

    /// Keeps what a client sets. A set mtime holds while there are so many `stamps`; a mode gets no bit that
    /// [`Self::widest`] does not have. What is as it would be anyway costs no memory.
    pub(crate) fn change(&self, inode: Inode, change: &Change, stamps: i64, clock: &dyn Clock) {
        let Change {
            mode,
            uid,
            gid,
            size: _,
            atime,
            mtime,
        } = *change;
        if mode.or(uid).or(gid).is_none() && atime.or(mtime).is_none() {
            return;
        }
        let widest = self.widest(inode);
        let seconds = |time: SetTime| time.seconds(clock);
        let mode = mode.map(|mode| u16::try_from(mode & 0o7777).unwrap_or(0) & widest);
        let mtime = mtime.map(|time| SetMtime {
            set: seconds(time),
            made: stamps,
        });
        let mut overrides = self
            .overrides
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut changed = overrides.get(&inode).copied().unwrap_or_default();
        changed.mode = mode.or(changed.mode).filter(|mode| *mode != widest);
        changed.uid = uid.or(changed.uid).filter(|uid| *uid != self.uid);
        changed.gid = gid.or(changed.gid).filter(|gid| *gid != self.gid);
        changed.atime = atime.map(seconds).or(changed.atime);
        changed.mtime = mtime.or(changed.mtime);
        if changed == Override::default() {
            overrides.remove(&inode);
        } else {
            overrides.insert(inode, changed);
            self.any.store(true, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn p15_modes_are_the_sources_and_keep_the_owners_read_and_write() {
        for (source, umask, file, root) in [
            (0o644, None, 0o644, 0o755),
            (0o600, None, 0o600, 0o700),
            (0o400, None, 0o600, 0o700),
            (0o7777, None, 0o666, 0o777),
            (0o660, None, 0o660, 0o770),
            (0o666, Some(0o077), 0o600, 0o700),
            (0o666, Some(0o777), 0o600, 0o700),
            (0o620, None, 0o620, 0o720),
        ] {
            let owners = Owners::new(
                Ownership {
                    uid: 5,
                    gid: 6,
                    mode: source,
                },
                OwnerConfig {
                    umask,
                    ..OwnerConfig::default()
                },
            );
            assert_eq!(owners.widest(Inode::Other(0)), file, "file for {source:o}");
            assert_eq!(owners.widest(Inode::Root), root, "root for {source:o}");
        }
    }

    #[test]
    fn what_is_set_back_costs_nothing() {
        let owners = Owners::new(
            Ownership {
                uid: 5,
                gid: 6,
                mode: 0o644,
            },
            OwnerConfig::default(),
        );
        let set = |uid| {
            let change = Change {
                uid: Some(uid),
                ..Change::default()
            };
            owners.change(Inode::Root, &change, 0, &SystemClock);
        };
        set(9);
        assert_eq!(owners.of(Inode::Root).uid, Some(9));
        set(5);
        assert!(owners.overrides.read().unwrap().is_empty());
    }
}
