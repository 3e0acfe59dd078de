//! Sparse directories (--sparse): blocks without data have no file.

use super::Blocks;
use super::block_set::BlockSet;
use crate::geometry::{BlockIndex, Geometry};
use crate::volume::{Errno, Result};

impl Blocks {
    /// Whether the block has a file.
    pub(super) fn listed(&self, geometry: Geometry, block: BlockIndex) -> bool {
        self.has(geometry, block)
            && self
                .present
                .as_ref()
                .is_none_or(|present| present.has(block))
    }

    /// The first block with number `from` or more that has a file.
    pub(super) fn next_listed(&self, geometry: Geometry, from: u64) -> Option<BlockIndex> {
        let block = match &self.present {
            Some(present) => present.next(from)?,
            None => BlockIndex::new(from)?,
        };
        self.has(geometry, block).then_some(block)
    }

    /// The block has a file from now on: it was written or created.
    pub(super) fn appear(&self, block: BlockIndex) {
        if let Some(present) = &self.present {
            present.insert(block);
        }
    }

    /// It has none from now on.
    pub(super) fn vanish(&self, block: BlockIndex) {
        if let Some(present) = &self.present {
            present.remove(block);
        }
    }

    /// Removing a block's file makes the block zeros, where the image can a hole. Also of the first and the last
    /// block, for tools that remove before they create; at the next mount these have a file again.
    pub(super) fn remove_block(&self, block: BlockIndex) -> Result<()> {
        if let Some(removed) = self.remove_last(block) {
            return removed;
        }
        if self.present.is_none() {
            return Err(Errno::EPERM);
        }
        self.check_latch()?;
        self.zero_block(block, self.geometry().span(block))?;
        self.vanish(block);
        Ok(())
    }

    /// Of a sparse directory that only others write: takes the listing again.
    pub(super) fn list_again(&self) -> std::io::Result<()> {
        let (Some(present), false) = (&self.present, self.config.writable) else {
            return Ok(());
        };
        let geometry = self.geometry();
        let found = match self.times.index() {
            Some(_) => None,
            None => Some(BlockSet::of_extents(self.image.as_ref(), geometry)?),
        };
        for block in (0..geometry.blocks()).filter_map(|number| geometry.block(number)) {
            let ends = block.get() == 0 || geometry.last() == Some(block);
            let has_data = match (&found, self.times.index()) {
                (Some(found), _) => found.has(block),
                (None, Some(index)) => !index.is_zero(block),
                (None, None) => true,
            };
            if ends || has_data {
                present.insert(block);
            } else {
                present.remove(block);
            }
        }
        Ok(())
    }

    /// Of a sparse directory: what the image's growth by others has brought.
    pub(super) fn appear_since(&self, before: Geometry, now: Geometry) {
        let Some(present) = &self.present else {
            return;
        };
        match BlockSet::of_extents(self.image.as_ref(), now) {
            Ok(found) => {
                let first = before.blocks().saturating_sub(1);
                let mut from = first;
                while let Some(block) = found.next(from) {
                    present.insert(block);
                    from = block.get() + 1;
                }
            }
            Err(e) => log::warn!("the image has grown, but its holes cannot be read: {e}"),
        }
        if let Some(last) = now.last() {
            present.insert(last);
        }
    }
}
