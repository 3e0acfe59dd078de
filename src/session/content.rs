//! What a mount shows of a source: the block files of an image, or the image of a directory of block files.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::blocks::{Blocks, Summary};
use crate::exit::{OrFail, Result, Status};
use crate::index::Meanwhile;
use crate::reverse::Reverse;
use crate::volume::Volume;

/// A source that is mounted, or about to be.
#[derive(Debug)]
pub(super) struct Member {
    /// Its directory; `None`: it is all that the mount shows.
    pub(super) name: Option<OsString>,
    /// The source's canonical path.
    pub(super) path: PathBuf,
    pub(super) content: Content,
}

impl Member {
    /// The orderly end of it.
    pub(super) fn close(&self) -> Result<Summary> {
        self.content.close().or_fail(Status::System, || {
            format!(
                "unmounting {}: making writes durable; what was written last may be lost",
                self.path.display()
            )
        })
    }

    /// After a mount that nobody has used: the index is as good as it was.
    pub(super) fn close_unused(&self) {
        if let Err(e) = self.content.close() {
            log::warn!("{}: {e}", self.path.display());
        }
    }
}

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

    /// What is served.
    pub(super) fn volume(&self) -> Arc<dyn Volume> {
        match self {
            Self::Blocks(blocks) => Arc::clone(blocks) as Arc<dyn Volume>,
            Self::Reverse(reverse) => Arc::clone(reverse) as Arc<dyn Volume>,
        }
    }
}
