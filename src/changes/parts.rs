//! What the readers of maps of changes and the map itself share: the parts of a map, and the error for a text that is
//! none.

use std::fmt;

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
    place: Option<TextPlace>,
    reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextPlace {
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
            place: Some(TextPlace::Line(number)),
            ..self
        }
    }

    /// The element of a JSON array, counted from 1.
    pub(super) fn in_entry(self, number: usize) -> Self {
        Self {
            place: Some(TextPlace::Entry(number)),
            ..self
        }
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(TextPlace::Line(number)) => write!(f, "line {number}: {}", self.reason),
            Some(TextPlace::Entry(number)) => write!(f, "entry {number}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// The error for a number of bytes that is not a multiple of a sector.
pub(super) fn not_sectors(number: u64) -> MapError {
    MapError::new(format!(
        "{number} is not a multiple of {SECTOR}: OFFSET and LENGTH must be bytes, not sectors or blocks"
    ))
}

/// The parts of a map, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    /// In bytes; whatever is told begins and ends at a multiple, but for an image's end.
    pub(super) unit: u64,
    pub(super) changed: Vec<Span>,
    /// Where the last part ends, changed or not.
    pub(super) end: u64,
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

/// The smallest piece of a disk that is written, in bytes.
pub(super) const SECTOR: u64 = 512;

/// A decimal number without sign or space.
pub(super) fn number(text: &str) -> Result<u64, MapError> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let shown: String = text.chars().take(40).collect();
    if !plain {
        return Err(MapError::new(format!("'{shown}' is not a decimal number")));
    }
    text.parse()
        .map_err(|_| MapError::new(format!("{shown} is more than 64 bits hold")))
}
