//! Where the image has data: holes are blocks without a file, and holes in block files (promise P6).

use std::io;

use super::Reverse;
use crate::geometry::BlockIndex;
use crate::image::{Image, Source};

/// A unit of stat(2)'s `st_blocks`, in bytes.
const SECTOR: u64 = 512;

impl Reverse {
    fn block_at(&self, offset: u64) -> Option<BlockIndex> {
        let number = offset / self.geometry.block_size().bytes();
        self.geometry
            .block(number)
            .filter(|_| offset < self.geometry.image_size())
    }

    /// The first byte at or behind `from` that is not in a hole; `None` if the rest is all hole.
    pub(super) fn next_data(&self, from: u64) -> io::Result<Option<u64>> {
        let mut from = from;
        while let Some(block) = self.block_at(from) {
            let span = self.geometry.span(block);
            if !self.present.has(block) {
                let Some(next) = self.present.next(block.get()) else {
                    return Ok(None);
                };
                from = self.geometry.span(next).start;
                continue;
            }
            if !self.directory.believed {
                return Ok(Some(from));
            }
            if !self.takes_nothing(block) {
                let data = self.in_file(block, |source| source.next_data(from - span.start))?;
                if let Some(data) = data.filter(|data| *data < span.len()) {
                    return Ok(Some(span.start + data));
                }
            }
            from = span.end;
        }
        Ok(None)
    }

    /// The first byte at or behind `from` that is in a hole; the image's end if none is.
    pub(super) fn next_hole(&self, from: u64) -> io::Result<u64> {
        let mut from = from;
        while let Some(block) = self.block_at(from) {
            let span = self.geometry.span(block);
            if !self.present.has(block) {
                return Ok(from);
            }
            // What takes its full length counts as full, without being opened.
            if self.directory.believed && self.sectors.of(block) * SECTOR < span.len() {
                let hole = self.in_file(block, |source| source.next_hole(from - span.start))?;
                if hole < span.len() {
                    return Ok(span.start + hole);
                }
            }
            from = span.end;
        }
        Ok(self.geometry.image_size())
    }

    fn in_file<R>(
        &self,
        block: BlockIndex,
        ask: impl FnOnce(&Source) -> io::Result<R>,
    ) -> io::Result<R> {
        self.with_file(block, |source| {
            source.flush()?;
            ask(source)
        })
        .and_then(|answer| answer)
    }

    /// Whether a block file is all hole without being opened: there may be a million of them.
    fn takes_nothing(&self, block: BlockIndex) -> bool {
        self.sectors.of(block) == 0 && self.directory.takes_nothing(block)
    }

    /// Space that the image takes, in units of 512 bytes.
    pub(super) fn allocated(&self) -> u64 {
        if self.directory.believed {
            return self.sectors.sum();
        }
        let full = self.present.count() * self.geometry.block_size().bytes();
        full.min(self.geometry.image_size()).div_ceil(SECTOR)
    }
}
