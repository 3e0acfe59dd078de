//! Every unsafe block of bmapfs: system calls that neither std nor nix wraps safely.
//!
//! Each function is a thin, safe wrapper around one call. Nothing here knows what it is used for.
#![allow(unsafe_code)]

pub(crate) mod device;
pub(crate) mod files;
pub(crate) mod links;
pub(crate) mod mountinfo;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
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

/// The limits on open files that this process was started with, if they were raised.
static OPEN_FILES: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// Lets this process have as many files open as it may: some for each source, and what is too many for an index is a lost
/// index.
pub fn raise_open_files() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        let _ = OPEN_FILES.set((soft, hard));
    }
    Ok(())
}

/// Lets the command start with no signal blocked, whatever is blocked here: it would never see the SIGTERM that is
/// passed on to it. And with the limit on open files that this process had, since select(2) takes no file past 1024.
pub fn start_as_usual(command: &mut std::process::Command) {
    let limits = OPEN_FILES.get().copied();
    let prepare = move || {
        nix::sys::signal::SigSet::empty().thread_set_mask()?;
        if let Some((soft, hard)) = limits {
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only two system calls are made, which are async-signal-safe, and nothing is
    // allocated.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, prepare) };
}

/// Has the command end, by SIGTERM, when the thread that starts it has ended, so with this process whatever ends it. If all
/// threads are killed at once, several may send it the signal: a second one can end it before it has cleaned up.
pub fn end_with_parent(command: &mut std::process::Command) {
    let parent = nix::unistd::getpid();
    let bind = move || {
        // Not SIGKILL: what it has mounted for a user would stay.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
        // It may have ended before.
        if nix::unistd::getppid() == parent {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    // SAFETY: between fork and exec only two system calls are made, which are async-signal-safe, and nothing is
    // allocated.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, bind) };
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
