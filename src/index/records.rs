//! What the records of all blocks say together.

use super::record::{HASHED, Record, SETTLED, UNREADABLE};
use crate::geometry::BlockIndex;
use crate::per_block::PerBlock;
use crate::stamp::STAMPED;

impl PerBlock<Record> {
    /// The greatest of what `second` says of the blocks that have a stamp.
    pub(super) fn greatest(&self, second: impl Fn(&Record) -> i64) -> i64 {
        let mut greatest = i64::MIN;
        self.for_each(|record| {
            if record.has(STAMPED) {
                greatest = greatest.max(second(record));
            }
        });
        greatest
    }

    /// The latest stamp that any block ever had.
    pub(super) fn latest(&self) -> i64 {
        self.greatest(|record| record.stamp.latest())
    }

    /// Whether each of the first `count` blocks has a stamp that is settled.
    pub(super) fn all_settled(&self, count: u64) -> bool {
        let settled = |block| self.with(block, |record| record.has(HASHED | SETTLED | STAMPED));
        (0..count).filter_map(BlockIndex::new).all(settled)
    }

    /// Of the first `count` blocks those that could not be read when that was tried last: how many, and the first.
    pub(super) fn unreadable(&self, count: u64) -> Option<(u64, BlockIndex)> {
        let bad = |block: &BlockIndex| {
            self.peek(*block)
                .is_some_and(|record| record.has(UNREADABLE))
        };
        let mut bad = (0..count).filter_map(BlockIndex::new).filter(bad);
        let first = bad.next()?;
        Some((1 + bad.count() as u64, first))
    }
}
