//! What the command, or whoever used the mount, has not copied although it had to (promise P26).

use super::Blocks;
use crate::geometry::BlockIndex;

/// Blocks that were to be copied and were not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// How many.
    pub(crate) count: u64,
    /// Of how many that were to be.
    pub(crate) of: u64,
    /// The first.
    pub(crate) first: BlockIndex,
    /// They were to be written: this is a restore without an index. Else they were to be read.
    pub(crate) restore: bool,
}

impl Blocks {
    /// Blocks that nobody has opened for reading, nor written: with an index of those with new times, without one of all,
    /// if the mount is writable. Only such as have a file that can be read. `None`: there are none.
    pub(super) fn skipped(&self) -> Option<Skipped> {
        let restore = self.times.index().is_none();
        if restore && !self.config.writable {
            return None;
        }
        let geometry = self.geometry();
        let end = self.image.size().unwrap_or(geometry.image_size());
        let (mut count, mut listed, mut first, mut from) = (0, 0, None, 0);
        while let Some(block) = self.next_listed(geometry, from) {
            from = block.get() + 1;
            listed += 1;
            // What was cut off cannot be read, whoever opens it.
            if self.times.was_skipped(block)
                && geometry.span(block).end <= end
                && !self.is_unreadable(block)
            {
                count += 1;
                first = first.or(Some(block));
            }
        }
        let of = match self.times.index().map(|index| index.report()) {
            // What an earlier scan of this mount has found is not in its report.
            Some(report) => count.max(report.changed + report.new + report.unsettled),
            None => listed,
        };
        first.map(|first| Skipped {
            count,
            of,
            first,
            restore,
        })
    }

    /// With an index: blocks that nobody was served whole since they changed, in this run or in one before: how many, and
    /// the first. Those that were skipped in this one are not among them.
    pub(super) fn uncopied(&self) -> Option<(u64, BlockIndex)> {
        let index = self.times.index()?;
        let geometry = self.geometry();
        let (mut count, mut first, mut from) = (0, None, 0);
        while let Some(block) = self.next_listed(geometry, from) {
            from = block.get() + 1;
            if index.is_uncopied(block) {
                count += 1;
                first = first.or(Some(block));
            }
        }
        first.map(|first| (count, first))
    }
}
