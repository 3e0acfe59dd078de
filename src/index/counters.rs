//! What an index counts, for reports.

use super::request::Purpose;
use super::{FirstPass, Index};
use crate::geometry::BlockIndex;
use crate::order::{Ordered, Rank};
use crate::stamp::Given;

/// What a scan found, in blocks.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub(crate) struct Report {
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
    /// Of those: bytes of blocks that need not have been read (promise P29).
    pub rechecked: u64,
    /// How long reading took, without the wait for a second to end, and for others to be read first.
    pub seconds: f64,
    /// What became of blocks that were stamped unread (promise P32), counted at the end of the mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_pass: Option<FirstPass>,
}

/// What is counted. Nothing is decided by it.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) given: Given,
    /// What the last scan found.
    pub(super) report: Ordered<Report>,
    /// The blocks that got new stamps in the last scan, if somebody wants to know.
    restamped: Option<Ordered<Vec<u64>>>,
}

impl Counters {
    pub(super) fn new(purpose: Purpose) -> Self {
        let list = matches!(purpose, Purpose::Scan { list: true, .. });
        Self {
            given: Given::new(),
            report: Ordered::new(Rank::Leaf, Report::default()),
            restamped: list.then(|| Ordered::new(Rank::Leaf, Vec::new())),
        }
    }

    /// A scan has given the block a new stamp.
    pub(super) fn restamped(&self, block: BlockIndex) {
        if let Some(list) = &self.restamped {
            list.with(|list| list.push(block.get()));
        }
    }
}

/// Adds a block to runs of block numbers, ends included; it comes after all that are there.
pub(super) fn add_to_runs(runs: &mut Vec<(u64, u64)>, block: u64) {
    match runs.last_mut() {
        Some((_, end)) if *end + 1 == block => *end = block,
        _ => runs.push((block, block)),
    }
}

impl Index {
    /// What the last scan found.
    #[must_use]
    pub(crate) fn report(&self) -> Report {
        self.counters.report.with(|report| report.clone())
    }

    /// The blocks that got new stamps in the last scan, as runs of block numbers, ends included. Empty unless the
    /// request asked for a list.
    #[must_use]
    pub(crate) fn restamped(&self) -> Vec<(u64, u64)> {
        let list = self.counters.restamped.as_ref();
        let mut blocks = list.map_or_else(Vec::new, |list| list.with(|list| list.clone()));
        blocks.sort_unstable();
        let mut runs = Vec::new();
        for block in blocks {
            add_to_runs(&mut runs, block);
        }
        runs
    }

    /// How many blocks were written or given a time.
    pub(crate) fn touched(&self) -> u64 {
        self.counters.given.touched()
    }
}
