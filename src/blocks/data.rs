//! Block files' bytes: where they are read, written and zeroed, and when no more are (promises P5, P7 and P25).

use std::io;
use std::sync::atomic::Ordering::SeqCst;

use super::open::Open;
use super::{Blocks, errno};
use crate::geometry::{BlockIndex, BlockSize, Span};
use crate::image::{read_span, write_span, zeros};
use crate::volume::{Errno, Result};

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
        let cause = self.likely_cause(block, len);
        if !self.config.latch {
            log::warn!("block {block}: {what}. {cause}");
            return;
        }
        if !self.latched.swap(true, SeqCst) {
            log::error!(
                "block {block}: {what}; every write is refused from now on, until it is mounted again. {cause}"
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

    /// Reads `out` from the part of a block that it is cut for.
    pub(super) fn read_block(
        &self,
        open: &Open,
        block: BlockIndex,
        out: &mut [u8],
        offset: u64,
        end: u64,
        whole: bool,
    ) -> Result<usize> {
        if let Some(ahead) = &open.ahead
            && let Ok(mut ahead) = ahead.try_lock()
            && let Some(len) = ahead.read(
                self.image.as_ref(),
                out,
                offset,
                end,
                self.version.load(SeqCst),
            )
        {
            return Ok(len);
        }
        let got = read_span(self.image.as_ref(), out, offset);
        let Some(error) = got.error else {
            return Ok(got.len);
        };
        self.cannot_read(block, offset + got.len as u64, &error);
        if got.len > 0 && !whole {
            Ok(got.len)
        } else {
            Err(Errno::EIO)
        }
    }

    pub(super) fn write_block(&self, block: BlockIndex, data: &[u8], offset: u64) -> Result<usize> {
        let written = self.write_parts(data, offset);
        self.changed(block);
        self.appear(block);
        written.map_err(|e| write_failed(&e, offset))
    }

    pub(super) fn zero_block(&self, block: BlockIndex, span: Span) -> Result<()> {
        let zeroed = self.image.zero(span);
        self.changed(block);
        zeroed.map_err(|e| write_failed(&e, span.start))
    }

    /// Also after a write that failed: part of it may have arrived.
    pub(super) fn changed(&self, block: BlockIndex) {
        self.version.fetch_add(1, SeqCst);
        self.times
            .wrote(block, self.times.base(self.image.as_ref()));
        self.try_again(block);
    }
}

pub(super) fn write_failed(error: &io::Error, offset: u64) -> Errno {
    let hint = match error.raw_os_error() {
        Some(libc::EFBIG) => {
            ": more than bmapfs may write (ulimit -f), or than the file system can hold in one file"
        }
        _ => "",
    };
    log::error!("writing the image at byte {offset}: {error}{hint}");
    errno(error)
}
