//! Where block files get their times from: an index, or without one the source's own.

use std::sync::Arc;

use super::stamps::Stamps;
use crate::geometry::{BlockIndex, Geometry};
use crate::image::Image;
use crate::index::Index;

/// The stamps of all blocks.
#[derive(Debug)]
pub(super) enum Times {
    /// Without an index.
    Plain(Box<Stamps>),
    /// With one.
    Indexed(Arc<Index>),
}

impl Times {
    pub(super) fn index(&self) -> Option<&Arc<Index>> {
        match self {
            Self::Plain(_) => None,
            Self::Indexed(index) => Some(index),
        }
    }

    /// At each listing of the root.
    pub(super) fn refresh(&self, image: &dyn Image) {
        match self {
            Self::Plain(stamps) => stamps.refresh(image),
            Self::Indexed(index) => index.refresh(),
        }
    }

    /// What a listing asks for once: the stamp of blocks that have none of their own.
    pub(super) fn base(&self, image: &dyn Image) -> i64 {
        match self {
            Self::Plain(stamps) => stamps.base(image),
            Self::Indexed(_) => i64::MIN,
        }
    }

    /// The stamp that a block shows; from now on it counts as reported.
    pub(super) fn report_stamp(&self, block: BlockIndex, base: i64) -> i64 {
        match self {
            Self::Plain(stamps) => stamps.report_stamp(block, base),
            Self::Indexed(index) => index.report_stamp(block),
        }
    }

    /// The newest stamp of all `blocks` blocks.
    pub(super) fn newest(&self, base: i64, blocks: u64) -> i64 {
        match self {
            Self::Plain(stamps) => stamps.newest(base, blocks),
            Self::Indexed(index) => index.newest(),
        }
    }

    /// How many stamps were made for blocks that were written.
    pub(super) fn made(&self) -> i64 {
        match self {
            Self::Plain(stamps) => stamps.made(),
            Self::Indexed(index) => index.made(),
        }
    }

    /// The block is about to be read; `cached`: into the kernel's page cache, from where it is served unseen.
    pub(super) fn read(&self, block: BlockIndex, cached: bool) {
        match self {
            Self::Plain(stamps) => stamps.read(block),
            Self::Indexed(index) => {
                index.read(block);
                if cached {
                    index.served(block, None, index.epoch());
                    index.copied_unseen(block);
                }
            }
        }
    }

    /// The block was, or may have been, written.
    pub(super) fn wrote(&self, block: BlockIndex, base: i64) {
        match self {
            Self::Plain(stamps) => stamps.wrote(block, base),
            Self::Indexed(index) => index.wrote(block),
        }
    }

    /// A client sets the block's time.
    pub(super) fn set(&self, block: BlockIndex, stamp: i64, base: i64) {
        match self {
            Self::Plain(stamps) => stamps.set(block, stamp, base),
            Self::Indexed(index) => index.set(block, stamp),
        }
    }

    /// A block that the image had before is part of it again, with other content.
    pub(super) fn came_back(&self, block: BlockIndex, base: i64) {
        match self {
            Self::Plain(stamps) => stamps.came_back(block, base),
            Self::Indexed(index) => index.came_back(block),
        }
    }

    /// The image has another size.
    pub(super) fn resized(&self, geometry: Geometry) {
        if let Self::Indexed(index) = self {
            index.resized(geometry);
        }
    }

    /// How many blocks were written or given a time.
    pub(super) fn touched(&self) -> u64 {
        match self {
            Self::Plain(stamps) => stamps.touched(),
            Self::Indexed(index) => index.touched(),
        }
    }

    /// The block was opened for reading.
    pub(super) fn opened(&self, block: BlockIndex) {
        match self {
            Self::Plain(stamps) => stamps.opened(block),
            Self::Indexed(index) => index.opened(block),
        }
    }

    /// Whether the block was to be copied, and was not.
    pub(super) fn was_skipped(&self, block: BlockIndex) -> bool {
        match self {
            // If it is writable, it is a restore, which is of all blocks.
            Self::Plain(stamps) => stamps.was_skipped(block),
            Self::Indexed(index) => index.was_skipped(block),
        }
    }

    /// At the end of the mount.
    pub(super) fn let_pass(&self) {
        if let Self::Plain(stamps) = self {
            stamps.let_pass();
        }
    }
}
