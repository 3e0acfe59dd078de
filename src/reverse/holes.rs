//! Where the image has data: holes are blocks without a file, and holes in block files (promise P6).

use std::io;

use super::{Reverse, SECTOR};
use crate::geometry::{BlockIndex, FileOffset, Span};
use crate::image::{Image, Source};

impl Reverse {
    /// The first block that a run of the image touches.
    pub(super) fn block_of(&self, run: Span) -> Option<BlockIndex> {
        let number = run.start / self.geometry.block_size().bytes();
        self.geometry.block(number).filter(|_| !run.is_empty())
    }

    /// The rest of a run of the image from its first byte on that is not in a hole; empty if all of it is hole.
    pub(super) fn next_data(&self, run: Span) -> io::Result<Span> {
        let from = |start: u64| Span::new(start.min(run.end), run.end);
        let mut left = run;
        while let Some(block) = self.block_of(left) {
            let span = self.geometry.span(block);
            if !self.present.has(block) {
                let next = self.present.next(block.get());
                left = from(next.map_or(run.end, |next| self.geometry.span(next).start));
                continue;
            }
            if !self.directory.believed {
                return Ok(left);
            }
            if !self.takes_nothing(block) {
                let inside = self.geometry.file_offset(block, left.start).get();
                let data = self.in_file(block, |source| source.next_data(inside))?;
                if let Some(data) = data.filter(|data| *data < span.len()) {
                    let data = FileOffset::new(data);
                    return Ok(from(self.geometry.image_offset(block, data)));
                }
            }
            left = from(span.end);
        }
        Ok(left)
    }

    /// The rest of a run of the image from its first byte on that is in a hole; empty if none is.
    pub(super) fn next_hole(&self, run: Span) -> io::Result<Span> {
        let from = |start: u64| Span::new(start.min(run.end), run.end);
        let mut left = run;
        while let Some(block) = self.block_of(left) {
            let span = self.geometry.span(block);
            if !self.present.has(block) {
                return Ok(left);
            }
            // What takes its full length counts as full, without being opened.
            if self.directory.believed && self.sectors.of(block) * SECTOR < span.len() {
                let inside = self.geometry.file_offset(block, left.start).get();
                let hole = self.in_file(block, |source| source.next_hole(inside))?;
                if hole < span.len() {
                    let hole = FileOffset::new(hole);
                    return Ok(from(self.geometry.image_offset(block, hole)));
                }
            }
            left = from(span.end);
        }
        Ok(left)
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
}
