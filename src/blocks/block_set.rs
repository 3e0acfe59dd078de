//! Which blocks have a file in a sparse directory: one bit a block.
//!
//! The directory is the map of the image: a block without data has no file.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{PoisonError, RwLock};

use crate::geometry::{BlockIndex, Geometry};

const BITS: u64 = 64;

/// A set of blocks.
#[derive(Debug, Default)]
pub(super) struct BlockSet {
    words: RwLock<Vec<AtomicU64>>,
}

impl BlockSet {
    /// Every block.
    pub(super) fn all(geometry: Geometry) -> Self {
        let present = Self::default();
        (0..geometry.blocks())
            .filter_map(|number| geometry.block(number))
            .for_each(|block| present.insert(block));
        present
    }

    /// From now on those of `others` have a file, and no other.
    pub(super) fn become_those(&self, others: Self) {
        let others = others.words.into_inner();
        *self.words.write().unwrap_or_else(PoisonError::into_inner) =
            others.unwrap_or_else(PoisonError::into_inner);
    }

    /// Whether the block has a file.
    pub(super) fn has(&self, block: BlockIndex) -> bool {
        let (word, bit) = place(block);
        let words = self.words.read().unwrap_or_else(PoisonError::into_inner);
        words
            .get(word)
            .is_some_and(|word| word.load(SeqCst) & bit != 0)
    }

    /// From now on the block has a file.
    pub(super) fn insert(&self, block: BlockIndex) {
        let (word, bit) = place(block);
        {
            let words = self.words.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(word) = words.get(word) {
                word.fetch_or(bit, SeqCst);
                return;
            }
        }
        let mut words = self.words.write().unwrap_or_else(PoisonError::into_inner);
        if words.len() <= word {
            words.resize_with(word + 1, AtomicU64::default);
        }
        words[word].fetch_or(bit, SeqCst);
    }

    /// From now on it has none.
    pub(super) fn remove(&self, block: BlockIndex) {
        let (word, bit) = place(block);
        let words = self.words.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(word) = words.get(word) {
            word.fetch_and(!bit, SeqCst);
        }
    }

    /// The first block from number `from` on that has a file.
    pub(super) fn next(&self, from: u64) -> Option<BlockIndex> {
        let words = self.words.read().unwrap_or_else(PoisonError::into_inner);
        let mut index = usize::try_from(from / BITS).ok()?;
        let mut mask = u64::MAX << (from % BITS);
        while let Some(word) = words.get(index) {
            let found = word.load(SeqCst) & mask;
            if found != 0 {
                return BlockIndex::new(index as u64 * BITS + u64::from(found.trailing_zeros()));
            }
            mask = u64::MAX;
            index += 1;
        }
        None
    }

    /// The last block with a number below `below` that has a file.
    pub(super) fn last_below(&self, below: u64) -> Option<BlockIndex> {
        let words = self.words.read().unwrap_or_else(PoisonError::into_inner);
        let most = (words.len() as u64 * BITS).min(below);
        (0..most.div_ceil(BITS)).rev().find_map(|index| {
            let word = words[usize::try_from(index).ok()?].load(SeqCst);
            let kept = if (index + 1) * BITS > most {
                word & !(u64::MAX << (most % BITS))
            } else {
                word
            };
            let bit = u64::from(kept.checked_ilog2()?);
            BlockIndex::new(index * BITS + bit)
        })
    }
}

fn place(block: BlockIndex) -> (usize, u64) {
    (block.as_usize() / 64, 1 << (block.get() % BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(
            steps in prop::collection::vec((0_u64..300, any::<bool>()), 0..60), ask in 0_u64..320
        ) {
            let present = BlockSet::default();
            let mut model = BTreeSet::new();
            for (number, insert) in steps {
                let block = BlockIndex::new(number).unwrap();
                if insert {
                    present.insert(block);
                    model.insert(number);
                } else {
                    present.remove(block);
                    model.remove(&number);
                }
            }
            let block = BlockIndex::new(ask).unwrap();
            prop_assert_eq!(present.has(block), model.contains(&ask));
            prop_assert_eq!(present.next(ask).map(BlockIndex::get), model.range(ask..).next().copied());
            let below = present.last_below(ask).map(BlockIndex::get);
            prop_assert_eq!(below, model.range(..ask).next_back().copied());
        }
    }
}
