//! The library fuser, as far as it is not one request: connecting, what is agreed with the kernel, and pure functions
//! between its types and the volume's.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Config, Errno as ReplyErrno, FileAttr, FileType, FopenFlags, INodeNo, InitFlags, KernelConfig,
    RenameFlags, Session, SessionACL, TimeOrNow,
};

use super::Adapter;
use crate::config::Access;
use crate::volume::{Allocate, Attr, Errno, FileKind, Result, Seek, SetTime};

/// The longest write request, in bytes. The kernel's own limit is 1 MiB unless raised by sysctl.
const MAX_WRITE: u32 = 1 << 20;
/// Requests of asynchronous and direct I/O that may wait in the kernel at once.
const MAX_BACKGROUND: u16 = 64;

/// What stat(2) shows as the best size for I/O, in bytes. cmp(1) and stdio read as much at a time: with a page cmp takes
/// six times as long, and more than this gains nothing.
const BLKSIZE: u32 = 64 << 10;

/// The farthest time that is shown, in seconds from the epoch: a billion years.
const FARTHEST: i64 = 1 << 55;

/// Connects `adapter` to the kernel through `fd`. What is returned serves until the connection ends, on so many
/// `threads`. `clone_fd`: each has a queue of its own.
pub(super) fn connect(
    adapter: Adapter,
    fd: OwnedFd,
    access: Access,
    threads: usize,
    clone_fd: bool,
) -> io::Result<impl FnOnce() -> io::Result<()> + Send> {
    let mut options = Config::default();
    options.acl = match access {
        Access::Owner => SessionACL::Owner,
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        Access::Everybody => SessionACL::All,
    };
    options.n_threads = Some(threads);
    options.clone_fd = clone_fd;
    let session = Session::from_fd(adapter, fd, options.acl, options)?;
    Ok(move || session.run())
}

/// Asks the kernel for what makes reading fast; what it does not have is done without.
pub(super) fn negotiate(config: &mut KernelConfig) {
    for wish in [
        InitFlags::FUSE_ASYNC_DIO,
        InitFlags::FUSE_PARALLEL_DIROPS,
        // Always, not by the kernel's guess: a walk over a million blocks is seven times as fast.
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    ] {
        if let Err(missing) = config.add_capabilities(wish) {
            log::debug!("this kernel has no {missing:?}");
        }
    }
    let limits = [
        config.set_max_write(MAX_WRITE).err(),
        config
            .set_max_background(MAX_BACKGROUND)
            .err()
            .map(u32::from),
        config
            .set_time_granularity(Duration::from_secs(1))
            .err()
            .map(|_| 1),
    ];
    if limits.iter().any(Option::is_some) {
        log::debug!("limits that were not granted: {limits:?}");
    }
}

/// How a file is opened. `page_cache`: the kernel may keep its pages; else every read comes here.
pub(super) fn open_flags(page_cache: bool, write: bool) -> FopenFlags {
    if page_cache {
        return FopenFlags::FOPEN_KEEP_CACHE;
    }
    let direct = FopenFlags::FOPEN_DIRECT_IO;
    if write {
        direct | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
    } else {
        direct | FopenFlags::FOPEN_NOFLUSH
    }
}

pub(super) fn errno(errno: Errno) -> ReplyErrno {
    ReplyErrno::from_i32(errno as i32)
}

pub(super) fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::File => FileType::RegularFile,
    }
}

/// Whole seconds since the epoch, negative before it.
fn time(seconds: i64) -> SystemTime {
    // A client may hand back what it was shown, and fuser cannot take the farthest of all.
    let seconds = seconds.clamp(-FARTHEST, FARTHEST);
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(UNIX_EPOCH)
}

/// What stat(2) shows of the inode of this `number`.
pub(super) fn attr(number: u64, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: attr.size,
        blocks: attr.sectors,
        atime: time(attr.atime),
        mtime: time(attr.stamp),
        ctime: time(attr.stamp),
        crtime: UNIX_EPOCH,
        kind: kind(attr.kind),
        perm: attr.mode,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLKSIZE,
        flags: 0,
    }
}

/// The second that a time lies in.
pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    let TimeOrNow::SpecificTime(time) = time else {
        return SetTime::Now;
    };
    SetTime::At(match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            -seconds - i64::from(before.subsec_nanos() > 0)
        }
    })
}

/// lseek(2)'s whence; the kernel asks for holes and data only.
pub(super) fn whence(whence: i32) -> Result<Seek> {
    match whence {
        libc::SEEK_DATA => Ok(Seek::Data),
        libc::SEEK_HOLE => Ok(Seek::Hole),
        _ => Err(Errno::EINVAL),
    }
}

/// fallocate(2)'s mode.
pub(super) fn allocation(mode: i32) -> Result<Allocate> {
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 => Ok(Allocate::Reserve),
        libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE => Ok(Allocate::Zero),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// Whether a rename may replace what has the new name; exchanging two names is refused.
pub(super) fn rename_replaces(flags: RenameFlags) -> Result<bool> {
    let known = RenameFlags::RENAME_NOREPLACE;
    if flags.difference(known).is_empty() {
        Ok(!flags.contains(known))
    } else {
        Err(Errno::EINVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_keep_their_second() {
        for seconds in [0, 1, -1, 1 << 40, -(1 << 33)] {
            let back = set_time(TimeOrNow::SpecificTime(time(seconds)));
            assert_eq!(back, SetTime::At(seconds));
        }
        let half = UNIX_EPOCH - Duration::from_millis(1500);
        assert_eq!(set_time(TimeOrNow::SpecificTime(half)), SetTime::At(-2));
    }

    #[test]
    fn only_punching_and_zeroing_change_bytes() {
        assert_eq!(allocation(0), Ok(Allocate::Reserve));
        assert_eq!(allocation(libc::FALLOC_FL_KEEP_SIZE), Ok(Allocate::Reserve));
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        assert_eq!(allocation(punch), Ok(Allocate::Zero));
        assert_eq!(allocation(libc::FALLOC_FL_ZERO_RANGE), Ok(Allocate::Zero));
        for mode in [
            libc::FALLOC_FL_COLLAPSE_RANGE,
            libc::FALLOC_FL_INSERT_RANGE,
            1 << 20,
        ] {
            assert_eq!(allocation(mode), Err(Errno::EOPNOTSUPP));
        }
    }
}
