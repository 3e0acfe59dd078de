//! What tests, and the model of random histories, ask of an index and see of it that nobody else does.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::record::Record;
use super::{Index, Purpose, Request};
use crate::clock::Clock;
use crate::geometry::{BlockIndex, BlockSize, Geometry};
use crate::image::Image;
use crate::scan::Tally;

pub(crate) use super::file::{Loaded, Noted, Store};
pub(crate) use super::format::FilePlace;
pub(crate) use super::over::NEAR;
pub(crate) use super::record::{HASHED, TORN, UNREAD};

impl<'a> Request<'a> {
    /// What a test asks for, if it says nothing else: a mount of an image in the smallest blocks, which reads all of it.
    pub(crate) fn of_a_test(
        image: Arc<dyn Image>,
        path: &'a Path,
        tally: &'a Tally,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            geometry: Geometry::new(image.size().unwrap(), BlockSize::MIN).unwrap(),
            image,
            path,
            source_file: None,
            source: "image".to_owned(),
            writable: false,
            force: false,
            immutable: false,
            changes: None,
            salvage: false,
            rescan: false,
            recheck: None,
            zeros: true,
            purpose: Purpose::Mount,
            map: None,
            threads: 1,
            tally,
            clock,
        }
    }
}

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

    /// Until so many seconds have passed one listing may show what nothing proves.
    pub(crate) fn fresh(&self) -> i64 {
        self.evidence.known.with(|known| known.fresh)
    }

    /// The latest stamp that was made for a block that was written.
    pub(crate) fn last_made(&self) -> i64 {
        self.clockwork.last_made.load(SeqCst)
    }
}
