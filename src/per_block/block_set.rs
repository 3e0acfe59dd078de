//! A set of blocks, one bit a block. It grows to the highest block that was ever put in.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{PoisonError, RwLock};

use crate::geometry::{BlockIndex, Geometry};

const BITS: u64 = 64;

/// A set of blocks.
#[derive(Debug, Default)]
pub(crate) struct BlockSet {
    words: RwLock<Vec<AtomicU64>>,
}

impl FromIterator<BlockIndex> for BlockSet {
    fn from_iter<I: IntoIterator<Item = BlockIndex>>(blocks: I) -> Self {
        let set = Self::default();
        blocks.into_iter().for_each(|block| set.insert(block));
        set
    }
}

impl BlockSet {
    /// Every block of an image.
    pub(crate) fn all(geometry: Geometry) -> Self {
        (0..geometry.blocks())
            .filter_map(|number| geometry.block(number))
            .collect()
    }

    /// It holds those of `others` from now on, and no other.
    pub(crate) fn become_those(&self, others: Self) {
        let others = others.words.into_inner();
        *self.words.write().unwrap_or_else(PoisonError::into_inner) =
            others.unwrap_or_else(PoisonError::into_inner);
    }

    /// Whether the block is in it.
    pub(crate) fn has(&self, block: BlockIndex) -> bool {
        let (word, bit) = place(block);
        let words = self.words.read().unwrap_or_else(PoisonError::into_inner);
        words
            .get(word)
            .is_some_and(|word| word.load(SeqCst) & bit != 0)
    }

    /// Puts a block in.
    pub(crate) fn insert(&self, block: BlockIndex) {
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

    /// Takes a block out.
    pub(crate) fn remove(&self, block: BlockIndex) {
        let (word, bit) = place(block);
        let words = self.words.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(word) = words.get(word) {
            word.fetch_and(!bit, SeqCst);
        }
    }

    /// The first block from number `from` on.
    pub(crate) fn next(&self, from: u64) -> Option<BlockIndex> {
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

    /// The last block with a number below `below`.
    pub(crate) fn last_below(&self, below: u64) -> Option<BlockIndex> {
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

    /// How many blocks are in it.
    pub(crate) fn count(&self) -> u64 {
        let words = self.words.read().unwrap_or_else(PoisonError::into_inner);
        let ones = |word: &AtomicU64| u64::from(word.load(SeqCst).count_ones());
        words.iter().map(ones).sum()
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
            let set = BlockSet::default();
            let mut model = BTreeSet::new();
            for (number, insert) in steps {
                let block = BlockIndex::new(number).unwrap();
                if insert {
                    set.insert(block);
                    model.insert(number);
                } else {
                    set.remove(block);
                    model.remove(&number);
                }
            }
            let block = BlockIndex::new(ask).unwrap();
            prop_assert_eq!(set.has(block), model.contains(&ask));
            prop_assert_eq!(set.next(ask).map(BlockIndex::get), model.range(ask..).next().copied());
            prop_assert_eq!(set.count(), model.len() as u64);
            let below = set.last_below(ask).map(BlockIndex::get);
            prop_assert_eq!(below, model.range(..ask).next_back().copied());
        }
    }
}
