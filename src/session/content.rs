//! What a mount shows: the block files of an image, or the image of a directory of block files.

use std::io;
use std::sync::Arc;

use crate::blocks::{Blocks, Summary};
use crate::index::Meanwhile;
use crate::reverse::Reverse;

/// Something that can be mounted.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// An image as block files.
    Blocks(Arc<Blocks>),
    /// Block files as an image.
    Reverse(Arc<Reverse>),
}

impl Content {
    /// How much there is, for a log line.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Blocks(blocks) => format!(
                "{} blocks of {}",
                blocks.geometry().blocks(),
                blocks.block_size()
            ),
            Self::Reverse(reverse) => format!(
                "an image of {} bytes, {} partitions, from {} blocks of {}",
                reverse.geometry().image_size(),
                reverse.partition_count(),
                reverse.present(),
                reverse.geometry().block_size()
            ),
        }
    }

    /// The orderly end: what was written is made durable, an index is saved.
    pub(super) fn close(&self) -> io::Result<Summary> {
        match self {
            Self::Blocks(blocks) => blocks.close(),
            Self::Reverse(reverse) => {
                reverse.close()?;
                Ok(Summary {
                    blocks: reverse.present(),
                    untouched: None,
                    skipped: None,
                    uncopied: None,
                    served: None,
                    report: None,
                    unreadable: None,
                    meanwhile: Meanwhile::Quiet,
                    latched: false,
                })
            }
        }
    }

    /// After a mount that nobody has used: the index is as good as it was.
    pub(super) fn close_unused(&self) {
        if let Err(e) = self.close() {
            log::warn!("{e}");
        }
    }
}
