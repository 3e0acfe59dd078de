//! What may tell which parts of an image changed, without reading it: comparing two clones, or another
//! program's map of changes.
//!
//! Whoever tells (a [`ChangeSource`]) knows clones or maps and no digests; whoever asks (the index) knows digests
//! and not where the ranges come from. Doubt means reading: a source that is not certain answers `None`.

mod format;
mod map;
mod named;
mod parts;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::geometry::Span;

pub use map::ChangeMap;
pub use named::Named;

/// Ranges of an image that may differ from an earlier state of it; all other bytes are certain to be the same.
/// Sorted, disjoint, none empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedRanges {
    ranges: Vec<Span>,
}

impl FromIterator<Span> for ChangedRanges {
    /// Ranges may come in any order, overlap, touch or be empty.
    fn from_iter<I: IntoIterator<Item = Span>>(ranges: I) -> Self {
        let mut sorted: Vec<Span> = ranges.into_iter().filter(|span| !span.is_empty()).collect();
        sorted.sort_unstable_by_key(|span| span.start);
        let mut merged: Vec<Span> = Vec::with_capacity(sorted.len());
        for span in sorted {
            match merged.last_mut() {
                Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
                _ => merged.push(span),
            }
        }
        Self { ranges: merged }
    }
}

impl ChangedRanges {
    /// Whether a byte of `span` may differ.
    #[must_use]
    pub fn touch(&self, span: Span) -> bool {
        let behind = self.ranges.partition_point(|range| range.end <= span.start);
        self.ranges
            .get(behind)
            .is_some_and(|range| range.start < span.end)
    }

    /// Bytes in all ranges together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|span| span.len()).sum()
    }
}

/// A state of an image that an index describes, so that a later run can ask what changed since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageState {
    /// The name that an administrator gave it (`--as`).
    Named(String),
    /// A clone of the image that was kept (`--snapshot`).
    Clone(CloneIdentity),
}

/// What tells a clone from every other file, and from itself after anybody touched it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneIdentity {
    /// Its name in the image's directory; only the bytes of an ordinary name.
    pub name: String,
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// The inode's generation, where the file system tells.
    pub generation: Option<u64>,
    /// When it was made: seconds and nanoseconds.
    pub born: (i64, u32),
    /// When it or its attributes were last changed.
    pub changed: (i64, u32),
    /// Length in bytes.
    pub size: u64,
}

/// What changed between two states of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Everything outside of these is the same.
    pub ranges: ChangedRanges,
    /// How many blocks outside of them are read all the same, chosen at random, because others say so.
    pub checks: usize,
}

/// Somebody who can tell what changed since an earlier state.
pub trait ChangeSource: fmt::Debug {
    /// What changed since `then`, the state that an index describes. `None` if that is not certain: then everything
    /// is read, and the source has logged why.
    fn since(&self, then: Option<&ImageState>) -> Option<Changes>;

    /// The state that the image is in now, to be kept with the index for the next time.
    fn now(&self) -> Option<ImageState>;
}

#[cfg(test)]
impl ChangedRanges {
    /// The ranges, in order.
    pub(crate) fn ranges(&self) -> &[Span] {
        &self.ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ranges: &[(u64, u64)]) -> ChangedRanges {
        ranges
            .iter()
            .map(|(start, end)| Span::new(*start, *end))
            .collect()
    }

    #[test]
    fn ranges_are_sorted_and_merged() {
        let merged = of(&[(30, 40), (5, 5), (0, 10), (10, 12), (32, 35), (38, 50)]);
        assert_eq!(merged, of(&[(0, 12), (30, 50)]));
        assert_eq!(merged.ranges().len(), 2);
        assert_eq!(merged.bytes(), 32);
    }

    #[test]
    fn a_span_is_touched_by_one_common_byte() {
        let ranges = of(&[(10, 20), (30, 40)]);
        for (span, touched) in [
            ((0, 10), false),
            ((0, 11), true),
            ((19, 20), true),
            ((20, 30), false),
            ((20, 31), true),
            ((39, 90), true),
            ((40, 90), false),
            ((0, 90), true),
        ] {
            assert_eq!(ranges.touch(Span::new(span.0, span.1)), touched, "{span:?}");
        }
        assert!(!ChangedRanges::default().touch(Span::new(0, 1)));
    }
}
