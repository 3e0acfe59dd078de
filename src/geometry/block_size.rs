//! Block sizes: which there are, and how they are typed and shown.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::{BlockIndex, MAX_BLOCKS};

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

    /// The image's byte where a block starts.
    #[must_use]
    pub fn start_of(self, block: BlockIndex) -> u64 {
        block.get() * self.bytes()
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
