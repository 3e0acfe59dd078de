//! Which blocks have a file, and how much space each takes. Nothing here asks the file system.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::geometry::{BlockIndex, Geometry};
use crate::per_block::PerBlock;

const WORD: u64 = 64;

/// One bit a block: whether it has a file. Blocks only ever appear.
#[derive(Debug)]
pub(super) struct BlockSet {
    words: Vec<AtomicU64>,
    blocks: u64,
}

impl BlockSet {
    pub(super) fn new(geometry: Geometry, there: impl Iterator<Item = BlockIndex>) -> Self {
        let blocks = geometry.blocks();
        let present = Self {
            words: (0..blocks.div_ceil(WORD))
                .map(|_| AtomicU64::new(0))
                .collect(),
            blocks,
        };
        there.for_each(|block| present.add(block));
        present
    }

    fn word(&self, number: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(number / WORD).ok()?)
    }

    pub(super) fn has(&self, block: BlockIndex) -> bool {
        self.word(block.get())
            .is_some_and(|word| word.load(SeqCst) >> (block.get() % WORD) & 1 == 1)
    }

    pub(super) fn add(&self, block: BlockIndex) {
        if let Some(word) = self.word(block.get()) {
            word.fetch_or(1 << (block.get() % WORD), SeqCst);
        }
    }

    /// The first block from `number` on that has a file.
    pub(super) fn next(&self, number: u64) -> Option<BlockIndex> {
        let mut at = number;
        while at < self.blocks {
            let word = self.word(at)?.load(SeqCst) >> (at % WORD);
            if word != 0 {
                return BlockIndex::new(at + u64::from(word.trailing_zeros()));
            }
            at = (at / WORD + 1) * WORD;
        }
        None
    }

    pub(super) fn count(&self) -> u64 {
        let ones = |word: &AtomicU64| u64::from(word.load(SeqCst).count_ones());
        self.words.iter().map(ones).sum()
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::BlockSize;

    fn block(number: u64) -> BlockIndex {
        BlockIndex::new(number).unwrap()
    }

    #[test]
    fn the_next_block_is_found_across_words() {
        let geometry = Geometry::new(1000 * 4096, BlockSize::MIN).unwrap();
        let there = [0, 1, 63, 64, 500, 999].map(block);
        let present = BlockSet::new(geometry, there.into_iter());
        for (from, next) in [
            (0, Some(0)),
            (1, Some(1)),
            (2, Some(63)),
            (64, Some(64)),
            (65, Some(500)),
            (501, Some(999)),
            (1000, None),
            (u64::MAX, None),
        ] {
            assert_eq!(present.next(from), next.map(block), "from {from}");
        }
        assert_eq!(present.count(), 6);
        assert!(present.has(block(63)) && !present.has(block(62)));
        present.add(block(62));
        assert!(present.has(block(62)));
        // What the image does not have.
        present.add(block(99_999_999));
        assert!(!present.has(block(99_999_999)));
    }
}
