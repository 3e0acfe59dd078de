//! An image that others write at any moment, also in the middle of a scan, of a read, of a look at its history.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::op::{Op, Part};
use super::told::half;
use super::unseen::Evidence;
use super::world::World;
use crate::changes::ChangedRanges;
use crate::clock::testing::TestClock;
use crate::geometry::Span;
use crate::image::faulty::{History, Memory};
use crate::image::{Fingerprint, Image, Ownership};

/// Length of a block.
pub(super) const BLOCK: usize = 4096;
/// What is read and written at once.
pub(super) const HALF: usize = BLOCK / 2;
/// No image is longer.
pub(super) const LONGEST: usize = 4 * BLOCK;

/// What an image tells of its past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// A file on a file system whose times are believed.
    File,
    /// On another.
    Untrusted,
    /// On one whose times are whole seconds.
    Coarse,
    /// A device with statistics: whether they count everything, and whether it has a number of its own.
    Device {
        counts_all: bool,
        numbered: bool,
    },
    Nothing,
}

/// Who changes the image, and what is seen of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Bmapfs itself.
    Own,
    /// Others; times and statistics move.
    Seen,
    /// Others; nothing moves.
    Unseen,
}

/// A block's content: so many bytes, and what each half is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) len: usize,
    pub(super) letters: [u8; 2],
}

/// The whole image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Snapshot {
    size: usize,
    letters: [u8; LONGEST / HALF],
}

impl Snapshot {
    /// The first `len` bytes of a block, or as many as there are.
    pub(super) fn content(&self, block: usize, len: usize) -> Content {
        let start = block * BLOCK;
        let len = self.size.saturating_sub(start).min(len);
        let mut letters = [u8::MAX; 2];
        for (half, letter) in letters.iter_mut().enumerate() {
            if half * HALF < len {
                *letter = self.letters[block * 2 + half];
            }
        }
        Content { len, letters }
    }
}

#[derive(Debug)]
pub(super) struct LiveState {
    /// Every state that the image was in, and its number.
    history: Vec<Snapshot>,
    /// The last change by others.
    foreign: usize,
    /// The last one that times or statistics show.
    seen: usize,
    pub(super) evidence: Evidence,
    boot: u32,
    /// The state in which bmapfs last noted a moment.
    looked: usize,
}

/// The image.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) memory: Arc<Memory>,
    pub(super) clock: Arc<TestClock>,
    pub(super) told: Told,
    pub(super) state: Mutex<LiveState>,
    plan: Mutex<VecDeque<(usize, Op)>>,
    pub(super) world: OnceLock<Weak<World>>,
}

impl Live {
    pub(super) fn new(size: usize, told: Told, clock: &Arc<TestClock>) -> Arc<Self> {
        let memory = Memory::with(vec![1; size], History::File, false, Arc::clone(clock));
        memory.faults(|faults| faults.longest_read = Some(HALF));
        let live = Arc::new(Self {
            memory,
            clock: Arc::clone(clock),
            told,
            state: Mutex::new(LiveState {
                history: Vec::new(),
                foreign: 0,
                seen: 0,
                evidence: Evidence::default(),
                boot: 0,
                looked: 0,
            }),
            plan: Mutex::default(),
            world: OnceLock::new(),
        });
        live.changed(Change::Own);
        live
    }

    pub(super) fn changed(&self, change: Change) {
        let bytes = self.memory.bytes();
        let mut letters = [0; LONGEST / HALF];
        for (half, letter) in letters.iter_mut().enumerate() {
            *letter = bytes.get(half * HALF).copied().unwrap_or(u8::MAX);
        }
        let mut state = self.state.lock().unwrap();
        state.history.push(Snapshot {
            size: bytes.len(),
            letters,
        });
        let number = state.history.len();
        if change != Change::Own {
            state.foreign = number;
        }
        let moved = change != Change::Unseen && self.moved(&mut state.evidence);
        if moved && change == Change::Seen {
            state.seen = number;
        }
    }

    /// The number of the present state.
    pub(super) fn number(&self) -> usize {
        self.state.lock().unwrap().history.len()
    }

    /// The state in which bmapfs last noted a moment.
    pub(super) fn looked(&self) -> usize {
        self.state.lock().unwrap().looked
    }

    fn looks(&self) {
        let mut state = self.state.lock().unwrap();
        state.looked = state.history.len();
    }

    pub(super) fn size(&self) -> usize {
        self.present().size
    }

    pub(super) fn boots(&self) -> u32 {
        self.state.lock().unwrap().boot
    }

    pub(super) fn present(&self) -> Snapshot {
        *self.state.lock().unwrap().history.last().unwrap()
    }

    /// Whether others wrote since state `number`.
    pub(super) fn foreign_since(&self, number: usize) -> bool {
        self.state.lock().unwrap().foreign > number
    }

    /// Whether others wrote since state `number`, and times or statistics show it.
    pub(super) fn seen_since(&self, number: usize) -> bool {
        self.state.lock().unwrap().seen > number
    }

    /// Whether a block had this content at any time since state `number`.
    pub(super) fn had_since(&self, number: usize, block: usize, content: Content) -> bool {
        let state = self.state.lock().unwrap();
        state.history[number - 1..]
            .iter()
            .any(|snapshot| snapshot.content(block, content.len) == content)
    }

    /// Whether a scan that began in state `number` can have found this content: each half at another time.
    pub(super) fn found_since(&self, number: usize, block: usize, content: Content) -> bool {
        let state = self.state.lock().unwrap();
        (0..2).all(|half| {
            state.history[number - 1..].iter().any(|snapshot| {
                let then = snapshot.content(block, content.len);
                then.len == content.len && then.letters[half] == content.letters[half]
            })
        })
    }

    /// The halves of blocks that differ between states `from` and `to`, or (`ends_only` is false) at any time between.
    pub(super) fn changes(&self, from: usize, to: usize, ends_only: bool) -> ChangedRanges {
        let state = self.state.lock().unwrap();
        let states = &state.history[from - 1..to];
        let first = states[0];
        let differ = |number: &usize| {
            let last = states.len() - 1;
            let compared = if ends_only { &states[last..] } else { states };
            compared
                .iter()
                .any(|then| then.letters[*number] != first.letters[*number])
        };
        (0..LONGEST / HALF).filter(differ).map(half).collect()
    }

    pub(super) fn plan(&self, after: usize, op: Op) {
        self.plan.lock().unwrap().push_back((after, op));
    }

    pub(super) fn forget_plans(&self) {
        self.plan.lock().unwrap().clear();
    }

    pub(super) fn boot(&self) {
        self.state.lock().unwrap().boot += 1;
    }

    /// What others write.
    pub(super) fn poke(&self, block: usize, part: Part, letter: u8) {
        self.put(block, part, letter);
        self.changed(Change::Seen);
    }

    pub(super) fn put(&self, block: usize, part: Part, letter: u8) {
        let (start, end) = range(block, part);
        let (start, end) = (start.min(self.size()), end.min(self.size()));
        if letter == 0 {
            self.memory.punch(start, end);
        } else {
            self.memory.poke(start, &vec![letter; end - start]);
        }
    }

    /// A half is never of two kinds.
    pub(super) fn grow(&self, by: usize) {
        let bytes = self.memory.bytes();
        let end = (bytes.len() + by).min(LONGEST);
        let to_half = bytes.len().next_multiple_of(HALF).min(end) - bytes.len();
        let last = bytes.last().copied().unwrap_or(1);
        let mut more = vec![last; to_half];
        more.resize(end - bytes.len(), 2);
        self.memory.grow(&more);
        self.changed(Change::Seen);
    }

    pub(super) fn cut(&self, by: usize) {
        self.memory.cut(self.size().saturating_sub(by));
        self.changed(Change::Seen);
    }

    /// Between two steps: what was planned for now happens.
    pub(super) fn tick(&self) {
        let Some(world) = self.world.get().and_then(Weak::upgrade) else {
            return;
        };
        if world.model().nested {
            return;
        }
        let due = {
            let mut plan = self.plan.lock().unwrap();
            match plan.front_mut() {
                Some((0, _)) => plan.pop_front(),
                Some((after, _)) => {
                    *after -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some((_, op)) = due {
            world.meanwhile(&op);
        }
    }

    fn check_alive(&self) -> io::Result<()> {
        let world = self.world.get().and_then(Weak::upgrade);
        match world {
            Some(world) if world.disk.dead() => Err(io::Error::from_raw_os_error(libc::EIO)),
            _ => Ok(()),
        }
    }
}

/// Bytes of a part of a block.
pub(super) fn range(block: usize, part: Part) -> (usize, usize) {
    let start = block * BLOCK;
    match part {
        Part::First => (start, start + HALF),
        Part::Second => (start + HALF, start + BLOCK),
        Part::Whole => (start, start + BLOCK),
    }
}

/// What the index is given.
#[derive(Debug)]
pub(super) struct Shared(pub(super) Arc<Live>);

impl Image for Shared {
    fn size(&self) -> io::Result<u64> {
        self.0.memory.size()
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.tick();
        self.0.memory.read_at(out, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        self.0.check_alive()?;
        let done = self.0.memory.write_at(data, offset);
        self.0.changed(Change::Own);
        done
    }

    fn zero(&self, span: Span) -> io::Result<()> {
        self.0.check_alive()?;
        let done = self.0.memory.zero(span);
        self.0.changed(Change::Own);
        done
    }

    fn reserve(&self, span: Span) -> io::Result<()> {
        self.0.memory.reserve(span)
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        self.0.memory.sync(data_only)
    }

    fn next_data(&self, from: u64) -> io::Result<Option<u64>> {
        self.0.tick();
        self.0.memory.next_data(from)
    }

    fn next_hole(&self, from: u64) -> io::Result<u64> {
        self.0.memory.next_hole(from)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn touch(&self) -> io::Result<()> {
        self.0.check_alive()?;
        self.0.touch();
        Ok(())
    }

    fn mtime(&self) -> io::Result<Option<(i64, i64)>> {
        Ok(self.0.mtime())
    }

    fn fingerprint(&self) -> io::Result<Fingerprint> {
        let fingerprint = self.0.fingerprint();
        self.0.looks();
        self.0.tick();
        Ok(fingerprint)
    }

    fn sector(&self) -> u64 {
        self.0.memory.sector()
    }

    fn is_direct(&self) -> bool {
        false
    }

    fn ownership(&self) -> Ownership {
        self.0.memory.ownership()
    }
}
