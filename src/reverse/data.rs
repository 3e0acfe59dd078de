//! Reading, writing and zeroing the image, a block at a time.

use std::io;

use super::Reverse;
use super::private::Content;
use crate::geometry::{BlockIndex, Span};
use crate::image::{Image, read_span, write_span, zeros};
use crate::volume::{Allocate, Errno, Result};

/// What a client gets for an error of a block file: the errno if it is one that says what to do, else EIO.
fn failed(attempt: &str, block: BlockIndex, error: &io::Error) -> Errno {
    log::error!("{attempt} block {block}: {error}");
    match error.raw_os_error() {
        Some(number @ (libc::ENOSPC | libc::EDQUOT | libc::EPERM | libc::EACCES | libc::EROFS)) => {
            Errno::from_raw(number)
        }
        _ => Errno::EIO,
    }
}

impl Reverse {
    /// The first block that a run of the image touches, and which part of the block.
    fn part(&self, run: Span) -> Option<(BlockIndex, Span)> {
        let size = self.geometry.block_size().bytes();
        let block = self.geometry.block(run.start / size)?;
        let offset = run.start % size;
        let clipped = self.geometry.clip(block, offset, run.len());
        Some((block, Span::new(offset, offset + clipped.len())))
    }

    /// Reads a run of the image, as long as `out`, up to the first byte that cannot be read: how many bytes, and why
    /// not all.
    pub(super) fn read_image(&self, out: &mut [u8], run: Span) -> (usize, Option<Errno>) {
        let mut done = 0;
        while done < out.len() {
            let left = Span::new(run.start + done as u64, run.end);
            let Some((block, inside)) = self.part(left) else {
                return (done, Some(Errno::EIO));
            };
            let Ok(part) = usize::try_from(inside.len()) else {
                return (done, Some(Errno::EINVAL));
            };
            let out = &mut out[done..done + part];
            if !self.present.has(block) {
                out.fill(0);
                done += part;
                continue;
            }
            let got = self.with_file(block, |source| read_span(source, out, inside.start));
            let (len, error) = match got {
                Ok(got) => (got.len, got.error),
                Err(e) => (0, Some(e)),
            };
            done += len;
            if let Some(e) = error {
                log::error!(
                    "reading block {block} at byte {}: {e}",
                    inside.start + len as u64
                );
                return (done, Some(Errno::EIO));
            }
        }
        (done, None)
    }

    /// Writes a run of the image, as long as `data`, or as much as can be: the error counts only if nothing could be
    /// written.
    pub(super) fn write_image(&self, data: &[u8], run: Span) -> Result<usize> {
        let mut done = 0;
        while done < data.len() {
            let left = Span::new(run.start + done as u64, run.end);
            let (block, inside) = self.part(left).ok_or(Errno::EIO)?;
            let part = usize::try_from(inside.len()).map_err(|_| Errno::EINVAL)?;
            match self.write_block(block, &data[done..done + part], inside.start) {
                Ok(written) => {
                    done += written;
                    if written < part {
                        break;
                    }
                }
                Err(e) => {
                    let errno = failed("writing", block, &e);
                    if done == 0 {
                        return Err(errno);
                    }
                    break;
                }
            }
        }
        Ok(done)
    }

    /// Makes zeros of a run, or provides its space.
    pub(super) fn allocate_image(&self, what: Allocate, run: Span) -> Result<()> {
        let mut at = run.start;
        while at < run.end {
            let (block, inside) = self.part(Span::new(at, run.end)).ok_or(Errno::EIO)?;
            let done = match what {
                Allocate::Zero => self.zero_block(block, inside),
                Allocate::Reserve => self
                    .with_private(block, Content::Same, |file| file.reserve(inside))
                    .and_then(|done| done),
            };
            done.map_err(|e| failed("allocating space for", block, &e))?;
            at += inside.len();
        }
        Ok(())
    }

    /// Writes inside one block; zeros where there is no block need none.
    fn write_block(&self, block: BlockIndex, data: &[u8], offset: u64) -> io::Result<usize> {
        if !self.present.has(block) && data.iter().all(|byte| *byte == 0) {
            return Ok(data.len());
        }
        self.with_private(block, Content::Same, |file| {
            if self.config.detect_zeros {
                zeros::write(file, data, offset)
            } else {
                write_span(file, data, offset)
            }
        })
        .and_then(|written| written)
    }

    fn zero_block(&self, block: BlockIndex, span: Span) -> io::Result<()> {
        if !self.present.has(block) {
            return Ok(());
        }
        let all = span.len() == self.geometry.span(block).len();
        let content = if all { Content::Zeros } else { Content::Same };
        self.with_private(block, content, |file| file.zero(span))
            .and_then(|zeroed| zeroed)
    }
}
