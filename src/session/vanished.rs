//! A source that is gone, although something is still there: it is empty, or nothing of it can be read (promise P27).
//! `run` refuses it, for a command like `rsync --delete` would make the backup as empty.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use super::prepare::interrupted;
use crate::exit::{Failure, Result, Status};
use crate::geometry::{FileOffset, Geometry};
use crate::image::{Image, read_span};
use crate::scan::Tally;

/// Of a block so many bytes are tried.
const PIECE: u64 = 4096;

/// An image of no bytes.
pub(super) fn empty(path: &Path) -> Failure {
    refused(
        path,
        "the image is empty: syncing it with --delete would remove the whole backup; if that is meant, use -o shrunk",
    )
}

/// A directory of no block files.
pub(super) fn no_block_file(path: &Path) -> Failure {
    refused(path, "it holds no block file, so there is nothing to copy")
}

/// An image of which nothing can be read.
pub(super) fn unreadable(path: &Path) -> Failure {
    refused(
        path,
        "no block of the image can be read, so there is nothing to copy; if what is left of it is wanted, use -o salvage",
    )
}

/// Refuses an image of which no block can be read: one is tried after the other, up to the first that can.
pub(super) fn refuse_unreadable(
    image: &dyn Image,
    geometry: Geometry,
    path: &Path,
    tally: &Tally,
) -> Result<()> {
    let mut piece = vec![0; usize::try_from(PIECE).unwrap_or_default()];
    for block in (0..geometry.blocks()).filter_map(|number| geometry.block(number)) {
        let span = geometry.clip(block, FileOffset::new(0), PIECE);
        let len = usize::try_from(span.len()).unwrap_or(piece.len());
        let got = read_span(image, &mut piece[..len], span.start);
        if got.len > 0 {
            return Ok(());
        }
        // Said before the others are tried, for a dying disk may take minutes for each.
        if let (0, Some(e)) = (block.get(), got.error) {
            let path = path.display();
            log::warn!("{path}: block {block} cannot be read: {e}; looking for one that can");
        }
        if tally.cancel.load(Relaxed) {
            return Err(interrupted());
        }
    }
    Err(unreadable(path))
}

fn refused(path: &Path, why: &str) -> Failure {
    Failure::new(Status::MountFailed, format!("{}: {why}", path.display()))
}
