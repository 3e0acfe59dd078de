//! Beginning to use an index: load, judge what it is worth, scan, save as open.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Once, RwLock};

use super::Index;
use super::clockwork::Clockwork;
use super::counters::Counters;
use super::evidence::Evidence;
use super::file::{FileStore, Loaded, Store, StoreError};
use super::first_pass::needs_no_scan;
use super::format::{self, FilePlace, Header};
use super::over::first_stamp;
use super::partial::{Plan, Reading};
use super::record::{Record, SETTLED};
use super::request::{OpenError, Purpose, Request};
use super::unsaved::Nowhere;
use crate::geometry::BlockIndex;
use crate::image::Fingerprint;
use crate::order::{Ordered, Rank};
use crate::per_block::PerBlock;
use crate::scan::ZeroDigests;
use crate::stamp::{REPORTED, STAMPED};

/// Times that lie farther ahead of the clock, in seconds, are told of: a day, which is more than a clock in another time
/// zone makes.
const FAR_AHEAD: i64 = 24 * 3600;

/// What was found, and what it is worth.
#[derive(Debug)]
struct Worth {
    /// Of an index of this image; its records count.
    header: Option<Header>,
    /// Why the index is lost, or with a header, why none of its digests is settled. `None` also if there is no file yet.
    doubt: Option<String>,
}

impl Worth {
    /// The index, if everything in it is believed.
    fn good(&self) -> Option<&Header> {
        self.header.as_ref().filter(|_| self.doubt.is_none())
    }

    /// No stamp is later that was made with what was found, nor with what is `noted` beside it.
    fn promised(&self, noted: i64) -> i64 {
        let header = self.header.as_ref();
        header.map_or(noted, |header| header.ceiling.max(noted))
    }

    /// Before this second no stamp may be made.
    fn floor(&self, noted: i64) -> i64 {
        let floor = self.header.as_ref().map_or(i64::MIN, |header| header.floor);
        match self.good() {
            // A note that is higher is of a mount whose stamps could not be saved.
            Some(header) if !header.open && noted <= header.ceiling => floor,
            _ => floor.max(self.promised(noted).saturating_add(1)),
        }
    }

    /// How much has to be read, and what the digests are of then, if the image is `now` like this.
    fn reading(&self, request: &Request<'_>, now: Fingerprint) -> (Reading, Fingerprint) {
        let Some(header) = self.good() else {
            return (Reading::All, now);
        };
        let unwritten = matches!(now, Fingerprint::File(_))
            && now.proves_unwritten_since(&header.fingerprint, false)
            && header.image_size == request.geometry.image_size()
            && !header.vouched;
        if unwritten && !request.rescan {
            return (Reading::Nothing, header.fingerprint.clone());
        }
        (Reading::told_by(request, header), now)
    }
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
    pub(crate) fn open(request: &Request<'_>) -> Result<Self, OpenError> {
        Self::open_store(request, find_store(request)?)
    }

    /// What [`Index::open`] would read. Reads nothing of the image and saves nothing.
    pub(crate) fn plan_open(request: &Request<'_>) -> Result<Plan, OpenError> {
        let (index, begin) = Self::begin(request, find_store(request)?)?;
        Ok(index.plan(request, &begin.reading))
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
    fn begin(request: &Request<'_>, store: Box<dyn Store>) -> Result<(Self, Begin), OpenError> {
        let started = request.clock.now();
        let now = request.image.fingerprint().unwrap_or(Fingerprint::Unknown);
        let records = PerBlock::new();
        let worth = load(store.as_ref(), request, &now, &records);
        let beside = store.noted();
        let size = match &worth.header {
            Some(header) => Some(header.image_size),
            None => beside.and_then(|noted| noted.size),
        };
        check_size(request, size.unwrap_or(0))?;
        if let Some(why) = &worth.doubt {
            let index = request.path.display();
            log::warn!("index {index}: {why}; every block gets a new time");
        }
        let noted = beside.map(|noted| noted.ceiling);
        let good = worth.good().is_some();
        let known = good || noted.is_some();
        let noted = noted.unwrap_or(i64::MIN);
        let mut floor = worth.floor(noted);
        let first = first_stamp(started, known, &now, floor);
        if !good {
            // What was lost may be of any time until now, also if the clock goes back later.
            floor = floor.max(first);
        }
        let (reading, fingerprint) = if needs_no_scan(request, &records) {
            (Reading::Unread, now)
        } else {
            worth.reading(request, now)
        };
        let begin = Begin {
            first,
            reading,
            promised: worth.promised(noted),
        };
        let evidence = Evidence::new(request, fingerprint);
        let index = Self::new(request, store, records, Clockwork::new(floor), evidence);
        if let Some(header) = worth.header {
            index.count.fetch_max(header.records, SeqCst);
            index.recheck.store(header.recheck, SeqCst);
        }
        Ok((index, begin))
    }

    fn new(
        request: &Request<'_>,
        store: Box<dyn Store>,
        records: PerBlock<Record>,
        clockwork: Clockwork,
        evidence: Evidence,
    ) -> Self {
        Self {
            image: Arc::clone(&request.image),
            clock: Arc::clone(&request.clock),
            store,
            source: request.source.clone(),
            writable: request.writable,
            salvage: request.salvage,
            purpose: request.purpose,
            threads: request.threads,
            zeros: ZeroDigests::new(request.geometry.block_size().bytes()),
            geometry: RwLock::new(request.geometry),
            records,
            count: AtomicU64::new(request.geometry.blocks()),
            clockwork,
            evidence,
            counters: Counters::new(request.purpose),
            over: Once::new(),
            writers: Ordered::new(Rank::Leaf, HashMap::new()),
            recheck: AtomicU32::new(0),
            unsaved: AtomicBool::new(false),
            saving: Ordered::new(Rank::Saving, ()),
        }
    }

    fn update(&self, request: &Request<'_>, begin: &Begin) -> Result<(), OpenError> {
        let dry_run = matches!(request.purpose, Purpose::Scan { dry_run: true, .. });
        let reads = begin.reading != Reading::Unread;
        self.look(request, begin.first, &begin.reading)
            .map_err(|_| OpenError::Interrupted)?;
        // What is known of it stays known.
        if request.guards_backup() && self.is_all_unreadable() {
            return Err(OpenError::Unreadable);
        }
        self.warn_of_future(request);
        if dry_run {
            return Ok(());
        }
        // A mount is ready at once. A command starts after the stamps: for a tool that remembers when it ran, as tar
        // does, only what is later is new.
        if reads || request.purpose != Purpose::Mount {
            self.over.call_once(|| self.pass_stamps());
        }
        if let Err(e) = self.save(true) {
            self.go_on_unsaved(request, begin, e)?;
        }
        // From now on the index can be used.
        (self.evidence.known).with(|known| known.just_scanned(self.clock.passed()));
        Ok(())
    }

    fn warn_of_future(&self, request: &Request<'_>) {
        let ahead = self.latest().saturating_sub(self.clock.now());
        if ahead > FAR_AHEAD {
            let (file, days) = (request.path.display(), ahead / FAR_AHEAD);
            log::warn!(
                "index {file}: times of blocks lie {days} days ahead of the clock, and new ones follow them; if the \
                 clock is right now, remove {file} and {file}.lock, and use rsync --checksum once"
            );
        }
    }
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

/// Refuses an image that is smaller than it was `then`, when it was scanned last, in bytes, if that is asked for.
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
    match load_records(store, request, records) {
        Err(doubt) => Worth {
            header: None,
            doubt,
        },
        Ok((header, place)) => {
            let doubt = find_doubt(&header, place, now).map(str::to_owned);
            records.for_each(|record| {
                // Whoever used the index before may have shown every stamp in it.
                if record.has(STAMPED) {
                    record.add(REPORTED);
                }
                if doubt.is_some() {
                    record.clear(SETTLED);
                }
            });
            Worth {
                header: Some(header),
                doubt,
            }
        }
    }
}

/// Loads what there is into `records`. The error says why there is nothing, if that is more than that there is no file.
fn load_records(
    store: &dyn Store,
    request: &Request<'_>,
    records: &PerBlock<Record>,
) -> Result<(Header, FilePlace), Option<String>> {
    let unread = |e: io::Error| Some(format!("it cannot be read: {e}"));
    let Loaded { mut input, place } = store.load().map_err(unread)?.ok_or(None)?;
    let mut fill = |number: usize, record: Record| {
        if let Some(block) = BlockIndex::new(number as u64) {
            records.with(block, |slot| *slot = record);
        }
    };
    let header = format::read(input.as_mut(), &mut fill).map_err(unread)?;
    let header = header.map_err(|e| Some(e.to_string()))?;
    let had = header.block_size;
    if had != request.geometry.block_size().bytes() {
        records.for_each(|record| *record = Record::default());
        return Err(Some(format!("it is for blocks of {had} bytes")));
    }
    Ok((header, place))
}

/// Why what was copied with the stamps of an index is not certain to be what its digests say; `place`: where the index
/// was found.
fn find_doubt(header: &Header, place: FilePlace, now: &Fingerprint) -> Option<&'static str> {
    if header.place.is_copied_to(&place) {
        return Some("it is a copy, and may be older than what was synced last");
    }
    let killed = header.open && !now.proves_unwritten_since(&header.fingerprint, false);
    killed.then_some("the last bmapfs that used it was killed")
}

#[cfg(test)]
mod tests;
