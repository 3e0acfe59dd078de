//! Scanning: every block's digest, and the stamps that follow from it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::record::{DIRTY, HASHED, REPORTED, STAMPED, STEP, WRITTEN, before, even};
use super::{Index, Report, lock};
use crate::geometry::{BlockIndex, Geometry};
use crate::image::Fingerprint;
use crate::scan::{Cancelled, Found, Hasher, Tally};

impl Index {
    /// SIGHUP: saves, and scans the image again while it is served.
    pub fn rescan(&self, tally: &Tally) -> io::Result<()> {
        self.follow_size();
        if self.writable {
            self.hash_dirty();
        } else {
            // Blocks that grew; nothing else writes here.
            self.records.for_each(|record| record.clear(DIRTY));
        }
        let fingerprint = if self.watch {
            self.image.fingerprint().unwrap_or(Fingerprint::Unknown)
        } else {
            Fingerprint::Unknown
        };
        // Unless nobody can write the image, the digests are of a later state from now on.
        if self.watch || self.writable {
            *lock(&self.state) = None;
        }
        // From here on: what a handle that is open already was served may be older than `fingerprint`.
        self.epoch.fetch_add(1, SeqCst);
        self.judge();
        // Nothing that is written later can be of these seconds.
        let last = self.stamp_that_is_over(|| {
            // Listings make one stamp for all blocks meanwhile: not one that the scan makes, too.
            let _no_listing = lock(&self.overlay);
            // Past what blocks have already, so that none gets a later one that is not over.
            let after = self.last_near().saturating_add(STEP);
            let first = before(self.clock.now()).max(self.floor.load(SeqCst));
            let first = even(first.max(after));
            let highest = first.max(self.latest()).saturating_add(2 * STEP);
            self.scan_ends_below.store(highest + 1, SeqCst);
            first.saturating_add(STEP)
        });
        let (first, highest) = (last - STEP, self.scan_ends_below.load(SeqCst) - 1);
        // The scan's stamps are shown before it is over.
        if let Err(e) = self.raise_ceiling(highest) {
            log::warn!("the index cannot be saved: {e}");
        }
        let scanned = self.scan(tally, first, &|_| true);
        self.scan_ends_below.store(i64::MIN, SeqCst);
        scanned.map_err(|e| io::Error::new(io::ErrorKind::Interrupted, e))?;
        *lock(&self.fingerprint) = fingerprint;
        self.vouched.store(false, SeqCst);
        *lock(&self.overlay) = None;
        self.ready();
        self.save(true)
    }

    /// Scans the blocks for which `wanted` is true and gives stamps by the rule, those of second `now`,
    /// which must not lie below the floor.
    pub(super) fn scan(
        &self,
        tally: &Tally,
        now: i64,
        wanted: &(dyn Fn(BlockIndex) -> bool + Sync),
    ) -> Result<(), Cancelled> {
        let start = std::time::Instant::now();
        let geometry = self.geometry();
        let before = tally.read.load(SeqCst);
        let counts = Counts::default();
        let hasher = Hasher::new(self.image.as_ref(), geometry, &self.zeros);
        let wanted = |block| {
            let wanted = wanted(block);
            if wanted {
                self.records.with(block, |record| record.clear(WRITTEN));
            }
            wanted
        };
        let scanned = hasher.scan(self.threads, tally, &wanted, &|block, found| {
            self.scanned(block, found, now, geometry, &counts);
        });
        // One later than all others, for borg, which forgets every file that is as new as the newest.
        if let Some(last) = counts
            .last
            .load(SeqCst)
            .checked_sub(1)
            .and_then(BlockIndex::new)
        {
            self.records.with(last, |record| {
                // Unless somebody was quicker.
                if !record.has(REPORTED) {
                    record.restamp(record.stamp.saturating_add(STEP));
                }
            });
        }
        let mut report = counts.report();
        report.blocks = geometry.blocks();
        report.bytes_read = tally.read.load(SeqCst) - before;
        report.seconds = start.elapsed().as_secs_f64();
        *lock(&self.report) = report;
        self.find_newest();
        scanned
    }

    fn scanned(
        &self,
        block: BlockIndex,
        found: Found,
        now: i64,
        geometry: Geometry,
        counts: &Counts,
    ) {
        let digest = match found {
            Found::Digest(digest) => Some(digest),
            Found::Unreadable(e) => {
                log::warn!("block {block} cannot be read: {e}");
                None
            }
        };
        if digest.is_some_and(|digest| digest == self.zeros.of(geometry.span(block).len())) {
            counts.zero.fetch_add(1, SeqCst);
        }
        let (before, restamped) = self.records.with(block, |record| {
            let before = *record;
            (before, record.found(digest, now))
        });
        let count = if digest.is_none() {
            &counts.unreadable
        } else if !restamped {
            &counts.unchanged
        } else if !before.has(STAMPED) {
            &counts.new
        } else if before.has(HASHED) && digest == Some(before.digest) {
            &counts.unsettled
        } else {
            &counts.changed
        };
        count.fetch_add(1, SeqCst);
        if restamped {
            if let Some(list) = &self.restamped {
                lock(list).push(block.get());
            }
            counts.last.fetch_max(block.get() + 1, SeqCst);
        }
    }
}

/// Counters that a scan's workers share.
#[derive(Debug, Default)]
struct Counts {
    changed: AtomicU64,
    new: AtomicU64,
    unsettled: AtomicU64,
    unreadable: AtomicU64,
    unchanged: AtomicU64,
    zero: AtomicU64,
    /// One more than the index of the last block that got a new stamp.
    last: AtomicU64,
}

impl Counts {
    fn report(&self) -> Report {
        Report {
            changed: self.changed.load(SeqCst),
            new: self.new.load(SeqCst),
            unsettled: self.unsettled.load(SeqCst),
            unreadable: self.unreadable.load(SeqCst),
            unchanged: self.unchanged.load(SeqCst),
            zero: self.zero.load(SeqCst),
            ..Report::default()
        }
    }
}
