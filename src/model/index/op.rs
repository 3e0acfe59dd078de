//! What can happen, and how a random number means it.

use super::told::{Map, Since, Telling};
use super::unseen::Write;

/// How an image is mounted, or only scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// `bmapfs run`: listings show the scan's stamps to the end.
    Run,
    /// A mount that may live long.
    Long,
    /// `bmapfs scan`.
    Scan,
    /// With -w.
    Write,
    /// With -w and -o force.
    Force,
}

/// A part of a block that is written at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    First,
    Second,
    Whole,
}

/// How a client reads a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Ordered,
    Backwards,
    /// Each piece through a handle of its own.
    TwoHandles,
    /// The first piece twice.
    Again,
}

/// What goes wrong at a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing is written.
    Nothing,
    /// The temporary file is written, and stays what it is.
    Temporary,
    /// It is replaced, but the answer is an error.
    Replaced,
}

/// What there is for an index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Place {
    #[default]
    Fine,
    /// No save succeeds; the note does.
    Full,
    /// Nothing can be written, also no note.
    ReadOnly,
    /// Nothing can be read or written.
    Hidden,
}

/// A time that a client sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    FromNow(i64),
    /// One that the block showed before.
    Old(usize),
}

/// Numbers of blocks, readers and the like are taken modulo how many there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    Mount {
        mode: Mode,
        rescan: bool,
    },
    /// `busy`: files are still open.
    Close {
        busy: bool,
    },
    Crash {
        reboot: bool,
    },
    /// Run, sync, and end.
    Night {
        target: usize,
    },
    /// The present state gets the name that the next mount will be told.
    Name,
    /// Run with a map of changes, sync, and end.
    ToldNight {
        target: usize,
        telling: Telling,
    },
    /// A mount with a map of changes.
    ToldMount {
        mode: Mode,
        telling: Telling,
    },
    /// By others.
    Poke {
        block: usize,
        part: Part,
        letter: u8,
    },
    Grow {
        by: usize,
    },
    Cut {
        by: usize,
    },
    /// A block that cannot be read from now on, or that can again.
    Bad {
        block: usize,
        bad: bool,
    },
    /// Others submit a write, whose data arrives later.
    Submit(Write),
    /// The data of the write that was submitted first arrives.
    Land,
    /// Others store through a mapping.
    Store(Write),
    /// Others close the image.
    LetGo,
    /// A write below the device.
    Below(Write),
    /// The image's file system is mounted again, or its device attached again; with other data.
    ComeAgain(Option<Write>),
    /// Where the index is kept.
    Keep(Place),
    /// A mount without an index, and a sync.
    Plain {
        target: usize,
        writes: bool,
    },
    Turn(i64),
    List,
    Attr {
        block: usize,
    },
    Start {
        block: usize,
        style: Style,
        listed: bool,
    },
    Step {
        reader: usize,
    },
    Abandon {
        reader: usize,
    },
    /// Others write, a client copies all of that, and the others write back what was there.
    Flash {
        block: usize,
    },
    Sync {
        target: usize,
    },
    Write {
        block: usize,
        part: Part,
        letter: u8,
        looked: bool,
        release: bool,
    },
    Release,
    Utimens {
        block: usize,
        time: Time,
    },
    Restore {
        block: usize,
        which: usize,
    },
    Rescan,
    Reread,
    /// Also ends the process, if `crash`.
    Fail {
        fault: Fault,
        after: usize,
        crash: bool,
    },
    /// The index is gone; `note`: the lock file too.
    Lose {
        note: bool,
    },
    /// An older index is put back, as a copy or (`link`) as the very same file.
    PutBack {
        version: usize,
        link: bool,
        note: bool,
    },
    /// Ends a scan that is under way.
    Cancel,
    /// Something to happen in the middle of what comes next.
    Plan {
        after: usize,
        what: Box<Op>,
    },
}

/// What happens, in order.
#[derive(Debug, Clone)]
pub(super) struct History(pub(super) Vec<Op>);

/// A random number, used up piece by piece.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> usize {
        let rolled = self.0 % sides;
        self.0 /= sides;
        usize::try_from(rolled).unwrap()
    }

    fn yes(&mut self) -> bool {
        self.roll(2) == 1
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len() as u64)]
    }

    fn part(&mut self) -> Part {
        self.pick(&[Part::Whole, Part::First, Part::Second, Part::Whole])
    }

    fn letter(&mut self) -> u8 {
        self.pick(&[1, 2, 0])
    }

    fn write(&mut self) -> Write {
        (self.roll(4), self.part(), self.letter())
    }
}

pub(super) fn decode(number: u64) -> Op {
    let mut dice = Dice(number);
    if dice.roll(6) == 5 {
        let after = dice.roll(14);
        return Op::Plan {
            after,
            what: Box::new(common(&mut dice)),
        };
    }
    if dice.roll(3) > 0 {
        return common(&mut dice);
    }
    match dice.roll(46) {
        0..=4 => Op::Mount {
            mode: dice.pick(&[
                Mode::Run,
                Mode::Long,
                Mode::Long,
                Mode::Scan,
                Mode::Write,
                Mode::Write,
                Mode::Force,
            ]),
            rescan: dice.roll(8) == 0,
        },
        5..=7 => Op::Close {
            busy: dice.roll(3) == 0,
        },
        8 => Op::Crash { reboot: dice.yes() },
        9..=11 => Op::Night {
            target: dice.roll(2),
        },
        12..=13 => Op::Sync {
            target: dice.roll(2),
        },
        14..=15 => Op::Rescan,
        16..=17 => Op::Fail {
            fault: dice.pick(&[Fault::Nothing, Fault::Temporary, Fault::Replaced]),
            after: dice.roll(3),
            crash: dice.yes(),
        },
        18 => Op::Lose { note: dice.yes() },
        19 => Op::PutBack {
            version: dice.roll(8),
            link: dice.yes(),
            note: dice.yes(),
        },
        20 => Op::Grow {
            by: dice.pick(&[700, 2048, 4096]),
        },
        21 => Op::Cut {
            by: dice.pick(&[700, 2048, 4096]),
        },
        22 => Op::Bad {
            block: dice.roll(4),
            bad: dice.yes(),
        },
        23 => Op::Reread,
        24..=28 => Op::ToldNight {
            target: dice.roll(2),
            telling: telling(&mut dice),
        },
        29..=30 => Op::Name,
        31..=34 => Op::ComeAgain(dice.yes().then(|| dice.write())),
        35..=38 => Op::Keep(dice.pick(&[Place::Fine, Place::Full, Place::ReadOnly, Place::Hidden])),
        39..=43 => Op::Plain {
            target: dice.roll(2),
            writes: dice.roll(4) == 0,
        },
        _ => Op::ToldMount {
            mode: dice.pick(&[Mode::Run, Mode::Long, Mode::Scan]),
            telling: telling(&mut dice),
        },
    }
}

fn telling(dice: &mut Dice) -> Telling {
    Telling {
        since: match dice.roll(8) {
            0 => Since::Any(dice.roll(8)),
            1 => Since::Nothing,
            _ => Since::Last,
        },
        map: match dice.roll(8) {
            0 => Map::Everything,
            1..=2 => Map::Blocks(u8::try_from(dice.roll(16)).unwrap()),
            3..=4 => Map::Difference,
            _ => Map::Writes,
        },
        named: dice.roll(8) > 0,
    }
}

/// What can also happen in the middle of something else.
fn common(dice: &mut Dice) -> Op {
    let kind = dice.roll(34);
    let block = dice.roll(4);
    match kind {
        0..=5 => Op::Poke {
            block,
            part: dice.part(),
            letter: dice.letter(),
        },
        6 => Op::List,
        7 => Op::Attr { block },
        8..=9 => Op::Start {
            block,
            style: dice.pick(&[
                Style::Ordered,
                Style::Ordered,
                Style::Backwards,
                Style::TwoHandles,
                Style::Again,
            ]),
            listed: dice.roll(3) > 0,
        },
        10..=13 => Op::Step { reader: block },
        14 => Op::Abandon { reader: block },
        15..=17 => Op::Write {
            block,
            part: dice.part(),
            letter: dice.letter(),
            looked: dice.roll(4) > 0,
            release: dice.yes(),
        },
        18 => Op::Release,
        19 => Op::Utimens {
            block,
            time: if dice.yes() {
                Time::Old(dice.roll(5))
            } else {
                Time::FromNow(dice.pick(&[0, 1, -1, 3, -20, 40_000_000, -40_000_000]))
            },
        },
        20 => Op::Restore {
            block,
            which: dice.roll(7),
        },
        21..=22 => Op::Turn(dice.pick(&[
            1,
            1,
            2,
            3,
            10,
            700,
            -1,
            -2,
            -30,
            -700,
            40_000_000,
            -40_000_000,
        ])),
        23..=24 => Op::Flash { block },
        25 => Op::Grow {
            by: dice.pick(&[700, 2048, 4096]),
        },
        26..=27 => Op::Submit(dice.write()),
        28..=29 => Op::Land,
        30 => Op::Store(dice.write()),
        31 => Op::LetGo,
        32 => Op::Below(dice.write()),
        _ if dice.roll(3) == 0 => Op::Cancel,
        _ => Op::Fail {
            fault: Fault::Nothing,
            after: 0,
            crash: true,
        },
    }
}
