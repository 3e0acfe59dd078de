//! Which blocks have a file in a sparse directory, and how that is found out: at the mount, at SIGHUP, at each listing
//! and when the image has grown.
//!
//! Invariant: a block without a file was zeros when the directory was opened last (at most a second before that), or
//! when it was looked at last, if nothing was written since. Whatever is in doubt has a file. The first and the last
//! block always have one: they tell the block size and the image's size.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::SIZE_INTERVAL;
use crate::geometry::{BlockIndex, Geometry};
use crate::image::{Fingerprint, Image};
use crate::index::Index;
use crate::per_block::BlockSet;
use crate::scan::{Found, Hasher, Tally, ZeroDigests};

/// The blocks that have a file.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(super) present: BlockSet,
    /// Those of them that could not be read when all was read at the mount.
    pub(super) unreadable: BlockSet,
    /// The directory is for one command, which sees what was found at its beginning.
    for_run: bool,
    /// Threads that read the image, if it must be read.
    threads: usize,
    looked: Mutex<Looked>,
}

/// When the image was looked at.
#[derive(Debug)]
struct Looked {
    at: Instant,
    /// Before all of it was read.
    read: Fingerprint,
    /// Nothing tells which blocks are zeros now, which has been said.
    unknown: bool,
}

impl Listing {
    /// Looks at all of the image: by the digests of its index, which has just been scanned, else by its holes, else by
    /// reading it with so many `threads`. Interrupted: `tally` says so.
    pub(crate) fn of(
        image: &dyn Image,
        geometry: Geometry,
        index: Option<&Index>,
        threads: usize,
        tally: &Tally,
    ) -> io::Result<Self> {
        let Survey {
            present,
            unreadable,
            read,
        } = survey(image, geometry, index, threads, tally)?;
        Ok(Self {
            present,
            unreadable,
            for_run: false,
            threads,
            looked: Mutex::new(Looked {
                at: Instant::now(),
                read,
                unknown: false,
            }),
        })
    }

    /// The directory is for one command: where only reading tells what is zeros, what was found stays.
    #[must_use]
    pub(crate) fn for_run(self) -> Self {
        Self {
            for_run: true,
            ..self
        }
    }

    /// Whether all of the image must be read.
    #[must_use]
    pub(crate) fn must_read(image: &dyn Image, index: Option<&Index>) -> bool {
        index.is_none() && !image.has_holes()
    }

    /// SIGHUP: as [`Self::of`]. What could not be read.
    pub(super) fn look_again(
        &self,
        image: &dyn Image,
        geometry: Geometry,
        index: Option<&Index>,
        tally: &Tally,
    ) -> io::Result<BlockSet> {
        let Survey {
            present,
            unreadable,
            read,
        } = survey(image, geometry, index, self.threads, tally)?;
        let mut looked = self.lock();
        self.present.become_those(present);
        *looked = Looked {
            at: Instant::now(),
            read,
            unknown: false,
        };
        Ok(unreadable)
    }

    /// At a listing of what only others write, if the last look is a second old: follows the image without reading it.
    pub(super) fn follow(&self, image: &dyn Image, geometry: Geometry, index: Option<&Index>) {
        if self.for_run && (index.is_some() || !image.has_holes()) {
            return;
        }
        let mut looked = self.lock();
        if looked.at.elapsed() < SIZE_INTERVAL {
            return;
        }
        let quiet = || {
            let now = image.fingerprint().unwrap_or(Fingerprint::Unknown);
            now.proves_unwritten_since(&looked.read, true)
        };
        let present = match index {
            Some(index) if index.is_current() => by_digests(geometry, index),
            _ if image.has_holes() => by_holes(image, geometry).unwrap_or_else(|e| {
                let image = image.name();
                log::warn!("{image}: its holes cannot be read, so all blocks have a file: {e}");
                BlockSet::all(geometry)
            }),
            None if quiet() => {
                looked.at = Instant::now();
                return;
            }
            _ => {
                if !looked.unknown {
                    log::warn!(
                        "{}: it was, or may have been, written since it was read: all blocks have a file until SIGHUP",
                        image.name()
                    );
                }
                looked.unknown = true;
                BlockSet::all(geometry)
            }
        };
        self.present.become_those(present);
        looked.at = Instant::now();
    }

    /// Others have let the image grow: its new blocks have a file if they may have data.
    pub(super) fn grown(&self, image: &dyn Image, before: Geometry, now: Geometry) {
        let _looked = self.lock();
        let found = by_holes(image, now).unwrap_or_else(|e| {
            let image = image.name();
            log::warn!("{image}: it has grown, but its holes cannot be read: {e}");
            BlockSet::all(now)
        });
        let mut from = before.blocks().saturating_sub(1);
        while let Some(block) = found.next(from) {
            self.present.insert(block);
            from = block.get() + 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a look at the image finds.
#[derive(Debug)]
struct Survey {
    present: BlockSet,
    unreadable: BlockSet,
    /// Before all of it was read.
    read: Fingerprint,
}

fn survey(
    image: &dyn Image,
    geometry: Geometry,
    index: Option<&Index>,
    threads: usize,
    tally: &Tally,
) -> io::Result<Survey> {
    let present = match index {
        Some(index) => by_digests(geometry, index),
        None if image.has_holes() => by_holes(image, geometry)?,
        None => return by_reading(image, geometry, threads, tally),
    };
    Ok(Survey {
        present,
        unreadable: BlockSet::default(),
        read: Fingerprint::Unknown,
    })
}

/// The blocks that are not known to be zeros.
fn by_digests(geometry: Geometry, index: &Index) -> BlockSet {
    let present = ends(geometry);
    (0..geometry.blocks())
        .filter_map(|number| geometry.block(number))
        .filter(|block| !index.is_zero(*block))
        .for_each(|block| present.insert(block));
    present
}

/// The blocks that are not all hole; all of them if holes cannot be believed. What was cut off is no hole.
fn by_holes(image: &dyn Image, geometry: Geometry) -> io::Result<BlockSet> {
    image.flush()?;
    let present = ends(geometry);
    let unit = geometry.block_size().bytes();
    let end = geometry.image_size();
    let insert = |from: u64, to: u64| {
        (from / unit..to.div_ceil(unit))
            .filter_map(BlockIndex::new)
            .for_each(|block| present.insert(block));
    };
    let mut from = 0;
    while from < end {
        let Some(data) = image.next_data(from)?.filter(|data| *data < end) else {
            break;
        };
        let hole = image.next_hole(data)?.clamp(data + 1, end);
        insert(data, hole);
        // What lies before the next block's start is known to have data.
        from = hole.max((data / unit + 1) * unit);
    }
    let size = image.size()?;
    if size < end {
        insert(size, end);
    }
    Ok(present)
}

/// The blocks that do not read as zeros.
fn by_reading(
    image: &dyn Image,
    geometry: Geometry,
    threads: usize,
    tally: &Tally,
) -> io::Result<Survey> {
    image.flush()?;
    let read = image.fingerprint()?;
    let (present, unreadable) = (ends(geometry), BlockSet::default());
    let zeros = ZeroDigests::new(geometry.block_size().bytes());
    Hasher::new(image, geometry, &zeros)
        .scan(threads, tally, &|_| true, &|block, found| {
            let zero = zeros.of(geometry.span(block).len());
            match found {
                Found::Digest(digest) if digest == zero => return,
                Found::Digest(_) => {}
                Found::Unreadable(_) => unreadable.insert(block),
            }
            present.insert(block);
        })
        .map_err(|e| io::Error::new(io::ErrorKind::Interrupted, e))?;
    Ok(Survey {
        present,
        unreadable,
        read,
    })
}

fn ends(geometry: Geometry) -> BlockSet {
    geometry
        .block(0)
        .into_iter()
        .chain(geometry.last())
        .collect()
}
