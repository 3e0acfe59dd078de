//! Every unsafe block of bmapfs: system calls that neither std nor nix wraps safely.
//!
//! Each function is a thin, safe wrapper around one call. Nothing here knows what it is used for.
#![allow(unsafe_code)]

pub(crate) mod device;
pub(crate) mod links;
pub(crate) mod mountinfo;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::unistd::Pid;

/// How many processors this process may use: the usual number of threads for what keeps them busy.
#[must_use]
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What `fork` returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// This is the parent; the child has this process id.
    Parent(Pid),
    /// This is the child.
    Child,
}

/// fork(2). Refused with EBUSY while the process has more than one thread, since the child would have only
/// this one and every lock that the others held.
pub fn fork() -> io::Result<Fork> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: the process has a single thread, so the child may go on as if nothing had happened.
    let forked = unsafe { nix::unistd::fork() }?;
    Ok(match forked {
        nix::unistd::ForkResult::Parent { child } => Fork::Parent(child),
        nix::unistd::ForkResult::Child => Fork::Child,
    })
}

/// Takes over a descriptor that this process inherited by number (`/dev/fd/N`). EBADF if it is not open.
pub fn adopt_fd(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only looks the number up; any integer is allowed.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open (checked above), and by the caller's word it was inherited for this
    // purpose, so nothing else in this process owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(fd)
}

/// The kinds of flock(2) lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlockKind {
    /// Any number of holders.
    Shared,
    /// One holder.
    Exclusive,
}

/// flock(2) without waiting. `Ok(false)`: somebody else holds a lock that conflicts.
pub fn try_flock(fd: BorrowedFd<'_>, kind: FlockKind) -> io::Result<bool> {
    let operation = match kind {
        FlockKind::Shared => libc::LOCK_SH,
        FlockKind::Exclusive => libc::LOCK_EX,
    };
    // SAFETY: the descriptor is open for the duration of the call; flock reads no memory of ours.
    let result = unsafe { libc::flock(fd.as_raw_fd(), operation | libc::LOCK_NB) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock {
        Ok(false)
    } else {
        Err(error)
    }
}

/// A descriptor that becomes readable when the process `pid` ends (Linux 5.3). ESRCH: there is none.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and reads no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, so nothing else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(fd)
}

/// Lets the command start with no signal blocked, whatever is blocked here: it would never see the SIGTERM that is
/// passed on to it.
pub fn unblock_signals_in(command: &mut std::process::Command) {
    let unblock = || {
        nix::sys::signal::SigSet::empty().thread_set_mask()?;
        Ok(())
    };
    // SAFETY: between fork and exec only one system call is made, which is async-signal-safe, and nothing is
    // allocated.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, unblock) };
}

/// Whether a signal is ignored, as who started this process may have wanted it.
#[must_use]
pub fn is_ignored(signal: nix::sys::signal::Signal) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action sigaction changes nothing; it writes the present one to the pointer, which points
    // to a live one.
    let result = unsafe { libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: all zeros is a valid sigaction, so it is one also where the call has failed.
    let action = unsafe { action.assume_init() };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Tells the kernel that this process is in the way of write-back, so that its memory allocations do not wait
/// for write-back (`PR_SET_IO_FLUSHER`, Linux 5.6). Needs `CAP_SYS_RESOURCE`; inherited by threads.
pub fn set_io_flusher() -> io::Result<()> {
    /// From linux/prctl.h; libc does not have it for every target.
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    // SAFETY: this prctl takes integers only.
    let result = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

nix::ioctl_read!(
    /// BLKGETSIZE64: size of a block device in bytes.
    blkgetsize64, 0x12, 114, usize
);
nix::ioctl_read_bad!(
    /// BLKROGET: whether a block device is read-only.
    blkroget, nix::request_code_none!(0x12, 94), libc::c_int
);
nix::ioctl_read_bad!(
    /// BLKSSZGET: logical block size in bytes.
    blksszget, nix::request_code_none!(0x12, 104), libc::c_int
);

/// Size of a block device in bytes, by the kernel's word. ENOTTY: not a block device.
pub fn device_size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: usize = 0;
    // SAFETY: BLKGETSIZE64 writes a u64 to the pointer; it points to a live usize, which is 64 bits wide on
    // every target that FUSE_MAX_PAGES exists for (checked below at compile time).
    unsafe { blkgetsize64(fd.as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes as u64)
}
const _: () = assert!(size_of::<usize>() == 8, "BLKGETSIZE64 writes 64 bits");

/// Whether a block device refuses writes.
pub fn device_is_read_only(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut read_only: libc::c_int = 0;
    // SAFETY: BLKROGET writes an int to the pointer, which points to a live one.
    unsafe { blkroget(fd.as_raw_fd(), &raw mut read_only) }?;
    Ok(read_only != 0)
}

/// The unit, in bytes, that direct I/O on a block device must be aligned to. A power of two, at least 512.
pub fn device_sector(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes an int to the pointer, which points to a live one.
    unsafe { blksszget(fd.as_raw_fd(), &raw mut bytes) }?;
    u64::try_from(bytes)
        .ok()
        .filter(|bytes| bytes.is_power_of_two() && *bytes >= 512)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

nix::ioctl_read!(
    /// BLKGETDISKSEQ: the number that a disk got when it appeared.
    blkgetdiskseq, 0x12, 128, u64
);

/// The number of the disk behind an open block device, which no other disk gets before the next boot. ENOTTY: this
/// kernel (before 5.15) gives none.
pub fn device_sequence(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut sequence: u64 = 0;
    // SAFETY: BLKGETDISKSEQ writes a u64 to the pointer, which points to a live one.
    unsafe { blkgetdiskseq(fd.as_raw_fd(), &raw mut sequence) }?;
    Ok(sequence)
}

/// Whether anybody has a regular file open or mapped for writing, on this machine; also the kernel (loop devices, swap),
/// and for as long as an asynchronous write is under way. `fd` must be read-only. EACCES: only the file's owner and
/// `CAP_LEASE` may ask. EINVAL: the file system has no leases.
pub fn is_open_for_writing(fd: BorrowedFd<'_>) -> io::Result<bool> {
    /// From linux/fcntl.h; libc does not have it.
    const F_SETSIG: libc::c_int = 10;
    // A read lease is granted only on a file that nobody has open for writing. It is given back at once; somebody who
    // opens the file just then waits for that, and the signal for it is one that is ignored by default.
    let lease = |kind: libc::c_int| {
        // SAFETY: F_SETSIG and F_SETLEASE take an integer and read no memory of ours; the descriptor is open.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, kind) }
    };
    // SAFETY: as above.
    if unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, libc::SIGURG) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if lease(libc::F_RDLCK) == 0 {
        lease(libc::F_UNLCK);
        return Ok(false);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EAGAIN) {
        Ok(true)
    } else {
        Err(error)
    }
}

/// The beginning of what `BTRFS_IOC_FS_INFO` tells, and room for the rest.
#[repr(C)]
struct BtrfsInfo {
    _max_id: u64,
    _devices: u64,
    id: [u8; 16],
    _rest: [u64; 124],
}

nix::ioctl_read!(
    /// `BTRFS_IOC_FS_INFO`: what file system a file is on.
    btrfs_ioc_fs_info, 0x94, 31, BtrfsInfo
);

/// The UUID by which the kernel knows the Btrfs that an open file is on. ENOTTY: it is on another file system.
pub fn btrfs_id(fd: BorrowedFd<'_>) -> io::Result<[u8; 16]> {
    let mut info = BtrfsInfo {
        _max_id: 0,
        _devices: 0,
        id: [0; 16],
        _rest: [0; 124],
    };
    // SAFETY: the ioctl writes 1024 bytes to the pointer, which points to a live struct of that size.
    unsafe { btrfs_ioc_fs_info(fd.as_raw_fd(), &raw mut info) }?;
    Ok(info.id)
}

nix::ioctl_read!(
    /// FUSE_DEV_IOC_CLONE: connects a fresh /dev/fuse descriptor to the connection of another.
    fuse_dev_ioc_clone, 229, 0, u32
);

/// Whether a second descriptor can be connected to the FUSE connection of `fd`, which gives each worker thread a
/// queue of its own. Some containers forbid it.
#[must_use]
pub fn can_clone_fuse(fd: BorrowedFd<'_>) -> bool {
    let Ok(fresh) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
    else {
        return false;
    };
    let Ok(mut number) = u32::try_from(fd.as_raw_fd()) else {
        return false;
    };
    // SAFETY: the ioctl reads a u32 through the pointer, which points to a live one, and both descriptors are
    // open for the duration of the call.
    unsafe { fuse_dev_ioc_clone(fresh.as_raw_fd(), &raw mut number) }.is_ok()
}

/// How [`pread_as`] treats the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// `RWF_DONTCACHE` (Linux 6.14): pages that this read brings in leave again, others stay.
    Drop,
    /// `RWF_NOWAIT`: only what is in the cache already. EAGAIN: nothing is.
    CachedOnly,
}

/// preadv2(2). EOPNOTSUPP: the kernel or the file system cannot read in this way.
pub fn pread_as(
    fd: BorrowedFd<'_>,
    out: &mut [u8],
    offset: u64,
    how: Caching,
) -> io::Result<usize> {
    /// From linux/fs.h; libc does not have it yet.
    const RWF_DONTCACHE: libc::c_int = 0x80;
    let flags = match how {
        Caching::Drop => RWF_DONTCACHE,
        Caching::CachedOnly => libc::RWF_NOWAIT,
    };
    let part = libc::iovec {
        iov_base: out.as_mut_ptr().cast(),
        iov_len: out.len(),
    };
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: `part` describes memory that is ours alone for the duration of the call, and the kernel writes no
    // more than its length.
    let got = unsafe { libc::preadv2(fd.as_raw_fd(), &raw const part, 1, offset, flags) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Makes `target`, from its start on, share the first `len` bytes of `source`, all at one moment (FICLONERANGE).
/// `len` must be the length of `source`. EINVAL: it is not, or the two files cannot share; EOPNOTSUPP, ENOTTY: no
/// file on this file system can.
pub fn clone_range(source: BorrowedFd<'_>, target: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    let range = libc::file_clone_range {
        src_fd: i64::from(source.as_raw_fd()),
        src_offset: 0,
        src_length: len,
        dest_offset: 0,
    };
    // SAFETY: FICLONERANGE reads a file_clone_range through the pointer, which points to a live one, and both
    // descriptors are open for the duration of the call.
    let result = unsafe { libc::ioctl(target.as_raw_fd(), libc::FICLONERANGE, &raw const range) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What `FS_IOC_GETVERSION` and `FS_IOC_GETFLAGS` write into: the requests are defined with a long, and file systems
/// write an int.
type IntOrLong = [libc::c_uint; 2];

fn read_number(fd: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<u32> {
    let mut number: IntOrLong = [0; 2];
    // SAFETY: the two requests that this is called with write at most a long to the pointer, which points to as many
    // live bytes.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut number) };
    if result == 0 {
        Ok(number[0])
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The generation of a file's inode number, which is another one when the number is used again (`FS_IOC_GETVERSION`).
pub fn inode_generation(fd: BorrowedFd<'_>) -> io::Result<u32> {
    read_number(fd, libc::FS_IOC_GETVERSION)
}

/// The attributes that chattr(1) sets (`FS_IOC_GETFLAGS`): see `FS_*_FL` in linux/fs.h.
pub fn attributes(fd: BorrowedFd<'_>) -> io::Result<u32> {
    read_number(fd, libc::FS_IOC_GETFLAGS)
}

/// Sets them (`FS_IOC_SETFLAGS`).
pub fn set_attributes(fd: BorrowedFd<'_>, attributes: u32) -> io::Result<()> {
    let number: IntOrLong = [attributes, 0];
    // SAFETY: FS_IOC_SETFLAGS reads at most a long through the pointer, which points to as many live bytes.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const number) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Debug, Default)]
pub struct ExtendedAttributes {
    /// `FS_XFLAG_*`; bit 0: the data is on the realtime device.
    pub flags: u32,
    others: [u32; 6],
}

nix::ioctl_read!(
    /// `FS_IOC_FSGETXATTR`: attributes that not every file system has.
    fsgetxattr, b'X', 31, ExtendedAttributes
);

/// The attributes of `FS_IOC_FSGETXATTR`.
pub fn extended_attributes(fd: BorrowedFd<'_>) -> io::Result<ExtendedAttributes> {
    let mut attributes = ExtendedAttributes::default();
    // SAFETY: FS_IOC_FSGETXATTR writes a struct fsxattr to the pointer, which points to a live one of its layout.
    unsafe { fsgetxattr(fd.as_raw_fd(), &raw mut attributes) }?;
    Ok(attributes)
}

/// `struct fiemap_extent` of linux/fiemap.h: where a run of a file's bytes is.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct MappedExtent {
    /// Its first byte in the file.
    pub logical: u64,
    /// And on the device.
    pub physical: u64,
    /// How many bytes.
    pub length: u64,
    reserved: [u64; 2],
    /// `FIEMAP_EXTENT_*`.
    pub flags: u32,
    more_reserved: [u32; 3],
}

impl MappedExtent {
    /// An extent as the kernel could tell it.
    #[must_use]
    pub fn new(logical: u64, physical: u64, length: u64, flags: u32) -> Self {
        Self {
            logical,
            physical,
            length,
            flags,
            ..Self::default()
        }
    }
}

/// How many extents one call of [`map_extents`] asks for.
const MAP_BATCH: usize = 256;

/// `struct fiemap` of linux/fiemap.h, with its extents.
#[repr(C)]
struct FileMap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [MappedExtent; MAP_BATCH],
}

/// Where the bytes of a file are from `start` to its end, or the first part of that: `FS_IOC_FIEMAP` after a flush of
/// the file. No extent: nothing but holes from there on. The first may begin before `start`.
pub fn map_extents(fd: BorrowedFd<'_>, start: u64) -> io::Result<Vec<MappedExtent>> {
    const FIEMAP_FLAG_SYNC: u32 = 1;
    /// As `_IOWR('f', 11, struct fiemap)`, whose size is without extents.
    const FS_IOC_FIEMAP: libc::Ioctl = nix::request_code_readwrite!(b'f', 11, 32);
    let mut map = Box::new(FileMap {
        start,
        length: u64::MAX - start,
        flags: FIEMAP_FLAG_SYNC,
        mapped_extents: 0,
        extent_count: 256,
        reserved: 0,
        extents: [MappedExtent::default(); MAP_BATCH],
    });
    // SAFETY: FS_IOC_FIEMAP reads a struct fiemap through the pointer and writes `extent_count` extents behind it at
    // most; the pointer is to a live one of this layout with as many extents.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FIEMAP, &raw mut *map) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let mapped = usize::try_from(map.mapped_extents).map_err(io::Error::other)?;
    Ok(map.extents.iter().take(mapped).copied().collect())
}
const _: () = assert!(MAP_BATCH == 256 && size_of::<FileMap>() == 32 + 56 * MAP_BATCH);
