//! How much space the file of each block takes. Nothing here asks the file system.

use crate::geometry::BlockIndex;
use crate::per_block::PerBlock;

/// What each block file takes, in units of 512 bytes, when last looked at.
#[derive(Debug)]
pub(super) struct Sectors {
    /// The largest block is 2^21 of them.
    each: PerBlock<u32>,
}

impl Sectors {
    pub(super) fn new() -> Self {
        Self {
            each: PerBlock::new(),
        }
    }

    /// What the block takes now; returns what it took before.
    pub(super) fn note(&self, block: BlockIndex, now: u64) -> u64 {
        let now = u32::try_from(now).unwrap_or(u32::MAX);
        let before = self.each.with(block, |known| std::mem::replace(known, now));
        u64::from(before)
    }

    pub(super) fn of(&self, block: BlockIndex) -> u64 {
        self.each.with(block, |known| u64::from(*known))
    }
}
