//! What need not be read is read all the same, a part each time (promise P29): whoever says that nothing changed there, a
//! list, the times of a file, or the extents of two clones, may be wrong.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::Index;
use super::partial::Reading;
use super::request::Request;
use crate::geometry::{BlockIndex, Geometry};
use crate::scan::{Found, Hasher};

/// In so many runs all of an image is rechecked that an administrator tells the changes of.
const PARTS: u32 = 32;

/// The blocks that are rechecked.
#[derive(Debug)]
pub(super) struct Rechecked<'a> {
    index: &'a Index,
    reading: &'a Reading,
    geometry: Geometry,
    /// How many parts there are, and the one whose turn it is.
    turn: Option<(u32, u32)>,
    /// Others, chosen at random.
    others: BTreeSet<u64>,
}

impl<'a> Rechecked<'a> {
    pub(super) fn new(index: &'a Index, request: &Request<'_>, reading: &'a Reading) -> Self {
        let checks = match reading {
            Reading::Told { changes, .. } => changes.checks,
            Reading::All | Reading::Nothing | Reading::Unread => 0,
        };
        let usual = if checks > 0 { PARTS } else { 0 };
        let parts = request.recheck.unwrap_or(usual);
        let mut rechecked = Self {
            index,
            reading,
            geometry: index.geometry(),
            turn: (parts > 0).then(|| (parts, index.recheck.load(SeqCst) % parts)),
            others: BTreeSet::new(),
        };
        if checks > 0 {
            let rest = || rechecked.kept().filter(|block| !rechecked.in_turn(*block));
            let chosen = chosen(rest().count() as u64, checks);
            let of_rank = |(rank, block): (usize, BlockIndex)| {
                chosen.contains(&(rank as u64)).then_some(block.get())
            };
            rechecked.others = rest().enumerate().filter_map(of_rank).collect();
        }
        rechecked
    }

    /// The blocks that need not be read.
    fn kept(&self) -> impl Iterator<Item = BlockIndex> {
        let blocks = (0..self.geometry.blocks()).filter_map(BlockIndex::new);
        blocks.filter(|block| !self.index.is_read(*block, self.reading, self.geometry))
    }

    fn in_turn(&self, block: BlockIndex) -> bool {
        self.turn
            .is_some_and(|(parts, turn)| block.get() % u64::from(parts) == u64::from(turn))
    }

    /// Whether the block is one of them.
    fn has(&self, block: BlockIndex) -> bool {
        (self.in_turn(block) || self.others.contains(&block.get()))
            && !self.index.is_read(block, self.reading, self.geometry)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.kept().filter(|block| self.has(*block)).count() as u64
    }

    fn is_empty(&self) -> bool {
        self.turn.is_none() && self.others.is_empty()
    }
}

impl Index {
    /// Rechecks what is to be rechecked this time. Whether something is not as the index has it, which is logged: then
    /// nothing else that was said can be trusted either.
    pub(super) fn recheck(&self, request: &Request<'_>, reading: &Reading) -> bool {
        let rechecked = Rechecked::new(self, request, reading);
        if *reading == Reading::All || rechecked.is_empty() {
            return false;
        }
        let (tally, first_wrong) = (request.tally, AtomicU64::new(u64::MAX));
        let hasher = Hasher::new(self.image.as_ref(), rechecked.geometry, &self.zeros);
        let wanted = |block| rechecked.has(block);
        let scanned = hasher.scan(self.threads, tally, &wanted, &|block, found| {
            let wrong = self.records.with(block, |record| match found {
                Found::Digest(digest) => digest != record.digest,
                Found::Unreadable(_) => {
                    // Not wrong, but the scan that follows has to try it.
                    record.unreadable();
                    false
                }
            });
            if wrong {
                first_wrong.fetch_min(block.get(), SeqCst);
            }
        });
        if scanned.is_ok() {
            // The scan that follows counts all of them.
            tally
                .done
                .fetch_sub(rechecked.geometry.image_size(), SeqCst);
        }
        if let Some(wrong) = BlockIndex::new(first_wrong.into_inner()) {
            let source = &self.source;
            match self.word_that_was_broken(reading) {
                Some(word) => log::error!(
                    "{source}: block {wrong} is not what it was, although {word}; everything is read"
                ),
                None => log::warn!(
                    "{source}: block {wrong} is not what it was: the image was, or may have been, written just now; \
                     everything is read"
                ),
            }
            return true;
        }
        // An early end is said by the scan that follows.
        if let (Ok(()), Some((parts, turn))) = (scanned, rechecked.turn) {
            self.recheck.store((turn + 1) % parts, SeqCst);
        }
        false
    }

    /// Whose word it was that a block is what it was, which it is not. `None`: nobody's, since it may have been written
    /// after the look at the image that shows that it was not before.
    pub(super) fn word_that_was_broken(&self, reading: &Reading) -> Option<&'static str> {
        let just_written = *reading == Reading::Nothing && !self.is_current();
        (!just_written).then(|| reading.says_nothing_changed())
    }
}

/// `wanted` different numbers below `count`, or all of them.
fn chosen(count: u64, wanted: usize) -> BTreeSet<u64> {
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    if count <= wanted {
        return (0..count).collect();
    }
    let mut numbers = BTreeSet::new();
    while (numbers.len() as u64) < wanted {
        // Each has another key, and the first is the system's own random number.
        numbers.insert(RandomState::new().build_hasher().finish() % count);
    }
    numbers
}
