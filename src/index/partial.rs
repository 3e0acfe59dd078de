//! Bringing an index up to date without reading the whole image: nothing was written since the last scan (promise
//! P23), or somebody tells which ranges may differ.
//!
//! Invariant: a block keeps its stamp without being read only if its digest is known and settled, it is as long as
//! it was, and every byte of it is known to be the same.

use std::sync::atomic::Ordering::SeqCst;

use super::Index;
use super::counters::add_to_runs;
use super::format::Header;
use super::recheck::Rechecked;
use super::record::HASHED;
use super::request::{Purpose, Request};
use crate::changes::Changes;
use crate::geometry::{BlockIndex, Geometry};
use crate::scan::Cancelled;
use crate::stamp::STEP;

/// How much of an image is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// All of it.
    All,
    /// Only what has no digest: nothing was written.
    Nothing,
    /// Nothing at all: every block gets a new stamp anyway, and its digest when it is served (promise P32).
    Unread,
    /// What may differ.
    Told {
        changes: Changes,
        /// What the digests describe.
        before: Geometry,
    },
}

/// What bringing an index up to date would read.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Plan {
    /// Blocks of the image.
    pub blocks: u64,
    /// Blocks that would be read.
    pub read: u64,
    /// Their bytes, holes included.
    pub bytes: u64,
    /// Others that would be read to recheck them.
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

    /// Whose word it is that the rest need not be read.
    pub(super) fn says_nothing_changed(&self) -> &'static str {
        match self {
            Self::Told { changes, .. } if changes.checks > 0 => {
                "the list of changes does not name it"
            }
            Self::Told { .. } => "its extents are those of the last snapshot",
            Self::All | Self::Nothing | Self::Unread => "nothing shows that the image was written",
        }
    }

    /// Whether a block's bytes are certain to be those that its digest was made of.
    fn vouches_for(&self, block: BlockIndex, now: Geometry) -> bool {
        match self {
            Self::All | Self::Unread => false,
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
        let now = now.max(self.clockwork.floor.load(SeqCst));
        let tally = request.tally;
        let (before, taken) = (tally.read.load(SeqCst), tally.taken.load(SeqCst));
        match reading {
            Reading::Unread => {
                self.stamp_unread(now);
                return Ok(());
            }
            Reading::Nothing => {
                let source = &self.source;
                log::info!("{source} was not written since it was scanned last: not read again");
            }
            Reading::All | Reading::Told { .. } => {}
        }
        self.let_seconds_pass(request, now, reading);
        let wrong = self.recheck(request, reading);
        let rechecked = tally.read.load(SeqCst) - before;
        let reading = if wrong { &Reading::All } else { reading };
        // Now there may be stamps to make where there were none.
        self.let_seconds_pass(request, now, reading);
        self.scan(tally, now, reading, request.map)?;
        // What was rechecked is read, too, and takes its time.
        self.counters.report.with(|report| {
            report.bytes_read = tally.read.load(SeqCst) - before;
            report.rechecked = rechecked;
            report.seconds = tally.seconds_since(taken);
        });
        // Of an image that nobody can write, the state and the fingerprint are the same.
        let vouched = matches!(reading, Reading::Told { .. }) && self.evidence.watch;
        self.evidence.known.with(|known| known.vouched = vouched);
        Ok(())
    }

    /// What would be read, if it were done now.
    pub(super) fn plan(&self, request: &Request<'_>, reading: &Reading) -> Plan {
        let geometry = self.geometry();
        let mut plan = Plan {
            blocks: geometry.blocks(),
            ..Plan::default()
        };
        for block in (0..geometry.blocks()).filter_map(BlockIndex::new) {
            if !self.is_read(block, reading, geometry) {
                continue;
            }
            plan.read += 1;
            plan.bytes += geometry.span(block).len();
            add_to_runs(&mut plan.ranges, block.get());
        }
        plan.checked = Rechecked::new(self, request, reading).count();
        plan
    }

    /// If some block may get a new stamp, of second `now` or [`STEP`] later: nothing that is written later can be of these.
    fn let_seconds_pass(&self, request: &Request<'_>, now: i64, reading: &Reading) {
        let dry_run = matches!(request.purpose, Purpose::Scan { dry_run: true, .. });
        if !dry_run && self.makes_stamps(reading) {
            self.wait_if_near(now.saturating_add(STEP));
        }
    }

    fn makes_stamps(&self, reading: &Reading) -> bool {
        !matches!(reading, Reading::Nothing) || !self.records.all_settled(self.geometry().blocks())
    }

    /// Whether a block has to be read.
    pub(super) fn is_read(&self, block: BlockIndex, reading: &Reading, geometry: Geometry) -> bool {
        !reading.vouches_for(block, geometry)
            || !self.records.with(block, |record| record.has(HASHED))
    }
}
