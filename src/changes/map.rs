//! Another program's map of what changed in an image: read, and checked against the image.
//!
//! Invariant: a text is a map as a whole or an error. Nothing is left out, rounded or put in order: a map that is
//! wrong in one place is not to be trusted in any other.

use super::ChangedRanges;
use super::format;
use super::parts::{Format, MapError, Parts, SECTOR, not_sectors};
use crate::geometry::Span;

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

    /// Whether it says that nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.changed.is_empty()
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
            return Err(MapError::past_end(format!(
                "it tells of byte {}, and the image has {size} bytes: it is of another image, or in other units",
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

#[cfg(test)]
mod tests;
