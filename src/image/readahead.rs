//! Reading ahead for one sequential reader of a source that is read directly.
//!
//! Promise P4 says that a change is seen by the next read, so what was read ahead is thrown away after
//! [`FRESH_FOR`], at the first read that is not the next one, and after every write through the mount: no reader
//! sees bytes that are older than that. A reader too slow to use them in time is not read ahead for, nor one for whom
//! there is no memory.

use std::time::{Duration, Instant};

use super::{Image, read_span};
use crate::budget::Share;
use crate::buffer::{ALIGNMENT, AlignedBuffer};
use crate::geometry::Span;

/// How long bytes that were read ahead may be served.
pub(crate) const FRESH_FOR: Duration = Duration::from_millis(5);
/// How much is read at once, in bytes.
const WINDOW: u64 = 1 << 20;
/// What the memory for that takes, in bytes.
const COST: u64 = WINDOW + ALIGNMENT as u64;
/// Sequential reads in a row before reading ahead begins.
const STREAK: u32 = 3;

/// One handle's position and what was read ahead of it.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    next: u64,
    streak: u32,
    buffer: AlignedBuffer,
    /// The buffer's memory, as long as there is one.
    share: Share,
    held: Span,
    taken: Instant,
    version: u64,
}

impl ReadAhead {
    /// Takes the memory that it needs from `share`, while it needs it.
    #[must_use]
    pub(crate) fn new(share: Share) -> Self {
        Self {
            next: u64::MAX,
            streak: 0,
            buffer: AlignedBuffer::new(),
            share,
            held: Span::new(0, 0),
            taken: Instant::now(),
            version: 0,
        }
    }

    /// Fills `out` from `offset` of the image if reading ahead pays here; `None`: read as usual. `limit` is the
    /// end of the block, `version` a number that every write through the mount changes.
    pub(crate) fn read(
        &mut self,
        image: &dyn Image,
        out: &mut [u8],
        offset: u64,
        limit: u64,
        version: u64,
    ) -> Option<usize> {
        let wanted = Span::new(offset, offset + out.len() as u64);
        if offset == self.next {
            self.streak = self.streak.saturating_add(1);
        } else {
            self.start_again();
        }
        self.next = wanted.end;
        if self.streak < STREAK || wanted.len() >= WINDOW {
            return None;
        }
        if !self.held.contains(wanted) {
            if self.share.is_empty() && !self.share.take(COST) {
                return None;
            }
            let window = Span::new(offset, limit.min(offset + WINDOW));
            let len = usize::try_from(window.len()).ok()?;
            self.version = version;
            self.taken = Instant::now();
            let got = read_span(image, self.buffer.get(len), offset);
            self.held = Span::new(offset, offset + got.len as u64);
        } else if self.version != version || self.taken.elapsed() > FRESH_FOR {
            self.start_again();
            return None;
        }
        if !self.held.contains(wanted) {
            return None;
        }
        let start = usize::try_from(offset - self.held.start).ok()?;
        let held = usize::try_from(self.held.len()).ok()?;
        out.copy_from_slice(&self.buffer.get(held)[start..start + out.len()]);
        Some(out.len())
    }

    fn start_again(&mut self) {
        self.streak = 0;
        self.held = Span::new(0, 0);
        self.buffer = AlignedBuffer::new();
        self.share.give_back_all();
    }
}
