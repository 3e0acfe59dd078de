//! How long the files are that clients make of blocks, so that a backup of another block size is noticed (promise
//! P25).
//!
//! A file that a client truncates or creates is as long as what it writes then; the block can be longer: a truncation
//! to 0 leaves a block its length, and with --resize the last block becomes a whole one when a later one is created.
//! Invariant: once the last writer has closed it, no block is longer than its file, except one that a client has
//! announced to be as long (fallocate); else the mount is latched.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Blocks;
use super::open::OpenBlock;
use crate::geometry::{BlockIndex, FileOffset};

/// What is known of a block's file. All lengths are in bytes.
#[derive(Debug, Default)]
struct File {
    /// Open handles that can write.
    writers: u64,
    /// Its length as its client knows it. `None`: the block's.
    len: Option<u64>,
    /// How long it was announced to become.
    announced: u64,
}

impl File {
    /// Its length, if that is neither 0 nor known to become `whole`. A file of length 0 is a block of zeros.
    fn shorter_than(&self, whole: u64) -> Option<u64> {
        self.len
            .filter(|len| *len > 0 && (*len).max(self.announced) < whole)
    }
}

/// The files that have writers, or are shorter than a block.
#[derive(Debug, Default)]
pub(super) struct Lengths(Mutex<HashMap<BlockIndex, File>>);

impl Lengths {
    fn lock(&self) -> MutexGuard<'_, HashMap<BlockIndex, File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle that can write has come.
    pub(super) fn opened(&self, block: BlockIndex) {
        self.lock().entry(block).or_default().writers += 1;
    }

    /// It has gone. The length of the file if nobody writes it any more, and it is shorter than its block, which has
    /// `len` bytes. `whole`: the length of every block but the last.
    fn closed(&self, block: BlockIndex, len: u64, whole: u64) -> Option<u64> {
        let mut files = self.lock();
        let file = files.get_mut(&block)?;
        file.writers = file.writers.saturating_sub(1);
        if file.writers > 0 {
            return None;
        }
        let shorter = file.shorter_than(len);
        // The image's last block, and those that are announced to grow, are remembered.
        if file.len.is_none_or(|len| len == 0 || len >= whole) {
            files.remove(&block);
        }
        shorter
    }

    /// The file was created, replaced or truncated, and has `len` bytes.
    pub(super) fn cut(&self, block: BlockIndex, len: u64, whole: u64) {
        let mut files = self.lock();
        let file = files.entry(block).or_default();
        file.len = Some(len);
        file.announced = 0;
        if file.writers == 0 && (len == 0 || len >= whole) {
            files.remove(&block);
        }
    }

    /// The file has bytes up to `end`.
    pub(super) fn wrote(&self, block: BlockIndex, end: FileOffset) {
        if let Some(file) = self.lock().get_mut(&block) {
            file.len = file.len.map(|len| len.max(end.get()));
        }
    }

    /// The file will have bytes up to `end`.
    pub(super) fn announced(&self, block: BlockIndex, end: FileOffset) {
        if let Some(file) = self.lock().get_mut(&block) {
            file.announced = file.announced.max(end.get());
        }
    }

    /// Blocks for which `gone` is true have no file any more.
    pub(super) fn forget(&self, gone: impl Fn(BlockIndex) -> bool) {
        self.lock().retain(|block, file| {
            if gone(*block) {
                (file.len, file.announced) = (None, 0);
            }
            file.writers > 0 || file.len.is_some()
        });
    }

    /// The length of a file that is shorter than `whole`, if nobody writes it now.
    pub(super) fn ended(&self, block: BlockIndex, whole: u64) -> Option<u64> {
        let files = self.lock();
        let file = files.get(&block).filter(|file| file.writers == 0)?;
        file.shorter_than(whole)
    }

    /// The first block whose file is shorter than `len` says of the block, whatever was announced.
    fn unfinished(&self, len: impl Fn(BlockIndex) -> u64) -> Option<(BlockIndex, u64)> {
        let files = self.lock();
        files
            .iter()
            .filter_map(|(block, file)| Some((*block, file.len?)))
            .filter(|(block, has)| *has > 0 && *has < len(*block))
            .min()
    }
}

impl Blocks {
    /// A handle of a block was closed: if it was the last that could write, the file has its length now.
    pub(super) fn closed(&self, open: &OpenBlock) {
        if !open.writable {
            return;
        }
        let block = open.block;
        let _alone = self.alone();
        let len = self.geometry().span(block).len();
        if let Some(has) = self.lengths.closed(block, len, self.whole()) {
            self.latch(
                block,
                &format!("its file was closed after {has} bytes, and the block has {len}"),
                Some(has),
            );
            self.lengths.forget(|other| other == block);
        }
    }

    /// With --resize, before a block past the image's end is made: the file of the last one must not have ended
    /// before the block does.
    pub(super) fn check_last_is_whole(&self) {
        let Some(last) = self.geometry().last() else {
            return;
        };
        if let Some(has) = self.lengths.ended(last, self.whole()) {
            self.latch(
                last,
                &format!("its file ended after {has} bytes, and another block is to follow"),
                Some(has),
            );
            self.lengths.forget(|other| other == last);
        }
    }

    /// At the end of the mount: what was announced must have come.
    pub(super) fn check_all_are_whole(&self) {
        let geometry = self.geometry();
        let len = |block| geometry.span(block).len();
        if let Some((block, has)) = self.lengths.unfinished(len) {
            self.latch(
                block,
                &format!("its file has {has} bytes, and the block has {}", len(block)),
                Some(has),
            );
        }
    }

    /// Length of every block but the last, in bytes.
    pub(super) fn whole(&self) -> u64 {
        self.config.block_size.bytes()
    }
}
