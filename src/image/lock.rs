//! Takes part in the locks that exist on images: flock(2) and QEMU's locks on single bytes.
//!
//! Invariant: only locks are taken; nothing is read from or written to the image, and nothing is opened that
//! could touch it. A lock lives as long as the open file it was taken through. This module knows neither mounts
//! nor devices ([`super::holders`] does). What follows from a conflict is decided by the caller.
//!
//! QEMU's rules: byte 100 + N read-locked says "I use permission N", byte 200 + N "others must not have
//! permission N". All of these are read locks of the open file (`F_OFD_SETLK`), so that any number of
//! processes can say the same; whether someone says it is asked by testing for a write lock.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::statfs::{FsType, NFS_SUPER_MAGIC, fstatfs};

use crate::sys::{FlockKind, try_flock};

use owners::{HeldLock, LockKind};

mod owners;
#[cfg(test)]
pub(in crate::image) mod testing;
#[cfg(test)]
mod tests;

/// What the image is to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Reading; others may write.
    Read,
    /// Writing; nobody else may write, and who reads has no lock that forbids it.
    Write,
}

/// A lock that stands in the way of writing, or tells a reader that someone may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict {
    sentence: String,
}

impl fmt::Display for Conflict {
    /// A sentence that names the holder, with "it" for the image: `qemu-nbd (process 12) has it open for writing
    /// (QEMU lock)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// How long to try for the flock: udev and others take it while they look at a device.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// How many holders of locks are named; the others are counted.
const NAMED: usize = 3;

/// Someone may read.
const READS: i64 = 100;
/// Someone may write.
const WRITES: i64 = 101;
/// Someone may change the size.
const RESIZES: i64 = 103;
/// Someone demands that nobody reads.
const FORBIDS_READING: i64 = 200;
/// Someone demands that nobody else writes.
const FORBIDS_WRITING: i64 = 201;
/// Someone demands that nobody else changes the size.
const FORBIDS_RESIZING: i64 = 203;

/// SMB mounts, which like NFS make an flock a lock of all bytes (from the kernel's magic.h).
const CIFS_SUPER_MAGIC: FsType = FsType(0xFF53_4D42);
const SMB2_SUPER_MAGIC: FsType = FsType(0xFE53_4D42);

/// Takes the locks that belong to `intent` on `file`, and returns what is in their way. They are held until the
/// last descriptor of this open file is closed, also by a process that inherited it.
///
/// flock: shared for reading, exclusive for writing (which on NFS needs `file` to be open for writing). QEMU's:
/// for reading only "I read", so that virtual machines start; for writing also "I write, nobody else writes or
/// resizes", and with `resize` "I resize". What could be taken is held even if there are conflicts, so that a
/// caller who goes on is seen by others; except that of QEMU's locks only "I read" is kept if there is a conflict
/// among them. Waits up to two seconds for the flock.
///
/// A file system without locks has no conflicts; that is logged. Errors: anything else that the system says.
pub(crate) fn acquire(file: &File, intent: Intent, resize: bool) -> io::Result<Vec<Conflict>> {
    acquire_within(PATIENCE, file, intent, resize)
}

fn acquire_within(
    patience: Duration,
    file: &File,
    intent: Intent,
    resize: bool,
) -> io::Result<Vec<Conflict>> {
    let flock = take_flock(patience, file, intent)?;
    let ranges = take_ranges(file, intent, resize)?;
    if flock == Taken::Unsupported || ranges.is_none() {
        log::warn!(
            "the file system of the image has no locks: nothing tells whether another program has it open"
        );
    }
    let mut obstacles = ranges.unwrap_or_default();
    if flock == Taken::No {
        obstacles.push(Obstacle::Flock(intent));
    }
    if obstacles.is_empty() {
        return Ok(Vec::new());
    }
    Ok(name_holders(
        &obstacles,
        &owners::of(file, Path::new("/proc")),
    ))
}

/// As `acquire`, for a directory, which has no bytes to lock: its flock alone. `None`: the file system has none
/// that would tell anybody else.
pub(crate) fn acquire_directory(
    directory: &File,
    intent: Intent,
) -> io::Result<Option<Vec<Conflict>>> {
    if locks_bytes(directory)? {
        return Ok(None);
    }
    Ok(match take_flock(PATIENCE, directory, intent)? {
        Taken::Yes => Some(Vec::new()),
        Taken::Unsupported => None,
        Taken::No => Some(name_holders(
            &[Obstacle::Flock(intent)],
            &owners::of(directory, Path::new("/proc")),
        )),
    })
}

/// The outcome of an attempt to take a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    No,
    Unsupported,
}

/// Something that another process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// An flock against this intent.
    Flock(Intent),
    /// A lock of QEMU's on this byte.
    Byte(i64),
    /// An exclusive lock on any bytes.
    Exclusive,
}

impl Obstacle {
    /// Whether this lock is what was met.
    fn is(self, held: &HeldLock) -> bool {
        match self {
            Self::Flock(Intent::Read) => held.kind == LockKind::Flock && held.exclusive,
            Self::Flock(Intent::Write) => held.kind == LockKind::Flock,
            Self::Byte(byte) => {
                held.kind == LockKind::Range
                    && u64::try_from(byte)
                        .is_ok_and(|byte| (held.start..=held.last).contains(&byte))
            }
            Self::Exclusive => held.kind == LockKind::Range && held.exclusive,
        }
    }

    /// What its holder does; follows the holder's name.
    fn predicate(self, exclusive: Option<bool>) -> &'static str {
        match self {
            Self::Flock(Intent::Read) => "holds an exclusive flock on it",
            Self::Flock(Intent::Write) => match exclusive {
                Some(true) => "holds an exclusive flock on it",
                Some(false) => "holds a shared flock on it",
                None => "holds an flock on it",
            },
            Self::Byte(WRITES) => "has it open for writing (QEMU lock)",
            Self::Byte(RESIZES) => "may change its size (QEMU lock)",
            Self::Byte(FORBIDS_READING) => "lets nobody else read it (QEMU lock)",
            Self::Byte(FORBIDS_RESIZING) => "lets nobody else change its size (QEMU lock)",
            Self::Byte(_) => "lets nobody else write to it (QEMU lock)",
            Self::Exclusive => "holds an exclusive lock on it (fcntl lock)",
        }
    }
}

/// One conflict for each holder, with the first thing that it does; if none can be found (other users' processes
/// are hidden, NFS locks may belong to other machines), one for each obstacle.
fn name_holders(obstacles: &[Obstacle], locks: &[HeldLock]) -> Vec<Conflict> {
    let mut sentences = Vec::new();
    let mut named: Vec<u32> = Vec::new();
    for obstacle in obstacles {
        let mut is_known = false;
        for lock in locks.iter().filter(|lock| obstacle.is(lock)) {
            is_known = true;
            if !named.contains(&lock.process) {
                named.push(lock.process);
                let predicate = obstacle.predicate(Some(lock.exclusive));
                sentences.push(format!(
                    "{} (process {}) {predicate}",
                    lock.name, lock.process
                ));
            }
        }
        if !is_known {
            sentences.push(format!("another process {}", obstacle.predicate(None)));
        }
    }
    if sentences.len() > NAMED + 1 {
        let more = sentences.len() - NAMED;
        sentences.truncate(NAMED);
        sentences.push(format!("{more} more processes hold locks on it"));
    }
    sentences
        .into_iter()
        .map(|sentence| Conflict { sentence })
        .collect()
}

fn take_flock(patience: Duration, file: &File, intent: Intent) -> io::Result<Taken> {
    // It would keep virtual machines from starting; and locks on bytes, which QEMU's are, work between bmapfs and
    // bmapfs as well.
    if locks_bytes(file)? {
        return Ok(Taken::Yes);
    }
    let kind = match intent {
        Intent::Read => FlockKind::Shared,
        Intent::Write => FlockKind::Exclusive,
    };
    let start = Instant::now();
    loop {
        match try_flock(file.as_fd(), kind) {
            Ok(true) => return Ok(Taken::Yes),
            Ok(false) if start.elapsed() >= patience => return Ok(Taken::No),
            Ok(false) => sleep(PAUSE),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                let errno = Errno::from_raw(e.raw_os_error().unwrap_or(0));
                return if is_unsupported(errno) {
                    Ok(Taken::Unsupported)
                } else {
                    Err(e)
                };
            }
        }
    }
}

/// Whether an flock is a lock of all bytes on this file system.
fn locks_bytes(file: &File) -> io::Result<bool> {
    let file_system = fstatfs(file)?.filesystem_type();
    Ok([NFS_SUPER_MAGIC, CIFS_SUPER_MAGIC, SMB2_SUPER_MAGIC].contains(&file_system))
}

/// Takes QEMU's locks and returns who is in the way; `None`: not supported.
fn take_ranges(file: &File, intent: Intent, resize: bool) -> io::Result<Option<Vec<Obstacle>>> {
    let mut ours = Vec::new();
    let mut theirs = vec![WRITES, RESIZES, FORBIDS_READING];
    if intent == Intent::Write {
        ours.extend([WRITES, FORBIDS_WRITING, FORBIDS_RESIZING]);
        theirs.push(FORBIDS_WRITING);
        if resize {
            ours.push(RESIZES);
            theirs.push(FORBIDS_RESIZING);
        }
    }
    // First say what we do, then look what others do: of two that start at once, at least one sees the other.
    let mut obstacles = Vec::new();
    for byte in [READS].iter().chain(&ours) {
        // Only an exclusive lock conflicts with a read lock, and QEMU takes none. It is found below.
        if set(file, libc::F_RDLCK, *byte)? == Taken::Unsupported {
            return Ok(None);
        }
    }
    for byte in theirs {
        match is_free(file, libc::F_WRLCK, byte, 1)? {
            Some(true) => {}
            Some(false) => obstacles.push(Obstacle::Byte(byte)),
            None => return Ok(None),
        }
    }
    if is_free(file, libc::F_RDLCK, 0, 0)? == Some(false) {
        // It covers QEMU's bytes perhaps, but does not mean what they mean.
        obstacles = vec![Obstacle::Exclusive];
    }
    if !obstacles.is_empty() {
        for byte in ours {
            set(file, libc::F_UNLCK, byte)?;
        }
    }
    Ok(Some(obstacles))
}

/// Sets or removes our lock on one byte.
fn set(file: &File, kind: libc::c_int, byte: i64) -> io::Result<Taken> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&request(kind, byte, 1)?)) {
        Ok(_) => Ok(Taken::Yes),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(Taken::No),
        Err(errno) if is_unsupported(errno) => Ok(Taken::Unsupported),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether we could lock `len` bytes from `start` (0: all that follow); `None`: not supported.
fn is_free(file: &File, kind: libc::c_int, start: i64, len: i64) -> io::Result<Option<bool>> {
    let mut lock = request(kind, start, len)?;
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => Ok(Some(libc::c_int::from(lock.l_type) == libc::F_UNLCK)),
        Err(errno) if is_unsupported(errno) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn request(kind: libc::c_int, start: i64, len: i64) -> io::Result<libc::flock> {
    Ok(libc::flock {
        l_type: kind.try_into().map_err(io::Error::other)?,
        l_whence: libc::SEEK_SET.try_into().map_err(io::Error::other)?,
        l_start: start,
        l_len: len,
        l_pid: 0,
    })
}

/// Whether this error says that the file system has no such locks.
fn is_unsupported(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL
    )
}
