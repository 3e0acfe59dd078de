//! An administrator who names states of the image, and programs that say what changed between them: in truth, or
//! not.

use super::live::{BLOCK, HALF, LONGEST};
use super::world::World;
use crate::changes::{ChangeSource, ChangedRanges, Changes, ImageState, Named};
use crate::geometry::Span;

/// A state that was named when a mount was to begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    /// Of the image.
    pub(super) state: usize,
    /// Nobody wrote from then to when bmapfs first looked: unless somebody does so later, which it must notice, the
    /// index is of exactly this state.
    pub(super) exact: bool,
}

/// What a mount is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Telling {
    pub(super) since: Since,
    pub(super) map: Map,
    /// The present state gets a name.
    pub(super) named: bool,
}

/// Which state a map begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// That of the last mount that was to get one, whatever became of it.
    Last,
    /// Some state.
    Any(usize),
    /// There is no map.
    Nothing,
}

/// What a map names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Map {
    /// All that was written, also what was put back.
    Writes,
    /// What differs; if the index may be of another state, what was written.
    Difference,
    Everything,
    /// These blocks, whatever was written: a wrong map, if all others are checked.
    Blocks(u8),
}

/// Tells the index.
#[derive(Debug)]
pub(super) struct Teller {
    named: Named,
    checks: usize,
}

impl ChangeSource for Teller {
    fn since(&self, then: Option<&ImageState>) -> Option<Changes> {
        let told = self.named.since(then)?;
        let checks = self.checks;
        Some(Changes { checks, ..told })
    }

    fn now(&self) -> Option<ImageState> {
        self.named.now()
    }
}

fn id(point: usize) -> String {
    format!("point {point}")
}

impl World {
    /// The present state gets a name, some time before the mount that is told of it.
    pub(super) fn name(&self) {
        let state = self.live.number();
        self.model().checkpoint = Some(state);
    }

    /// What a mount is told; its map ends with state `begin`.
    pub(super) fn tell(&self, telling: Telling, begin: usize) -> Teller {
        let mut model = self.model();
        let count = model.points.len();
        let since = match telling.since {
            _ if count == 0 => None,
            Since::Last => Some(count - 1),
            Since::Any(which) => Some(which % count),
            Since::Nothing => None,
        };
        let told = since.map(|number| {
            let Point { state, exact } = model.points[number];
            let ranges = match telling.map {
                Map::Difference if exact => self.live.changes(state, begin, true),
                Map::Difference | Map::Writes => self.live.changes(state, begin, false),
                Map::Everything => [Span::new(0, LONGEST as u64)].into_iter().collect(),
                Map::Blocks(blocks) => some_blocks(blocks),
            };
            (id(number), ranges)
        });
        let now = telling.named.then(|| {
            model.points.push(Point {
                state: begin,
                exact: false,
            });
            id(count)
        });
        let source = "image".to_owned();
        Teller {
            named: Named { source, told, now },
            checks: match telling.map {
                Map::Blocks(_) => LONGEST / BLOCK,
                _ => 0,
            },
        }
    }

    /// The mount has begun that the last point was for, if it was told of one.
    pub(super) fn told(&self, teller: &Teller) {
        let looked = self.live.looked();
        let mut model = self.model();
        if let (Some(point), Some(_)) = (model.points.last_mut(), teller.now()) {
            point.exact = point.state == looked;
        }
    }
}

fn some_blocks(blocks: u8) -> ChangedRanges {
    (0..LONGEST / BLOCK)
        .filter(|block| blocks & (1 << block) != 0)
        .map(|block| Span::new((block * BLOCK) as u64, ((block + 1) * BLOCK) as u64))
        .collect()
}

/// The span of a half of a block.
pub(super) fn half(number: usize) -> Span {
    Span::new((number * HALF) as u64, ((number + 1) * HALF) as u64)
}
