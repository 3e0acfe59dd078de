//! Every unsafe block of bmapfs: system calls that neither std nor nix wraps safely.
//!
//! Each function is a thin, safe wrapper around one call. Nothing here knows what it is used for.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::unistd::Pid;

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
