//! The clone that an index describes: whether it is still that, and what differs from it.
//!
//! Invariant: there is an answer only if both clones exist and are untouched from before the first look at their
//! maps until after the last, and neither map moved meanwhile. Any doubt is a reason, in words, for having none.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};

use super::extents::{Map, differing};
use super::names;
use crate::changes::{ChangedRanges, CloneIdentity};
use crate::sys::{self, FlockKind};

/// How often maps that move are looked at again: something defragments or balances the file system.
const ATTEMPTS: usize = 4;

/// `FS_XFLAG_REALTIME` of linux/fs.h: places are on another device.
const FS_XFLAG_REALTIME: u32 = 1;

/// Why it is not certain what changed. The text continues a sentence that begins with the clone that the index describes.
#[derive(Debug, thiserror::Error)]
pub(super) enum Doubt {
    #[error("is gone")]
    Gone,
    #[error("is not the file that it was, or was touched")]
    Touched,
    #[error("is in use by somebody who is removing it")]
    InUse,
    #[error("is stored in another way than the new one")]
    OtherStorage,
    #[error("is being moved on the disk")]
    Moving,
    #[error("cannot be compared with the new one ({0})")]
    Failed(#[from] io::Error),
}

/// Whether what the file system says of extents is believed.
pub(super) fn is_believed(file: &File) -> bool {
    let kind = fstatfs(file).map(|stat| stat.filesystem_type());
    kind.is_ok_and(|kind| kind == XFS_SUPER_MAGIC || kind == BTRFS_SUPER_MAGIC)
}

/// What a clone is known by. `None`: the file system does not tell enough, or what it says of extents is not
/// believed.
pub(super) fn identity(clone: &File, name: &str) -> io::Result<Option<CloneIdentity>> {
    if !is_believed(clone) {
        return Ok(None);
    }
    let stat = clone.metadata()?;
    let born = sys::files::born(&stat);
    let generation = sys::files::inode_generation(clone.as_fd()).ok();
    let (Some(born), Some(generation)) = (born, generation) else {
        return Ok(None);
    };
    Ok(Some(CloneIdentity {
        name: name.to_owned(),
        device: stat.dev(),
        inode: stat.ino(),
        generation: Some(generation.into()),
        born,
        changed: (
            stat.ctime(),
            u32::try_from(stat.ctime_nsec()).unwrap_or(u32::MAX),
        ),
        size: stat.len(),
    }))
}

/// What may differ between the clone `then` in `directory` and the new one.
pub(super) fn changes(
    directory: BorrowedFd<'_>,
    then: &CloneIdentity,
    now: &File,
) -> Result<ChangedRanges, Doubt> {
    let reference = match names::open_file(directory, &then.name) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Doubt::Gone),
        Err(e) => return Err(e.into()),
    };
    if !sys::try_flock(reference.as_fd(), FlockKind::Shared)? {
        return Err(Doubt::InUse);
    }
    let untouched = || Ok::<_, io::Error>(identity(&reference, &then.name)?.as_ref() == Some(then));
    let new = identity(now, "")?;
    if !untouched()? {
        return Err(Doubt::Touched);
    }
    let storage = |file: &File| {
        let attributes = sys::files::extended_attributes(file.as_fd())?;
        Ok::<_, io::Error>((file.metadata()?.dev(), attributes.flags & FS_XFLAG_REALTIME))
    };
    if new.is_none() || storage(&reference)? != storage(now)? {
        return Err(Doubt::OtherStorage);
    }
    let unit = u64::try_from(fstatfs(now).map_err(io::Error::from)?.block_size()).unwrap_or(1);
    let began = Instant::now();
    let (ranges, pieces) = compare(&reference, now, unit)?;
    log::debug!(
        "{}: {pieces} pieces compared in {:.1} ms, {} bytes may have changed",
        then.name,
        began.elapsed().as_secs_f64() * 1000.0,
        ranges.bytes()
    );
    // What was written meanwhile, if anybody did, may be missing in the maps.
    if !untouched()? || identity(now, "")? != new {
        return Err(Doubt::Touched);
    }
    Ok(ranges)
}

/// Compares two files that nobody writes. Each map is looked at twice, in turns: if neither has moved, both were right
/// while the other one was looked at. Also says how many pieces the new one has.
fn compare(then: &File, now: &File, unit: u64) -> Result<(ChangedRanges, usize), Doubt> {
    let mut before = maps(then, now)?;
    for _ in 0..ATTEMPTS {
        let after = maps(then, now)?;
        if before == after {
            let (old, new) = after;
            return Ok((differing(&old, &new, unit), new.pieces()));
        }
        before = after;
    }
    Err(Doubt::Moving)
}

/// One after the other: XFS locks the same for each extent of both, so that at once they take longer.
fn maps(then: &File, now: &File) -> io::Result<(Map, Map)> {
    Ok((Map::read(then)?, Map::read(now)?))
}
