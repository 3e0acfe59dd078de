//! Beginning to use an index: load, judge what it is worth, scan, save as open.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use super::format::{self, Header};
use super::over::first_stamp;
use super::partial::{Plan, Reading};
use super::record::{REPORTED, Record, SETTLED, STAMPED};
use super::store::{FileStore, Loaded, RENAME_TAKES, Store, StoreError};
use super::unsaved::Nowhere;
use super::{Index, lock};
use crate::changes::ChangeSource;
use crate::clock::Clock;
use crate::geometry::{BlockIndex, Geometry};
use crate::image::{Fingerprint, Image};
use crate::per_block::PerBlock;
use crate::scan::{Tally, ZeroDigests};

/// What an index is brought up to date for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A mount that may live long: listings after the image was written show new stamps.
    Mount,
    /// A mount for one command, which shows what the scan found for all its life.
    Run {
        /// An image that is smaller than the index remembers is refused.
        refuse_shrunk: bool,
        /// So is an index that cannot be saved.
        strict: bool,
    },
    /// No mount.
    Scan {
        /// Keep a list of the blocks that get new stamps.
        list: bool,
        /// Leave the file as it is.
        dry_run: bool,
    },
}

/// An index that is wanted, and of what.
#[derive(Debug)]
// Each is a circumstance of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct Request<'a> {
    /// The image, locked as the mount needs it.
    pub image: Arc<dyn Image>,
    /// How it is cut.
    pub geometry: Geometry,
    /// The index's file.
    pub path: &'a Path,
    /// The image's name, for people who look into the file.
    pub source: String,
    /// The image is mounted with -w.
    pub writable: bool,
    /// Others may write the image although it is mounted with -w.
    pub force: bool,
    /// Nobody can write the image: it is a clone that only this process knows.
    pub immutable: bool,
    /// Who can tell what changed without reading, if anybody can.
    pub changes: Option<&'a dyn ChangeSource>,
    /// Read everything, whatever the index says.
    pub rescan: bool,
    /// What for.
    pub purpose: Purpose,
    /// Threads that scan.
    pub threads: usize,
    /// Progress, and the way to end the scan early.
    pub tally: &'a Tally,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// Why a mount with an index cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("it is in use by {0}; wait for that, or mount without --index")]
    Held(String),
    /// Less image than last time.
    #[error(
        "the image has {now} bytes, and had {then} when it was last scanned: syncing it with --delete would \
         remove the rest from the backup; if that is meant, use -o shrunk"
    )]
    Shrunk {
        /// Bytes that it has.
        now: u64,
        /// Bytes that it had.
        then: u64,
    },
    /// It must be saved, and cannot be.
    #[error(
        "it cannot be saved: {error}{}",
        if *far { "; times that it has promised lie in the future, so that new ones could come again" } else { "" }
    )]
    Unsaved {
        /// Why.
        error: io::Error,
        /// Whether new stamps would lie in the future.
        far: bool,
    },
    /// Ended early; the index is as it was.
    #[error("interrupted")]
    Interrupted,
}

/// What a file that was found is worth.
#[derive(Debug)]
enum Worth {
    /// Nothing: the reason, for the log; `None` if there simply is no file yet.
    Nothing(Option<String>),
    /// Everything.
    Good(Header),
    /// Digests and stamps, but none of them is settled: the reason.
    Unsettled(Header, &'static str),
}

/// How an index that was loaded is brought up to date.
#[derive(Debug)]
pub(super) struct Begin {
    /// The second of the scan's stamps, which is over.
    pub(super) first: i64,
    reading: Reading,
    /// No stamp that is known of is later.
    pub(super) promised: i64,
}

impl Index {
    /// Brings the index of an image up to date. One that cannot be saved counts as lost, which is logged; for
    /// [`Purpose::Scan`] that is an error.
    pub fn open(request: &Request<'_>) -> Result<Self, OpenError> {
        Self::open_store(request, find_store(request)?)
    }

    /// What [`Index::open`] would read. Reads nothing of the image and saves nothing.
    pub fn plan_open(request: &Request<'_>) -> Result<Plan, OpenError> {
        let (index, begin) = Self::begin(request, find_store(request)?)?;
        Ok(index.plan(&begin.reading))
    }

    pub(super) fn open_store(
        request: &Request<'_>,
        store: Box<dyn Store>,
    ) -> Result<Self, OpenError> {
        let (index, begin) = Self::begin(request, store)?;
        index.update(request, &begin)?;
        Ok(index)
    }

    /// Loads what there is and judges it.
    fn begin(request: &Request<'_>, store: Box<dyn Store>) -> Result<(Self, Begin), OpenError> {
        let started = request.clock.now();
        let now = request.image.fingerprint().unwrap_or(Fingerprint::Unknown);
        let records = PerBlock::new();
        let worth = load(store.as_ref(), request, &now, &records);
        let noted = store.noted_ceiling().unwrap_or(i64::MIN);
        let mut promised = noted;
        if let Worth::Good(header) | Worth::Unsettled(header, _) = &worth {
            promised = promised.max(header.ceiling);
        }
        let mut count = request.geometry.blocks();
        let mut floor = i64::MIN;
        let mut reading = Reading::All;
        let valid = matches!(worth, Worth::Good(_));
        let mut fingerprint = now.clone();
        match worth {
            Worth::Good(header) => {
                check_size(request, &header)?;
                let unwritten = matches!(now, Fingerprint::File(_))
                    && now.proves_unwritten_since(&header.fingerprint, false)
                    && header.image_size == request.geometry.image_size()
                    && !header.vouched;
                if unwritten && !request.rescan {
                    fingerprint = header.fingerprint.clone();
                    reading = Reading::Nothing;
                } else {
                    reading = Reading::told_by(request, &header);
                }
                count = count.max(header.records);
                floor = header.floor;
                // A note that is higher is of a mount whose stamps could not be saved.
                if header.open || noted > header.ceiling {
                    floor = floor.max(header.ceiling.max(noted).saturating_add(1));
                }
            }
            Worth::Unsettled(header, why) => {
                check_size(request, &header)?;
                log::warn!(
                    "index {}: {why}; every block gets a new time",
                    request.path.display()
                );
                records.for_each(|record: &mut Record| record.clear(SETTLED));
                count = count.max(header.records);
                floor = header
                    .floor
                    .max(header.ceiling.max(noted).saturating_add(1));
            }
            Worth::Nothing(why) => {
                if let Some(why) = why {
                    log::warn!(
                        "index {}: {why}; every block gets a new time",
                        request.path.display()
                    );
                }
                floor = floor.max(noted.saturating_add(1));
            }
        }
        let known = valid || noted > i64::MIN;
        let first = first_stamp(request.clock.as_ref(), started, known, &now, floor);
        if !valid {
            // What was lost may be of any time until now, also if the clock goes back later.
            floor = floor.max(first);
        }
        let index = Self::new(request, store, records, fingerprint, count, floor);
        let begin = Begin {
            first,
            reading,
            promised,
        };
        Ok((index, begin))
    }

    fn new(
        request: &Request<'_>,
        store: Box<dyn Store>,
        records: PerBlock<Record>,
        fingerprint: Fingerprint,
        count: u64,
        floor: i64,
    ) -> Self {
        Self {
            image: Arc::clone(&request.image),
            clock: Arc::clone(&request.clock),
            store,
            source: request.source.clone(),
            records,
            zeros: ZeroDigests::new(request.geometry.block_size().bytes()),
            geometry: RwLock::new(request.geometry),
            count: AtomicU64::new(count),
            floor: AtomicI64::new(floor),
            scan_ends_below: AtomicI64::new(i64::MIN),
            ceiling: AtomicI64::new(i64::MIN),
            newest: AtomicI64::new(i64::MIN),
            newest_is_stale: AtomicBool::new(false),
            fingerprint: Mutex::new(fingerprint),
            state: Mutex::new(
                request
                    .changes
                    .filter(|_| !request.writable)
                    .and_then(ChangeSource::now),
            ),
            vouched: AtomicBool::new(false),
            watch: !request.immutable && (!request.writable || request.force),
            writable: request.writable,
            overlay: Mutex::new(None),
            restamp_listings: request.purpose == Purpose::Mount,
            fresh: AtomicI64::new(i64::MIN),
            unsaved: AtomicBool::new(false),
            touched: AtomicU64::new(0),
            made: AtomicI64::new(0),
            last_made: AtomicI64::new(i64::MIN),
            epoch: AtomicU64::new(0),
            meanwhile: Mutex::default(),
            report: Mutex::default(),
            restamped: matches!(request.purpose, Purpose::Scan { list: true, .. })
                .then(Mutex::default),
            writers: Mutex::default(),
            saving: Mutex::new(()),
            threads: request.threads,
        }
    }

    fn update(&self, request: &Request<'_>, begin: &Begin) -> Result<(), OpenError> {
        self.look(request, begin.first, &begin.reading)
            .map_err(|_| OpenError::Interrupted)?;
        if matches!(request.purpose, Purpose::Scan { dry_run: true, .. }) {
            return Ok(());
        }
        self.pass_stamps();
        if let Err(e) = self.save(true) {
            self.go_on_unsaved(request, begin, e)?;
        }
        self.ready();
        Ok(())
    }

    /// The blocks that got new stamps in the last scan, as runs of block numbers, ends included. Empty unless the
    /// request asked for a list.
    #[must_use]
    pub fn restamped(&self) -> Vec<(u64, u64)> {
        let mut blocks = self
            .restamped
            .as_ref()
            .map(|list| lock(list).clone())
            .unwrap_or_default();
        blocks.sort_unstable();
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for block in blocks {
            match runs.last_mut() {
                Some((_, end)) if *end + 1 == block => *end = block,
                _ => runs.push((block, block)),
            }
        }
        runs
    }
}

/// The file's place. If there is none, nothing will be saved.
fn find_store(request: &Request<'_>) -> Result<Box<dyn Store>, OpenError> {
    match FileStore::open(request.path) {
        Ok(store) => Ok(Box::new(store)),
        Err(StoreError::Held(holder)) => Err(OpenError::Held(holder)),
        Err(StoreError::Io(error)) if matches!(request.purpose, Purpose::Scan { .. }) => {
            Err(OpenError::Unsaved { error, far: false })
        }
        Err(StoreError::Io(e)) => Ok(Box::new(Nowhere::new(request.path, &e))),
    }
}

fn check_size(request: &Request<'_>, header: &Header) -> Result<(), OpenError> {
    let (now, then) = (request.geometry.image_size(), header.image_size);
    let refuse = matches!(
        request.purpose,
        Purpose::Run {
            refuse_shrunk: true,
            ..
        }
    );
    if refuse && now < then {
        return Err(OpenError::Shrunk { now, then });
    }
    Ok(())
}

/// Loads what there is into `records`, and judges it.
fn load(
    store: &dyn Store,
    request: &Request<'_>,
    now: &Fingerprint,
    records: &PerBlock<Record>,
) -> Worth {
    let loaded = match store.load() {
        Ok(Some(loaded)) => loaded,
        Ok(None) => return Worth::Nothing(None),
        Err(e) => return Worth::Nothing(Some(format!("it cannot be read: {e}"))),
    };
    let Loaded { mut input, place } = loaded;
    let mut fill = |number: usize, record: Record| {
        if let Some(block) = BlockIndex::new(number as u64) {
            records.with(block, |slot| *slot = record);
        }
    };
    let header = match format::read(input.as_mut(), &mut fill) {
        Ok(Ok(header)) => header,
        Ok(Err(e)) => return Worth::Nothing(Some(e.to_string())),
        Err(e) => return Worth::Nothing(Some(format!("it cannot be read: {e}"))),
    };
    if header.block_size != request.geometry.block_size().bytes() {
        records.for_each(|record| *record = Record::default());
        let had = header.block_size;
        return Worth::Nothing(Some(format!("it is for blocks of {had} bytes")));
    }
    // Whoever used the index before may have shown every stamp in it.
    records.for_each(|record| {
        if record.has(STAMPED) {
            record.set(REPORTED);
        }
    });
    let held = header.place;
    let copied = held.inode != place.inode
        || held.born != place.born
        || held.lock != place.lock
        || (place.finished - held.finished).abs() > RENAME_TAKES;
    if copied {
        return Worth::Unsettled(
            header,
            "it is a copy, and may be older than what was synced last",
        );
    }
    if header.open && !now.proves_unwritten_since(&header.fingerprint, false) {
        return Worth::Unsettled(header, "the last bmapfs that used it was killed");
    }
    Worth::Good(header)
}

#[cfg(test)]
mod tests;
