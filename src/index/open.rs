//! Beginning to use an index: load, judge what it is worth, scan, save as open.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, RwLock};

use super::file::{FileStore, Loaded, RENAME_TAKES, Store, StoreError};
use super::format::{self, Header};
use super::over::first_stamp;
use super::partial::{Plan, Reading};
use super::record::{REPORTED, Record, SETTLED, STAMPED, STEP};
use super::request::{OpenError, Purpose, Request};
use super::unsaved::Nowhere;
use super::{Index, lock};
use crate::changes::ChangeSource;
use crate::geometry::BlockIndex;
use crate::image::Fingerprint;
use crate::per_block::PerBlock;
use crate::scan::ZeroDigests;

/// Times that lie farther ahead of the clock, in seconds, are told of: a day, which is more than a clock in another time
/// zone makes.
const FAR_AHEAD: i64 = 24 * 3600;

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

    pub(crate) fn open_store(
        request: &Request<'_>,
        store: Box<dyn Store>,
    ) -> Result<Self, OpenError> {
        let (index, begin) = Self::begin(request, store)?;
        index.update(request, &begin)?;
        Ok(index)
    }

    /// Loads what there is and judges it.
    // One line a field.
    #[allow(clippy::too_many_lines)]
    fn begin(request: &Request<'_>, store: Box<dyn Store>) -> Result<(Self, Begin), OpenError> {
        let started = request.clock.now();
        let now = request.image.fingerprint().unwrap_or(Fingerprint::Unknown);
        let records = PerBlock::new();
        let worth = load(store.as_ref(), request, &now, &records);
        let beside = store.noted();
        let noted = beside.map_or(i64::MIN, |noted| noted.ceiling);
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
                check_size(request, header.image_size)?;
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
                check_size(request, header.image_size)?;
                warn_of_loss(request, why);
                records.for_each(|record: &mut Record| record.clear(SETTLED));
                count = count.max(header.records);
                floor = header
                    .floor
                    .max(header.ceiling.max(noted).saturating_add(1));
            }
            Worth::Nothing(why) => {
                if let Some(size) = beside.and_then(|noted| noted.size) {
                    check_size(request, size)?;
                }
                if let Some(why) = why {
                    warn_of_loss(request, &why);
                }
                floor = floor.max(noted.saturating_add(1));
            }
        }
        let known = valid || noted > i64::MIN;
        let first = first_stamp(started, known, &now, floor);
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
            purpose: request.purpose,
            salvage: request.salvage,
            fresh: AtomicI64::new(i64::MIN),
            unsaved: AtomicBool::new(false),
            scans: AtomicU64::new(0),
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
        let dry_run = matches!(request.purpose, Purpose::Scan { dry_run: true, .. });
        if !dry_run && self.makes_stamps(&begin.reading) {
            // Nothing that is written later can be of these seconds.
            self.wait_if_near(begin.first.saturating_add(STEP));
        }
        self.look(request, begin.first, &begin.reading)
            .map_err(|_| OpenError::Interrupted)?;
        let newest = self.latest().max(self.floor.load(SeqCst));
        let ahead = newest.saturating_sub(self.clock.now());
        if ahead > FAR_AHEAD {
            let (file, days) = (request.path.display(), ahead / FAR_AHEAD);
            log::warn!(
                "index {file}: times of blocks lie {days} days ahead of the clock, and new ones follow them; if the \
                 clock is right now, remove {file} and {file}.lock, and use rsync --checksum once"
            );
        }
        if dry_run {
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

fn warn_of_loss(request: &Request<'_>, why: &str) {
    log::warn!(
        "index {}: {why}; every block gets a new time",
        request.path.display()
    );
}

/// The file's place. If there is none, nothing will be saved.
fn find_store(request: &Request<'_>) -> Result<Box<dyn Store>, OpenError> {
    match FileStore::open(request.path, request.source_file) {
        Ok(store) => Ok(Box::new(store)),
        Err(StoreError::Held(holder)) => Err(OpenError::Held(holder)),
        Err(StoreError::Refused(why)) => Err(why.into()),
        Err(StoreError::Io(error)) if request.purpose.must_save() => {
            Err(OpenError::Unsaved { error, far: false })
        }
        Err(StoreError::Io(e)) => Ok(Box::new(Nowhere::new(request.path, &e))),
    }
}

/// Whether the image may be as long as it is. `then`: what it had when it was last scanned, in bytes.
fn check_size(request: &Request<'_>, then: u64) -> Result<(), OpenError> {
    let now = request.geometry.image_size();
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
