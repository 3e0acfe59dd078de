//! Reading, writing and zeroing the image, a block at a time.

use std::io;

use super::Reverse;
use super::private::Content;
use crate::geometry::{BlockIndex, FileOffset, Span};
use crate::image::{Image, read_span, write_span, zeros};
use crate::volume::{Allocate, Errno, Result};

impl Reverse {
    /// What a client gets for an error of a block file: the errno if it is one that says what to do, else EIO.
    fn failed(&self, attempt: &str, block: BlockIndex, error: &io::Error) -> Errno {
        let directory = self.config.directory.display();
        log::error!("{directory}: {attempt} block {block}: {error}");
        match error.raw_os_error() {
            Some(
                number @ (libc::ENOSPC | libc::EDQUOT | libc::EPERM | libc::EACCES | libc::EROFS),
            ) => Errno::from_raw(number),
            _ => Errno::EIO,
        }
    }

    /// The first block that a run of the image touches, from where in its file on, and how many bytes of it.
    fn part(&self, run: Span) -> Option<(BlockIndex, FileOffset, u64)> {
        let block = self.block_of(run)?;
        let part = Span::new(run.start, run.end.min(self.geometry.span(block).end));
        let start = self.geometry.file_offset(block, part.start);
        Some((block, start, part.len()))
    }

    /// Reads a run of the image, as long as `out`, up to the first byte that cannot be read: how many bytes, and why
    /// not all.
    pub(super) fn read_image(&self, out: &mut [u8], run: Span) -> (usize, Option<Errno>) {
        let mut done = 0;
        while done < out.len() {
            let left = Span::new(run.start + done as u64, run.end);
            let Some((block, start, len)) = self.part(left) else {
                return (done, Some(Errno::EIO));
            };
            let Ok(part) = usize::try_from(len) else {
                return (done, Some(Errno::EINVAL));
            };
            let out = &mut out[done..done + part];
            if !self.present.has(block) {
                out.fill(0);
                done += part;
                continue;
            }
            let got = self.with_file(block, |source| read_span(source, out, start.get()));
            let (len, error) = match got {
                Ok(got) => (got.len, got.error),
                Err(e) => (0, Some(e)),
            };
            done += len;
            if let Some(e) = error {
                let at = start.after(len as u64).get();
                let directory = self.config.directory.display();
                log::error!("{directory}: reading block {block} at byte {at}: {e}");
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
            let (block, start, len) = self.part(left).ok_or(Errno::EIO)?;
            let part = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
            match self.write_block(block, &data[done..done + part], start) {
                Ok(written) => {
                    done += written;
                    if written < part {
                        break;
                    }
                }
                Err(e) => {
                    let errno = self.failed("writing", block, &e);
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
            let left = Span::new(at, run.end);
            let (block, start, len) = self.part(left).ok_or(Errno::EIO)?;
            // Of the file, which is a source of its own.
            let inside = Span::new(start.get(), start.after(len).get());
            let done = match what {
                Allocate::Zero => self.zero_block(block, inside),
                Allocate::Reserve => self
                    .with_private(block, Content::Same, |file| file.reserve(inside))
                    .and_then(|done| done),
            };
            done.map_err(|e| self.failed("allocating space for", block, &e))?;
            at += len;
        }
        Ok(())
    }

    /// Writes inside one block; zeros where there is no block need none.
    fn write_block(&self, block: BlockIndex, data: &[u8], start: FileOffset) -> io::Result<usize> {
        if !self.present.has(block) && data.iter().all(|byte| *byte == 0) {
            return Ok(data.len());
        }
        self.with_private(block, Content::Same, |file| {
            if self.config.detect_zeros {
                zeros::write(file, data, start.get())
            } else {
                write_span(file, data, start.get())
            }
        })
        .and_then(|written| written)
    }

    /// Makes zeros inside one block; `inside` is of its file.
    fn zero_block(&self, block: BlockIndex, inside: Span) -> io::Result<()> {
        if !self.present.has(block) {
            return Ok(());
        }
        let all = inside.len() == self.geometry.span(block).len();
        let content = if all { Content::Zeros } else { Content::Same };
        self.with_private(block, content, |file| file.zero(inside))
            .and_then(|zeroed| zeroed)
    }
}
