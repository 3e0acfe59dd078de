//! Where the bytes of a file are, and which bytes of two files are the same because they are in the same place.
//!
//! Invariant: bytes count as the same only if both maps say for certain where they are. A comparison holds for two
//! files that exist and are not written, at a moment at which both maps were right. This module asks for the maps of files
//! and for nothing else of them, and knows no names.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use crate::changes::ChangedRanges;
use crate::geometry::Span;
use crate::sys::files::{MappedExtent, map_extents};

/// `FIEMAP_EXTENT_*` of linux/fiemap.h: the flags of an extent whose bytes are where it says.
mod flags {
    /// The last of the file, or of what was asked for.
    pub(super) const LAST: u32 = 0x1;
    /// Space without data: reads as zeros.
    pub(super) const UNWRITTEN: u32 = 0x800;
    /// Another file has it, too; advice only.
    pub(super) const SHARED: u32 = 0x2000;
    // Any other means doubt: UNKNOWN, DELALLOC, ENCODED, DATA_ENCRYPTED, NOT_ALIGNED, DATA_INLINE, DATA_TAIL,
    // MERGED, and whatever comes to be.
    pub(super) const CERTAIN: u32 = LAST | UNWRITTEN | SHARED;
}

/// Where bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DataPlace {
    /// Nowhere: they are zeros.
    Nowhere,
    /// From this byte of the device on.
    At(u64),
    /// There is doubt.
    Unknown,
}

impl DataPlace {
    fn of(extent: &MappedExtent) -> Self {
        if extent.flags & !flags::CERTAIN != 0 {
            Self::Unknown
        } else if extent.flags & flags::UNWRITTEN != 0 {
            Self::Nowhere
        } else if extent.physical == 0 || extent.physical.checked_add(extent.length).is_none() {
            // No file system has data there.
            Self::Unknown
        } else {
            Self::At(extent.physical)
        }
    }

    /// Of what comes `bytes` later.
    fn after(self, bytes: u64) -> Self {
        match self {
            Self::At(place) => Self::At(place + bytes),
            other => other,
        }
    }

    /// Whether what is at both is the same for certain.
    fn is_same(self, other: Self) -> bool {
        self == other && self != Self::Unknown
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    span: Span,
    place: DataPlace,
}

/// Where all bytes of a file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    size: u64,
    /// Each begins where the one before ends; together they are the file.
    pieces: Vec<Piece>,
}

impl Map {
    /// The map of a file of `size` bytes with these extents, which must be in order and not overlap; else `None`.
    /// What lies past the file's end does not count.
    #[must_use]
    pub(super) fn new(size: u64, extents: &[MappedExtent]) -> Option<Self> {
        let mut map = Self {
            size,
            pieces: Vec::new(),
        };
        let mut end = 0;
        for extent in extents {
            if extent.logical < end || extent.length == 0 {
                return None;
            }
            map.add(extent.logical, DataPlace::Nowhere);
            end = extent.logical.checked_add(extent.length)?;
            map.add(end, DataPlace::of(extent));
        }
        map.add(size, DataPlace::Nowhere);
        Some(map)
    }

    /// Asks the kernel, after a flush. The file must not be written meanwhile. `InvalidData`: what it says makes no
    /// sense.
    pub(super) fn read(file: &File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let mut extents: Vec<MappedExtent> = Vec::new();
        let mut end = 0;
        // The flag for the last extent is not relied on: to take the rest for a hole must take an answer of its own.
        while end < size {
            let batch = map_extents(file.as_fd(), end)?;
            if batch.is_empty() {
                break;
            }
            for extent in batch {
                let behind = extent.logical.checked_add(extent.length);
                let behind = behind.filter(|behind| *behind > end);
                let Some(behind) = behind else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                extents.push(cut_before(extent, end));
                end = behind;
            }
        }
        Self::new(size, &extents).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// How many pieces that differ in kind or are not neighbours on the device.
    #[must_use]
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// What is not yet mapped, up to `end`, is at `place`.
    fn add(&mut self, end: u64, place: DataPlace) {
        let start = self.pieces.last().map_or(0, |last| last.span.end);
        let end = end.min(self.size);
        if end <= start {
            return;
        }
        match self.pieces.last_mut() {
            Some(last) if last.place.after(last.span.len()) == place => last.span.end = end,
            _ => {
                let span = Span::new(start, end);
                self.pieces.push(Piece { span, place });
            }
        }
    }
}

/// The part of an extent from `start` on; the kernel may begin with one that reaches back.
fn cut_before(extent: MappedExtent, start: u64) -> MappedExtent {
    let before = start.saturating_sub(extent.logical);
    MappedExtent::new(
        extent.logical + before,
        extent.physical.saturating_add(before),
        extent.length - before,
        extent.flags,
    )
}

/// What may differ between two files: all that is not zeros in both, nor in the same place. If one is longer, the
/// rest of it, from a multiple of `unit` on, which is the size in bytes of the file system's blocks.
#[must_use]
pub(super) fn differing(then: &Map, now: &Map, unit: u64) -> ChangedRanges {
    let common = then.size.min(now.size);
    let mut ranges = Vec::new();
    let (mut old, mut new) = (then.pieces.iter().peekable(), now.pieces.iter().peekable());
    let mut at = 0;
    while at < common {
        let (Some(one), Some(other)) = (old.peek(), new.peek()) else {
            ranges.push(Span::new(at, common));
            break;
        };
        let end = one.span.end.min(other.span.end).min(common);
        let place = |piece: &Piece| piece.place.after(at - piece.span.start);
        if !place(one).is_same(place(other)) {
            ranges.push(Span::new(at, end));
        }
        let (one_ends, other_ends) = (one.span.end == end, other.span.end == end);
        if one_ends {
            old.next();
        }
        if other_ends {
            new.next();
        }
        at = end;
    }
    if then.size != now.size {
        let start = common - common % unit.max(1);
        ranges.push(Span::new(start, then.size.max(now.size)));
    }
    ranges.into_iter().collect()
}

#[cfg(test)]
mod tests;
