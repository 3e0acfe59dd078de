//! Bringing an index up to date without reading the whole image: nothing was written since the last scan (promise
//! P23), or somebody tells which ranges may differ.
//!
//! Invariant: a block keeps its stamp without being read only if its digest is known and settled, it is as long as
//! it was, and every byte of it is known to be the same.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher as _, RandomState};
use std::sync::atomic::Ordering::SeqCst;

use super::format::Header;
use super::record::{HASHED, SETTLED, STAMPED};
use super::request::Request;
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

/// What bringing an index up to date would read.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// Blocks of the image.
    pub blocks: u64,
    /// Blocks that would be read.
    pub read: u64,
    /// Their bytes, holes included.
    pub bytes: u64,
    /// Others, chosen at random, that would be read to check the map of changes.
    pub checked: u64,
    /// The blocks that would be read, as runs of block numbers, ends included.
    pub ranges: Vec<(u64, u64)>,
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
        let tally = request.tally;
        let before = tally.read.load(SeqCst);
        match reading {
            Reading::All => return self.scan(tally, now, &|_| true, request.map),
            Reading::Nothing => log::info!(
                "{} was not written since it was scanned last: not read again",
                self.source
            ),
            Reading::Told { changes, .. } => {
                if let Some(wrong) = self.first_wrong(tally, reading, changes.checks) {
                    log::error!(
                        "{}: block {wrong} is not among the changes, but it is not what it was: the changes are not \
                         those since the last scan; everything is read",
                        self.source
                    );
                    self.scan(tally, now, &|_| true, None)?;
                    self.count_read_since(before, tally);
                    return Ok(());
                }
            }
        }
        self.take_over(tally, now, reading)?;
        self.count_read_since(before, tally);
        // Of an image that nobody can write, the state and the moment are the same.
        let told = matches!(reading, Reading::Told { .. });
        self.vouched.store(told && self.watch, SeqCst);
        Ok(())
    }

    /// What was read before the scan, to check others' words, is read too.
    fn count_read_since(&self, before: u64, tally: &Tally) {
        lock(&self.report).bytes_read = tally.read.load(SeqCst) - before;
    }

    /// What would be read, if it were done now.
    pub(super) fn plan(&self, reading: &Reading) -> Plan {
        let geometry = self.geometry();
        let mut plan = Plan {
            blocks: geometry.blocks(),
            ..Plan::default()
        };
        for block in (0..geometry.blocks()).filter_map(BlockIndex::new) {
            let number = block.get();
            let read = matches!(reading, Reading::All) || self.is_read(block, reading, geometry);
            if !read {
                continue;
            }
            plan.read += 1;
            plan.bytes += geometry.span(block).len();
            match plan.ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => plan.ranges.push((number, number)),
            }
        }
        if let Reading::Told { changes, .. } = reading {
            let checks = u64::try_from(changes.checks).unwrap_or(u64::MAX);
            plan.checked = checks.min(plan.blocks - plan.read);
        }
        plan
    }

    /// Whether some block may get a new stamp.
    pub(super) fn makes_stamps(&self, reading: &Reading) -> bool {
        let settled = |block| {
            self.records
                .with(block, |record| record.has(HASHED | SETTLED | STAMPED))
        };
        let mut blocks = (0..self.geometry().blocks()).filter_map(BlockIndex::new);
        !matches!(reading, Reading::Nothing) || !blocks.all(settled)
    }

    /// Whether a block has to be read.
    fn is_read(&self, block: BlockIndex, reading: &Reading, geometry: Geometry) -> bool {
        !self.records.with(block, |record| record.has(HASHED))
            || !reading.vouches_for(block, geometry)
    }

    /// Reads up to `checks` blocks of those that need not be read. The first that is not as the index has it.
    fn first_wrong(&self, tally: &Tally, reading: &Reading, checks: usize) -> Option<BlockIndex> {
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
            // The scan that follows says that it was ended early.
            .take_while(|_| !tally.cancel.load(SeqCst))
            .find(|block| {
                let found = hasher.hash(*block, &tally.read);
                self.records.with(*block, |record| {
                    if found.is_err() {
                        // Not wrong, but the scan that follows has to try it.
                        record.unreadable();
                    }
                    found.is_ok_and(|digest| digest != record.digest)
                })
            })
    }

    /// Reads what has to be read; of the rest, what is not settled gets a new stamp all the same.
    fn take_over(&self, tally: &Tally, now: i64, reading: &Reading) -> Result<(), Cancelled> {
        let geometry = self.geometry();
        self.scan(
            tally,
            now,
            &|block| self.is_read(block, reading, geometry),
            None,
        )?;
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
                record.renew(record.next_stamp(now));
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
