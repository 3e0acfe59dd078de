//! Open files and directories, and what each was served.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Blocks;
use super::staged::StagedState;
use super::staged_open::OpenStaged;
use crate::budget::Share;
use crate::geometry::{BlockIndex, FileOffset};
use crate::image::readahead::ReadAhead;
use crate::index::{Index, Served};
use crate::scan::Digest;
use crate::volume::sync_errors::SeenErrors;
use crate::volume::{Errno, Handle, Result};

/// What a handle is for.
#[derive(Debug)]
pub(super) enum Open {
    /// The root.
    Directory,
    /// A block file.
    Block(OpenBlock),
    /// A staged file, or the block that it was renamed over.
    Staged(OpenStaged),
}

/// What an open file is at the moment.
pub(super) enum OpenFile<'a> {
    /// A block file.
    Block(&'a OpenBlock),
    /// A staged file, which is not renamed over a block before its state is unlocked.
    Staged(&'a OpenStaged, MutexGuard<'a, StagedState>),
}

/// An open block file.
#[derive(Debug)]
pub(super) struct OpenBlock {
    pub(super) block: BlockIndex,
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
    /// EBADF: nothing is open by this number.
    pub(super) fn handle(&self, handle: Handle) -> Result<Arc<Open>> {
        self.handles.get(handle).ok_or(Errno::EBADF)
    }

    /// What an open file is now. EISDIR: it is a directory; else as [`Self::check_open`], for a block that a staged file
    /// has become.
    pub(super) fn file<'a>(&self, open: &'a Open) -> Result<OpenFile<'a>> {
        match open {
            Open::Directory => Err(Errno::EISDIR),
            Open::Block(block) => Ok(OpenFile::Block(block)),
            Open::Staged(staged) => self.resolve(staged),
        }
    }

    /// Whether a block may be opened. ENOENT: it has no place in the image; EROFS: nothing may be written; EIO: it is
    /// to be read, and cannot be.
    pub(super) fn check_open(&self, block: BlockIndex, write: bool) -> Result<()> {
        if !self.has(self.geometry(), block) {
            return Err(Errno::ENOENT);
        }
        if write && !self.config.writable {
            return Err(Errno::EROFS);
        }
        if write {
            Ok(())
        } else {
            self.check_readable(block)
        }
    }

    /// After [`Self::check_open`]. It ends with [`Self::closed`].
    pub(super) fn open_block(
        &self,
        block: BlockIndex,
        write: bool,
        seen_errors: SeenErrors,
    ) -> OpenBlock {
        let index = self.times.index();
        let writer_of = index.filter(|_| write).cloned();
        if write {
            self.lengths.opened(block);
        } else {
            self.times.opened(block);
        }
        if let Some(index) = &writer_of {
            index.writer_came(block);
        }
        OpenBlock {
            block,
            writable: write,
            seen_errors,
            ahead: self
                .image
                .is_direct()
                .then(|| Mutex::new(ReadAhead::new(Share::new(&self.handle_memory)))),
            watched: index
                .filter(|index| index.watches(block))
                .map(|index| Watched {
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
    /// The index is about to judge what was served so far: of this handle nothing is certain yet.
    pub(super) fn discard(&self) {
        self.judge(|_, _| None);
    }

    /// The same at the end: nobody is served any more. The kernel tells of a close(2) only after it, and at an unmount
    /// maybe never.
    pub(super) fn end(&self) {
        self.judge(Served::digest);
    }

    /// Tells the index what this handle was served, if anything, as `digest` has it of the block's length.
    fn judge(&self, digest: impl Fn(&Served, u64) -> Option<Digest>) {
        let open = match self {
            Self::Directory => None,
            Self::Block(open) => Some(open),
            Self::Staged(staged) => staged.block(),
        };
        let Some((open, watched)) = open.and_then(|open| Some((open, open.watched.as_ref()?)))
        else {
            return;
        };
        let served = watched
            .served
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if served.any() {
            let digest = digest(&served, watched.len);
            watched.index.served(open.block, digest, watched.epoch);
        }
    }
}

impl OpenBlock {
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
    pub(super) fn hash(&self, offset: FileOffset, bytes: &[u8]) {
        if let Some(watched) = &self.watched {
            watched
                .served
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .hash(offset.get(), bytes);
        }
    }
}

impl Drop for OpenBlock {
    fn drop(&mut self) {
        if let Some(watched) = &mut self.watched {
            let served = watched
                .served
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner);
            if served.any() {
                let digest = served.digest(watched.len);
                watched.index.served(self.block, digest, watched.epoch);
            }
        }
        if let Some(index) = &self.writer_of {
            index.writer_left(self.block);
        }
    }
}
