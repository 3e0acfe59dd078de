//! A real image: a regular file or a block device, open.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Display, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use nix::unistd::{getegid, geteuid};

use super::behind::Behind;
use super::direct::Direct;
use super::extents::{Extents, is_unsupported};
use super::uncached::UncachedReads;
use super::zero::Zeroing;
use super::{Fingerprint, Image, Ownership};
use crate::geometry::Span;
use crate::sys::{self, device::DeviceNumber};

/// What counts as the sector of a regular file, in bytes. Its reads fail by whole pages, which are multiples of it.
const FILE_SECTOR: u64 = 512;
/// A file that is being written is flushed for its holes no more often than this.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// What kind of source it is, with what only that kind has.
#[derive(Debug)]
enum SourceKind {
    File {
        /// The time of the last write before the last flush, and when that was.
        flushed: Mutex<Option<((i64, i64), Instant)>>,
        flush_holes: bool,
    },
    Device {
        number: DeviceNumber,
        sector: u64,
        direct: Option<Direct>,
    },
    /// A file that stands for a moment of another image: nobody can write it, and its own times mean nothing.
    Moment {
        /// Where it reads as zeros, in order.
        zeros: Vec<Span>,
        /// The file that the other image is in.
        behind: Option<Behind>,
    },
}

/// An open image file or block device.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    kind: SourceKind,
    extents: Extents,
    zeroing: Zeroing,
    /// A flush of our own has failed: the next client that asks for one gets the error.
    flush_failed: AtomicBool,
    /// Unless reads pass the page cache anyway.
    once: Option<UncachedReads>,
    ownership: Ownership,
    /// What this stands for, open for its locks.
    _held: Option<File>,
    /// Its canonical path, or that of what it stands for.
    path: PathBuf,
}

impl Source {
    /// Wraps a regular file. `flush_holes`: others may write it, so its holes hold only after an fsync.
    pub(crate) fn regular(file: File, flush_holes: bool) -> io::Result<Self> {
        let believed = super::extents::believes(&file);
        Ok(Self {
            ownership: ownership(&file)?,
            kind: SourceKind::File {
                flushed: Mutex::new(None),
                flush_holes,
            },
            extents: Extents::new(believed),
            zeroing: Zeroing::new(1),
            flush_failed: AtomicBool::new(false),
            once: Some(UncachedReads::default()),
            _held: None,
            path: PathBuf::new(),
            file,
        })
    }

    /// Wraps a block device. `exclusive`: nobody else can write it, so the page cache is right; else the
    /// descriptor was opened with `O_DIRECT`.
    pub(super) fn device(file: File, exclusive: bool) -> io::Result<Self> {
        let sector = sys::device::sector(file.as_fd())?;
        let number = DeviceNumber::from_raw(file.metadata()?.rdev());
        let direct = (!exclusive).then(|| Direct::new(sector));
        Ok(Self {
            ownership: ownership(&file)?,
            extents: Extents::new(false),
            zeroing: Zeroing::new(sector),
            flush_failed: AtomicBool::new(false),
            once: direct.is_none().then(UncachedReads::default),
            kind: SourceKind::Device {
                number,
                sector,
                direct,
            },
            _held: None,
            path: PathBuf::new(),
            file,
        })
    }

    /// Called after its canonical path, or what it stands for.
    pub(crate) fn named(self, path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            ..self
        }
    }

    /// Puts `clone`, a regular file that nobody writes, in place of this source, which stays open and locked; owner
    /// and mode stay its own.
    pub(crate) fn replaced_by(self, clone: File) -> io::Result<Self> {
        Ok(Self {
            ownership: self.ownership,
            _held: Some(self.file),
            path: self.path,
            ..Self::regular(clone, false)?
        })
    }

    /// Wraps a file that stands for a moment of another image, and that nobody can write. `zeros`: where it is certain to
    /// read as zeros, in order, if somebody can tell. `behind`: the file that all of the other image is in, if that is known.
    pub(crate) fn moment(file: File, zeros: Vec<Span>, behind: Option<Behind>) -> io::Result<Self> {
        Ok(Self {
            kind: SourceKind::Moment { zeros, behind },
            ..Self::regular(file, false)?
        })
    }

    /// It shows no owner of its own: it is for this user alone.
    pub(crate) fn private(self) -> Self {
        let ownership = Ownership {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            mode: 0o600,
        };
        Self { ownership, ..self }
    }

    /// Where the first run of zeros is that ends after `from`.
    fn zeros_after(&self, from: u64) -> Option<Span> {
        let SourceKind::Moment { zeros, .. } = &self.kind else {
            return None;
        };
        zeros
            .get(zeros.partition_point(|span| span.end <= from))
            .copied()
    }

    /// The open file or device.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// What stat(2) says of it.
    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// After a flush: what a regular file holds is read from its disk again, and not from the page cache.
    pub(crate) fn drop_cached(&self) {
        // Where that is refused, what is cached is all that can be seen.
        let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }

    fn direct(&self) -> Option<&Direct> {
        match &self.kind {
            SourceKind::Device { direct, .. } => direct.as_ref(),
            SourceKind::File { .. } | SourceKind::Moment { .. } => None,
        }
    }

    /// Refuses what is not all inside the image: a write past the end of a file that somebody truncated would
    /// grow it again, with zeros in place of what was there.
    fn check_inside(&self, span: Span) -> io::Result<()> {
        let inside = match self.kind {
            SourceKind::File { .. } | SourceKind::Moment { .. } => {
                span.end <= self.file.metadata()?.len()
            }
            SourceKind::Device { .. } => true,
        };
        if inside {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EIO))
        }
    }

    /// Flushes for a reason of our own. The kernel reports a failed write-back once, so it is kept for the clients
    /// that wrote (promise P9).
    fn flush_now(&self) -> io::Result<()> {
        match self.file.sync_all() {
            Err(e) if has_no_flush(&e) => Ok(()),
            flushed => flushed.inspect_err(|_| self.flush_failed.store(true, SeqCst)),
        }
    }

    fn write_once(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        match self.direct() {
            Some(direct) => direct.write_at(&self.file, data, offset),
            None => self.file.write_at(data, offset),
        }
    }

    fn write_all(&self, data: &[u8], offset: u64) -> io::Result<()> {
        match self.direct() {
            Some(direct) => direct.write_at(&self.file, data, offset).map(|_| ()),
            None => self.file.write_all_at(data, offset),
        }
    }
}

/// Whether fsync(2) failed because the file system has none: EINVAL on one that can only be read (squashfs, erofs, ...),
/// where there is never anything to write.
fn has_no_flush(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EROFS | libc::EOPNOTSUPP | libc::ENOSYS)
    )
}

fn ownership(file: &File) -> io::Result<Ownership> {
    let stat = file.metadata()?;
    Ok(Ownership {
        uid: stat.uid(),
        gid: stat.gid(),
        mode: stat.mode() & 0o7777,
    })
}

impl Image for Source {
    fn size(&self) -> io::Result<u64> {
        match self.kind {
            SourceKind::File { .. } | SourceKind::Moment { .. } => Ok(self.file.metadata()?.len()),
            SourceKind::Device { .. } => sys::device::size(self.file.as_fd()),
        }
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.direct() {
            Some(direct) => direct.read_at(&self.file, out, offset),
            None => self.file.read_at(out, offset),
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        self.check_inside(Span::new(offset, offset + data.len() as u64))?;
        self.write_once(data, offset)
    }

    fn zero(&self, span: Span) -> io::Result<()> {
        self.check_inside(span)?;
        let done = self.zeroing.zero(self.file.as_fd(), span, |zeros, at| {
            self.write_all(zeros, at)
        });
        self.extents.forget();
        done
    }

    fn reserve(&self, span: Span) -> io::Result<()> {
        self.check_inside(span)?;
        if matches!(self.kind, SourceKind::Device { .. }) || span.is_empty() {
            return Ok(());
        }
        let start = i64::try_from(span.start).map_err(io::Error::other)?;
        let len = i64::try_from(span.len()).map_err(io::Error::other)?;
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, start, len)
            .map_err(io::Error::from)
        {
            Err(e) if !is_unsupported(&e) => Err(e),
            _ => Ok(()),
        }
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        match self.kind {
            SourceKind::File { .. } => self.file.set_len(size),
            SourceKind::Device { .. } | SourceKind::Moment { .. } => {
                Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
            }
        }
    }

    fn has_holes(&self) -> bool {
        self.extents.believed() || self.zeros_after(0).is_some()
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        let failed = self.flush_failed.swap(false, SeqCst);
        let synced = if data_only {
            self.file.sync_data()
        } else {
            self.file.sync_all()
        };
        if failed {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        synced
    }

    fn next_data(&self, from: u64) -> io::Result<Option<u64>> {
        match self.zeros_after(from) {
            Some(zeros) if zeros.start > from => Ok(Some(from)),
            Some(zeros) => {
                Ok(Some(zeros.end).filter(|end| self.size().is_ok_and(|size| *end < size)))
            }
            None => Ok(self.extents.next_data(&self.file, from)),
        }
    }

    fn next_hole(&self, from: u64) -> io::Result<u64> {
        match self.zeros_after(from) {
            Some(zeros) => Ok(zeros.start.max(from)),
            None => Ok(self.extents.next_hole(&self.file, from)),
        }
    }

    fn flush(&self) -> io::Result<()> {
        let SourceKind::File {
            flushed,
            flush_holes: true,
        } = &self.kind
        else {
            return Ok(());
        };
        let mut flushed = flushed.lock().unwrap_or_else(PoisonError::into_inner);
        let stat = self.file.metadata()?;
        let written = (stat.mtime(), stat.mtime_nsec());
        let fresh = flushed
            .as_ref()
            .is_some_and(|(then, at)| *then == written || at.elapsed() < FLUSH_INTERVAL);
        if fresh {
            return Ok(());
        }
        self.extents.forget();
        self.flush_now()?;
        *flushed = Some((written, Instant::now()));
        Ok(())
    }

    fn touch(&self) -> io::Result<()> {
        if matches!(self.kind, SourceKind::File { .. }) {
            futimens(&self.file, &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW)?;
        }
        Ok(())
    }

    fn mtime(&self) -> io::Result<Option<(i64, i64)>> {
        match self.kind {
            SourceKind::File { .. } => {
                let stat = self.file.metadata()?;
                Ok(Some((stat.mtime(), stat.mtime_nsec())))
            }
            SourceKind::Device { .. } | SourceKind::Moment { .. } => Ok(None),
        }
    }

    fn fingerprint(&self) -> io::Result<Fingerprint> {
        if !self.is_moment() {
            // Dirty pages of a device count as written only once they are on their way to it.
            self.flush_now()?;
        }
        match &self.kind {
            SourceKind::File { .. } => {
                Fingerprint::let_tick_pass(&self.file)?;
                Fingerprint::of_file(&self.file)
            }
            SourceKind::Moment { behind, .. } => match behind {
                Some(behind) => behind.fingerprint(),
                None => Ok(Fingerprint::Unknown),
            },
            SourceKind::Device { number, .. } => Ok(Fingerprint::of_device(&self.file, *number)),
        }
    }

    fn is_moment(&self) -> bool {
        matches!(self.kind, SourceKind::Moment { .. })
    }

    fn read_once(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.once {
            Some(once) => once.read_at(&self.file, out, offset),
            None => self.read_at(out, offset),
        }
    }

    fn sector(&self) -> u64 {
        match self.kind {
            SourceKind::File { .. } | SourceKind::Moment { .. } => FILE_SECTOR,
            SourceKind::Device { sector, .. } => sector,
        }
    }

    fn is_direct(&self) -> bool {
        self.direct().is_some()
    }

    fn ownership(&self) -> Ownership {
        self.ownership
    }

    fn name(&self) -> Display<'_> {
        self.path.display()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_flushed_has_nothing_to_flush() {
        // In /proc there is no fsync, as on squashfs.
        let file = File::open("/proc/self/maps").unwrap();
        let error = file.sync_all().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        let source = Source::regular(file, true).unwrap();
        source.flush().unwrap();
        source.fingerprint().unwrap();
        source.sync(false).unwrap_err();
    }

    #[test]
    fn a_flush_that_fails_is_an_error() {
        for (errno, nothing) in [
            (libc::EINVAL, true),
            (libc::EROFS, true),
            (libc::EOPNOTSUPP, true),
            (libc::EIO, false),
            (libc::ENODEV, false),
            (libc::ENOSPC, false),
            (libc::EDQUOT, false),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(has_no_flush(&error), nothing, "{error}");
        }
    }
}
