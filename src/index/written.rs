//! What becomes of stamps and digests while blocks are written through the mount.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::Index;
use super::record::{DIRTY, HASHED, OWN, Record, SETTLED, UNOPENED, UNREAD, UNREADABLE, WRITTEN};
use crate::geometry::BlockIndex;
use crate::scan::Hasher;
use crate::stamp::{REPORTED, STAMPED};

impl Index {
    /// The block was, or may have been, written: called after the write, before it is acknowledged.
    pub(crate) fn wrote(&self, block: BlockIndex) {
        let overlaid = self.evidence.overlay().is_some();
        self.make_stamp(block, |record| {
            self.counters.given.touch(&mut record.stamp);
            record.add(DIRTY | WRITTEN);
            record.clear(HASHED | SETTLED | UNREADABLE | UNREAD | UNOPENED);
            record.stamp.is_known() || (overlaid && !record.has(OWN))
        });
        if overlaid {
            self.records.with(block, |record| record.add(OWN));
        }
    }

    /// A block that the image had before is part of it again, with other content.
    pub(crate) fn came_back(&self, block: BlockIndex) {
        let known = self.records.peek(block);
        if known.is_some_and(|record| record.has(STAMPED)) {
            self.records.with(block, |record| record.add(REPORTED));
            self.wrote(block);
        }
    }

    /// A client sets the block's time.
    pub(crate) fn set(&self, block: BlockIndex, stamp: i64) {
        let (replaced, stamp) = self.records.with(block, |record| {
            self.counters.given.touch(&mut record.stamp);
            let replaced = record.has(STAMPED).then_some(record.stamp.second());
            record.set_stamp(stamp);
            record.add(OWN);
            (replaced, record.stamp.second())
        });
        self.counters.given.set(replaced, stamp);
    }

    /// A handle that can write the block was opened.
    pub(crate) fn writer_came(&self, block: BlockIndex) {
        (self.writers).with(|writers| *writers.entry(block).or_insert(0) += 1);
    }

    /// Such a handle was closed. With the last one, what was written is hashed.
    pub(crate) fn writer_left(&self, block: BlockIndex) {
        let others = self.writers.with(|writers| {
            let count = writers.get_mut(&block).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if count == 0 {
                writers.remove(&block);
            }
            count > 0
        });
        if !others && self.records.with(block, |record| record.has(DIRTY)) {
            self.hash_again(block);
        }
    }

    fn hash_again(&self, block: BlockIndex) {
        // Cleared first: a write that comes meanwhile sets it again, and the digest is not believed; nor if that write
        // has been hashed already.
        let turn = self.records.with(block, |record| {
            record.clear(DIRTY);
            record.hashes = record.hashes.wrapping_add(1);
            record.hashes
        });
        let geometry = self.geometry();
        let hasher = Hasher::new(self.image.as_ref(), geometry, &self.zeros);
        let found = hasher.hash(block, &AtomicU64::new(0));
        if let Err(e) = &found {
            log::warn!(
                "{}: block {block} cannot be hashed after it was written: {e}",
                self.source
            );
        }
        self.records.with(block, |record| match found {
            _ if record.has(DIRTY) || record.hashes != turn => {}
            Ok(digest) => record.hashed(digest),
            Err(_) => record.unreadable(),
        });
    }

    pub(super) fn hash_dirty(&self) {
        for block in (0..self.geometry().blocks()).filter_map(BlockIndex::new) {
            if self.records.with(block, |record| record.has(DIRTY)) {
                self.hash_again(block);
            }
        }
    }

    /// Gives a block a new stamp if `needed` says so, and returns the one it has then.
    pub(super) fn make_stamp(
        &self,
        block: BlockIndex,
        needed: impl Fn(&mut Record) -> bool,
    ) -> i64 {
        let floor = self.clock.now().max(self.clockwork.floor.load(SeqCst));
        let mut ceiling = self.clockwork.ceiling.load(SeqCst);
        loop {
            let made = self.records.with(block, |record| {
                if !needed(record) {
                    return Ok((record.stamp.second(), false));
                }
                let stamp = record.next_stamp(floor);
                if stamp > ceiling {
                    return Err(stamp);
                }
                record.restamp(stamp);
                Ok((stamp, true))
            });
            let too_high = match made {
                Err(stamp) => stamp,
                Ok((stamp, new)) => {
                    self.counters.given.written(stamp, new);
                    if new {
                        self.clockwork.last_made.fetch_max(stamp, SeqCst);
                    }
                    // It may lie past what was scanned, and must not get this stamp again.
                    self.count.fetch_max(block.get() + 1, SeqCst);
                    return stamp;
                }
            };
            if let Err(e) = self.raise_ceiling(too_high) {
                log::warn!(
                    "{}: the index cannot be saved: {e}; a crash would now cost a whole new sync",
                    self.source
                );
            }
            ceiling = too_high.max(self.clockwork.ceiling.load(SeqCst));
        }
    }
}
