//! What an index knows, for whoever compares a backup with it (promise P28).
//!
//! Invariant: nothing is changed: not the index, nor its place, nor what is noted beside it. A block that is told is one
//! of which every copy with its stamp has the content of its digest.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file::{Refused, StoreError, open_to_read};
use super::format::{self, FormatError};
use super::record::{HASHED, Record, SETTLED};
use crate::changes::ImageState;
use crate::geometry::{BlockIndex, BlockSize, Geometry};
use crate::per_block::PerBlock;
use crate::scan::{Digest, ZeroDigests};
use crate::stamp::STAMPED;

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KnownError {
    /// Another process uses it.
    #[error("it is in use by {0}; wait for that")]
    Held(String),
    /// It is no index, and nobody should have named it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// There is none.
    #[error(
        "there is none: name SRC, -b and -o id= as in the run that made it, or use --index=FILE"
    )]
    Missing,
    /// It is cut short, damaged or something else.
    #[error("{0}")]
    Useless(String),
    /// It is of another block size.
    #[error("it is for blocks of {has}, not of {asked}: use -b {has}, or the index for {asked}")]
    OtherBlocks {
        /// What it is for.
        has: BlockSize,
        /// What was asked for.
        asked: BlockSize,
    },
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl From<FormatError> for KnownError {
    fn from(error: FormatError) -> Self {
        Self::Useless(error.to_string())
    }
}

impl From<StoreError> for KnownError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Held(holder) => Self::Held(holder),
            StoreError::Refused(why) => Self::Refused(why),
            StoreError::Io(e) => Self::Io(e),
        }
    }
}

/// As [`super::named_state`].
pub(super) fn named_state(path: &Path) -> Result<Option<String>, KnownError> {
    let state = || {
        let (mut file, _) = open_to_read(path)?.ok_or(KnownError::Missing)?;
        Ok(format::read(&mut file, &mut |_, _| ())??.state)
    };
    match state() {
        Ok(Some(ImageState::Named(name))) => Ok(Some(name)),
        Ok(_) | Err(KnownError::Missing | KnownError::Useless(_) | KnownError::Refused(_)) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// What is known of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownBlock {
    /// BLAKE3 of its content.
    pub digest: Digest,
    /// The time that its file shows, in seconds since the epoch.
    pub stamp: i64,
    /// The latest time that its file ever showed, in seconds since the epoch: of this content or of an older one.
    pub latest: i64,
}

/// An index that was read, and is not used.
#[derive(Debug)]
pub(crate) struct Known {
    path: PathBuf,
    read: Version,
    records: PerBlock<Record>,
    zeros: ZeroDigests,
    geometry: Geometry,
    warning: Option<&'static str>,
}

/// One version of a file that is replaced as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    inode: u64,
    changed: (i64, i64),
}

impl Version {
    fn of(stat: &Metadata) -> Self {
        Self {
            inode: stat.ino(),
            changed: (stat.ctime(), stat.ctime_nsec()),
        }
    }
}

impl Known {
    /// Reads the index at `path`, which must be for blocks of `block_size`. A bmapfs that is just saving it is waited
    /// for.
    pub(crate) fn read(path: &Path, block_size: BlockSize) -> Result<Self, KnownError> {
        let (mut file, place) = open_to_read(path)?.ok_or(KnownError::Missing)?;
        let stat = file.metadata()?;
        if stat.len() == 0 {
            return Err(KnownError::Missing);
        }
        let read = Version::of(&stat);
        let records: PerBlock<Record> = PerBlock::new();
        let header = Self::read_into(&records, &mut file)?;
        let has = BlockSize::from_bytes(header.block_size).ok_or(FormatError::Damaged)?;
        if has != block_size {
            let asked = block_size;
            return Err(KnownError::OtherBlocks { has, asked });
        }
        let geometry = Geometry::new(header.image_size, has).map_err(|_| FormatError::Damaged)?;
        let mut warning = None;
        if header.open {
            // What was served since is not noted.
            records.for_each(|record| record.clear(SETTLED));
            warning = Some(
                "the last bmapfs that used it was killed: no block is certain before the next scan",
            );
        } else if header.place.is_copied_to(&place) {
            warning = Some("it is a copy, or was moved, and may be older than the backup");
        }
        Ok(Self {
            path: path.to_owned(),
            read,
            records,
            zeros: ZeroDigests::new(has.bytes()),
            geometry,
            warning,
        })
    }

    fn read_into(
        records: &PerBlock<Record>,
        file: &mut File,
    ) -> Result<format::Header, KnownError> {
        let mut put = |number: usize, record: Record| {
            if let Some(block) = BlockIndex::new(number as u64) {
                records.with(block, |slot| *slot = record);
            }
        };
        Ok(format::read(file, &mut put)??)
    }

    /// What there is to say before it is believed.
    #[must_use]
    pub(crate) fn warning(&self) -> Option<&'static str> {
        self.warning
    }

    /// How the image was cut when it was last scanned.
    #[must_use]
    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// What is certain of a block of the image. `None`: its digest is not known, or not settled.
    #[must_use]
    pub(crate) fn block(&self, block: BlockIndex) -> Option<KnownBlock> {
        let record = self.records.peek(block)?;
        record.has(HASHED | SETTLED | STAMPED).then(|| KnownBlock {
            digest: record.digest,
            stamp: record.stamp.second(),
            latest: record.stamp.latest(),
        })
    }

    /// Whether a block that is certain has a file in a sparse directory.
    #[must_use]
    pub(crate) fn has_file(&self, block: BlockIndex, known: &KnownBlock) -> bool {
        let at_an_end = block.get() == 0 || self.geometry.last() == Some(block);
        at_an_end || known.digest != self.zeros.of(self.geometry.span(block).len())
    }

    /// Digests of zeros.
    #[must_use]
    pub(crate) fn zeros(&self) -> &ZeroDigests {
        &self.zeros
    }

    /// Whether the file is still the one that was read. A mount is ready only after it has put another in its place.
    #[must_use]
    pub(crate) fn is_current(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|stat| Version::of(&stat) == self.read)
    }
}

#[cfg(test)]
impl Known {
    /// What a test wants to be known: of each block its digest and stamp.
    pub(crate) fn of(geometry: Geometry, blocks: &[(Digest, i64)]) -> Self {
        let records: PerBlock<Record> = PerBlock::new();
        for (block, (digest, stamp)) in (0..).filter_map(BlockIndex::new).zip(blocks) {
            records.with(block, |record| {
                record.found(*digest, *stamp);
            });
        }
        Self {
            path: PathBuf::new(),
            read: Version {
                inode: 0,
                changed: (0, 0),
            },
            records,
            zeros: ZeroDigests::new(geometry.block_size().bytes()),
            geometry,
            warning: None,
        }
    }
}
