//! Sparse directories (--sparse): blocks without data have no file.

use super::Blocks;
use crate::geometry::{BlockIndex, Geometry};
use crate::per_block::BlockSet;
use crate::scan::Tally;
use crate::volume::{Errno, Result};

impl Blocks {
    /// Whether the block has a file.
    pub(super) fn listed(&self, geometry: Geometry, block: BlockIndex) -> bool {
        self.has(geometry, block)
            && self
                .listing
                .as_ref()
                .is_none_or(|listing| listing.present.has(block))
    }

    /// The first block with number `from` or more that has a file.
    pub(super) fn next_listed(&self, geometry: Geometry, from: u64) -> Option<BlockIndex> {
        let block = match &self.listing {
            Some(listing) => listing.present.next(from)?,
            None => BlockIndex::new(from)?,
        };
        self.has(geometry, block).then_some(block)
    }

    /// The block has a file from now on: it was written or created.
    pub(super) fn appear(&self, block: BlockIndex) {
        if let Some(listing) = &self.listing {
            listing.present.insert(block);
        }
    }

    /// It has none from now on.
    pub(super) fn vanish(&self, block: BlockIndex) {
        if let Some(listing) = &self.listing {
            listing.present.remove(block);
        }
    }

    /// Removing a block's file makes the block zeros, where the image can a hole. Also of the first and the last
    /// block, for tools that remove before they create; at the next mount these have a file again.
    pub(super) fn remove_block(&self, block: BlockIndex) -> Result<()> {
        if let Some(removed) = self.remove_last(block) {
            return removed;
        }
        if self.listing.is_none() {
            return Err(Errno::EPERM);
        }
        self.check_latch()?;
        self.zero_block(block, self.geometry().span(block))?;
        self.lengths.forget(|other| other == block);
        self.vanish(block);
        Ok(())
    }

    /// Of a sparse directory that only others write, at each listing: follows what they write.
    pub(super) fn follow_holes(&self) {
        let theirs = !self.config.writable && !self.is_snapshot();
        if let Some(listing) = self.listing.as_ref().filter(|_| theirs) {
            let index = self.times.index().map(AsRef::as_ref);
            listing.follow(self.image.as_ref(), self.geometry(), index);
        }
    }

    /// SIGHUP: takes the listing of a sparse directory again that only others write, and what could not be read is worth
    /// another try.
    pub(super) fn list_again(&self, tally: &Tally) -> std::io::Result<()> {
        let index = self.times.index().map(AsRef::as_ref);
        let unreadable = match &self.listing {
            Some(listing) if !self.config.writable => {
                listing.look_again(self.image.as_ref(), self.geometry(), index, tally)?
            }
            _ => BlockSet::default(),
        };
        if index.is_none() {
            self.try_all_again_but(unreadable);
        }
        Ok(())
    }
}
