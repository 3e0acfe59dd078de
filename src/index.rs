//! The index: a digest and a stamp for every block, kept between mounts, so that a block file's time changes when,
//! and only when, the block's content does (promises P20 to P24).
//!
//! Invariant: it can only make a sync slower, never wrong. Whatever is in doubt gets a new stamp.

mod clockwork;
mod counters;
#[cfg(test)]
pub(crate) mod door;
mod evidence;
mod file;
mod first_pass;
mod format;
mod known;
mod name;
mod open;
mod over;
mod partial;
mod recheck;
mod record;
mod records;
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
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Once, PoisonError, RwLock};

use crate::clock::Clock;
use crate::geometry::{BlockIndex, Geometry};
use crate::image::{Fingerprint, Image};
use crate::order::Ordered;
use crate::per_block::PerBlock;
use crate::scan::{Digest, ZeroDigests};
use crate::stamp::{READ, REPORTED, STAMPED};

use clockwork::Clockwork;
use counters::Counters;
use evidence::Evidence;
use file::Store;
use record::{HASHED, OWN, Record, SETTLED, UNOPENED, UNREAD};

pub(crate) use counters::Report;
pub(crate) use evidence::Meanwhile;
pub(crate) use file::FileId;
pub(crate) use first_pass::FirstPass;
pub(crate) use known::{Known, KnownBlock, KnownError};
pub(crate) use name::{default_path, known_path, mount_name};
pub(crate) use partial::Plan;
pub(crate) use request::{OpenError, Purpose, Request};
pub(crate) use served::Served;

/// The name of the state that the index in `file` is of; `None`: of none, or there is no index that is good for anything.
/// An error: it is in use, or cannot be read now.
pub(crate) fn named_state(file: &Path) -> Result<Option<String>, KnownError> {
    known::named_state(file)
}

/// Whether the directory of the index's file that `file` means is `directory`, or below it. `false` if it cannot be told.
#[must_use]
pub(crate) fn lies_below(file: &Path, directory: &Path) -> bool {
    file::lies_below(file, directory)
}

/// The index of one image at one block size, in use.
///
/// The order in which a thread takes its locks: `saving`, `evidence`, the newest stamp in `counters`, a page of `records`,
/// and then one of those under which none is taken (`writers`, `geometry`, reports, the store's own); `crate::order`
/// checks it. Nothing that waits, for the image, a disk or the clock, is done under one of them, but the index is saved
/// under `saving`.
#[derive(Debug)]
pub(crate) struct Index {
    image: Arc<dyn Image>,
    clock: Arc<dyn Clock>,
    store: Box<dyn Store>,
    source: String,
    /// The image is mounted with -w.
    writable: bool,
    /// Blocks that cannot be read get new stamps all the same.
    salvage: bool,
    purpose: Purpose,
    threads: usize,
    zeros: ZeroDigests,
    geometry: RwLock<Geometry>,
    records: PerBlock<Record>,
    /// As many as were ever saved; those past the image's end stay as they are.
    count: AtomicU64,
    clockwork: Clockwork,
    evidence: Evidence,
    counters: Counters,
    /// The stamps that were made at the beginning are over: none is shown before.
    over: Once,
    /// Open handles that can write, by block.
    writers: Ordered<HashMap<BlockIndex, u64>>,
    /// The part that is rechecked next.
    recheck: AtomicU32,
    /// There is no file, or it could not be saved at the beginning.
    unsaved: AtomicBool,
    /// Held while the index is saved.
    saving: Ordered<()>,
}

impl Index {
    /// The stamp that a block shows. From now on it counts as reported.
    pub(crate) fn report_stamp(&self, block: BlockIndex) -> i64 {
        self.let_first_pass();
        if !self.geometry().has(block) {
            self.follow_size();
            if !self.geometry().has(block) {
                self.came_back(block);
            }
        }
        let overlay = self.evidence.overlay();
        let shown = self.records.with(block, |record| {
            if let Some(stamp) = overlay.filter(|_| !record.has(OWN)) {
                return Some(stamp);
            }
            if !self.writable && !record.has(REPORTED) {
                return None;
            }
            record.add(REPORTED);
            record.has(STAMPED).then_some(record.stamp.second())
        });
        // A block that has appeared since the scan: nobody has it, and it is not settled.
        shown.unwrap_or_else(|| {
            self.make_stamp(block, |record| !record.has(STAMPED));
            if !self.writable {
                self.pass_stamp(block);
            }
            self.records.with(block, |record| {
                record.add(REPORTED);
                record.stamp.second()
            })
        })
    }

    /// The newest stamp of all.
    pub(crate) fn newest(&self) -> i64 {
        self.let_first_pass();
        let find = || self.records.greatest(|record| record.stamp.second());
        let newest = self.counters.given.newest(find);
        self.evidence.overlay().unwrap_or(newest).max(newest)
    }

    /// The block is about to be read.
    pub(crate) fn read(&self, block: BlockIndex) {
        if self.writable {
            self.records.with(block, |record| {
                record.add(READ);
                record.clear(UNOPENED);
                self.copied_unwatched(record);
            });
        }
    }

    /// A handle was served all it ever will be. Unless that was the whole block with the content that the index
    /// names, what its client has is not certain.
    pub(crate) fn served(&self, block: BlockIndex, digest: Option<Digest>, epoch: u64) {
        let before_scan = epoch != self.epoch();
        let watch = self.evidence.watch;
        self.records.with(block, |record| {
            if before_scan {
                record.clear(UNREAD);
            }
            if before_scan && watch {
                record.doubt();
            }
            if watch || record.has(UNREAD) {
                record.served(digest);
            }
        });
    }

    /// Changes with every scan: what `served` is told with a handle that was opened before.
    pub(crate) fn epoch(&self) -> u64 {
        self.evidence.epoch.load(SeqCst)
    }

    /// Whether what a handle of this block is served must be hashed.
    pub(crate) fn watches(&self, block: BlockIndex) -> bool {
        self.evidence.watch || self.records.with(block, |record| record.has(UNREAD))
    }

    /// How many stamps were made for blocks that were written.
    pub(crate) fn made(&self) -> i64 {
        self.counters.given.made()
    }

    /// Whether the block is known to be all zeros.
    #[must_use]
    pub(crate) fn is_zero(&self, block: BlockIndex) -> bool {
        let zeros = self.zeros.of(self.geometry().span(block).len());
        self.records
            .with(block, |record| record.has(HASHED) && record.digest == zeros)
    }

    /// The image may have grown before anybody could say so.
    pub(super) fn follow_size(&self) {
        let known = self.geometry();
        let size = self.image.size().unwrap_or(0);
        if size > known.image_size() {
            if let Ok(grown) = Geometry::new(size, known.block_size()) {
                self.resized(grown);
            }
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
                    .with(block, |record| record.clear(HASHED | SETTLED | UNREAD));
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
    pub(crate) fn is_saved(&self) -> bool {
        !self.unsaved.load(SeqCst)
    }

    /// Ends the use of the index: hashes what is not hashed, decides what is settled, saves.
    pub(crate) fn close(&self) -> io::Result<Meanwhile> {
        self.store.ending();
        // Hashing makes a block settled: what was served counts after that.
        if self.writable {
            self.hash_dirty();
        }
        let meanwhile = self.judge();
        self.count_first_pass();
        // What was read may be of a later state.
        let state = || self.evidence.known.with(|known| known.state.take());
        if meanwhile != Meanwhile::Quiet && state().is_some() {
            log::warn!(
                "{}: it was, or may have been, written since the scan began: the next one reads everything",
                self.source
            );
        }
        if self.writable {
            let known = &self.evidence.known;
            known.with(|known| known.fingerprint = Fingerprint::Unknown);
        }
        if !matches!(self.purpose, Purpose::Scan { .. }) {
            // For a tool that remembers when it ran, as tar does, only what is later is new.
            let next = self.clock.now().saturating_add(1);
            self.clockwork.floor.fetch_max(next, SeqCst);
        }
        let saved = self.save(false);
        if saved.is_ok() {
            self.unsaved.store(false, SeqCst);
        }
        // The last stamps may lie a little ahead of the clock. Nobody must make them again, and nothing that is written
        // later may have their second: a mount that knows nothing of them would show it.
        self.wait_for_stamps();
        // Not even a scan must make one that was not noted: its stamps lie back.
        let shown = self.latest();
        if self.unsaved.load(SeqCst) && self.note(shown).is_err() {
            self.let_pass();
        }
        // That was said at the beginning.
        if !self.unsaved.load(SeqCst) {
            saved?;
        }
        Ok(meanwhile)
    }

    /// The latest stamp that any block ever had, or all had at once, which is below the floor.
    fn latest(&self) -> i64 {
        self.records.latest().max(self.clockwork.floor.load(SeqCst))
    }

    pub(crate) fn geometry(&self) -> Geometry {
        *self.geometry.read().unwrap_or_else(PoisonError::into_inner)
    }
}
