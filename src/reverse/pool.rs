//! Open block files, a limited number of them; the ones that were used last stay.
//!
//! Invariant: a block has one slot for as long as anybody uses it, so that two writers cannot both make it their
//! own; and nothing is opened, closed, read or written under the lock that all blocks share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::geometry::BlockIndex;
use crate::image::Source;

/// The file of a block, open.
#[derive(Debug)]
pub(super) struct BlockFile {
    pub(super) source: Source,
    /// Opened for writing, which only a file without other names is.
    pub(super) writable: bool,
}

/// The place of a block's file. Work on the file is done under the shared lock; who opens or replaces it is alone.
#[derive(Debug, Default)]
pub(super) struct Slot {
    file: RwLock<Option<BlockFile>>,
}

impl Slot {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Option<BlockFile>> {
        self.file.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Option<BlockFile>> {
        self.file.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slots of all blocks that were used lately.
#[derive(Debug)]
pub(super) struct Pool {
    slots: Mutex<Slots>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Slots {
    entries: HashMap<BlockIndex, PoolEntry>,
    uses: u64,
}

#[derive(Debug)]
struct PoolEntry {
    slot: Arc<Slot>,
    /// When it was used last, counted in uses.
    used: u64,
}

impl Pool {
    /// Keeps up to `limit` files open; more only while more are in use at once.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            slots: Mutex::default(),
            limit,
        }
    }

    /// The slot of a block. If another has to make room for it, `retire` is called with that before it is closed.
    pub(super) fn slot(&self, block: BlockIndex, retire: impl Fn(BlockIndex, &Slot)) -> Arc<Slot> {
        let (slot, old) = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.uses += 1;
            let used = slots.uses;
            let entry = slots.entries.entry(block).or_insert_with(|| PoolEntry {
                slot: Arc::default(),
                used,
            });
            entry.used = used;
            let slot = Arc::clone(&entry.slot);
            (slot, slots.make_room(self.limit))
        };
        for (block, old) in old {
            retire(block, &old);
        }
        slot
    }
}

impl Slots {
    /// Takes out the slots that were not used for longest and are not in use.
    fn make_room(&mut self, limit: usize) -> Vec<(BlockIndex, Arc<Slot>)> {
        let mut old = Vec::new();
        while self.entries.len() > limit {
            let idle = self.entries.iter().filter(|(_, entry)| {
                // New users come through here, so nobody can begin to use it now.
                Arc::strong_count(&entry.slot) == 1
            });
            let Some(block) = idle
                .min_by_key(|(_, entry)| entry.used)
                .map(|(block, _)| *block)
            else {
                break;
            };
            old.extend(self.entries.remove(&block).map(|entry| (block, entry.slot)));
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn the_least_recently_used_makes_room_unless_it_is_in_use() {
        let pool = Pool::new(3);
        let retired = RefCell::new(Vec::new());
        let slot = |number| {
            pool.slot(BlockIndex::new(number).unwrap(), |block, _| {
                retired.borrow_mut().push(block.get());
            })
        };
        let first = slot(0);
        slot(1);
        slot(2);
        slot(1);
        assert!(retired.borrow().is_empty());
        slot(3);
        assert_eq!(*retired.borrow(), [2], "0 is in use, 1 was used after 2");
        assert!(Arc::ptr_eq(&slot(0), &first), "one slot for all its users");
        slot(4);
        assert_eq!(*retired.borrow(), [2, 1]);
        drop(first);
        slot(5);
        slot(6);
        slot(7);
        assert_eq!(*retired.borrow(), [2, 1, 3, 0, 4]);
    }
}
