//! Open files and directories, and what each was served.

use std::sync::{Arc, Mutex, PoisonError};

use super::Blocks;
use crate::budget::Share;
use crate::geometry::BlockIndex;
use crate::image::readahead::ReadAhead;
use crate::index::{Index, Served};
use crate::volume::sync_errors::SeenErrors;

/// An open file or directory.
#[derive(Debug)]
pub(super) struct Open {
    /// `None`: the root.
    pub(super) block: Option<BlockIndex>,
    pub(super) writable: bool,
    pub(super) seen_errors: SeenErrors,
    pub(super) ahead: Option<Mutex<ReadAhead>>,
    watched: Option<Watched>,
    /// Told when the last writer of a block has gone.
    writer_of: Option<Arc<Index>>,
}

/// What a handle was served, for the index.
#[derive(Debug)]
struct Watched {
    index: Arc<Index>,
    served: Mutex<Served>,
    /// Length of the block in bytes when it was opened.
    len: u64,
    /// The index's then.
    epoch: u64,
}

impl Blocks {
    pub(super) fn open_block(&self, block: BlockIndex, write: bool) -> Open {
        let index = self.times.index();
        let writer_of = index.filter(|_| write).cloned();
        if write {
            self.lengths.opened(block);
        }
        if let Some(index) = &writer_of {
            index.writer_came(block);
        }
        Open {
            block: Some(block),
            writable: write,
            seen_errors: self.sync_errors.of_new_handle(),
            ahead: self
                .image
                .is_direct()
                .then(|| Mutex::new(ReadAhead::new(Share::new(&self.handle_memory)))),
            watched: index.filter(|index| index.watches()).map(|index| Watched {
                index: Arc::clone(index),
                served: Mutex::new(Served::new(Share::new(&self.handle_memory))),
                len: self.geometry().span(block).len(),
                epoch: index.epoch(),
            }),
            writer_of,
        }
    }
}

impl Open {
    pub(super) fn directory(seen_errors: SeenErrors) -> Self {
        Self {
            block: None,
            writable: false,
            seen_errors,
            ahead: None,
            watched: None,
            writer_of: None,
        }
    }

    /// Bytes are about to be served. Whether they have to be hashed after that.
    pub(super) fn note_served(&self, len: usize) -> bool {
        let Some(watched) = &self.watched else {
            return false;
        };
        watched
            .served
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .note_served(len)
    }

    /// Hashes what was served.
    pub(super) fn hash(&self, offset: u64, bytes: &[u8]) {
        if let Some(watched) = &self.watched {
            watched
                .served
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .hash(offset, bytes);
        }
    }

    /// The index is about to judge what was served so far: of this handle nothing is certain yet.
    pub(super) fn discard(&self) {
        if let (Some(watched), Some(block)) = (&self.watched, self.block) {
            let served = watched
                .served
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if served.any() {
                watched.index.served(block, None, watched.epoch);
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(block) = self.block else {
            return;
        };
        if let Some(watched) = &mut self.watched {
            let served = watched
                .served
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner);
            if served.any() {
                let digest = served.digest(watched.len);
                watched.index.served(block, digest, watched.epoch);
            }
        }
        if let Some(index) = &self.writer_of {
            index.writer_left(block);
        }
    }
}
