//! What `era_invalidate` of the thin-provisioning-tools prints: the blocks written since an era, and not how long a
//! block is.

use super::xml::{Element, Visitor, walk};
use crate::changes::parts::{MapError, Parts};

#[derive(Debug)]
struct EraBlocks {
    block: u64,
    parts: Parts,
}

pub(super) fn read(text: &str, block: Option<u64>) -> Result<Parts, MapError> {
    let block = block.ok_or_else(|| {
        MapError::new(
            "era_invalidate does not say how long its blocks are: use -o era-block-size=SIZE, in bytes \
             (block_size of era_dump, times 512)",
        )
    })?;
    let mut blocks = EraBlocks {
        block,
        parts: Parts::new(block),
    };
    walk(text, &mut blocks)?;
    Ok(blocks.parts)
}

impl Visitor for EraBlocks {
    fn open(&mut self, depth: usize, element: &Element<'_>) -> Result<(), MapError> {
        let (first, count) = match (depth, element.name().as_str()) {
            (0, "blocks") => return Ok(()),
            (1, "block") => (element.number("block")?, 1),
            (1, "range") => {
                let (begin, end) = (element.number("begin")?, element.number("end")?);
                let count = end.checked_sub(begin);
                let backwards = || MapError::new(format!("the range at {begin} ends before it"));
                (begin, count.ok_or_else(backwards)?)
            }
            _ => return Err(element.unknown()),
        };
        self.parts.add(first, count, self.block, true)
    }

    fn close(&mut self, _depth: usize) -> Result<(), MapError> {
        Ok(())
    }
}
