//! Reading what is wanted once without pushing other programs' pages out of the page cache (promise P22).
//!
//! `RWF_DONTCACHE` where the kernel has it, through a descriptor without read-ahead, whose pages would stay. Else what
//! is cached is taken from there, and what is not is read in the ordinary way and dropped again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};

use super::extents::is_unsupported;
use crate::sys::{self, Caching};

/// Which ways have been refused on one file.
#[derive(Debug, Default)]
pub(super) struct UncachedReads {
    no_drop: AtomicBool,
    no_probe: AtomicBool,
    without_read_ahead: OnceLock<Option<File>>,
}

impl UncachedReads {
    /// One read of `file`; may be short.
    pub(super) fn read_at(&self, file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let own = self.without_read_ahead.get_or_init(|| {
            reopen(file)
                .inspect_err(|e| log::debug!("reading once: {e}"))
                .ok()
        });
        let Some(own) = own else {
            return file.read_at(out, offset);
        };
        if !self.no_drop.load(Relaxed) {
            match sys::pread_as(own.as_fd(), out, offset, Caching::Drop) {
                Err(e) if is_unsupported(&e) => self.no_drop.store(true, Relaxed),
                read => return read,
            }
        }
        if self.no_probe.load(Relaxed) {
            return file.read_at(out, offset);
        }
        match sys::pread_as(own.as_fd(), out, offset, Caching::CachedOnly) {
            Err(e) if is_unsupported(&e) => {
                self.no_probe.store(true, Relaxed);
                file.read_at(out, offset)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => read_and_drop(own, out, offset),
            read => read,
        }
    }
}

/// Of what was not cached.
fn read_and_drop(own: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    let got = own.read_at(out, offset)?;
    if let (Ok(start), Ok(len)) = (i64::try_from(offset), i64::try_from(got)) {
        // A failure is ignored: the bytes are right, only the pages stay.
        let _ = posix_fadvise(own, start, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
    Ok(got)
}

/// The same file with a description of its own, so that its read-ahead can be turned off. It moves the time of the last
/// access only if the first does.
fn reopen(file: &File) -> io::Result<File> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    let own = OpenOptions::new()
        .read(true)
        .custom_flags((flags & OFlag::O_NOATIME).bits())
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    posix_fadvise(&own, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_reads_the_same_bytes() {
        let file = tempfile::tempfile_in(".").unwrap();
        let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        file.write_all_at(&bytes, 0).unwrap();
        file.sync_all().unwrap();
        for (no_drop, no_probe, dropped) in [
            (false, false, true),
            (true, false, true),
            (true, false, false),
            (true, true, false),
        ] {
            let once = UncachedReads::default();
            once.no_drop.store(no_drop, Relaxed);
            once.no_probe.store(no_probe, Relaxed);
            if dropped {
                posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
            }
            let mut out = vec![0; bytes.len()];
            let mut len = 0;
            while len < out.len() {
                let end = out.len().min(len + 65_536);
                let got = once.read_at(&file, &mut out[len..end], len as u64).unwrap();
                assert!(got > 0);
                len += got;
            }
            assert!(out == bytes, "no_drop={no_drop} no_probe={no_probe}");
            assert_eq!(
                once.read_at(&file, &mut [0; 9], bytes.len() as u64)
                    .unwrap(),
                0
            );
        }
    }
}
