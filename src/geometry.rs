//! Pure arithmetic on sizes, offsets and block indexes: all calculations of where a byte is.
//!
//! Invariant: a [`Geometry`] never describes more than [`MAX_BLOCKS`] blocks, so a block index fits
//! eight decimal digits and no sum here can overflow. This module knows no files.

mod block_size;
mod part;

use std::fmt;

use thiserror::Error;

pub use block_size::{BlockSize, BlockSizeError, parse_size};
pub use part::{Part, PartError};

/// The most blocks that an image may have: eight decimal digits name them (promise P1).
pub const MAX_BLOCKS: u64 = 100_000_000;

/// The position of a block in its image, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(u32);

impl BlockIndex {
    /// The index `value`, if an image can have that many blocks.
    #[must_use]
    pub fn new(value: u64) -> Option<Self> {
        if value >= MAX_BLOCKS {
            return None;
        }
        u32::try_from(value).ok().map(Self)
    }

    /// As a number.
    #[must_use]
    pub fn get(self) -> u64 {
        u64::from(self.0)
    }

    /// As a position in a slice.
    #[must_use]
    pub fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for BlockIndex {
    /// The name of its block file: eight digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08}", self.0)
    }
}

/// A byte of a block file, counted from the file's start. Bytes of the image are plain numbers and [`Span`]s; only a
/// [`Geometry`] turns one into the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileOffset(u64);

impl FileOffset {
    /// So many bytes behind the file's start; it may lie behind the file's end.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// As a number, for those who know the file alone.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The byte `len` bytes behind it; the largest number if that is larger.
    #[must_use]
    pub fn after(self, len: u64) -> Self {
        Self(self.0.saturating_add(len))
    }
}

/// A run of bytes of the image, `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
}

impl Span {
    /// The run `start..end`; empty if `end` does not lie behind `start`.
    #[must_use]
    pub fn new(start: u64, end: u64) -> Self {
        Self {
            start,
            end: end.max(start),
        }
    }

    /// How many bytes.
    #[must_use]
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether there is no byte in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether every byte of `other` is in it.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The part of it that lies on whole multiples of `unit` (a power of two), if there is any, and the
    /// ragged edges before and behind. Without a whole unit all of it is the first edge.
    #[must_use]
    pub fn split_aligned(self, unit: u64) -> (Self, Self, Self) {
        let first = self.start.next_multiple_of(unit);
        let last = self.end - self.end % unit;
        if first >= last {
            let nothing = Self::new(self.end, self.end);
            return (self, nothing, nothing);
        }
        (
            Self::new(self.start, first),
            Self::new(first, last),
            Self::new(last, self.end),
        )
    }
}

/// More than [`MAX_BLOCKS`] blocks.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GeometryError {
    /// A larger block size would do.
    #[error(
        "{image} bytes are more than 100000000 blocks of {block_size}: use -b {proposed} or more"
    )]
    TooManyBlocks {
        /// Size of the image in bytes.
        image: u64,
        /// The block size that is too small.
        block_size: BlockSize,
        /// The smallest that is not.
        proposed: BlockSize,
    },
    /// No block size would do.
    #[error("{0} bytes are more than 100000000 blocks of 1G, the largest block size")]
    TooLarge(u64),
}

/// How an image of some size is cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    image: u64,
    block: BlockSize,
}

impl Geometry {
    /// Cuts `image` bytes into blocks.
    pub fn new(image: u64, block: BlockSize) -> Result<Self, GeometryError> {
        if image.div_ceil(block.bytes()) <= MAX_BLOCKS {
            return Ok(Self { image, block });
        }
        Err(match BlockSize::smallest_for(image) {
            Some(proposed) => GeometryError::TooManyBlocks {
                image,
                block_size: block,
                proposed,
            },
            None => GeometryError::TooLarge(image),
        })
    }

    /// Size of the image in bytes.
    #[must_use]
    pub fn image_size(self) -> u64 {
        self.image
    }

    /// Length of every block but the last.
    #[must_use]
    pub fn block_size(self) -> BlockSize {
        self.block
    }

    /// How many blocks there are; the last may be short.
    #[must_use]
    pub fn blocks(self) -> u64 {
        self.image.div_ceil(self.block.bytes())
    }

    /// The block with this number, if there is one.
    #[must_use]
    pub fn block(self, number: u64) -> Option<BlockIndex> {
        if number < self.blocks() {
            BlockIndex::new(number)
        } else {
            None
        }
    }

    /// Whether the image has this block.
    #[must_use]
    pub fn has(self, block: BlockIndex) -> bool {
        block.get() < self.blocks()
    }

    /// The last block, unless the image is empty.
    #[must_use]
    pub fn last(self) -> Option<BlockIndex> {
        self.blocks().checked_sub(1).and_then(BlockIndex::new)
    }

    /// Where in the image a block lies. Empty for a block that the image does not have.
    #[must_use]
    pub fn span(self, block: BlockIndex) -> Span {
        let start = self.block.start_of(block);
        Span::new(start, (start + self.block.bytes()).min(self.image))
    }

    /// The part of `span(block)` that a request for `len` bytes at `offset` of the block file means,
    /// cut at the block's end. Empty if `offset` lies at or past the end.
    #[must_use]
    pub fn clip(self, block: BlockIndex, offset: FileOffset, len: u64) -> Span {
        let start = self.image_offset(block, offset);
        Span::new(start, start.saturating_add(len).min(self.span(block).end))
    }

    /// Where in the image a byte of a block file lies; the block's end for all that lie behind it.
    #[must_use]
    pub fn image_offset(self, block: BlockIndex, offset: FileOffset) -> u64 {
        let span = self.span(block);
        span.start.saturating_add(offset.0).min(span.end)
    }

    /// Where in its file the byte `image` of a block lies; the block's ends for what lies outside.
    #[must_use]
    pub fn file_offset(self, block: BlockIndex, image: u64) -> FileOffset {
        let span = self.span(block);
        FileOffset(image.clamp(span.start, span.end) - span.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn too_many_blocks_propose_a_block_size_that_does() {
        let image = MAX_BLOCKS * 4096 + 1;
        assert_eq!(
            Geometry::new(image - 1, BlockSize::MIN).unwrap().blocks(),
            MAX_BLOCKS
        );
        let error = Geometry::new(image, BlockSize::MIN).unwrap_err();
        assert!(error.to_string().ends_with("use -b 8K or more"), "{error}");
        assert!(matches!(
            Geometry::new(u64::MAX, BlockSize::MAX),
            Err(GeometryError::TooLarge(_))
        ));
    }

    #[test]
    fn the_last_block_is_as_long_as_what_is_left() {
        let size = |image, number| {
            let geometry = Geometry::new(image, BlockSize::MIN).unwrap();
            geometry
                .block(number)
                .map(|block| geometry.span(block).len())
        };
        assert_eq!(size(0, 0), None);
        assert_eq!(size(1, 0), Some(1));
        assert_eq!(size(4096, 0), Some(4096));
        assert_eq!(size(4096, 1), None);
        assert_eq!(size(4097, 1), Some(1));
    }

    proptest! {
        #[test]
        fn spans_tile_the_image(image in 0_u64..100_000_000, shift in 12_u32..20) {
            let geometry = Geometry::new(image, BlockSize::from_bytes(1 << shift).unwrap()).unwrap();
            let mut end = 0;
            for number in 0..geometry.blocks() {
                let span = geometry.span(geometry.block(number).unwrap());
                prop_assert_eq!(span.start, end);
                prop_assert!(!span.is_empty());
                end = span.end;
            }
            prop_assert_eq!(end, image);
        }

        #[test]
        fn clipping_never_leaves_the_block(
            image in 1_u64..10_000_000, offset in any::<u64>(), len in any::<u64>(), small in any::<bool>()
        ) {
            let geometry = Geometry::new(image, BlockSize::MIN).unwrap();
            let (offset, len) = if small { (offset % 5000, len % 5000) } else { (offset, len) };
            let block = geometry.last().unwrap();
            let span = geometry.span(block);
            let clipped = geometry.clip(block, FileOffset(offset), len);
            let back = geometry.file_offset(block, clipped.start);
            prop_assert_eq!(back, FileOffset(offset.min(span.len())));
            prop_assert_eq!(geometry.image_offset(block, back), clipped.start);
            prop_assert!(span.contains(clipped));
            prop_assert!(clipped.len() <= len);
            if offset < span.len() && len > 0 {
                prop_assert_eq!(clipped.start, span.start + offset);
                prop_assert!(!clipped.is_empty());
            } else {
                prop_assert!(clipped.is_empty());
            }
        }

        #[test]
        fn aligned_parts_make_up_the_whole(start in 0_u64..100_000, len in 0_u64..100_000, shift in 0_u32..14) {
            let unit = 1 << shift;
            let span = Span::new(start, start + len);
            let (head, body, tail) = span.split_aligned(unit);
            prop_assert_eq!(head.start, span.start);
            prop_assert_eq!(head.end, body.start);
            prop_assert_eq!(body.end, tail.start);
            prop_assert_eq!(tail.end, span.end);
            prop_assert!(body.is_empty() || (body.start % unit == 0 && body.end % unit == 0));
            prop_assert!(head.len() < 2 * unit && tail.len() < unit);
        }
    }
}
