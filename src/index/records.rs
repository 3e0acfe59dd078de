//! The records of all blocks.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::order::Rank;
use super::record::{HASHED, Record, SETTLED, UNREADABLE};
use crate::geometry::BlockIndex;
use crate::per_block::PerBlock;
use crate::stamp::STAMPED;

/// A record for every block. Each page of them has a lock, which also keeps a stamp and its flags together.
#[derive(Debug)]
pub(super) struct Records {
    pages: PerBlock<Record>,
    /// As many as were ever saved; those past the image's end stay as they are.
    count: AtomicU64,
}

impl Records {
    /// Empty ones of `count` blocks.
    pub(super) fn new(count: u64) -> Self {
        Self {
            pages: PerBlock::new(),
            count: AtomicU64::new(count),
        }
    }

    /// How many are saved.
    pub(super) fn count(&self) -> u64 {
        self.count.load(SeqCst)
    }

    /// There are at least so many from now on.
    pub(super) fn reach(&self, count: u64) {
        self.count.fetch_max(count, SeqCst);
    }

    /// Works on one record, alone.
    pub(super) fn with<R>(&self, block: BlockIndex, work: impl FnOnce(&mut Record) -> R) -> R {
        let _held = Rank::Records.enter();
        self.pages.with(block, work)
    }

    /// Works on each that was ever used, and some that were not.
    pub(super) fn for_each(&self, work: impl FnMut(&mut Record)) {
        let _held = Rank::Records.enter();
        self.pages.for_each(work);
    }

    /// One record, if its page was ever used.
    pub(super) fn peek(&self, block: BlockIndex) -> Option<Record> {
        let _held = Rank::Records.enter();
        self.pages.peek(block)
    }

    /// Copies of the first `count` records in order, in runs; `None` are so many that were never used. No lock is held
    /// while `work` has them.
    pub(super) fn runs<E>(
        &self,
        count: u64,
        work: impl FnMut(Option<&[Record]>, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.pages.runs(count, work)
    }

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
        let (mut found, mut first, mut number) = (0, None, 0);
        let looked = self.runs(count, |run, len| {
            for (number, record) in (number..).zip(run.unwrap_or_default()) {
                if record.has(UNREADABLE) {
                    found += 1;
                    first = first.or(BlockIndex::new(number));
                }
            }
            number += len as u64;
            Ok::<(), Infallible>(())
        });
        looked.ok()?;
        first.map(|first| (found, first))
    }
}
