//! One look at every name in a directory: which are block files, and what stat(2) says of them.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use nix::sys::stat::SFlag;

use super::directory::Directory;
use crate::geometry::BlockIndex;
use crate::image::Ownership;
use crate::volume::inode::parse_block_name;

/// How many names that are no blocks are named.
const NAMED: usize = 3;

/// A block file, as stat(2) told.
#[derive(Debug, Clone, Copy)]
struct Found {
    block: BlockIndex,
    len: u64,
    sectors: u64,
    mtime: i64,
    ownership: Ownership,
}

/// What is in a directory.
#[derive(Debug)]
pub(super) struct Survey {
    /// Sorted.
    found: Vec<Found>,
    strangers: Vec<OsString>,
}

impl Survey {
    /// Reads all names, and asks for every block file's attributes.
    ///
    /// # Errors
    /// Also if the name of a block belongs to something else than a regular file.
    pub(super) fn of(directory: &Directory) -> io::Result<Self> {
        let mut blocks = Vec::new();
        let mut strangers = Vec::new();
        for name in directory.names()? {
            match parse_block_name(&name) {
                Some(block) => blocks.push(block),
                None => strangers.push(name),
            }
        }
        blocks.sort_unstable();
        strangers.sort_unstable();
        let found = blocks
            .into_iter()
            .map(|block| look_at(directory, block))
            .collect::<io::Result<_>>()?;
        Ok(Self { found, strangers })
    }

    /// Tells of names that are ignored.
    pub(super) fn warn_of_strangers(&self, path: &Path) {
        warn_of_strangers(path, &self.strangers);
    }

    pub(super) fn strangers(&self) -> usize {
        self.strangers.len()
    }

    pub(super) fn lengths(&self) -> Vec<(BlockIndex, u64)> {
        self.found
            .iter()
            .map(|found| (found.block, found.len))
            .collect()
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockIndex> {
        self.found.iter().map(|found| found.block)
    }

    /// What each takes, in units of 512 bytes.
    pub(super) fn sectors(&self) -> impl Iterator<Item = (BlockIndex, u64)> {
        self.found.iter().map(|found| (found.block, found.sectors))
    }

    /// Owner and mode of the first block file.
    pub(super) fn ownership(&self) -> Option<Ownership> {
        self.found.first().map(|found| found.ownership)
    }

    /// The newest mtime in whole seconds; 0 without block files.
    pub(super) fn newest(&self) -> i64 {
        self.found
            .iter()
            .map(|found| found.mtime)
            .max()
            .unwrap_or(0)
    }
}

/// Tells of names that are ignored: what an interrupted tool has left, or what does not belong there.
pub(crate) fn warn_of_strangers(path: &Path, strangers: &[OsString]) {
    if strangers.is_empty() {
        return;
    }
    let named: Vec<_> = strangers.iter().take(NAMED).collect();
    let mut line = format!("{named:?}");
    line = line.trim_matches(['[', ']']).to_owned();
    if strangers.len() > NAMED {
        line += " and others";
    }
    log::warn!(
        "{}: names that are no blocks are ignored, {} of them: {line}",
        path.display(),
        strangers.len(),
    );
}

fn look_at(directory: &Directory, block: BlockIndex) -> io::Result<Found> {
    let stat = directory
        .stat(block)
        .map_err(|e| io::Error::new(e.kind(), format!("block {block}: {e}")))?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(io::Error::other(format!(
            "block {block} is not a regular file"
        )));
    }
    Ok(Found {
        block,
        len: u64::try_from(stat.st_size).unwrap_or(0),
        sectors: u64::try_from(stat.st_blocks).unwrap_or(0),
        mtime: stat.st_mtime,
        ownership: Ownership {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
        },
    })
}
