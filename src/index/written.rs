//! What becomes of stamps and digests while blocks are written through the mount.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::record::{
    DIRTY, HASHED, OPENED, OWN, READ, REPORTED, Record, SETTLED, STAMPED, TOUCHED, UNREADABLE,
    WRITTEN,
};
use super::{FURTHEST, Index, lock};
use crate::geometry::BlockIndex;
use crate::scan::Hasher;

impl Index {
    /// The block was, or may have been, written: called after the write, before it is acknowledged.
    pub(crate) fn wrote(&self, block: BlockIndex) {
        let overlaid = self.overlay_stamp().is_some();
        self.make_stamp(block, |record| {
            self.touch(record);
            record.set(DIRTY | WRITTEN | OPENED);
            record.clear(HASHED | SETTLED | UNREADABLE);
            !record.has(STAMPED)
                || record.has_any(REPORTED | READ)
                || (overlaid && !record.has(OWN))
        });
        if overlaid {
            self.records.with(block, |record| record.set(OWN));
        }
    }

    /// A block that the image had before is part of it again, with other content.
    pub(crate) fn came_back(&self, block: BlockIndex) {
        if self
            .records
            .peek(block)
            .is_some_and(|record| record.has(STAMPED))
        {
            self.records.with(block, |record| record.set(REPORTED));
            self.wrote(block);
        }
    }

    /// A client sets the block's time.
    pub(crate) fn set(&self, block: BlockIndex, stamp: i64) {
        let stamp = stamp.clamp(-FURTHEST, FURTHEST);
        let replaced = self.records.with(block, |record| {
            self.touch(record);
            let replaced = record.stamp;
            record.set_stamp(stamp);
            record.set(OWN);
            replaced
        });
        // Looked for only when somebody asks: a restore sets back the newest of all with every block.
        self.newest_is_stale.fetch_or(
            replaced > stamp && replaced >= self.newest.load(SeqCst),
            SeqCst,
        );
        self.newest.fetch_max(stamp, SeqCst);
    }

    /// A handle that can write the block was opened.
    pub(crate) fn writer_came(&self, block: BlockIndex) {
        *lock(&self.writers).entry(block).or_insert(0) += 1;
    }

    /// Such a handle was closed. With the last one, what was written is hashed.
    pub(crate) fn writer_left(&self, block: BlockIndex) {
        {
            let mut writers = lock(&self.writers);
            if let Some(count) = writers.get_mut(&block) {
                *count -= 1;
                if *count > 0 {
                    return;
                }
                writers.remove(&block);
            }
        }
        if self.records.with(block, |record| record.has(DIRTY)) {
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
        match hasher.hash(block, &AtomicU64::new(0)) {
            Ok(digest) => self.records.with(block, |record| {
                if !record.has(DIRTY) && record.hashes == turn {
                    record.hashed(digest);
                }
            }),
            Err(e) => {
                log::warn!("block {block} cannot be hashed after it was written: {e}");
                self.records.with(block, |record| {
                    if !record.has(DIRTY) && record.hashes == turn {
                        record.unreadable();
                    }
                });
            }
        }
    }

    pub(super) fn hash_dirty(&self) {
        for number in 0..self.geometry().blocks() {
            if let Some(block) = BlockIndex::new(number)
                && self.records.with(block, |record| record.has(DIRTY))
            {
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
        let floor = self.clock.now().max(self.floor.load(SeqCst));
        let mut wanted = self.ceiling.load(SeqCst);
        loop {
            let ceiling = wanted;
            let made = self.records.with(block, |record| {
                if !needed(record) {
                    return Ok((record.stamp, false));
                }
                let stamp = record.next_stamp(floor);
                if stamp > ceiling {
                    return Err(stamp);
                }
                record.restamp(stamp);
                Ok((stamp, true))
            });
            match made {
                Ok((stamp, new)) => {
                    self.made.fetch_add(i64::from(new), SeqCst);
                    self.newest.fetch_max(stamp, SeqCst);
                    if new {
                        self.last_made.fetch_max(stamp, SeqCst);
                    }
                    // It may lie past what was scanned, and must not get this stamp again.
                    self.count.fetch_max(block.get() + 1, SeqCst);
                    return stamp;
                }
                Err(stamp) => {
                    if let Err(e) = self.raise_ceiling(stamp) {
                        log::warn!(
                            "the index cannot be saved: {e}; a crash would now cost a whole new sync"
                        );
                    }
                    wanted = stamp.max(self.ceiling.load(SeqCst));
                }
            }
        }
    }

    fn touch(&self, record: &mut Record) {
        if !record.has(TOUCHED) {
            record.set(TOUCHED);
            self.touched.fetch_add(1, SeqCst);
        }
    }
}
