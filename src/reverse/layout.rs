//! Whether a set of block files makes up an image, and how long its blocks are: pure judgement.

use thiserror::Error;

use crate::geometry::{BlockIndex, BlockSize, Geometry, GeometryError};

/// Why block files do not make up an image.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum LayoutError {
    /// Blocks are missing, and nobody said that they may.
    #[error(
        "block {first} is missing{}: if the backup was made with --sparse, mount it with --sparse; else it was \
         interrupted, and is not an image", more(*.others)
    )]
    Gap {
        /// The first that is missing.
        first: BlockIndex,
        /// How many more are.
        others: u64,
    },
    /// A block that is not the last one differs in length from what blocks have.
    #[error(
        "block {block} is {len} bytes long, where blocks have {} ({block_size}): the backup was interrupted, or is a \
         mixture of two", .block_size.bytes()
    )]
    WrongLength {
        /// Which.
        block: BlockIndex,
        /// How long it is.
        len: u64,
        /// How long it should be.
        block_size: BlockSize,
    },
    /// A block without a byte.
    #[error("block {0} is empty: the backup was interrupted")]
    Empty(BlockIndex),
    /// Block 0 has a length that no block has.
    #[error(
        "block 00000000 is {0} bytes long, which is not a block size (a power of two from 4K to 1G): the backup was \
         interrupted, or these are no block files"
    )]
    NoBlockSize(u64),
    /// -b says something else than block 0.
    #[error("block 00000000 is {len} bytes long, not {} as -b {asked} says; leave -b out", .asked.bytes())]
    Differs {
        /// Its length.
        len: u64,
        /// What -b says.
        asked: BlockSize,
    },
    /// Block 0 is missing, so nothing tells how long blocks are.
    #[error("block 00000000 is missing, so nothing tells how long blocks are: say it with -b")]
    Unknown,
    /// There is something, but no block file.
    #[error(
        "no file in it has the name of a block (eight digits): it is not a backup made from a mount"
    )]
    NoBlocks,
    /// There are too many blocks.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
}

impl LayoutError {
    /// Whether the command line is to blame.
    pub(super) fn is_usage(&self) -> bool {
        matches!(self, Self::Differs { .. } | Self::Unknown)
    }
}

fn more(others: u64) -> String {
    match others {
        0 => String::new(),
        _ => format!(" and {others} more"),
    }
}

/// How the block files `found`, sorted, with their lengths in bytes, make up an image. `strangers`: there are other
/// names beside them.
pub(super) fn judge(
    found: &[(BlockIndex, u64)],
    strangers: bool,
    asked: Option<BlockSize>,
    sparse: bool,
) -> Result<Geometry, LayoutError> {
    let Some((last, last_len)) = found.last().copied() else {
        return if strangers {
            Err(LayoutError::NoBlocks)
        } else {
            Ok(Geometry::new(0, asked.unwrap_or(BlockSize::DEFAULT))?)
        };
    };
    if !sparse {
        check_complete(found, last)?;
    }
    let block_size = block_size(found, last, asked)?;
    for (block, len) in found.iter().copied() {
        let full = len == block_size.bytes();
        let short = block == last && len < block_size.bytes();
        if len == 0 {
            return Err(LayoutError::Empty(block));
        }
        if !full && !short {
            return Err(LayoutError::WrongLength {
                block,
                len,
                block_size,
            });
        }
    }
    Ok(Geometry::new(
        last.get() * block_size.bytes() + last_len,
        block_size,
    )?)
}

/// The first block that is not where it is counted.
fn check_complete(found: &[(BlockIndex, u64)], last: BlockIndex) -> Result<(), LayoutError> {
    let gap = (0_u64..)
        .zip(found)
        .find(|(number, (block, _))| *number != block.get())
        .and_then(|(number, _)| BlockIndex::new(number));
    match gap {
        None => Ok(()),
        Some(first) => Err(LayoutError::Gap {
            first,
            others: last.get() - found.len() as u64,
        }),
    }
}

fn block_size(
    found: &[(BlockIndex, u64)],
    last: BlockIndex,
    asked: Option<BlockSize>,
) -> Result<BlockSize, LayoutError> {
    let first = found.first().filter(|(block, _)| block.get() == 0);
    let alone = last.get() == 0;
    match (first.copied(), asked) {
        (None, None) => Err(LayoutError::Unknown),
        (None, Some(asked)) => Ok(asked),
        (Some((_, len)), Some(asked)) if len == asked.bytes() => Ok(asked),
        (Some((_, len)), Some(asked)) if alone && len < asked.bytes() => Ok(asked),
        (Some((_, len)), Some(asked)) => Err(LayoutError::Differs { len, asked }),
        // An image of one block: any length that it fits in will do.
        (Some((_, len)), None) if alone => {
            BlockSize::from_bytes(len.next_power_of_two().max(BlockSize::MIN.bytes()))
                .ok_or(LayoutError::NoBlockSize(len))
        }
        (Some((_, len)), None) => BlockSize::from_bytes(len).ok_or(LayoutError::NoBlockSize(len)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K4: u64 = 4096;

    fn verdict(
        found: &[(u64, u64)],
        asked: Option<&str>,
        sparse: bool,
    ) -> Result<(u64, u64), String> {
        let found: Vec<_> = found
            .iter()
            .map(|(block, len)| (BlockIndex::new(*block).unwrap(), *len))
            .collect();
        let asked = asked.map(|text| text.parse().unwrap());
        judge(&found, false, asked, sparse)
            .map(|geometry| (geometry.image_size(), geometry.block_size().bytes()))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn what_makes_up_an_image() {
        let m4 = 4 << 20;
        for (found, asked, sparse, size, block) in [
            (&[][..], None, false, 0, m4),
            (&[], Some("64K"), true, 0, 65_536),
            (&[(0, K4)], None, false, K4, K4),
            (&[(0, 1)], None, false, 1, K4),
            (&[(0, 5000)], None, false, 5000, 8192),
            (&[(0, 5000)], Some("4M"), false, 5000, m4),
            (&[(0, 1 << 30)], None, false, 1 << 30, 1 << 30),
            (&[(0, K4), (1, K4)], None, false, 2 * K4, K4),
            (
                &[(0, K4), (1, K4), (2, 1)],
                Some("4K"),
                false,
                2 * K4 + 1,
                K4,
            ),
            (&[(0, K4), (1, K4), (2, 1)], None, true, 2 * K4 + 1, K4),
            (&[(0, K4), (7, 9)], None, true, 7 * K4 + 9, K4),
            (&[(3, 9)], Some("4K"), true, 3 * K4 + 9, K4),
            (
                &[(0, K4), (99_999_999, K4)],
                None,
                true,
                100_000_000 * K4,
                K4,
            ),
        ] {
            assert_eq!(
                verdict(found, asked, sparse),
                Ok((size, block)),
                "{found:?} -b {asked:?} sparse={sparse}"
            );
        }
    }

    #[test]
    fn what_does_not_is_named() {
        for (found, asked, sparse, says) in [
            (
                &[(0, K4), (2, K4)][..],
                None,
                false,
                "block 00000001 is missing:",
            ),
            (
                &[(2, K4)],
                None,
                false,
                "block 00000000 is missing and 1 more:",
            ),
            (
                &[(0, K4), (2, K4), (3, K4), (9, 1)],
                None,
                false,
                "block 00000001 is missing and 5 more: if the backup was made with --sparse,",
            ),
            (
                &[(3, K4)],
                None,
                true,
                "block 00000000 is missing, so nothing tells",
            ),
            (
                &[(0, K4), (1, 100), (2, K4)],
                None,
                false,
                "block 00000001 is 100 bytes long, where blocks have 4096 (4K):",
            ),
            (
                &[(0, K4), (1, K4 + 1)],
                None,
                false,
                "block 00000001 is 4097 bytes",
            ),
            (&[(0, K4), (1, 0)], None, false, "block 00000001 is empty"),
            (&[(0, 0)], None, false, "block 00000000 is empty"),
            (&[(0, 0)], Some("4K"), false, "block 00000000 is empty"),
            (
                &[(0, 0), (1, K4)],
                None,
                false,
                "block 00000000 is 0 bytes long, which",
            ),
            (
                &[(0, 100), (1, K4)],
                None,
                false,
                "block 00000000 is 100 bytes long, which",
            ),
            (
                &[(0, 2048), (1, 1)],
                None,
                true,
                "block 00000000 is 2048 bytes long, which",
            ),
            (
                &[(0, (1 << 30) + 1)],
                None,
                false,
                "block 00000000 is 1073741825 bytes",
            ),
            (
                &[(0, K4), (1, K4)],
                Some("8K"),
                false,
                "block 00000000 is 4096 bytes long, not 8192 as -b 8K says",
            ),
            (
                &[(0, 8192)],
                Some("4K"),
                false,
                "block 00000000 is 8192 bytes long, not 4096",
            ),
            (
                &[(1, K4), (2, 8192)],
                Some("8K"),
                true,
                "block 00000001 is 4096 bytes",
            ),
        ] {
            let said = verdict(found, asked, sparse).unwrap_err();
            assert!(said.starts_with(says), "{found:?}: {said}");
        }
        let lost = judge(&[], true, None, false).unwrap_err();
        assert_eq!(lost, LayoutError::NoBlocks);
    }
}
