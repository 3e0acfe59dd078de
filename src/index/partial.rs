//! Bringing an index up to date without reading the whole image: nothing was written since the last scan (promise
//! P23), or somebody tells which ranges may differ.
//!
//! Invariant: a block keeps its stamp without being read only if its digest is known and settled, it is as long as
//! it was, and every byte of it is known to be the same.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::format::Header;
use super::open::Request;
use super::record::{HASHED, SETTLED, STAMPED};
use super::{Index, STEP, lock};
use crate::changes::Changes;
use crate::geometry::{BlockIndex, Geometry};
use crate::scan::{Cancelled, Hasher, Tally};

/// How much of an image is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// All of it.
    All,
    /// Only what has no digest: nothing was written.
    Nothing,
    /// What may differ.
    Told {
        changes: Changes,
        /// What the digests describe.
        before: Geometry,
    },
}

impl Reading {
    /// What the request's source of changes tells of an index that is good.
    pub(super) fn told_by(request: &Request<'_>, header: &Header) -> Self {
        let told = request.changes.filter(|_| !request.rescan);
        let changes = told.and_then(|source| source.since(header.state.as_ref()));
        let before = Geometry::new(header.image_size, request.geometry.block_size()).ok();
        match changes.zip(before) {
            Some((changes, before)) => Self::Told { changes, before },
            None => Self::All,
        }
    }

    /// Whether a block's bytes are certain to be those that its digest was made of.
    fn vouches_for(&self, block: BlockIndex, now: Geometry) -> bool {
        match self {
            Self::All => false,
            Self::Nothing => true,
            Self::Told { changes, before } => {
                let span = now.span(block);
                before.has(block) && before.span(block) == span && !changes.ranges.touch(span)
            }
        }
    }
}

impl Index {
    /// Brings all records up to date; stamps are of second `now`.
    pub(super) fn look(
        &self,
        request: &Request<'_>,
        now: i64,
        reading: &Reading,
    ) -> Result<(), Cancelled> {
        let now = now.max(self.floor.load(SeqCst));
        match reading {
            Reading::All => return self.scan(request.tally, now, &|_| true),
            Reading::Nothing => log::info!(
                "{} was not written since it was scanned last: not read again",
                self.source
            ),
            Reading::Told { changes, .. } => {
                if let Some(wrong) = self.first_wrong(reading, changes.checks) {
                    log::error!(
                        "{}: block {wrong} is not among the changes, but it is not what it was: the changes are not \
                         those since the last scan; everything is read",
                        self.source
                    );
                    return self.scan(request.tally, now, &|_| true);
                }
            }
        }
        self.take_over(request.tally, now, reading)
    }

    /// Whether a block has to be read.
    fn is_read(&self, block: BlockIndex, reading: &Reading, geometry: Geometry) -> bool {
        !self.records.with(block, |record| record.has(HASHED))
            || !reading.vouches_for(block, geometry)
    }

    /// Reads up to `checks` blocks of those that need not be read. The first that is not as the index has it.
    fn first_wrong(&self, reading: &Reading, checks: usize) -> Option<BlockIndex> {
        if checks == 0 {
            return None;
        }
        let geometry = self.geometry();
        let kept = || {
            (0..geometry.blocks())
                .filter_map(BlockIndex::new)
                .filter(|block| !self.is_read(*block, reading, geometry))
        };
        let chosen = chosen(kept().count() as u64, checks);
        let hasher = Hasher::new(self.image.as_ref(), geometry, &self.zeros);
        kept()
            .enumerate()
            .filter(|(rank, _)| chosen.contains(&(*rank as u64)))
            .map(|(_, block)| block)
            .find(|block| {
                let known = self.records.with(*block, |record| record.digest);
                !hasher
                    .hash(*block, &AtomicU64::new(0))
                    .is_ok_and(|digest| digest == known)
            })
    }

    /// Reads what has to be read; of the rest, what is not settled gets a new stamp all the same.
    fn take_over(&self, tally: &Tally, now: i64, reading: &Reading) -> Result<(), Cancelled> {
        let geometry = self.geometry();
        self.scan(tally, now, &|block| self.is_read(block, reading, geometry))?;
        let mut report = self.report();
        report.zero = 0;
        let mut last = None;
        let (zero_full, zero_last) = (
            self.zeros.of(geometry.block_size().bytes()),
            geometry
                .last()
                .map(|last| self.zeros.of(geometry.span(last).len())),
        );
        for number in 0..geometry.blocks() {
            let Some(block) = BlockIndex::new(number) else {
                break;
            };
            let is_last = geometry.last() == Some(block);
            self.records.with(block, |record| {
                let zero = if is_last { zero_last } else { Some(zero_full) };
                report.zero += u64::from(record.has(HASHED) && Some(record.digest) == zero);
                if !record.has(HASHED) || record.has(SETTLED | STAMPED) {
                    return;
                }
                record.restamp(record.next_stamp(now));
                record.set(SETTLED);
                report.unsettled += 1;
                last = Some(block);
            });
            if let (Some(list), true) = (&self.restamped, last == Some(block)) {
                lock(list).push(number);
            }
        }
        if let Some(last) = last {
            self.records.with(last, |record| {
                record.restamp(record.stamp.saturating_add(STEP));
            });
        }
        let otherwise = report.changed + report.new + report.unsettled + report.unreadable;
        report.unchanged = report.blocks.saturating_sub(otherwise);
        *lock(&self.report) = report;
        self.find_newest();
        Ok(())
    }
}

/// `wanted` different numbers below `count`, or all of them.
fn chosen(count: u64, wanted: usize) -> BTreeSet<u64> {
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    if count <= wanted {
        return (0..count).collect();
    }
    let mut numbers = BTreeSet::new();
    while (numbers.len() as u64) < wanted {
        // Each has another key, and the first is the system's own random number.
        numbers.insert(RandomState::new().build_hasher().finish() % count);
    }
    numbers
}
