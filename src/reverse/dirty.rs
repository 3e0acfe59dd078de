//! Which block files were written and are not durable yet.
//!
//! Invariant: a block leaves the list only by a sync that began after its last write ended.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use crate::geometry::BlockIndex;

/// Blocks to be synced, and whether the directory is.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    blocks: Mutex<DirtyBlocks>,
    names: Mutex<bool>,
}

#[derive(Debug, Default)]
struct DirtyBlocks {
    /// With a number that is another after each write.
    marks: HashMap<BlockIndex, u64>,
    last: u64,
}

impl Dirty {
    /// After a write to a block, before it is acknowledged.
    pub(super) fn wrote(&self, block: BlockIndex) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.last += 1;
        let mark = blocks.last;
        blocks.marks.insert(block, mark);
    }

    /// The blocks to be synced, with what [`Dirty::synced`] wants to know afterwards.
    pub(super) fn pending(&self) -> Vec<(BlockIndex, u64)> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pending: Vec<_> = blocks.marks.iter().map(|(&b, &mark)| (b, mark)).collect();
        pending.sort_unstable();
        pending
    }

    /// The same for one block, if it is to be synced.
    pub(super) fn mark_of(&self, block: BlockIndex) -> Option<u64> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.marks.get(&block).copied()
    }

    /// A block was synced, or that failed: then what was written is not to be had again.
    pub(super) fn synced(&self, block: BlockIndex, mark: u64) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.marks.get(&block) == Some(&mark) {
            blocks.marks.remove(&block);
        }
    }

    /// A name was given to a file.
    pub(super) fn named(&self) {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Syncs the directory if it needs that; whoever comes meanwhile waits.
    pub(super) fn sync_names(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if *names {
            sync()?;
            *names = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_during_a_sync_is_not_forgotten() {
        let dirty = Dirty::default();
        let block = BlockIndex::new(5).unwrap();
        dirty.wrote(block);
        let (_, mark) = dirty.pending()[0];
        dirty.wrote(block);
        dirty.synced(block, mark);
        assert_eq!(dirty.pending().len(), 1);
        dirty.synced(block, dirty.mark_of(block).unwrap());
        assert_eq!(dirty.pending(), []);
    }

    #[test]
    fn names_are_synced_once_and_again_after_a_failure() {
        let dirty = Dirty::default();
        dirty.sync_names(|| panic!("nothing to do")).unwrap();
        dirty.named();
        assert!(dirty.sync_names(|| Err(io::Error::other("no"))).is_err());
        dirty.sync_names(|| Ok(())).unwrap();
        dirty.sync_names(|| panic!("done")).unwrap();
    }
}
