//! What stat(2) shows of the directory and its block files (promises P4 and P6).

use std::cell::Cell;

use super::Blocks;
use crate::geometry::{Geometry, Span};
use crate::volume::inode::Inode;
use crate::volume::owner::Content;
use crate::volume::{Attr, Errno, Result};

/// Extents of a block that are added up for its allocated size; with more it counts as full.
const MOST_EXTENTS: usize = 8;

/// One moment's view of what all block files have in common, so that a listing asks once.
#[derive(Debug)]
pub(super) struct View {
    pub(super) geometry: Geometry,
    base: i64,
    /// The image's present size; smaller than the geometry's if it was cut.
    size: u64,
    /// A run that was hole at that moment.
    hole: Cell<Span>,
}

impl Blocks {
    pub(super) fn view(&self) -> View {
        let geometry = self.geometry();
        View {
            geometry,
            base: self.times.base(self.image.as_ref()),
            size: self.image.size().unwrap_or(geometry.image_size()),
            hole: Cell::new(Span::new(0, 0)),
        }
    }

    pub(super) fn attr_in(&self, view: &View, inode: Inode) -> Result<Attr> {
        let made = self.times.made();
        let (content, stamp) = match inode {
            Inode::Root => {
                // An empty image has no block with a time.
                let newest = match self.times.newest(view.base, view.geometry.blocks()) {
                    i64::MIN => 0,
                    newest => newest,
                };
                (Content::Names, newest)
            }
            Inode::Block(block) if self.has(view.geometry, block) => {
                let span = view.geometry.span(block);
                let content = Content::Bytes {
                    size: span.len(),
                    sectors: self.allocated(span, view).div_ceil(512),
                };
                (content, self.times.report_stamp(block, view.base))
            }
            _ => return Err(Errno::ENOENT),
        };
        Ok(self.owners.attr(inode, content, stamp, made))
    }

    /// Bytes of `span` that take space: 0 only if all of it is hole at the view's moment; all of it where that is
    /// not told quickly (promise P6). What was cut off is no hole.
    fn allocated(&self, span: Span, view: &View) -> u64 {
        if span.is_empty() || view.size < span.end {
            return span.len();
        }
        if view.hole.get().contains(span) {
            return 0;
        }
        let mut from = span.start;
        let mut data = 0;
        for _ in 0..MOST_EXTENTS {
            let start = match self.image.next_data(from) {
                Ok(start) => start.unwrap_or(view.size),
                Err(_) => return span.len(),
            };
            if start >= span.end {
                view.hole.set(Span::new(from, start));
                return data;
            }
            let Ok(end) = self.image.next_hole(start) else {
                return span.len();
            };
            data += end.min(span.end).saturating_sub(start);
            if end >= span.end {
                return data;
            }
            from = end;
        }
        span.len()
    }
}
