//! Pure arithmetic on sizes, offsets and block indexes: all calculations of where a byte is.
//!
//! Invariant: a [`Geometry`] never describes more than [`MAX_BLOCKS`] blocks, so a block index fits
//! eight decimal digits and no sum here can overflow. This module knows no files.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The most blocks that an image may have: eight decimal digits name them (promise P1).
pub const MAX_BLOCKS: u64 = 100_000_000;

/// The length of a block file: a power of two from 4 KiB to 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockSize {
    shift: u32,
}

/// Why a text is not a block size.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BlockSizeError {
    /// Not digits with an optional suffix.
    #[error("'{0}' is not a size: use digits and an optional K, M or G, as in 4M")]
    NotASize(String),
    /// A size, but not one that a block may have.
    #[error("'{0}' is not a block size: it must be a power of two from 4K to 1G")]
    OutOfRange(String),
}

impl BlockSize {
    /// The smallest block, 4 KiB: a page.
    pub const MIN: Self = Self { shift: 12 };
    /// The largest block, 1 GiB.
    pub const MAX: Self = Self { shift: 30 };
    /// What is used unless -b says otherwise, 4 MiB.
    pub const DEFAULT: Self = Self { shift: 22 };

    /// The block size of exactly `bytes`, if that is a power of two in range.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        let shift = bytes.trailing_zeros();
        let size = Self { shift };
        (bytes.is_power_of_two() && size >= Self::MIN && size <= Self::MAX).then_some(size)
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// The smallest block size that cuts `image` bytes into at most [`MAX_BLOCKS`] blocks, if there is one.
    #[must_use]
    pub fn smallest_for(image: u64) -> Option<Self> {
        (Self::MIN.shift..=Self::MAX.shift)
            .map(|shift| Self { shift })
            .find(|size| image.div_ceil(size.bytes()) <= MAX_BLOCKS)
    }
}

impl FromStr for BlockSize {
    type Err = BlockSizeError;

    fn from_str(text: &str) -> Result<Self, BlockSizeError> {
        let bytes = parse_size(text).ok_or_else(|| BlockSizeError::NotASize(text.to_owned()))?;
        Self::from_bytes(bytes).ok_or_else(|| BlockSizeError::OutOfRange(text.to_owned()))
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shift {
            30.. => write!(f, "{}G", self.bytes() >> 30),
            20.. => write!(f, "{}M", self.bytes() >> 20),
            _ => write!(f, "{}K", self.bytes() >> 10),
        }
    }
}

/// Reads `digits[K|M|G]` (binary units, either case) as bytes. `None` if the text is anything else or
/// the product does not fit 64 bits.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().last()? {
        (end, 'K' | 'k') => (&text[..end], 10),
        (end, 'M' | 'm') => (&text[..end], 20),
        (end, 'G' | 'g') => (&text[..end], 30),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

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
        let start = block.get() * self.block.bytes();
        Span::new(start, (start + self.block.bytes()).min(self.image))
    }

    /// The part of `span(block)` that a request for `len` bytes at `offset` of the block file means,
    /// cut at the block's end. Empty if `offset` lies at or past the end.
    #[must_use]
    pub fn clip(self, block: BlockIndex, offset: u64, len: u64) -> Span {
        let span = self.span(block);
        let start = span.start.saturating_add(offset).min(span.end);
        Span::new(start, start.saturating_add(len).min(span.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const K: u64 = 1 << 10;
    const G: u64 = 1 << 30;

    #[test]
    fn block_sizes_are_powers_of_two_from_4k_to_1g() {
        for (text, bytes) in [
            ("4096", 4096),
            ("4K", 4096),
            ("4k", 4096),
            ("64K", 64 * K),
            ("4M", 4 << 20),
            ("1024m", G),
            ("1G", G),
            ("01G", G),
        ] {
            assert_eq!(text.parse::<BlockSize>().unwrap().bytes(), bytes, "{text}");
        }
        for text in [
            "", "K", "4X", "-4K", "+4K", "4 K", "4KB", "0x1000", "4\u{663}", "1P",
        ] {
            assert!(
                matches!(text.parse::<BlockSize>(), Err(BlockSizeError::NotASize(_))),
                "{text}"
            );
        }
        for text in ["0", "0K", "3000", "2K", "3M", "2G", "1024G"] {
            assert!(
                matches!(
                    text.parse::<BlockSize>(),
                    Err(BlockSizeError::OutOfRange(_))
                ),
                "{text}"
            );
        }
        assert!("99999999999999999999G".parse::<BlockSize>().is_err());
        assert!("17179869184G".parse::<BlockSize>().is_err());
    }

    #[test]
    fn block_sizes_print_as_they_are_typed() {
        for text in ["4K", "512K", "1M", "4M", "512M", "1G"] {
            assert_eq!(text.parse::<BlockSize>().unwrap().to_string(), text);
        }
    }

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
            let geometry = Geometry::new(image, BlockSize { shift }).unwrap();
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
            let clipped = geometry.clip(block, offset, len);
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
