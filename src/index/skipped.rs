//! Which of the blocks that a scan gave new times to were not copied (promise P26): nobody has opened them since.

use super::Index;
use super::record::{OPENED, RENEWED, UNREADABLE};
use crate::geometry::BlockIndex;

impl Index {
    /// The block was opened for reading.
    pub(crate) fn opened(&self, block: BlockIndex) {
        self.records.with(block, |record| record.set(OPENED));
    }

    /// Of a block that got a new stamp in a scan of this use, and that can be read: whether nobody has opened it for
    /// reading since, nor written it. Giving it a time is not enough: that is what a restore does with files that it
    /// takes for equal. `None`: it is no such block.
    pub(crate) fn was_skipped(&self, block: BlockIndex) -> Option<bool> {
        let record = self.records.peek(block)?;
        (record.has(RENEWED) && !record.has(UNREADABLE)).then(|| !record.has(OPENED))
    }
}
