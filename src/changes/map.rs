//! Another program's map of what changed in an image: read, and checked against the image.
//!
//! Invariant: a text is a map as a whole or an error. Nothing is left out, rounded or put in order: a map that is
//! wrong in one place is not to be trusted in any other.

use std::fmt;

use super::ChangedRanges;
use super::format::{self, SECTOR};
use crate::geometry::Span;

/// The programs whose maps are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    ThinDelta,
    EraInvalidate,
    RbdDiff,
    NbdInfo,
    Lines,
}

/// Why a text is no map, or a map not one of this image. Shown in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct MapError {
    /// Where in the text.
    place: Option<Place>,
    reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Line(usize),
    Entry(usize),
}

impl MapError {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self {
            place: None,
            reason: reason.into(),
        }
    }

    /// Line `number`, counted from 1.
    pub(super) fn in_line(self, number: usize) -> Self {
        Self {
            place: Some(Place::Line(number)),
            ..self
        }
    }

    /// The element of a JSON array, counted from 1.
    pub(super) fn in_entry(self, number: usize) -> Self {
        Self {
            place: Some(Place::Entry(number)),
            ..self
        }
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(Place::Line(number)) => write!(f, "line {number}: {}", self.reason),
            Some(Place::Entry(number)) => write!(f, "entry {number}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// What changed in some image, as a program has told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeMap {
    format: Format,
    parts: Parts,
}

impl ChangeMap {
    /// Reads a map, whose format its content tells. `era_block`: how long a block of `era_invalidate` is in bytes,
    /// which that program does not say.
    ///
    /// # Errors
    /// It is of no known format, incomplete, out of order, or the block length is missing or one too many.
    pub fn parse(text: &[u8], era_block: Option<u64>) -> Result<Self, MapError> {
        let text = std::str::from_utf8(text)
            .map_err(|_| MapError::new(format!("it is no text; it must be {}", format::KNOWN)))?;
        let (format, parts) = format::read(text, era_block)?;
        if era_block.is_some() && format != Format::EraInvalidate {
            return Err(MapError::new(
                "it is not what era_invalidate prints, so era-block-size has no meaning",
            ));
        }
        Ok(Self { format, parts })
    }

    /// What may differ in an image of `size` bytes.
    ///
    /// # Errors
    /// The map reaches past the image's end, or leaves part of it out.
    pub fn within(&self, size: u64) -> Result<ChangedRanges, MapError> {
        let Parts { unit, end, .. } = self.parts;
        // The last block or sector of an image may be cut off.
        let (told, there) = (end.div_ceil(unit), size.div_ceil(unit));
        if told > there {
            return Err(MapError::new(format!(
                "it tells of byte {}, and the image has {size} bytes: it is of another image, or in other units; \
                 without --changed everything is read",
                end - 1
            )));
        }
        if self.format == Format::NbdInfo && told < there {
            return Err(MapError::new(format!(
                "it ends at byte {end}, and the image has {size} bytes: it is incomplete, or of another image"
            )));
        }
        if self.format == Format::Lines && end % SECTOR != 0 && end != size {
            return Err(not_sectors(end));
        }
        let cut = |span: &Span| Span::new(span.start, span.end.min(size));
        Ok(self.parts.changed.iter().map(cut).collect())
    }
}

/// A number of bytes that no disk's write ends at.
pub(super) fn not_sectors(number: u64) -> MapError {
    MapError::new(format!(
        "{number} is not a multiple of {SECTOR}: OFFSET and LENGTH must be bytes, not sectors or blocks"
    ))
}

/// The parts of a map, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    /// In bytes; whatever is told begins and ends at a multiple, but for an image's end.
    unit: u64,
    changed: Vec<Span>,
    /// Where the last part ends, changed or not.
    end: u64,
}

impl Parts {
    /// Of a map that tells of multiples of `unit` bytes, which is not 0.
    pub(super) fn new(unit: u64) -> Self {
        Self {
            unit,
            changed: Vec::new(),
            end: 0,
        }
    }

    /// Where the last part ends, in bytes.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The next part: `count` times `scale` bytes from `first` times `scale` on.
    pub(super) fn add(
        &mut self,
        first: u64,
        count: u64,
        scale: u64,
        changed: bool,
    ) -> Result<(), MapError> {
        if count == 0 {
            return Err(MapError::new(format!("the range at {first} is empty")));
        }
        let end = first
            .checked_add(count)
            .and_then(|end| end.checked_mul(scale));
        let (Some(end), Some(start)) = (end, first.checked_mul(scale)) else {
            return Err(MapError::new(format!(
                "the range of {count} at {first} ends past all images"
            )));
        };
        if start < self.end {
            return Err(MapError::new(format!(
                "the range at {first} begins before the end of the one before it: ranges must be sorted and apart"
            )));
        }
        self.end = end;
        if !changed {
            return Ok(());
        }
        match self.changed.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.changed.push(Span::new(start, end)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
