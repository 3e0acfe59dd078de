//! What `thin_delta` of the thin-provisioning-tools prints about two volumes of a pool, with and without --verbose.
//!
//! A block that only one of them has was discarded or first written in between: it may differ like one that both
//! have with different data, in whichever order they were named.

use super::xml::{Element, Visitor, walk};
use crate::changes::parts::{MapError, Parts, SECTOR};

/// In sectors: what the kernel takes as the length of a pool's block, all multiples of the least.
const LEAST_BLOCK: u64 = 128;
const MOST_BLOCK: u64 = 2_097_152;

#[derive(Debug, Default)]
struct Delta {
    /// Length of a block in bytes, and what is known of them.
    known: Option<(u64, Parts)>,
    seen_diff: bool,
    /// The element that ranges are in: whether they may differ, and whether there was one.
    group: Option<(bool, bool)>,
}

pub(super) fn read(text: &str) -> Result<Parts, MapError> {
    let mut delta = Delta::default();
    walk(text, &mut delta)?;
    match delta.known {
        Some((_, parts)) if delta.seen_diff => Ok(parts),
        _ => Err(MapError::new(
            "there is no 'diff' in it: thin_delta must be told of two volumes",
        )),
    }
}

impl Delta {
    fn add(&mut self, element: &Element<'_>, changed: bool) -> Result<(), MapError> {
        let (begin, length) = (element.number("begin")?, element.number("length")?);
        let Some((block, parts)) = &mut self.known else {
            return Err(element.unknown());
        };
        parts.add(begin, length, *block, changed)
    }
}

impl Visitor for Delta {
    fn open(&mut self, depth: usize, element: &Element<'_>) -> Result<(), MapError> {
        match (depth, element.name().as_str()) {
            (0, "superblock") => {
                let sectors = element.number("data_block_size")?;
                if !(LEAST_BLOCK..=MOST_BLOCK).contains(&sectors) || sectors % LEAST_BLOCK != 0 {
                    return Err(MapError::new(format!(
                        "data_block_size {sectors} is not a thin pool's"
                    )));
                }
                let block = sectors * SECTOR;
                self.known = Some((block, Parts::new(block)));
                Ok(())
            }
            (1, "diff") if !self.seen_diff => {
                self.seen_diff = true;
                Ok(())
            }
            (2, name @ ("same" | "different" | "left_only" | "right_only")) => {
                let changed = name != "same";
                let whole = element.find("begin")?.is_some() || element.find("length")?.is_some();
                self.group = Some((changed, whole));
                if whole {
                    self.add(element, changed)
                } else {
                    Ok(())
                }
            }
            (3, "range") => {
                let Some((changed, _)) = self.group else {
                    return Err(element.unknown());
                };
                self.group = Some((changed, true));
                self.add(element, changed)
            }
            _ => Err(element.unknown()),
        }
    }

    fn close(&mut self, depth: usize) -> Result<(), MapError> {
        if depth == 2 && self.group.take().is_some_and(|(_, ranges)| !ranges) {
            return Err(MapError::new("there is no range in it"));
        }
        Ok(())
    }
}
