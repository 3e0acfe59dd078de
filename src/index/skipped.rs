//! Which of the blocks that got new times were not copied (promise P26): nobody has opened them since.

use super::Index;
use super::record::{Record, UNOPENED, UNREAD, UNREADABLE, UNSERVED};
use crate::geometry::BlockIndex;

impl Index {
    /// The block was opened for reading.
    pub(crate) fn opened(&self, block: BlockIndex) {
        self.records.with(block, |record| {
            record.clear(UNOPENED);
            self.copied_unwatched(record);
        });
    }

    /// The block is opened for reading, or read. Where nobody looks at what is served, that is taken for all of it.
    pub(super) fn copied_unwatched(&self, record: &mut Record) {
        if !self.evidence.watch && !record.has(UNREAD) {
            record.clear(UNSERVED);
        }
    }

    /// What is read of the block is not looked at: it is taken for all of it.
    pub(crate) fn copied_unseen(&self, block: BlockIndex) {
        self.records.with(block, |record| record.clear(UNSERVED));
    }

    /// Whether nobody was served all of the block since it got its stamp, in a run before this one or by a part in this
    /// one, although it can be read.
    pub(crate) fn is_uncopied(&self, block: BlockIndex) -> bool {
        let record = self.records.peek(block);
        record.is_some_and(|record| {
            record.has(UNSERVED) && !record.has(UNOPENED) && !record.has(UNREADABLE)
        })
    }

    /// Whether the block got a new stamp at the beginning of this use, or in a scan of it, and nobody has opened it for
    /// reading since, nor written it, although it can be read. Giving it a time is not enough: that is what a restore
    /// does with files that it takes for equal.
    pub(crate) fn was_skipped(&self, block: BlockIndex) -> bool {
        let record = self.records.peek(block);
        record.is_some_and(|record| record.has(UNOPENED) && !record.has(UNREADABLE))
    }
}
