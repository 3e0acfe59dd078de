//! Growing and shrinking a regular image by its block files (--resize).
//!
//! Invariant: the image's end moves only by what is done to its last block: creating one past it, writing past it,
//! truncating it, removing it. A block that was created and not yet written is the pending one: it is empty, and
//! lies just behind the image.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{MutexGuard, PoisonError};

use super::Blocks;
use crate::geometry::{BlockIndex, FileOffset, Geometry};
use crate::volume::{Errno, Result};

/// No block is pending.
pub(super) const NONE: u64 = u64::MAX;

impl Blocks {
    /// Whether a block has a place in the image, be it an empty one just behind the end.
    pub(super) fn has(&self, geometry: Geometry, block: BlockIndex) -> bool {
        geometry.has(block) || self.pending.load(SeqCst) == block.get()
    }

    /// Held while the image's end moves; nothing to wait for where it never does.
    pub(super) fn alone(&self) -> Option<MutexGuard<'_, ()>> {
        let resize = self.config.resize;
        resize.then(|| self.resizing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the image ends in this block, so that its length is the block's to change.
    fn ends_in(&self, block: BlockIndex) -> bool {
        match self.pending.load(SeqCst) {
            NONE => self.geometry().last() == Some(block),
            pending => pending == block.get(),
        }
    }

    /// Makes the image `size` bytes long; the block `pending` is then the empty one behind it.
    fn set_size(&self, size: u64, pending: Option<BlockIndex>) -> Result<()> {
        let grown = Geometry::new(size, self.config.block_size).map_err(|_| Errno::EFBIG)?;
        let mut geometry = self
            .geometry
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = *geometry;
        self.image
            .set_len(size)
            .map_err(|e| self.write_failed(&e, size))?;
        *geometry = grown;
        self.pending
            .store(pending.map_or(NONE, BlockIndex::get), SeqCst);
        drop(geometry);
        self.times.resized(grown);
        let base = self.times.base(self.image.as_ref());
        for block in (before.blocks()..grown.blocks()).filter_map(|number| grown.block(number)) {
            self.times.came_back(block, base);
        }
        // The block that was last has another length now.
        if let Some(last) = before
            .last()
            .filter(|last| grown.has(*last) && before.span(*last) != grown.span(*last))
        {
            self.changed(last);
        }
        Ok(())
    }

    /// Creates the block `block`, which lies past the image's end: all before it becomes part of the image.
    pub(super) fn create_past_end(&self, block: BlockIndex) -> Result<()> {
        let _alone = self.alone();
        if self.has(self.geometry(), block) {
            return Ok(());
        }
        self.check_last_is_whole();
        self.check_latch()?;
        let start = self.config.block_size.start_of(block);
        self.set_size(start, Some(block))?;
        self.appear(block);
        Ok(())
    }

    /// Makes room for bytes of the last block up to `end`, if it may have them.
    pub(super) fn grow_for(&self, block: BlockIndex, end: FileOffset) -> Result<()> {
        let start = self.config.block_size.start_of(block);
        let wanted = start + end.get().min(self.config.block_size.bytes());
        if !self.config.resize || wanted <= self.geometry().image_size() {
            return Ok(());
        }
        let _alone = self.alone();
        if wanted > self.geometry().image_size() && self.ends_in(block) {
            self.set_size(wanted, None)?;
        }
        Ok(())
    }

    /// Truncates the last block. `None`: it is not for this mount or not the last.
    pub(super) fn truncate_last(&self, block: BlockIndex, len: u64) -> Option<Result<()>> {
        if !self.config.resize || len > self.config.block_size.bytes() {
            return None;
        }
        let _alone = self.alone();
        if !self.ends_in(block) {
            return None;
        }
        let start = self.config.block_size.start_of(block);
        let pending = (len == 0).then_some(block);
        Some(
            self.check_latch()
                .and_then(|()| self.set_size(start + len, pending))
                .inspect(|()| {
                    self.lengths.cut(block, len, self.whole());
                    if pending.is_none() {
                        self.changed(block);
                    }
                }),
        )
    }

    /// Removes the last block's file: the image ends with the highest block that still has one. `None`: it is not
    /// for this mount or not the last.
    pub(super) fn remove_last(&self, block: BlockIndex) -> Option<Result<()>> {
        if !self.config.resize {
            return None;
        }
        let _alone = self.alone();
        if !self.ends_in(block) {
            return None;
        }
        let left = match &self.listing {
            Some(listing) => listing
                .present
                .last_below(block.get())
                .map_or(0, |last| last.get() + 1),
            None => block.get(),
        };
        Some(self.check_latch().and_then(|()| {
            self.set_size(left * self.config.block_size.bytes(), None)?;
            self.lengths.forget(|other| other.get() >= left);
            self.vanish(block);
            Ok(())
        }))
    }
}
