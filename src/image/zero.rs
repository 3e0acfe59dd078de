//! Making a range zeros, and free where the source can: punch, else zero in place, else write zeros.
//!
//! What a source has refused once is not tried again.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::fcntl::{FallocateFlags, fallocate};

use super::extents::is_unsupported;
use crate::geometry::Span;

/// How much is written at once where zeros must be written.
const PIECE: u64 = 1 << 20;
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// What fallocate(2) has not yet refused on one source.
#[derive(Debug)]
pub(super) struct Zeroing {
    can_punch: AtomicBool,
    can_zero_range: AtomicBool,
    /// fallocate wants multiples of this: the sector of a device, 1 for a file.
    unit: u64,
}

impl Zeroing {
    /// For a source whose fallocate(2) wants multiples of `unit` bytes (a power of two).
    pub(super) fn new(unit: u64) -> Self {
        Self {
            can_punch: AtomicBool::new(true),
            can_zero_range: AtomicBool::new(true),
            unit,
        }
    }

    /// Makes `span` zeros. `write` writes all of a slice at an offset.
    pub(super) fn zero(
        &self,
        fd: impl AsFd,
        span: Span,
        write: impl Fn(&[u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let (head, body, tail) = span.split_aligned(self.unit);
        write_zeros(head, &write)?;
        if !self.deallocate(fd, body)? {
            write_zeros(body, &write)?;
        }
        write_zeros(tail, &write)
    }

    /// `Ok(false)`: nothing was done, because the source can do none of it.
    fn deallocate(&self, fd: impl AsFd, span: Span) -> io::Result<bool> {
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let ways = [
            (&self.can_punch, FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep),
            (
                &self.can_zero_range,
                FallocateFlags::FALLOC_FL_ZERO_RANGE | keep,
            ),
        ];
        if span.is_empty() {
            return Ok(true);
        }
        let start = i64::try_from(span.start).map_err(io::Error::other)?;
        let len = i64::try_from(span.len()).map_err(io::Error::other)?;
        for (can, mode) in ways {
            if !can.load(Relaxed) {
                continue;
            }
            match fallocate(fd.as_fd(), mode, start, len).map_err(io::Error::from) {
                Ok(()) => return Ok(true),
                Err(e) if is_unsupported(&e) => {
                    log::debug!("fallocate {mode:?} is not supported here: {e}");
                    can.store(false, Relaxed);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }
}

fn write_zeros(span: Span, write: impl Fn(&[u8], u64) -> io::Result<()>) -> io::Result<()> {
    let mut offset = span.start;
    while offset < span.end {
        let len = PIECE.min(span.end - offset);
        let zeros = usize::try_from(len).map_or(&ZEROS[..], |len| &ZEROS[..len]);
        write(zeros, offset)?;
        offset += len;
    }
    Ok(())
}
