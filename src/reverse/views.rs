//! The files of the mount: `image`, and one for each of its partitions.
//!
//! Invariant: a place in a file is a number, a place in the image is a [`Span`], and only a [`View`] turns one into
//! the other; what it gives lies inside the view.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::SECTOR;
use super::partitions::Partition;
use crate::geometry::Span;
use crate::volume::inode::Inode;

/// The image's name. Its partitions' have their number behind it.
const NAME: &str = "image";
/// The image's inode number. Its partitions' are larger by theirs.
const NUMBER: u64 = 2;

/// A run of the image that is shown as a file.
#[derive(Debug)]
pub(super) struct View {
    /// 0 is the image itself.
    number: u32,
    span: Span,
    /// Space that it takes, in units of 512 bytes.
    sectors: AtomicU64,
}

impl View {
    fn new(number: u32, span: Span) -> Self {
        Self {
            number,
            span,
            sectors: AtomicU64::new(0),
        }
    }

    pub(super) fn name(&self) -> String {
        match self.number {
            0 => NAME.to_owned(),
            number => format!("{NAME}{number}"),
        }
    }

    pub(super) fn inode(&self) -> Option<Inode> {
        Inode::from_number(NUMBER + u64::from(self.number))
    }

    /// Length in bytes.
    pub(super) fn size(&self) -> u64 {
        self.span.len()
    }

    pub(super) fn sectors(&self) -> u64 {
        self.sectors.load(SeqCst)
    }

    /// Where in the image `len` bytes at `offset` of the file are, cut at the file's end.
    pub(super) fn run(&self, offset: u64, len: u64) -> Span {
        let start = self.span.start.saturating_add(offset).min(self.span.end);
        Span::new(start, start.saturating_add(len).min(self.span.end))
    }

    /// Where in the file a run of the image begins.
    pub(super) fn offset_of(&self, run: Span) -> u64 {
        run.start - self.span.start
    }

    /// The file of a block, which is `block` in the image, took `before` sectors, and takes `now`.
    fn note(&self, block: Span, before: u64, now: u64) {
        let inside = Span::new(
            block.start.max(self.span.start),
            block.end.min(self.span.end),
        );
        // Where in the block its sectors are is not known.
        let most = if inside == block {
            u64::MAX
        } else {
            inside.len().div_ceil(SECTOR)
        };
        // Wrapping, so that less is one step too.
        let change = now.min(most).wrapping_sub(before.min(most));
        self.sectors.fetch_add(change, SeqCst);
    }
}

/// All files of a mount.
#[derive(Debug)]
pub(super) struct Views {
    image: Arc<View>,
    /// By their numbers.
    partitions: Vec<Arc<View>>,
    /// The same by their places, which are apart.
    places: Vec<Arc<View>>,
}

impl Views {
    /// The image and its partitions, which are apart and sorted by number; none takes any space yet.
    pub(super) fn new(image: Span, partitions: &[Partition]) -> Self {
        let partitions: Vec<_> = partitions
            .iter()
            .map(|partition| Arc::new(View::new(partition.number, partition.span)))
            .collect();
        let mut places = partitions.clone();
        places.sort_by_key(|view| view.span.start);
        Self {
            image: Arc::new(View::new(0, image)),
            partitions,
            places,
        }
    }

    /// All, `image` first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<View>> {
        std::iter::once(&self.image).chain(&self.partitions)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        1 + self.partitions.len()
    }

    pub(super) fn named(&self, name: &OsStr) -> Option<&Arc<View>> {
        let digits = name.to_str()?.strip_prefix(NAME)?;
        let number = match digits {
            "" => 0,
            digits => digits.parse().ok()?,
        };
        // "image01" and "image+1" are numbers, too.
        self.numbered(number).filter(|view| *view.name() == *name)
    }

    pub(super) fn of(&self, inode: Inode) -> Option<&Arc<View>> {
        let number = inode.number().checked_sub(NUMBER)?;
        self.numbered(u32::try_from(number).ok()?)
    }

    fn numbered(&self, number: u32) -> Option<&Arc<View>> {
        if number == 0 {
            return Some(&self.image);
        }
        let at = self
            .partitions
            .binary_search_by_key(&number, |view| view.number);
        self.partitions.get(at.ok()?)
    }

    /// The file of a block, which is `block` in the image, took `before` sectors, and takes `now`.
    pub(super) fn note(&self, block: Span, before: u64, now: u64) {
        self.image.note(block, before, now);
        let first = self
            .places
            .partition_point(|view| view.span.end <= block.start);
        let touched = self.places[first..].iter();
        touched
            .take_while(|view| view.span.start < block.end)
            .for_each(|view| view.note(block, before, now));
    }
}
