//! The index: a digest and a stamp for every block, kept between mounts, so that a block file's time changes when,
//! and only when, the block's content does (promises P20 to P24).
//!
//! Invariant: it can only make a sync slower, never wrong. Whatever is in doubt gets a new stamp.

mod file;
mod format;
mod name;
mod open;
mod partial;
mod record;
mod served;
mod store;

#[cfg(test)]
mod model;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::changes::State;
use crate::clock::Clock;
use crate::geometry::{BlockIndex, Geometry};
use crate::image::{Image, Moment};
use crate::per_block::PerBlock;
use crate::scan::{Cancelled, Digest, Found, Hasher, Tally, ZeroDigests};

use record::{
    DIRTY, HASHED, OWN, READ, REPORTED, Record, SETTLED, STAMPED, STEP, TORN, TOUCHED, WRITTEN,
};
use store::Store;

pub use name::{default_path, mount_name};
pub use open::{OpenError, Purpose, Request};
pub(crate) use served::Served;

/// What a scan found, in blocks.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Report {
    /// Blocks of the image.
    pub blocks: u64,
    /// Content that the index had otherwise.
    pub changed: u64,
    /// Blocks that the index did not have.
    pub new: u64,
    /// Same content, but new stamps, because what was copied with the old ones is not certain.
    pub unsettled: u64,
    /// Blocks that cannot be read.
    pub unreadable: u64,
    /// The same content with the same stamp.
    pub unchanged: u64,
    /// Of all: blocks of zeros.
    pub zero: u64,
    /// Bytes that were read of the image.
    pub bytes_read: u64,
    /// How long it took.
    pub seconds: f64,
}

/// A stamp that a client sets is cut to this many seconds, so that there are later ones.
const FURTHEST: i64 = i64::MAX / 4;

/// The longest wait at the end, for a clock that is being set back.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The index of one image at one block size, in use.
#[derive(Debug)]
pub struct Index {
    image: Arc<dyn Image>,
    clock: Arc<dyn Clock>,
    store: Box<dyn Store>,
    source: String,
    records: PerBlock<Record>,
    zeros: ZeroDigests,
    geometry: RwLock<Geometry>,
    /// As many records as were ever saved; those past the image's end stay as they are.
    count: AtomicU64,
    /// Before this second no stamp is made.
    floor: AtomicI64,
    /// The latest second of a stamp that may be shown before the next save.
    ceiling: AtomicI64,
    /// The latest stamp of all blocks.
    newest: AtomicI64,
    newest_is_stale: AtomicBool,
    /// Before the last finished scan.
    moment: Mutex<Moment>,
    /// The state of the image that the digests describe, if somebody can tell what changes after it.
    state: Mutex<Option<State>>,
    /// What others may have written is watched for: without -w, and with -o force.
    watch: bool,
    writable: bool,
    /// One stamp for all blocks, since the image was written while it is mounted; and the moment it is for.
    overlay: Mutex<Option<Overlay>>,
    /// Listings after the image was written get new stamps.
    restamp_listings: bool,
    touched: AtomicU64,
    /// How many stamps were made for blocks that were written.
    made: AtomicI64,
    /// Changes with every scan.
    epoch: AtomicU64,
    /// Of all scans before the present one.
    meanwhile: Mutex<Meanwhile>,
    report: Mutex<Report>,
    /// The blocks that got new stamps in the last scan, if somebody wants to know.
    restamped: Option<Mutex<Vec<u64>>>,
    /// Open handles that can write, by block.
    writers: Mutex<HashMap<BlockIndex, u64>>,
    /// Held while the index is saved.
    saving: Mutex<()>,
    threads: usize,
}

#[derive(Debug, Clone)]
struct Overlay {
    stamp: i64,
    moment: Moment,
}

/// Whether an image was written while it was served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Meanwhile {
    /// Nothing shows that it was.
    #[default]
    Quiet,
    /// Nothing would show it.
    Unknown,
    /// It was.
    Written,
}

impl Index {
    /// The stamp that a block shows. From now on it counts as reported.
    pub(crate) fn show(&self, block: BlockIndex) -> i64 {
        if !self.geometry().has(block) {
            self.follow_size();
            if !self.geometry().has(block) {
                self.came_back(block);
            }
        }
        let overlay = self.overlay_stamp();
        let shown = self.records.with(block, |record| {
            if let Some(stamp) = overlay.filter(|_| !record.has(OWN)) {
                return Some(stamp);
            }
            record.set(REPORTED);
            record.has(STAMPED).then_some(record.stamp)
        });
        // A block that has appeared since the scan: nobody has it, and it is not settled.
        shown.unwrap_or_else(|| {
            self.make_stamp(block, |record| !record.has(STAMPED));
            self.records.with(block, |record| {
                record.set(REPORTED);
                record.stamp
            })
        })
    }

    /// The newest stamp of all.
    pub(crate) fn newest(&self) -> i64 {
        if self.newest_is_stale.swap(false, SeqCst) {
            self.find_newest();
        }
        let newest = self.newest.load(SeqCst);
        lock(&self.overlay)
            .as_ref()
            .map_or(newest, |overlay| newest.max(overlay.stamp))
    }

    /// The block is about to be read.
    pub(crate) fn read(&self, block: BlockIndex) {
        if self.writable {
            self.records.with(block, |record| record.set(READ));
        }
    }

    /// The block was, or may have been, written: called after the write, before it is acknowledged.
    pub(crate) fn wrote(&self, block: BlockIndex) {
        let overlaid = self.overlay_stamp().is_some();
        self.make_stamp(block, |record| {
            self.touch(record);
            record.set(DIRTY | WRITTEN);
            record.clear(HASHED | SETTLED);
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
                    record.digest = digest;
                    record.set(HASHED | SETTLED);
                }
            }),
            Err(e) => log::warn!("block {block} cannot be hashed after it was written: {e}"),
        }
    }

    /// A handle was served all it ever will be. Unless that was the whole block with the content that the index
    /// names, what its client has is not certain.
    pub(crate) fn served(&self, block: BlockIndex, digest: Option<Digest>, epoch: u64) {
        if !self.watch {
            return;
        }
        let before_scan = epoch != self.epoch.load(SeqCst);
        self.records.with(block, |record| {
            if before_scan {
                record.clear(SETTLED);
            }
            if !record.has(HASHED) || digest != Some(record.digest) {
                record.set(TORN);
            }
        });
    }

    /// Changes with every scan: what `served` is told with a handle that was opened before.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    /// Whether what handles are served must be hashed.
    pub(crate) fn watches(&self) -> bool {
        self.watch
    }

    /// At each listing of the root: if the image was written since the scan, all blocks get new stamps.
    pub(crate) fn refresh(&self) {
        if !self.watch || !self.restamp_listings {
            return;
        }
        let now = self.image.moment().unwrap_or(Moment::Unknown);
        let mut overlay = lock(&self.overlay);
        let since = overlay
            .as_ref()
            .map_or_else(|| lock(&self.moment).clone(), |known| known.moment.clone());
        // Evidence, not proof: a file whose times are too young to prove anything would else never show its own.
        if now.differs_from(&since) == Some(false) {
            return;
        }
        let first = overlay.is_none();
        let latest = overlay
            .as_ref()
            .map_or(i64::MIN, |known| known.stamp)
            // Not the newest that is shown: a client may have set a time back.
            .max(self.latest());
        let stamp = self
            .clock
            .now()
            .max(self.floor.load(SeqCst))
            .max(latest.saturating_add(STEP));
        // Nobody knows what content goes with it, so no block may get it later.
        self.floor.fetch_max(stamp.saturating_add(STEP), SeqCst);
        if self.raise_ceiling(stamp).is_err() && first {
            log::warn!("the index cannot be saved; stamps made now may come again after a crash");
        }
        self.records.for_each(|record| record.clear(OWN));
        *overlay = Some(Overlay { stamp, moment: now });
        drop(overlay);
        if first {
            log::warn!(
                "the image was, or may have been, written since it was scanned: all blocks show new times until SIGHUP"
            );
        }
    }

    /// How many stamps were made for blocks that were written.
    pub(crate) fn made(&self) -> i64 {
        self.made.load(SeqCst)
    }

    /// How many blocks were written or given a time.
    pub(crate) fn touched(&self) -> u64 {
        self.touched.load(SeqCst)
    }

    /// Whether the block is known to be all zeros.
    #[must_use]
    pub fn is_zero(&self, block: BlockIndex) -> bool {
        let zeros = self.zeros.of(self.geometry().span(block).len());
        self.records
            .with(block, |record| record.has(HASHED) && record.digest == zeros)
    }

    /// The image may have grown before anybody could say so.
    fn follow_size(&self) {
        let known = self.geometry();
        let size = self.image.size().unwrap_or(0);
        if size > known.image_size()
            && let Ok(grown) = Geometry::new(size, known.block_size())
        {
            self.resized(grown);
        }
    }

    /// The image has another size.
    pub(crate) fn resized(&self, geometry: Geometry) {
        let before = std::mem::replace(
            &mut *self
                .geometry
                .write()
                .unwrap_or_else(PoisonError::into_inner),
            geometry,
        );
        self.count.fetch_max(geometry.blocks(), SeqCst);
        // An image that was longer once: what is known of those blocks is not of these.
        for number in before.blocks()..geometry.blocks() {
            if let Some(block) = BlockIndex::new(number) {
                self.came_back(block);
            }
        }
    }

    /// What the last scan found.
    #[must_use]
    pub fn report(&self) -> Report {
        lock(&self.report).clone()
    }

    /// Ends the use of the index: hashes what is not hashed, decides what is settled, saves.
    pub fn close(&self) -> io::Result<Meanwhile> {
        self.store.ending();
        // Hashing makes a block settled: what was served counts after that.
        if self.writable {
            self.hash_dirty();
        }
        let meanwhile = self.judge();
        if self.writable {
            *lock(&self.moment) = Moment::Unknown;
        }
        self.save(false)?;
        // The last stamps may lie a little ahead of the clock. A mount that knows nothing of them must not make
        // them again: that of a lost index, or one for a restore.
        let (newest, now) = (self.latest(), self.clock.now());
        if now < newest && newest <= now.saturating_add(2 * STEP) {
            self.clock.wait_past(newest - 1, LONGEST_WAIT);
        }
        Ok(meanwhile)
    }

    /// SIGHUP: saves, and scans the image again while it is served.
    pub fn rescan(&self, tally: &Tally) -> io::Result<()> {
        self.follow_size();
        if self.writable {
            self.hash_dirty();
        } else {
            // Blocks that grew; nothing else writes here.
            self.records.for_each(|record| record.clear(DIRTY));
        }
        let moment = if self.watch {
            self.image.moment().unwrap_or(Moment::Unknown)
        } else {
            Moment::Unknown
        };
        // Unless nobody can write the image, the digests are of a later state from now on.
        if self.watch || self.writable {
            *lock(&self.state) = None;
        }
        // From here on: what a handle that is open already was served may be older than `moment`.
        self.epoch.fetch_add(1, SeqCst);
        self.judge();
        let now = self.clock.now();
        // The scan's stamps are shown before it is over.
        let highest = now.max(self.floor.load(SeqCst)).max(self.latest());
        if let Err(e) = self.raise_ceiling(highest.saturating_add(2 * STEP)) {
            log::warn!("the index cannot be saved: {e}");
        }
        self.scan(tally, now, &|_| true)
            .map_err(|e| io::Error::new(io::ErrorKind::Interrupted, e))?;
        *lock(&self.moment) = moment;
        *lock(&self.overlay) = None;
        self.save(true)
    }

    /// Whether the image was written since the scan began; then what was served counts (promise P24).
    fn judge(&self) -> Meanwhile {
        if !self.watch {
            return Meanwhile::Quiet;
        }
        let now = self.image.moment().unwrap_or(Moment::Unknown);
        let (certain, differs) = {
            let then = lock(&self.moment);
            (
                now.proves_unwritten_since(&then, true),
                now.differs_from(&then),
            )
        };
        self.records.for_each(|record| {
            // If it is certain, it stays noted: it may have been served only since.
            if !certain && record.has(TORN) {
                record.clear(SETTLED | TORN);
            }
        });
        let present = match differs {
            Some(true) => Meanwhile::Written,
            Some(false) => Meanwhile::Quiet,
            None => Meanwhile::Unknown,
        };
        let mut meanwhile = lock(&self.meanwhile);
        if present != Meanwhile::Quiet {
            *meanwhile = present;
        }
        *meanwhile
    }

    fn hash_dirty(&self) {
        for number in 0..self.geometry().blocks() {
            if let Some(block) = BlockIndex::new(number)
                && self.records.with(block, |record| record.has(DIRTY))
            {
                self.hash_again(block);
            }
        }
    }

    /// Scans the blocks for which `wanted` is true and gives stamps by the rule, those of second `now`.
    fn scan(
        &self,
        tally: &Tally,
        now: i64,
        wanted: &(dyn Fn(BlockIndex) -> bool + Sync),
    ) -> Result<(), Cancelled> {
        let start = std::time::Instant::now();
        let geometry = self.geometry();
        let before = tally.read.load(SeqCst);
        let counts = Counts::default();
        let now = now.max(self.floor.load(SeqCst));
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

    /// Gives a block a new stamp if `needed` says so, and returns the one it has then.
    fn make_stamp(&self, block: BlockIndex, needed: impl Fn(&mut Record) -> bool) -> i64 {
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

    /// The stamp that all blocks show but those with one of their OWN.
    fn overlay_stamp(&self) -> Option<i64> {
        if !self.watch {
            return None;
        }
        lock(&self.overlay).as_ref().map(|overlay| overlay.stamp)
    }

    fn touch(&self, record: &mut Record) {
        if !record.has(TOUCHED) {
            record.set(TOUCHED);
            self.touched.fetch_add(1, SeqCst);
        }
    }

    fn find_newest(&self) {
        let mut newest = i64::MIN;
        self.records.for_each(|record| {
            if record.has(STAMPED) {
                newest = newest.max(record.stamp);
            }
        });
        self.newest.store(newest, SeqCst);
    }

    fn geometry(&self) -> Geometry {
        *self.geometry.read().unwrap_or_else(PoisonError::into_inner)
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
