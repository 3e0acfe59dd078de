//! Blocks that cannot be read: they cannot be opened for reading either, since most tools that have opened a file
//! write zeros, or nothing, over the last good copy of what they cannot read of it.
//!
//! Invariant: after the first read error of a mount no block is opened for reading that was not read whole just before.
//! `-o salvage` is for those who want what is left: nothing is refused.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::Blocks;
use crate::buffer::with_scratch;
use crate::geometry::{BlockIndex, Span};
use crate::image::read_span;
use crate::per_block::BlockSet;
use crate::volume::{Errno, Result};

/// A block is read so much at a time before it is opened, in bytes.
const PIECE: u64 = 1 << 20;
/// So many blocks that cannot be read are logged one by one.
const MOST_LOGGED: u64 = 10;

/// What is known of blocks that cannot be read.
#[derive(Debug, Default)]
pub(super) struct Failing {
    /// Without an index, which else knows them: those of which the last attempt to read them failed.
    blocks: BlockSet,
    /// There was a read error.
    careful: AtomicBool,
    logged: AtomicU64,
}

impl Failing {
    /// After a scan that no index has seen could not read these.
    pub(super) fn knowing(blocks: BlockSet) -> Self {
        let careful = blocks.next(0).is_some();
        Self {
            blocks,
            careful: AtomicBool::new(careful),
            logged: AtomicU64::new(0),
        }
    }
}

impl Blocks {
    /// After a scan: if it could not read something, the source is not trusted any more.
    pub(super) fn note_unreadable(&self) {
        if self.unreadable().is_some() {
            self.failing.careful.store(true, SeqCst);
        }
    }

    /// The blocks of which the last attempt to read them failed: how many, and the first.
    pub(super) fn unreadable(&self) -> Option<(u64, BlockIndex)> {
        if let Some(index) = self.times.index() {
            return index.unreadable();
        }
        let geometry = self.geometry();
        let next = |from| {
            let found = self.failing.blocks.next(from);
            found.filter(|block| geometry.has(*block))
        };
        let first = next(0)?;
        let others = std::iter::successors(Some(first), |block| next(block.get() + 1));
        Some((others.count() as u64, first))
    }

    /// Whether the last attempt to read the block failed.
    pub(super) fn is_unreadable(&self, block: BlockIndex) -> bool {
        match self.times.index() {
            Some(index) => index.is_unreadable(block),
            None => self.failing.blocks.has(block),
        }
    }

    /// Refuses to open a block for reading that cannot be read: after a read error it is tried first.
    pub(super) fn check_readable(&self, block: BlockIndex) -> Result<()> {
        if self.config.salvage {
            return Ok(());
        }
        if self.is_unreadable(block) {
            log::debug!("block {block} cannot be read: not opened");
            return Err(Errno::EIO);
        }
        let (span, cut) = {
            // Held, so that no resize comes in between.
            let geometry = self.geometry.read().unwrap_or_else(PoisonError::into_inner);
            let span = geometry.span(block);
            (span, self.image.size().is_ok_and(|size| size < span.end))
        };
        let failed = if cut {
            Some((span.end, io::Error::from_raw_os_error(libc::EIO)))
        } else if self.failing.careful.load(SeqCst) {
            self.first_failure(span)
        } else {
            None
        };
        match failed {
            None => Ok(()),
            Some((offset, error)) => {
                self.cannot_read(block, offset, &error);
                Err(Errno::EIO)
            }
        }
    }

    /// Reads all of `span`, into the page cache if the source has one. The first byte that does not come, and why.
    fn first_failure(&self, span: Span) -> Option<(u64, io::Error)> {
        let mut from = span.start;
        while from < span.end {
            let len = usize::try_from(PIECE.min(span.end - from)).unwrap_or(usize::MAX);
            let got = with_scratch(len, |out| read_span(self.image.as_ref(), out, from));
            from += got.len as u64;
            if let Some(error) = got.error {
                return Some((from, error));
            }
        }
        None
    }

    /// The image's byte `offset`, which is the block's, cannot be read.
    pub(super) fn cannot_read(&self, block: BlockIndex, offset: u64, error: &io::Error) {
        match self.times.index() {
            Some(index) => index.cannot_read(block),
            None => self.failing.blocks.insert(block),
        }
        let image = self.image.name();
        let first = !self.failing.careful.swap(true, SeqCst);
        match self.failing.logged.fetch_add(1, SeqCst) {
            _ if first && !self.config.salvage => log::error!(
                "{image}: block {block}: reading at byte {offset}: {error}; from now on each block is read whole \
                 before it is opened, and is not opened if that fails, so that a backup keeps what it has of it; \
                 copy what is left of the source with ddrescue, or use -o salvage"
            ),
            0..MOST_LOGGED => {
                log::error!("{image}: block {block}: reading at byte {offset}: {error}");
            }
            MOST_LOGGED => {
                log::error!(
                    "{image}: more cannot be read, which is not logged; their blocks are counted"
                );
            }
            _ => log::debug!("{image}: block {block}: reading at byte {offset}: {error}"),
        }
    }

    /// The block was written: reading it is worth another try.
    pub(super) fn try_again(&self, block: BlockIndex) {
        self.failing.blocks.remove(block);
    }

    /// SIGHUP, without an index: reading the others is worth another try.
    pub(super) fn try_all_again_but(&self, unreadable: BlockSet) {
        self.failing.blocks.become_those(unreadable);
        self.note_unreadable();
    }
}
