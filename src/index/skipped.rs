//! Which of the blocks that got new times were not copied (promise P26): nobody has opened them since.

use super::Index;
use super::record::{UNOPENED, UNREADABLE};
use crate::geometry::BlockIndex;

impl Index {
    /// The block was opened for reading.
    pub(crate) fn opened(&self, block: BlockIndex) {
        self.records.with(block, |record| record.clear(UNOPENED));
    }

    /// Whether the block got a new stamp at the beginning of this use, or in a scan of it, and nobody has opened it for
    /// reading since, nor written it, although it can be read. Giving it a time is not enough: that is what a restore
    /// does with files that it takes for equal.
    pub(crate) fn was_skipped(&self, block: BlockIndex) -> bool {
        let record = self.records.peek(block);
        record.is_some_and(|record| record.has(UNOPENED) && !record.has(UNREADABLE))
    }
}
