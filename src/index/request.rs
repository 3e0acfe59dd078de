//! What is asked of an index, and why it can be refused.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::file::{FileId, Refused};
use crate::changes::ChangeSource;
use crate::clock::Clock;
use crate::geometry::Geometry;
use crate::image::Image;
use crate::scan::{BlockMap, Tally};

/// What an index is brought up to date for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A mount that may live long: listings after the image was written show new stamps.
    Mount,
    /// A mount for one command, which shows what the scan found for all its life.
    Run {
        /// An image that is empty, or smaller than the index or what is noted beside it remembers, is refused.
        refuse_shrunk: bool,
        /// So is an index that cannot be saved.
        strict: bool,
    },
    /// No mount.
    Scan {
        /// Keep a list of the blocks that get new stamps.
        list: bool,
        /// Leave the file as it is.
        dry_run: bool,
    },
}

impl Request<'_> {
    /// Blocks may be shown before they were read.
    pub(super) fn may_serve_unread(&self) -> bool {
        !self.rescan && !self.zeros && !matches!(self.purpose, Purpose::Scan { .. })
    }

    /// It is for a command that makes a backup like the image, of which what cannot be read stays (promise P27). Not where
    /// the image is what is restored, nor where what is left of it is wanted.
    pub(super) fn guards_backup(&self) -> bool {
        matches!(self.purpose, Purpose::Run { .. }) && !self.writable && !self.salvage
    }
}

impl Purpose {
    /// Nothing can be done with an index that cannot be saved.
    pub(super) fn must_save(self) -> bool {
        matches!(self, Self::Run { strict: true, .. } | Self::Scan { .. })
    }
}

/// An index that is wanted, and of what.
#[derive(Debug, Clone)]
// Each is a circumstance of its own.
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Request<'a> {
    /// The image, locked as the mount needs it.
    pub image: Arc<dyn Image>,
    /// How it is cut.
    pub geometry: Geometry,
    /// The index's file.
    pub path: &'a Path,
    /// The image's file or device node, which the index's must not be.
    pub source_file: Option<FileId>,
    /// The image's name, for people who look into the file.
    pub source: String,
    /// The image is mounted with -w.
    pub writable: bool,
    /// Others may write the image although it is mounted with -w.
    pub force: bool,
    /// Nobody can write the image: it is a clone that only this process knows.
    pub immutable: bool,
    /// Who can tell what changed without reading, if anybody can.
    pub changes: Option<&'a dyn ChangeSource>,
    /// Blocks that cannot be read get new stamps all the same.
    pub salvage: bool,
    /// Read everything, whatever the index says.
    pub rescan: bool,
    /// Of what need not be read, every so many-th part is read all the same; 0: none. `None`: as the source of changes
    /// needs it.
    pub recheck: Option<u32>,
    /// Which blocks are zeros has to be known at once.
    pub zeros: bool,
    /// What for.
    pub purpose: Purpose,
    /// A block map that is made by the scan, which has to read everything.
    pub map: Option<&'a BlockMap>,
    /// Threads that scan.
    pub threads: usize,
    /// Progress, and the way to end the scan early.
    pub tally: &'a Tally,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// Why a mount with an index cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Another process has it.
    #[error("it is in use by {0}; wait for that, or mount without --index")]
    Held(String),
    /// The index's file, or its lock file, must be left alone.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Less image than last time.
    #[error(
        "the image has {now} bytes, and had {then} when it was last scanned: syncing it with --delete would \
         remove the rest from the backup; if that is meant, use -o shrunk"
    )]
    Shrunk {
        /// Bytes that it has.
        now: u64,
        /// Bytes that it had.
        then: u64,
    },
    /// Nothing can be read, so that there is nothing to copy.
    #[error("no block of the image can be read")]
    Unreadable,
    /// It must be saved, and cannot be.
    #[error(
        "it cannot be saved: {error}{}",
        if *far { "; times that it has promised lie in the future, so that new ones could come again" } else { "" }
    )]
    Unsaved {
        /// Why.
        error: io::Error,
        /// Whether new stamps would lie in the future.
        far: bool,
    },
    /// Ended early; the index is as it was.
    #[error("interrupted")]
    Interrupted,
}
