//! The index: a digest and a stamp for every block, kept between mounts, so that a block file's time changes when,
//! and only when, the block's content does (promises P20 to P24).
//!
//! Invariant: it can only make a sync slower, never wrong. Whatever is in doubt gets a new stamp.

pub(crate) mod file;
pub(crate) mod format;
mod name;
mod open;
pub(crate) mod over;
mod partial;
pub(crate) mod record;
mod request;
mod save;
mod scan;
mod served;
mod skipped;
mod unsaved;
mod written;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::changes::ImageState;
use crate::clock::Clock;
use crate::geometry::{BlockIndex, Geometry};
use crate::image::{Fingerprint, Image};
use crate::per_block::PerBlock;
use crate::scan::{Digest, ZeroDigests};

use file::Store;
use record::{HASHED, OPENED, OWN, READ, REPORTED, Record, SETTLED, STAMPED, STEP, TORN, even};

pub use file::{FileId, Refused};
pub use name::{default_path, mount_name};
pub use partial::Plan;
pub(crate) use record::LOOKS_BACK;
pub use request::{OpenError, Purpose, Request};
pub(crate) use served::Served;

/// Whether the directory of the index's file that `file` means is `directory`, or below it. `false` if it cannot be told.
#[must_use]
pub fn lies_below(file: &Path, directory: &Path) -> bool {
    file::lies_below(file, directory)
}

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

/// Seconds between a scan and the listing that follows it at once.
const FRESH: i64 = 2;

/// The index of one image at one block size, in use.
#[derive(Debug)]
// Each is a circumstance of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct Index {
    image: Arc<dyn Image>,
    clock: Arc<dyn Clock>,
    store: Box<dyn Store>,
    source: String,
    pub(crate) records: PerBlock<Record>,
    zeros: ZeroDigests,
    geometry: RwLock<Geometry>,
    /// As many records as were ever saved; those past the image's end stay as they are.
    count: AtomicU64,
    /// Before this second no stamp is made.
    floor: AtomicI64,
    /// While a scan goes on in a mount: later than all stamps that it will make.
    scan_ends_below: AtomicI64,
    /// The latest second of a stamp that may be shown before the next save.
    ceiling: AtomicI64,
    /// The latest stamp of all blocks.
    newest: AtomicI64,
    newest_is_stale: AtomicBool,
    /// Before the last finished scan.
    fingerprint: Mutex<Fingerprint>,
    /// The state of the image that the digests describe, if somebody can tell what changes after it.
    state: Mutex<Option<ImageState>>,
    /// Some digests are of that state, on others' word, and not of `fingerprint`, which may be later.
    vouched: AtomicBool,
    /// What others may have written is watched for: without -w, and with -o force.
    watch: bool,
    writable: bool,
    /// One stamp for all blocks, since the image was written while it is mounted; and the moment it is for.
    pub(crate) overlay: Mutex<Option<Overlay>>,
    /// Blocks that cannot be read get new stamps all the same.
    salvage: bool,
    purpose: Purpose,
    /// There is no file, or it could not be saved at the beginning.
    pub(crate) unsaved: AtomicBool,
    /// Until this second one listing may show what the scan found, although nothing proves that it is still so.
    pub(crate) fresh: AtomicI64,
    /// How many scans have ended; changes while `overlay` is held.
    scans: AtomicU64,
    touched: AtomicU64,
    /// How many stamps were made for blocks that were written.
    made: AtomicI64,
    /// The latest of them.
    pub(crate) last_made: AtomicI64,
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
pub(crate) struct Overlay {
    pub(crate) stamp: i64,
    fingerprint: Fingerprint,
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
    pub(crate) fn report_stamp(&self, block: BlockIndex) -> i64 {
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
            if !self.writable && !record.has(REPORTED) {
                return None;
            }
            record.set(REPORTED);
            record.has(STAMPED).then_some(record.stamp)
        });
        // A block that has appeared since the scan: nobody has it, and it is not settled.
        shown.unwrap_or_else(|| {
            self.make_stamp(block, |record| !record.has(STAMPED));
            if !self.writable {
                self.pass_stamp(block);
            }
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
            self.records.with(block, |record| record.set(READ | OPENED));
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
                record.doubt();
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

    /// At each listing of the root: unless it is certain that the image was not written since the scan, all blocks get
    /// new stamps. May wait for a second to end, so that what is written later has a later one.
    pub(crate) fn refresh(&self) {
        if !self.watch || self.purpose != Purpose::Mount {
            return;
        }
        let came = self.clock.now();
        loop {
            let scans = self.scans.load(SeqCst);
            // Before any lock: it may flush the image.
            let now = self.image.fingerprint().unwrap_or(Fingerprint::Unknown);
            if !self.is_news(&now, came) {
                return;
            }
            let first = lock(&self.overlay).is_none();
            let stamp = self.stamp_that_is_over(|| self.stamp_for_all(first));
            let mut overlay = lock(&self.overlay);
            // A scan has ended meanwhile: it has looked later than this listing.
            if self.scans.load(SeqCst) != scans {
                continue;
            }
            self.records.for_each(|record| record.clear(OWN));
            // Another listing may have been quicker, and made a later one.
            if overlay.as_ref().is_none_or(|known| known.stamp < stamp) {
                *overlay = Some(Overlay {
                    stamp,
                    fingerprint: now,
                });
            }
            if first {
                log::warn!(
                    "the image was, or may have been, written since it was scanned: all blocks show new times until \
                     SIGHUP"
                );
            }
            return;
        }
    }

    /// Whether the image was, or may have been, written since the stamps that listings show were made. `came`: the second
    /// in which the listing began that asks.
    fn is_news(&self, now: &Fingerprint, came: i64) -> bool {
        let since = lock(&self.overlay).as_ref().map_or_else(
            || lock(&self.fingerprint).clone(),
            |known| known.fingerprint.clone(),
        );
        if now.proves_unwritten_since(&since, true) {
            return false;
        }
        let unwritten = now.differs_from(&since) == Some(false);
        // Used up by any listing: what it shows is not what the scan found if the image was written.
        let fresh = self.fresh.swap(i64::MIN, SeqCst) >= came;
        !(fresh && unwritten)
    }

    /// A stamp for all blocks that no block has had, nor will have. `first`: say so if it cannot be saved.
    fn stamp_for_all(&self, first: bool) -> i64 {
        let stamp = {
            // A scan that begins makes none of the same.
            let overlay = lock(&self.overlay);
            let latest = overlay
                .as_ref()
                .map_or(i64::MIN, |known| known.stamp)
                // Not the newest that is shown: a client may have set a time back.
                .max(self.latest());
            let stamp = even(
                self.clock
                    .now()
                    .max(self.floor.load(SeqCst))
                    .max(self.scan_ends_below.load(SeqCst))
                    .max(latest.saturating_add(STEP)),
            );
            // Nobody knows what content goes with it, so no block may get it later.
            self.floor.fetch_max(stamp.saturating_add(STEP), SeqCst);
            stamp
        };
        // Saving may take long, and who looks at a block needs that lock.
        if self.raise_ceiling(stamp).is_err() && first {
            log::warn!("the index cannot be saved; stamps made now may come again after a crash");
        }
        stamp
    }

    /// From now on the index can be used. What was scanned just now is what the next listing shows, also where nothing
    /// proves it: that is what `bmapfs run` does all its life.
    fn ready(&self) {
        self.fresh
            .store(self.clock.now().saturating_add(FRESH), SeqCst);
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

    /// Whether the image was certainly not written since the last scan began: its digests are those of now.
    pub(crate) fn is_current(&self) -> bool {
        let now = self.image.fingerprint().unwrap_or(Fingerprint::Unknown);
        now.proves_unwritten_since(&lock(&self.fingerprint), true)
    }

    /// The image may have grown before anybody could say so.
    pub(super) fn follow_size(&self) {
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
        // A last block that has another length now: its digest is that of a shorter or longer one.
        for block in [before.last(), geometry.last()].into_iter().flatten() {
            if before.has(block)
                && geometry.has(block)
                && before.span(block) != geometry.span(block)
            {
                self.records
                    .with(block, |record| record.clear(HASHED | SETTLED));
            }
        }
        // An image that was longer once: what is known of those blocks is not of these.
        for number in before.blocks()..geometry.blocks() {
            if let Some(block) = BlockIndex::new(number) {
                self.came_back(block);
            }
        }
    }

    /// Whether its file describes the image as it is served.
    #[must_use]
    pub fn is_saved(&self) -> bool {
        !self.unsaved.load(SeqCst)
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
        // What was read may be of a later state.
        if meanwhile != Meanwhile::Quiet && lock(&self.state).take().is_some() {
            log::warn!(
                "{}: it was, or may have been, written since the scan began: the next one reads everything",
                self.source
            );
        }
        if self.writable {
            *lock(&self.fingerprint) = Fingerprint::Unknown;
        }
        if !matches!(self.purpose, Purpose::Scan { .. }) {
            // For a tool that remembers when it ran, as tar does, only what is later is new.
            let next = self.clock.now().saturating_add(1);
            self.floor.fetch_max(next, SeqCst);
        }
        let saved = self.save(false);
        if saved.is_ok() {
            self.unsaved.store(false, SeqCst);
        }
        // The last stamps may lie a little ahead of the clock. Nobody must make them again, and nothing that is written
        // later may have their second: a mount that knows nothing of them would show it.
        self.wait_for_stamps();
        // Not even a scan must make one that was not noted: its stamps lie back.
        let shown = self.latest().max(self.floor.load(SeqCst));
        if self.unsaved.load(SeqCst) && self.note(shown).is_err() {
            self.let_pass();
        }
        // That was said at the beginning.
        if !self.unsaved.load(SeqCst) {
            saved?;
        }
        Ok(meanwhile)
    }

    /// Whether the image was written since the scan began; then what was served counts (promise P24).
    pub(super) fn judge(&self) -> Meanwhile {
        if !self.watch {
            return Meanwhile::Quiet;
        }
        let now = self.image.fingerprint().unwrap_or(Fingerprint::Unknown);
        let (certain, differs) = {
            let then = lock(&self.fingerprint);
            (
                now.proves_unwritten_since(&then, true) && !self.vouched.load(SeqCst),
                now.differs_from(&then),
            )
        };
        self.records.for_each(|record| {
            // If it is certain, it stays noted: it may have been served only since.
            if !certain && record.has(TORN) {
                record.clear(TORN);
                record.doubt();
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

    /// The stamp that all blocks show but those with one of their OWN.
    fn overlay_stamp(&self) -> Option<i64> {
        if !self.watch {
            return None;
        }
        lock(&self.overlay).as_ref().map(|overlay| overlay.stamp)
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

    pub(crate) fn geometry(&self) -> Geometry {
        *self.geometry.read().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
