//! The first pass: every block gets a new stamp anyway, so nothing is read before it is shown (promise P32).
//!
//! Invariant: a digest is taken only from a handle that was served the whole block, once and in order, with the stamp that
//! was made for this mount; whoever was served anything else makes it uncertain.

use super::record::{HASHED, Record, SETTLED, TORN, UNREAD, UNSERVED};
use super::request::Request;
use super::{Index, Report};
use crate::geometry::BlockIndex;
use crate::per_block::PerBlock;
use crate::stamp::STAMPED;

/// Blocks that were shown before they were read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct FirstPass {
    /// Blocks whose digest is known now, and of which every copy has that content.
    pub settled: u64,
    /// Blocks that nobody read.
    pub never_read: u64,
}

/// Whether nothing has to be read: every block gets a new stamp, and nobody must know anything at once. A block without a
/// digest that somebody has may be one that could not be read, also if the index is not believed: with a new stamp its last
/// good copy would be replaced (promise P22).
pub(super) fn needs_no_scan(request: &Request<'_>, records: &PerBlock<Record>) -> bool {
    let mut kept = false;
    records.for_each(|record| {
        let served = record.has(STAMPED) && !record.stamp.has_any(HASHED | UNSERVED);
        kept |= served || record.has(HASHED | SETTLED | STAMPED);
    });
    !kept && request.may_serve_unread()
}

impl Index {
    /// Every block gets a stamp, of second `now` or later, unread.
    pub(super) fn stamp_unread(&self, now: i64) {
        let geometry = self.geometry();
        let mut report = Report {
            blocks: geometry.blocks(),
            first_pass: Some(FirstPass::default()),
            ..Report::default()
        };
        for block in (0..geometry.blocks()).filter_map(BlockIndex::new) {
            let known = self.records.with(block, |record| {
                let known = record.has(STAMPED);
                record.stamp_unread(now);
                known
            });
            if known {
                report.unsettled += 1;
            } else {
                report.new += 1;
            }
        }
        if let Some(last) = geometry.last() {
            self.make_later(last);
        }
        self.counters.report.with(|last| *last = report);
        self.counters.given.forget_newest();
    }

    /// At the end: what is known of them now.
    pub(super) fn count_first_pass(&self) {
        let mut report = self.report();
        let Some(pass) = &mut report.first_pass else {
            return;
        };
        *pass = FirstPass::default();
        report.zero = 0;
        for block in (0..self.geometry().blocks()).filter_map(BlockIndex::new) {
            let record = self.records.with(block, |record| *record);
            pass.settled += u64::from(record.has(HASHED | SETTLED));
            pass.never_read += u64::from(record.has(UNREAD) && !record.has(TORN));
            report.zero += u64::from(self.is_zero(block));
        }
        self.counters.report.with(|last| *last = report);
    }
}
