//! The block directory: an image shown as a flat directory of block files. Plain Rust, no FUSE, no mount point.
//!
//! Invariants: what a client reads is what the image holds now; a write reaches the image before it is
//! acknowledged and never leaves its block; nothing but a client's request changes a byte.

mod attributes;
mod data;
mod failing;
mod lengths;
mod listing;
mod open;
mod resize;
mod skipped;
mod sparse;
mod staged;
mod staged_names;
mod staged_open;
mod stamps;
mod times;
mod volume;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::VolumeConfig;
use crate::geometry::{BlockIndex, BlockSize, Geometry, GeometryError};
use crate::image::{Fingerprint, Image};
use crate::index::{Index, Meanwhile, Report};
use crate::scan::Tally;
use crate::volume::Errno;
use crate::volume::handles::Handles;
use crate::volume::owner::Owners;
use crate::volume::sync_errors::SyncErrors;

use failing::Failing;
use lengths::Lengths;
use open::Open;
use staged::Staging;
use stamps::Stamps;
use times::Times;

pub(crate) use listing::Listing;
pub(crate) use skipped::Skipped;

/// The image's size is looked at again no more often than this (promise P2).
const SIZE_INTERVAL: Duration = Duration::from_secs(1);
/// What all open handles may keep together beside what they are, in bytes: pieces that were served early, what was read
/// ahead. With more, an index knows less, and a device is read in smaller pieces.
const HANDLE_MEMORY: u64 = 64 << 20;

/// An image as a directory of block files.
#[derive(Debug)]
pub(crate) struct Blocks {
    image: Arc<dyn Image>,
    config: VolumeConfig,
    geometry: RwLock<Geometry>,
    pub(crate) size_read: Mutex<Option<Instant>>,
    owners: Owners,
    times: Times,
    handles: Handles<Open>,
    handle_memory: Arc<Budget>,
    staging: Staging,
    failing: Failing,
    /// With --sparse: which blocks have a file.
    listing: Option<Listing>,
    /// With --resize: the number of an empty block just behind the image.
    pending: AtomicU64,
    resizing: Mutex<()>,
    /// Of a writable mount: how long clients make the files.
    lengths: Lengths,
    latched: AtomicBool,
    /// At the mount, of a mount that is read-only.
    fingerprint: Fingerprint,
    sync_errors: SyncErrors,
    /// Changes with every write: what was read ahead before it is stale.
    version: AtomicU64,
    /// Bytes that readers were given.
    served: AtomicU64,
    clock: Arc<dyn Clock>,
}

/// What there is to say at the end of a mount.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summary {
    /// Block files.
    pub blocks: u64,
    /// Of a writable mount: blocks that were neither written nor given a time.
    pub untouched: Option<u64>,
    /// Blocks that were to be copied and were not (promise P26).
    pub skipped: Option<Skipped>,
    /// Of a mount with an index: blocks of which nobody was served all since they changed, before or in part: how many,
    /// and the first.
    pub uncopied: Option<(u64, BlockIndex)>,
    /// Bytes of block files that readers were given; `None`: nobody counted, nor looked what cannot be read, nor who wrote.
    pub served: Option<u64>,
    /// Of a mount with an index: what the last scan found.
    pub report: Option<Report>,
    /// Blocks that could not be read when that was tried last: how many, and the first.
    pub unreadable: Option<(u64, BlockIndex)>,
    /// Whether somebody wrote the image while it was read.
    pub meanwhile: Meanwhile,
    /// Whether writes were refused, because the backup seems to have another block size (promise P25).
    pub latched: bool,
}

/// Memory that the clients of a mount can make it take, whatever the number of its images.
#[derive(Debug)]
pub(crate) struct Memory {
    /// For what is read ahead and served.
    handles: Arc<Budget>,
    /// For files under temporary names.
    staged: Arc<Budget>,
}

impl Memory {
    /// `staging`: bytes that files under temporary names may take together.
    pub(crate) fn new(staging: u64) -> Self {
        Self {
            handles: Arc::new(Budget::new(HANDLE_MEMORY)),
            staged: Arc::new(Budget::new(staging)),
        }
    }
}

/// Why an image cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlocksError {
    /// It has too many blocks.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Its size or times could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Blocks {
    /// Cuts `image` into blocks as it is now.
    /// With an index, stamps are its; it must be of the same image at the same size.
    pub(crate) fn new(
        image: Arc<dyn Image>,
        config: VolumeConfig,
        clock: Arc<dyn Clock>,
        index: Option<Arc<Index>>,
        mut listing: Option<Listing>,
    ) -> std::result::Result<Self, BlocksError> {
        let geometry = Geometry::new(image.size()?, config.block_size)?;
        image.flush()?;
        let unreadable = listing
            .as_mut()
            .map(|listing| std::mem::take(&mut listing.unreadable));
        let fingerprint = if config.writable {
            Fingerprint::Unknown
        } else {
            image.fingerprint()?
        };
        let memory = Memory::new(config.staging);
        let blocks = Self {
            fingerprint,
            geometry: RwLock::new(geometry),
            size_read: Mutex::new(None),
            owners: Owners::new(image.ownership(), config.owner),
            times: match index {
                Some(index) => Times::Indexed(index),
                None => Times::Plain(Box::new(Stamps::new(
                    image.as_ref(),
                    config.writable,
                    Arc::clone(&clock),
                )?)),
            },
            handles: Handles::new(),
            handle_memory: memory.handles,
            staging: Staging::new(memory.staged),
            failing: Failing::knowing(unreadable.unwrap_or_default()),
            listing,
            pending: AtomicU64::new(resize::NONE),
            resizing: Mutex::new(()),
            lengths: Lengths::default(),
            latched: AtomicBool::new(false),
            sync_errors: SyncErrors::default(),
            version: AtomicU64::new(0),
            served: AtomicU64::new(0),
            image,
            config,
            clock,
        };
        blocks.note_unreadable();
        Ok(blocks)
    }

    /// Takes memory for its clients from what several share. Comes before it is served.
    #[must_use]
    pub(crate) fn sharing(self, memory: &Memory) -> Self {
        Self {
            handle_memory: Arc::clone(&memory.handles),
            staging: Staging::new(Arc::clone(&memory.staged)),
            ..self
        }
    }

    /// Length of every block but the last.
    #[must_use]
    pub(crate) fn block_size(&self) -> BlockSize {
        self.config.block_size
    }

    /// Whether what is shown is a clone of the image, which nobody writes.
    #[must_use]
    pub(crate) fn is_snapshot(&self) -> bool {
        self.config.snapshot.is_some()
    }

    /// How the image is cut at present.
    #[must_use]
    pub(crate) fn geometry(&self) -> Geometry {
        *self.geometry.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the image's size again: new blocks appear, what was cut off stays listed and reads as EIO.
    pub(crate) fn reread_size(&self) {
        let present = match self.image.size() {
            Ok(size) => size,
            Err(e) => {
                log::warn!("the image's size cannot be read: {e}");
                return;
            }
        };
        let mut geometry = self
            .geometry
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let known_geometry = *geometry;
        let known = geometry.image_size();
        if present < known {
            log::warn!(
                "the image is {} bytes shorter than at the mount: those read as errors",
                known - present
            );
        }
        if present <= known {
            return;
        }
        match Geometry::new(present, self.config.block_size) {
            Ok(grown) => {
                let last = geometry
                    .last()
                    .filter(|last| geometry.span(*last) != grown.span(*last));
                *geometry = grown;
                drop(geometry);
                self.times.resized(grown);
                if let Some(listing) = &self.listing {
                    listing.grown(self.image.as_ref(), known_geometry, grown);
                }
                if let Some(last) = last {
                    self.lengths.forget(|block| block == last);
                    self.times.wrote(last, self.times.base(self.image.as_ref()));
                    self.try_again(last);
                }
            }
            Err(e) => log::warn!("the image has grown, but what is new cannot be shown: {e}"),
        }
    }

    /// The orderly end: what was written is made durable. Later requests find an image that is still right.
    pub(crate) fn close(&self) -> io::Result<Summary> {
        let blocks = self.geometry().blocks();
        let untouched = self
            .config
            .writable
            .then(|| blocks.saturating_sub(self.times.touched()));
        if self.config.writable {
            self.drop_staged();
            self.check_all_are_whole();
            self.image.sync(false)?;
        }
        self.times.let_pass();
        let meanwhile = if let Some(index) = self.times.index() {
            self.handles.for_each(Open::end);
            index.close()
        } else if self.config.writable || self.image.is_moment() {
            Ok(Meanwhile::Quiet)
        } else {
            let now = self.image.fingerprint().unwrap_or(Fingerprint::Unknown);
            Ok(match now.differs_from(&self.fingerprint) {
                Some(true) => Meanwhile::Written,
                Some(false) => Meanwhile::Quiet,
                None => Meanwhile::Unknown,
            })
        };
        // Content may have been shown with the second of a write that came later in it, and that was the last.
        if self.times.touched() > 0 {
            if let Err(e) = self.image.touch() {
                log::warn!("setting the image's time: {e}");
            }
        }
        Ok(Summary {
            blocks,
            untouched,
            skipped: self.skipped(),
            uncopied: self.uncopied(),
            served: Some(self.served.load(SeqCst)),
            meanwhile: meanwhile?,
            latched: self.latched.load(SeqCst),
            unreadable: self.unreadable(),
            report: self.times.index().map(|index| index.report()),
        })
    }

    /// Looks at the image as if it were mounted anew: its size, and with an index at all of its content.
    pub(crate) fn look_again(&self, tally: &Tally) -> io::Result<()> {
        self.reread_size();
        if let Some(index) = self.times.index() {
            self.handles.for_each(Open::discard);
            index.rescan(tally)?;
            self.note_unreadable();
        }
        self.list_again(tally)
    }

    /// At each listing of the root.
    fn refresh(&self) {
        let due = {
            let mut read = self
                .size_read
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let due = read.is_none_or(|at| at.elapsed() >= SIZE_INTERVAL);
            if due {
                *read = Some(Instant::now());
            }
            due
        };
        // New blocks may need an index that is saved first, for which no other listing waits.
        if due {
            self.reread_size();
        }
        if let Err(e) = self.image.flush() {
            log::warn!("flushing the image to learn its holes: {e}");
        }
        self.follow_holes();
        self.times.refresh(self.image.as_ref());
    }
}

/// The errno that a client gets for a failed call on the image.
fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
