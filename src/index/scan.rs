//! Scanning: every block's digest, and the stamps that follow from it.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::record::{DIRTY, REPORTED, Record, STAMPED, STEP, UNREADABLE, WRITTEN, even};
use super::{Index, Report, lock};
use crate::geometry::{BlockIndex, Geometry};
use crate::image::Fingerprint;
use crate::scan::{BlockMap, Cancelled, Found, Hasher, Tally};

/// Of the blocks that a scan cannot read, about so many are logged one by one.
const MOST_LOGGED: u64 = 10;

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
            // For a tool that remembers when it ran, as tar does, only what is later is new. Past what blocks have
            // already, so that none gets a later one that is not over.
            let next = self.clock.now().saturating_add(1);
            let after = self.latest_near().saturating_add(STEP);
            let first = even(next.max(after).max(self.floor.load(SeqCst)));
            let highest = first.max(self.latest()).saturating_add(2 * STEP);
            self.scan_ends_below.store(highest + 1, SeqCst);
            first.saturating_add(STEP)
        });
        let (first, highest) = (last - STEP, self.scan_ends_below.load(SeqCst) - 1);
        // The scan's stamps are shown before it is over.
        if let Err(e) = self.raise_ceiling(highest) {
            log::warn!("the index cannot be saved: {e}");
        }
        let scanned = self.scan(tally, first, &|_| true, None);
        self.scan_ends_below.store(i64::MIN, SeqCst);
        scanned.map_err(|e| io::Error::new(io::ErrorKind::Interrupted, e))?;
        *lock(&self.fingerprint) = fingerprint;
        self.vouched.store(false, SeqCst);
        {
            // A listing that has made its stamp before must not show it after.
            let mut overlay = lock(&self.overlay);
            *overlay = None;
            self.scans.fetch_add(1, SeqCst);
            self.ready();
        }
        self.save(true)
    }

    /// Scans the blocks for which `wanted` is true and gives stamps by the rule, those of second `now`,
    /// which must not lie below the floor. Makes `map` of all blocks, if they are all wanted.
    pub(super) fn scan(
        &self,
        tally: &Tally,
        now: i64,
        wanted: &(dyn Fn(BlockIndex) -> bool + Sync),
        map: Option<&BlockMap>,
    ) -> Result<(), Cancelled> {
        let start = std::time::Instant::now();
        let geometry = self.geometry();
        let before = tally.read.load(SeqCst);
        let counts = Counts::default();
        let hasher = Hasher::new(self.image.as_ref(), geometry, &self.zeros).mapping(map);
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
        self.log_unreadable();
        scanned
    }

    /// The blocks of which the last attempt to read them failed: how many, and the first.
    #[must_use]
    pub fn unreadable(&self) -> Option<(u64, BlockIndex)> {
        let blocks = usize::try_from(self.geometry().blocks()).unwrap_or(usize::MAX);
        let (mut count, mut first, mut number) = (0, None, 0);
        let counted = self.records.runs(blocks, |run, len| {
            for record in run.unwrap_or_default() {
                if record.has(UNREADABLE) {
                    count += 1;
                    first = first.or(BlockIndex::new(number));
                }
                number += 1;
            }
            if run.is_none() {
                number += len as u64;
            }
            Ok::<(), Infallible>(())
        });
        counted.ok()?;
        first.map(|first| (count, first))
    }

    /// Whether the image has blocks, and the last attempt to read each of them failed.
    #[must_use]
    pub fn is_all_unreadable(&self) -> bool {
        self.unreadable()
            .is_some_and(|(count, _)| count == self.geometry().blocks())
    }

    /// Whether the last attempt to read the block failed.
    pub(crate) fn is_unreadable(&self, block: BlockIndex) -> bool {
        self.records.with(block, |record| record.has(UNREADABLE))
    }

    /// A client could not be served the block.
    pub(crate) fn cannot_read(&self, block: BlockIndex) {
        self.records.with(block, Record::unreadable);
    }

    fn log_unreadable(&self) {
        let Some((count, first)) = self.unreadable() else {
            return;
        };
        let fate = if self.salvage {
            "they get new times, so that what can be read of them is copied"
        } else {
            "they keep their times and cannot be opened, so that a backup keeps what it has of them; \
             copy what is left of the source with ddrescue, or use -o salvage"
        };
        log::error!(
            "{}: {count} blocks cannot be read, the first is {first}: {fate}",
            self.source
        );
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
                if counts.unreadable.load(SeqCst) < MOST_LOGGED {
                    log::warn!("block {block} cannot be read: {e}");
                }
                None
            }
        };
        if digest.is_some_and(|digest| digest == self.zeros.of(geometry.span(block).len())) {
            counts.zero.fetch_add(1, SeqCst);
        }
        let (before, restamped) = self.records.with(block, |record| {
            let before = *record;
            let restamped = match digest {
                Some(digest) => record.found(digest, now),
                None => record.not_found(now, self.salvage),
            };
            (before, restamped)
        });
        let count = if digest.is_none() {
            &counts.unreadable
        } else if !restamped {
            &counts.unchanged
        } else if !before.has(STAMPED) {
            &counts.new
        } else if digest == Some(before.digest) {
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
