//! Parts of an image's blocks, for commands that take one a night.

use std::str::FromStr;

use thiserror::Error;

use super::BlockIndex;

/// Every N-th block (`--part K/N`): those whose numbers leave the same remainder. So a block stays in its part when the
/// image grows, and the parts are of one size wherever the data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    first: u64,
    parts: u64,
}

impl Part {
    /// All blocks.
    pub const ALL: Self = Self { first: 0, parts: 1 };

    /// Whether a block is among them.
    #[must_use]
    pub fn has(self, block: BlockIndex) -> bool {
        block.get() % self.parts == self.first
    }
}

/// Why a text is not a part.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is not a part: use K/N, as in 3/10, with K from 1 to N")]
pub struct PartError(String);

impl FromStr for Part {
    type Err = PartError;

    fn from_str(text: &str) -> Result<Self, PartError> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u64>().ok().filter(|_| plain)
        };
        text.split_once('/')
            .and_then(|(part, parts)| Some((number(part)?, number(parts)?)))
            .filter(|(part, parts)| (1..=*parts).contains(part))
            .map(|(part, parts)| Self {
                first: part - 1,
                parts,
            })
            .ok_or_else(|| PartError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_each_block_once() {
        for parts in [1_u64, 2, 3, 10, 1000] {
            for number in [0, 1, 9, 10, 4567] {
                let block = BlockIndex::new(number).unwrap();
                let part = |k: u64| format!("{k}/{parts}").parse::<Part>().unwrap();
                let having = (1..=parts).filter(|k| part(*k).has(block)).count();
                assert_eq!(having, 1, "{number} of {parts} parts");
            }
        }
        assert_eq!("1/1".parse(), Ok(Part::ALL));
        assert_eq!("03/10".parse::<Part>(), "3/10".parse());
        for text in [
            "",
            "3",
            "/",
            "3/",
            "/10",
            "0/10",
            "11/10",
            "1/0",
            "0/0",
            "+1/2",
            "1/2/3",
            "1 /2",
            "-1/2",
            "1/99999999999999999999",
        ] {
            assert_eq!(text.parse::<Part>(), Err(PartError(text.to_owned())));
        }
    }
}
