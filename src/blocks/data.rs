//! Block files' bytes: where they are read, written and zeroed, and when no more are (promises P5, P7 and P25).

use std::io;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::open::OpenBlock;
use super::{Blocks, errno};
use crate::geometry::{BlockIndex, BlockSize, FileOffset, Span};
use crate::image::{read_span, write_span, zeros};
use crate::volume::{Allocate, Errno, Result, Seek};

impl Blocks {
    pub(super) fn check_latch(&self) -> Result<()> {
        if self.latched.load(SeqCst) {
            Err(Errno::EPERM)
        } else {
            Ok(())
        }
    }

    /// After a request that a tool which knows the block size never makes: no more writes, since the next ones
    /// would damage the start of every block (promise P25). `len`: of the backup's file in bytes, if that is known.
    pub(super) fn latch(&self, block: BlockIndex, what: &str, len: Option<u64>) {
        let (image, cause) = (self.image.name(), self.likely_cause(block, len));
        if !self.config.latch {
            log::warn!("{image}: block {block}: {what}. {cause}");
            return;
        }
        if !self.latched.swap(true, SeqCst) {
            log::error!(
                "{image}: block {block}: {what}; every write is refused from now on, until it is mounted again. {cause}"
            );
        }
    }

    /// Why a file of `len` bytes does not fit a block.
    pub(super) fn likely_cause(&self, block: BlockIndex, len: Option<u64>) -> String {
        let geometry = self.geometry();
        let here = format!("This mount has -b {}", self.config.block_size);
        let other = len
            .and_then(BlockSize::from_bytes)
            .filter(|other| *other != self.config.block_size);
        let other = other.map_or("another block size".to_owned(), |other| {
            format!("-b {other}")
        });
        // The blocks before the last may have fitted.
        let size = if block.get() > 0 && geometry.last() == Some(block) && !self.config.resize {
            format!(
                "Is the backup of an image of another size? This one has {} bytes; only a regular image that is \
                 mounted with --resize gets another size. ",
                geometry.image_size()
            )
        } else {
            String::new()
        };
        format!("{size}Was the backup made with {other}? {here}")
    }

    /// Writes all of `data`, or as much as can be; long runs of zeros as holes, if that is wanted.
    pub(super) fn write_parts(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        if !self.config.detect_zeros {
            return write_span(self.image.as_ref(), data, offset);
        }
        zeros::write(self.image.as_ref(), data, offset)
    }

    /// As [`crate::volume::Volume::read_and`].
    pub(super) fn read_file(
        &self,
        open: &OpenBlock,
        offset: FileOffset,
        out: &mut [u8],
        whole: bool,
        reply: &mut dyn FnMut(Result<&[u8]>),
    ) {
        let block = open.block;
        let geometry = self.geometry();
        let span = geometry.clip(block, offset, out.len() as u64);
        let Ok(len) = usize::try_from(span.len()) else {
            return reply(Err(Errno::EINVAL));
        };
        if len == 0 {
            return reply(Ok(&[]));
        }
        let end = geometry.span(block).end;
        self.times.read(block, whole);
        match self.read_block(open, &mut out[..len], span.start, end, whole) {
            Ok(got) => {
                self.served.fetch_add(got as u64, Relaxed);
                let hash = open.note_served(got);
                reply(Ok(&out[..got]));
                if hash {
                    open.hash(offset, &out[..got]);
                }
            }
            Err(e) => reply(Err(e)),
        }
    }

    /// Reads `out` from the part of a block that it is cut for.
    fn read_block(
        &self,
        open: &OpenBlock,
        out: &mut [u8],
        offset: u64,
        end: u64,
        whole: bool,
    ) -> Result<usize> {
        let version = self.version.load(SeqCst);
        let early = open.ahead.as_ref().and_then(|ahead| {
            let mut ahead = ahead.try_lock().ok()?;
            ahead.read(self.image.as_ref(), out, offset, end, version)
        });
        if let Some(len) = early {
            return Ok(len);
        }
        let got = read_span(self.image.as_ref(), out, offset);
        let Some(error) = got.error else {
            return Ok(got.len);
        };
        self.cannot_read(open.block, offset + got.len as u64, &error);
        if got.len > 0 && !whole {
            Ok(got.len)
        } else {
            Err(Errno::EIO)
        }
    }

    /// EBADF: it is not open for writing; EPERM: the mount has been latched.
    fn check_writer(&self, open: &OpenBlock) -> Result<()> {
        if !open.writable {
            return Err(Errno::EBADF);
        }
        self.check_latch()?;
        open.seen_errors.wrote();
        Ok(())
    }

    /// As [`crate::volume::Volume::write`].
    pub(super) fn write_file(
        &self,
        open: &OpenBlock,
        offset: FileOffset,
        data: &[u8],
    ) -> Result<usize> {
        self.check_writer(open)?;
        let block = open.block;
        self.grow_for(block, offset.after(data.len() as u64))?;
        let span = self.geometry().clip(block, offset, data.len() as u64);
        let len = usize::try_from(span.len()).map_err(|_| Errno::EINVAL)?;
        if data.is_empty() {
            return Ok(0);
        }
        if len == 0 {
            self.latch(
                block,
                &format!("a write at {}, past its end", offset.get()),
                None,
            );
            return Err(Errno::EFBIG);
        }
        let written = self.write_block(block, &data[..len], span.start)?;
        self.lengths.wrote(block, offset.after(written as u64));
        Ok(written)
    }

    /// As [`crate::volume::Volume::sync`].
    pub(super) fn sync_file(&self, open: &OpenBlock, data_only: bool) -> Result<()> {
        if !self.config.writable {
            return Ok(());
        }
        let synced = self.image.sync(data_only);
        if let Err(e) = &synced {
            self.sync_errors.note();
            log::error!(
                "{}: making writes durable: {e}; what was written may be lost",
                self.image.name()
            );
        }
        self.sync_errors.tell(&open.seen_errors)?;
        synced.map_err(|_| Errno::EIO)
    }

    /// As [`crate::volume::Volume::allocate`].
    pub(super) fn allocate_file(
        &self,
        open: &OpenBlock,
        what: Allocate,
        keep_size: bool,
        offset: FileOffset,
        len: u64,
    ) -> Result<()> {
        self.check_writer(open)?;
        let block = open.block;
        let span = self.geometry().clip(block, offset, len);
        if what == Allocate::Reserve {
            self.lengths.announced(block, offset.after(len));
        }
        if span.len() < len && !keep_size {
            return Err(Errno::EFBIG);
        }
        match what {
            _ if span.is_empty() => Ok(()),
            Allocate::Zero => {
                self.zero_block(block, span)?;
                self.lengths.wrote(block, offset.after(span.len()));
                Ok(())
            }
            Allocate::Reserve => self
                .image
                .reserve(span)
                .map_err(|e| self.write_failed(&e, span.start)),
        }
    }

    /// As [`crate::volume::Volume::seek`].
    pub(super) fn seek_file(
        &self,
        block: BlockIndex,
        offset: FileOffset,
        towards: Seek,
    ) -> Result<FileOffset> {
        let geometry = self.geometry();
        let span = geometry.span(block);
        let from = geometry.image_offset(block, offset);
        if from >= span.end {
            return Err(Errno::ENXIO);
        }
        let io = |e: io::Error| errno(&e);
        self.image.flush().map_err(io)?;
        // What was cut off is not a hole: it is data that cannot be read.
        let cut = self.image.size().map_err(io)?.max(span.start);
        let found = match towards {
            Seek::Data => match self.image.next_data(from).map_err(io)? {
                Some(data) => data,
                None => from.max(cut),
            },
            Seek::Hole if from >= cut => span.end,
            Seek::Hole => match self.image.next_hole(from).map_err(io)? {
                hole if hole >= cut => span.end,
                hole => hole,
            },
        };
        match towards {
            Seek::Data if found >= span.end => Err(Errno::ENXIO),
            _ => Ok(geometry.file_offset(block, found)),
        }
    }

    fn write_block(&self, block: BlockIndex, data: &[u8], offset: u64) -> Result<usize> {
        let written = self.write_parts(data, offset);
        self.changed(block);
        self.appear(block);
        written.map_err(|e| self.write_failed(&e, offset))
    }

    pub(super) fn zero_block(&self, block: BlockIndex, span: Span) -> Result<()> {
        let zeroed = self.image.zero(span);
        self.changed(block);
        zeroed.map_err(|e| self.write_failed(&e, span.start))
    }

    /// Also after a write that failed: part of it may have arrived.
    pub(super) fn changed(&self, block: BlockIndex) {
        self.version.fetch_add(1, SeqCst);
        self.times
            .wrote(block, self.times.base(self.image.as_ref()));
        self.try_again(block);
    }
}

impl Blocks {
    pub(super) fn write_failed(&self, error: &io::Error, offset: u64) -> Errno {
        let hint = match error.raw_os_error() {
            Some(libc::EFBIG) => {
                ": more than bmapfs may write (ulimit -f), or than the file system can hold in one file"
            }
            _ => "",
        };
        let image = self.image.name();
        log::error!("{image}: writing at byte {offset}: {error}{hint}");
        errno(error)
    }
}
