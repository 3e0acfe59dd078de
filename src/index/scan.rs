//! Scanning: every block's digest, and the stamps that follow from it.

use std::io;
use std::sync::atomic::Ordering::SeqCst;

use super::partial::Reading;
use super::record::{DIRTY, HASHED, Record, SETTLED, UNREADABLE, WRITTEN};
use super::{Index, Report};
use crate::geometry::{BlockIndex, Geometry};
use crate::image::Fingerprint;
use crate::order::{Ordered, Rank};
use crate::scan::{BlockMap, Cancelled, Found, Hasher, Tally};
use crate::stamp::{REPORTED, STAMPED, STEP, even};

/// Of the blocks that a scan cannot read, about so many are logged one by one.
const MOST_LOGGED: u64 = 10;

impl Index {
    /// SIGHUP: saves, and scans the image again while it is served.
    pub(crate) fn rescan(&self, tally: &Tally) -> io::Result<()> {
        self.follow_size();
        if self.writable {
            self.hash_dirty();
        } else {
            // Blocks that grew; nothing else writes here.
            self.records.for_each(|record| record.clear(DIRTY));
        }
        let fingerprint = if self.evidence.watch {
            self.look_at_image()
        } else {
            Fingerprint::Unknown
        };
        // Unless nobody can write the image, the digests are of a later state from now on.
        if self.evidence.watch || self.writable {
            self.evidence.known.with(|known| known.state = None);
        }
        // From here on: what a handle that is open already was served may be older than `fingerprint`.
        self.evidence.epoch.fetch_add(1, SeqCst);
        self.judge();
        // Nothing that is written later can be of these seconds.
        let (first, highest) = self.seconds_of_rescan();
        // The scan's stamps are shown before it is over.
        if let Err(e) = self.raise_ceiling(highest) {
            log::warn!("{}: the index cannot be saved: {e}", self.source);
        }
        let scanned = self.scan(tally, first, &Reading::All, None);
        self.clockwork.scan_ends_below.store(i64::MIN, SeqCst);
        scanned.map_err(|e| io::Error::new(io::ErrorKind::Interrupted, e))?;
        // A listing that has made its stamp before must not show it after.
        (self.evidence.known).with(|known| known.scanned(fingerprint, self.clock.passed()));
        self.save(true)
    }

    /// For a scan that begins in a mount: the second of its stamps, which is over, and the latest that it can make.
    fn seconds_of_rescan(&self) -> (i64, i64) {
        let mut highest = i64::MIN;
        let last = self.stamp_that_is_over(|| {
            // Listings make one stamp for all blocks meanwhile: not one that the scan makes, too.
            self.evidence.known.with(|_| {
                // For a tool that remembers when it ran, as tar does, only what is later is new. Past what blocks have
                // already, so that none gets a later one that is not over.
                let next = self.clock.now().saturating_add(1);
                let after = self.latest_near().saturating_add(STEP);
                let first = even(next.max(after).max(self.clockwork.floor.load(SeqCst)));
                highest = first.max(self.records.latest()).saturating_add(2 * STEP);
                self.clockwork.scan_ends_below.store(highest + 1, SeqCst);
                first.saturating_add(STEP)
            })
        });
        (last - STEP, highest)
    }

    /// Brings all records up to date, reading as much as `reading` says. New stamps are of second `now`, which must not
    /// lie below the floor. Makes `map`, if all is read.
    pub(super) fn scan(
        &self,
        tally: &Tally,
        now: i64,
        reading: &Reading,
        map: Option<&BlockMap>,
    ) -> Result<(), Cancelled> {
        let geometry = self.geometry();
        let (read, taken) = (tally.read.load(SeqCst), tally.taken.load(SeqCst));
        let so_far = Ordered::new(Rank::Leaf, SoFar::default());
        let map = map.filter(|_| *reading == Reading::All);
        let hasher = Hasher::new(self.image.as_ref(), geometry, &self.zeros).mapping(map);
        // What is not read is what it was: with a digest that is not settled it gets a new stamp all the same.
        for block in (0..geometry.blocks()).filter_map(BlockIndex::new) {
            if !self.is_read(block, reading, geometry) {
                let known = Found::Digest(self.records.with(block, |record| record.digest));
                self.scanned(block, known, now, geometry, &so_far);
            }
        }
        let wanted = |block| {
            let wanted = self.is_read(block, reading, geometry);
            if wanted {
                self.records.with(block, |record| record.clear(WRITTEN));
            }
            wanted
        };
        let scanned = hasher.scan(self.threads, tally, &wanted, &|block, found| {
            self.scanned(block, found, now, geometry, &so_far);
        });
        // One later than all others, for borg, which forgets every file that is as new as the newest.
        let SoFar { mut report, last } = so_far.with(std::mem::take);
        if let Some(last) = last {
            self.make_later(last);
        }
        report.blocks = geometry.blocks();
        report.bytes_read = tally.read.load(SeqCst) - read;
        report.seconds = tally.seconds_since(taken);
        self.counters.report.with(|last| *last = report);
        self.counters.given.forget_newest();
        self.log_unreadable();
        scanned
    }

    /// The block that was the last to get a new stamp gets one that is [`STEP`] later.
    pub(super) fn make_later(&self, last: BlockIndex) {
        self.records.with(last, |record| {
            // Unless somebody was quicker.
            if !record.has(REPORTED) {
                record.restamp(record.stamp.second().saturating_add(STEP));
            }
        });
    }

    /// Gives all blocks new stamps without reading any: `first`, and the last one [`STEP`] more. Nobody may have seen a
    /// stamp that is not earlier.
    pub(super) fn stamp_all(&self, first: i64) {
        let geometry = self.geometry();
        for block in (0..geometry.blocks()).filter_map(BlockIndex::new) {
            self.records.with(block, |record| {
                record.renew(first);
                if record.has(HASHED) {
                    record.add(SETTLED);
                }
            });
        }
        if let Some(last) = geometry.last() {
            self.make_later(last);
        }
        self.counters.given.forget_newest();
    }

    /// The blocks of which the last attempt to read them failed: how many, and the first.
    #[must_use]
    pub(crate) fn unreadable(&self) -> Option<(u64, BlockIndex)> {
        self.records.unreadable(self.geometry().blocks())
    }

    /// Whether the image has blocks, and the last attempt to read each of them failed.
    pub(super) fn is_all_unreadable(&self) -> bool {
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
        so_far: &Ordered<SoFar>,
    ) {
        let digest = match found {
            Found::Digest(digest) => Some(digest),
            Found::Unreadable(e) => {
                if so_far.with(|so_far| so_far.report.unreadable) < MOST_LOGGED {
                    log::warn!("{}: block {block} cannot be read: {e}", self.source);
                }
                None
            }
        };
        let zero = digest == Some(self.zeros.of(geometry.span(block).len()));
        let (before, restamped) = self.records.with(block, |record| {
            let before = *record;
            let restamped = match digest {
                Some(digest) => record.found(digest, now),
                None => record.not_found(now, self.salvage),
            };
            (before, restamped)
        });
        if restamped {
            self.counters.restamped(block);
        }
        so_far.with(|SoFar { report, last }| {
            report.zero += u64::from(zero);
            let count = if digest.is_none() {
                &mut report.unreadable
            } else if !restamped {
                &mut report.unchanged
            } else if !before.has(STAMPED) {
                &mut report.new
            } else if digest == Some(before.digest) {
                &mut report.unsettled
            } else {
                &mut report.changed
            };
            *count += 1;
            *last = (*last).max(restamped.then_some(block));
        });
    }
}

/// What a scan's workers have found so far.
#[derive(Debug, Default)]
struct SoFar {
    report: Report,
    /// The last block that got a new stamp.
    last: Option<BlockIndex>,
}
