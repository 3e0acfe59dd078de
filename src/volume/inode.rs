//! Names and inode numbers of block files: pure functions between them and block indexes.
//!
//! Promise P3: the root is inode 1, block N is inode N + 2, for ever.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::geometry::{BlockIndex, MAX_BLOCKS};

/// The digits in a block file's name.
pub(crate) const NAME_DIGITS: usize = 8;

/// The first number that no block file has; anything else in a mount is numbered from here.
pub(crate) const FIRST_OTHER: u64 = MAX_BLOCKS + 2;

/// What an inode number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Inode {
    /// The root directory.
    Root,
    /// A block file.
    Block(BlockIndex),
    /// Something that is not a block, from 0 up.
    Other(u64),
}

impl Inode {
    /// What `number` stands for; `None` for 0, which no inode has.
    #[must_use]
    pub(crate) fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => None,
            1 => Some(Self::Root),
            FIRST_OTHER.. => Some(Self::Other(number - FIRST_OTHER)),
            _ => BlockIndex::new(number - 2).map(Self::Block),
        }
    }

    /// Its number.
    #[must_use]
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Root => 1,
            Self::Block(block) => block.get() + 2,
            Self::Other(other) => FIRST_OTHER + other,
        }
    }
}

/// The name of a block's file: its index in eight digits.
#[must_use]
pub(crate) fn block_name(block: BlockIndex) -> OsString {
    OsString::from(block.to_string())
}

/// The block whose file has this name, if it is one.
#[must_use]
pub(crate) fn parse_block_name(name: &OsStr) -> Option<BlockIndex> {
    let digits = name.as_bytes();
    if digits.len() != NAME_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    BlockIndex::new(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_eight_digits_name_a_block() {
        for name in [
            "",
            "0",
            "0000000",
            "000000000",
            "0000000a",
            "-0000001",
            "+0000001",
            " 0000001",
            "00000001 ",
            ".00000001",
            "00000001.x",
            "\u{660}\u{661}\u{662}\u{663}",
        ] {
            assert_eq!(parse_block_name(OsStr::new(name)), None, "{name:?}");
        }
        assert_eq!(parse_block_name(OsStr::from_bytes(b"0000000\xff")), None);
        assert_eq!(
            parse_block_name(OsStr::new("99999999")),
            BlockIndex::new(99_999_999)
        );
    }

    #[test]
    fn the_root_is_1_and_block_n_is_n_plus_2() {
        assert_eq!(Inode::from_number(0), None);
        assert_eq!(Inode::from_number(1), Some(Inode::Root));
        assert_eq!(Inode::from_number(2), BlockIndex::new(0).map(Inode::Block));
        assert_eq!(
            Inode::from_number(100_000_001),
            BlockIndex::new(99_999_999).map(Inode::Block)
        );
        assert_eq!(Inode::from_number(100_000_002), Some(Inode::Other(0)));
    }

    proptest! {
        #[test]
        fn names_and_numbers_come_back(value in 0..MAX_BLOCKS) {
            let block = BlockIndex::new(value).unwrap();
            prop_assert_eq!(parse_block_name(&block_name(block)), Some(block));
            let inode = Inode::Block(block);
            prop_assert_eq!(Inode::from_number(inode.number()), Some(inode));
        }
    }
}
