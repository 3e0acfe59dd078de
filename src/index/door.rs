//! What the model of random histories (tests only) sees of an index that nobody else does.

use std::sync::atomic::Ordering::SeqCst;

use super::Index;
use super::record::Record;
use crate::geometry::BlockIndex;

pub(crate) use super::file::{Loaded, Store};
pub(crate) use super::format::FilePlace;
pub(crate) use super::over::NEAR;
pub(crate) use super::record::{HASHED, TORN, UNREAD};

impl Index {
    /// All that is known of a block.
    pub(crate) fn record(&self, block: BlockIndex) -> Record {
        self.records.with(block, |record| *record)
    }

    /// Nobody who looks has to wait for the first stamps any more.
    pub(crate) fn shows_stamps(&self) -> bool {
        self.over.is_completed()
    }

    /// The one stamp of all blocks, if they have one.
    pub(crate) fn overlay(&self) -> Option<i64> {
        self.evidence.overlay()
    }

    /// Until this second one listing may show what nothing proves.
    pub(crate) fn fresh(&self) -> i64 {
        self.evidence.known.with(|known| known.fresh)
    }

    /// The latest stamp that was made for a block that was written.
    pub(crate) fn last_made(&self) -> i64 {
        self.clockwork.last_made.load(SeqCst)
    }
}
