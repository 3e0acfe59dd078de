//! Which blocks have a file in a sparse directory: one bit a block.
//!
//! The directory is the map of the image: a block without data has no file.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{PoisonError, RwLock};

use crate::geometry::{BlockIndex, Geometry};
use crate::image::Image;

const BITS: u64 = 64;

/// A set of blocks.
#[derive(Debug, Default)]
pub struct BlockSet {
    words: RwLock<Vec<AtomicU64>>,
}

impl BlockSet {
    /// No block.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The blocks in which the image has data now, by its word on holes.
    pub fn of_extents(image: &dyn Image, geometry: Geometry) -> std::io::Result<Self> {
        let present = Self::none();
        let unit = geometry.block_size().bytes();
        let end = geometry.image_size();
        let mut from = 0;
        while from < end {
            let Some(data) = image.next_data(from)?.filter(|data| *data < end) else {
                break;
            };
            let hole = image.next_hole(data)?.clamp(data + 1, end);
            for number in data / unit..hole.div_ceil(unit) {
                if let Some(block) = BlockIndex::new(number) {
                    present.insert(block);
                }
            }
            // What lies before the next block's start is known to have data.
            from = hole.max((data / unit + 1) * unit);
        }
        Ok(present)
    }

    /// Whether the block has a file.
    pub fn has(&self, block: BlockIndex) -> bool {
        let (word, bit) = place(block);
        let words = self.words.read().unwrap_or_else(PoisonError::into_inner);
        words
            .get(word)
            .is_some_and(|word| word.load(SeqCst) & bit != 0)
    }

    /// From now on the block has a file.
    pub fn insert(&self, block: BlockIndex) {
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
    pub fn remove(&self, block: BlockIndex) {
        let (word, bit) = place(block);
        let words = self.words.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(word) = words.get(word) {
            word.fetch_and(!bit, SeqCst);
        }
    }

    /// The first block from number `from` on that has a file.
    pub fn next(&self, from: u64) -> Option<BlockIndex> {
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
    pub fn last_below(&self, below: u64) -> Option<BlockIndex> {
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
            let present = BlockSet::none();
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
