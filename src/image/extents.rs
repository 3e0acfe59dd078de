//! Where a regular file has data and where it has holes, by lseek(2).
//!
//! Invariant: a hole is reported only when the file system says so at this moment. Only runs of data are remembered: to
//! take a hole for data is slower, and to take data for a hole would lose it.

use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};
use nix::unistd::{Whence, lseek};

use crate::geometry::Span;

/// Whether what this file system says of holes is believed (promise P6): ext4, XFS, Btrfs and tmpfs.
pub(crate) fn believes(file: &File) -> bool {
    const TRUSTED: [FsType; 4] = [
        EXT4_SUPER_MAGIC,
        XFS_SUPER_MAGIC,
        BTRFS_SUPER_MAGIC,
        TMPFS_MAGIC,
    ];
    fstatfs(file).is_ok_and(|stat| TRUSTED.contains(&stat.filesystem_type()))
}

/// The extents of one file.
#[derive(Debug)]
pub(super) struct Extents {
    believed: bool,
    /// A run that was data when last looked at.
    run: Mutex<Span>,
}

impl Extents {
    /// `believed`: whether holes may be reported at all.
    pub(super) fn new(believed: bool) -> Self {
        Self {
            believed,
            run: Mutex::new(Span::new(0, 0)),
        }
    }

    /// Whether holes are reported at all.
    pub(super) fn believed(&self) -> bool {
        self.believed
    }

    /// Forgets what is remembered, because something was punched or may have been.
    pub(super) fn forget(&self) {
        *self.run.lock().unwrap_or_else(PoisonError::into_inner) = Span::new(0, 0);
    }

    /// As [`super::Image::next_data`].
    pub(super) fn next_data(&self, file: &File, from: u64) -> Option<u64> {
        if !self.believed || self.in_run(from) {
            return Some(from);
        }
        match seek(file, from, Whence::SeekData) {
            Ok(data) => Some(data),
            Err(Errno::ENXIO) => None,
            Err(_) => Some(from),
        }
    }

    /// As [`super::Image::next_hole`].
    pub(super) fn next_hole(&self, file: &File, from: u64) -> u64 {
        if !self.believed {
            return u64::MAX;
        }
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        let known = run.start <= from && from < run.end;
        // The hole behind a remembered run may have been filled: ask again from there.
        let (start, ask) = if known {
            (run.start, run.end)
        } else {
            (from, from)
        };
        let Ok(hole) = seek(file, ask, Whence::SeekHole) else {
            return u64::MAX;
        };
        *run = Span::new(start, hole);
        hole
    }

    fn in_run(&self, from: u64) -> bool {
        let run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        run.start <= from && from < run.end
    }
}

/// The descriptor's own position moves; nothing in bmapfs uses it.
fn seek(file: &File, from: u64, whence: Whence) -> nix::Result<u64> {
    let from = i64::try_from(from).map_err(|_| Errno::EOVERFLOW)?;
    let found = lseek(file, from, whence)?;
    u64::try_from(found).map_err(|_| Errno::EOVERFLOW)
}

/// Whether an error of fallocate(2) says only that the operation is not supported here.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL | libc::ENOTTY)
    )
}
