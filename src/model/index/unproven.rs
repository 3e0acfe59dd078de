//! Known histories of writes that nothing shows.

use super::known::{CRASH, holds, mount, plan, poke};
use super::op::{Mode, Op, Part, Style};
use super::told::{Map, Since, Telling};
use super::world::Setup;

pub(super) const SUBMIT: Op = Op::Submit((1, Part::Whole, 2));
pub(super) const PLAIN: Op = Op::Plain {
    target: 0,
    writes: false,
};
pub(super) const NIGHT: Op = Op::Night { target: 0 };

pub(super) fn setups() -> impl Iterator<Item = Setup> {
    (0..9).map(|told| Setup { told, size: 0 })
}

#[test]
fn p23_a_file_system_that_comes_back_without_its_last_times() {
    for setup in setups() {
        for other in [None, Some((1, Part::Whole, 0))] {
            let history = vec![
                Op::Turn(5),
                NIGHT,
                Op::Turn(5),
                poke(1, 2),
                Op::ComeAgain(other),
                NIGHT,
            ];
            holds(setup, history);
        }
    }
}

#[test]
fn p21_a_device_that_comes_again_after_a_crash_with_the_same_statistics() {
    for setup in setups() {
        for other in [None, Some((1, Part::Whole, 0))] {
            let history = vec![
                NIGHT,
                mount(Mode::Run),
                Op::Flash { block: 1 },
                Op::Crash { reboot: false },
                Op::ComeAgain(other),
                NIGHT,
            ];
            holds(setup, history);
        }
    }
}

#[test]
fn p24_a_write_that_arrives_at_any_moment() {
    for setup in setups() {
        for after in 0..12 {
            for mode in [Mode::Run, Mode::Long, Mode::Force] {
                let history = vec![
                    SUBMIT,
                    Op::Turn(5),
                    plan(after, Op::LetGo),
                    mount(mode),
                    Op::Sync { target: 0 },
                    Op::Sync { target: 1 },
                    Op::Turn(5),
                    NIGHT,
                ];
                holds(setup, history);
            }
        }
    }
}

#[test]
fn p24_a_write_that_arrives_while_a_named_state_is_read() {
    let night = |target| {
        let telling = Telling {
            since: Since::Last,
            map: Map::Difference,
            named: true,
        };
        Op::ToldNight { target, telling }
    };
    for setup in setups() {
        for after in 0..12 {
            let history = vec![
                SUBMIT,
                Op::Turn(5),
                plan(after, Op::LetGo),
                night(0),
                poke(1, 1),
                Op::Turn(5),
                night(0),
            ];
            holds(setup, history);
        }
    }
}

#[test]
fn p24_stores_through_a_mapping_during_a_copy() {
    for setup in setups() {
        for after in 0..12 {
            let store = |letter| Op::Store((1, Part::Whole, letter));
            let history = vec![
                store(2),
                Op::Turn(5),
                mount(Mode::Run),
                plan(after, store(1)),
                plan(1, store(2)),
                plan(0, Op::LetGo),
                Op::Sync { target: 0 },
                Op::Turn(5),
                NIGHT,
            ];
            holds(setup, history);
        }
    }
}

#[test]
fn p24_a_device_that_is_changed_below_while_a_block_is_copied() {
    for setup in setups() {
        let below = |letter| Op::Below((1, Part::Whole, letter));
        let history = vec![
            NIGHT,
            mount(Mode::Run),
            below(2),
            Op::Start {
                block: 1,
                style: Style::Ordered,
                listed: false,
            },
            Op::Step { reader: 0 },
            Op::Step { reader: 0 },
            Op::Step { reader: 0 },
            below(1),
            NIGHT,
        ];
        holds(setup, history);
    }
}

#[test]
fn p24_the_stamps_of_a_rescan_right_after_the_first_scan_are_over() {
    for setup in setups() {
        for turn in 0..6 {
            let history = vec![
                NIGHT,
                poke(0, 2),
                mount(Mode::Long),
                poke(0, 1),
                Op::Rescan,
                Op::List,
                Op::Turn(turn),
                poke(0, 0),
                PLAIN,
            ];
            holds(setup, history);
        }
    }
}

#[test]
fn p24_a_write_that_is_submitted_in_the_second_of_a_listing() {
    for setup in setups() {
        for (after, turn) in (0..24).map(|both| (both / 2, both % 2)) {
            let history = vec![
                SUBMIT,
                Op::Turn(5),
                mount(Mode::Long),
                Op::Turn(10 + turn),
                plan(usize::try_from(after).unwrap(), SUBMIT),
                Op::Sync { target: 0 },
                Op::LetGo,
                Op::Plain {
                    target: 1,
                    writes: false,
                },
            ];
            holds(setup, history);
        }
    }
}

#[test]
fn p24_only_the_first_listing_after_a_scan_shows_what_nothing_proves() {
    for setup in setups() {
        let grown = vec![
            mount(Mode::Long),
            Op::Grow { by: 2048 },
            Op::List,
            Op::Flash { block: 0 },
            Op::List,
        ];
        holds(setup, grown);
        // The index was killed with promises far ahead, so that no listing is waited for.
        let mut far = vec![Op::List, Op::Crash { reboot: false }, mount(Mode::Long)];
        far.extend([
            Op::Grow { by: 2048 },
            Op::List,
            Op::Flash { block: 0 },
            Op::List,
        ]);
        holds(setup, far);
    }
}

// The image's times may move between two looks at them: what is shown is what the fingerprint has.
#[test]
fn p14_a_write_between_the_look_at_the_file_and_the_look_at_its_time() {
    let submit = |block, letter| Op::Submit((block, Part::Whole, letter));
    for setup in (0..9).map(|told| Setup { told, size: 3 }) {
        for (before, after) in (0..144).map(|both| (both / 12, both % 12)) {
            let later = [PLAIN, plan(after, Op::LetGo), PLAIN];
            let mut grown = vec![
                Op::Grow { by: 2048 },
                plan(1, Op::Turn(3)),
                plan(5, poke(3, 0)),
                plan(before, submit(3, 1)),
            ];
            grown.extend(later.clone());
            holds(setup, grown);
            let mut written = vec![plan(before, poke(3, 2)), plan(before, submit(0, 2))];
            written.extend(later);
            holds(setup, written);
        }
    }
}

#[test]
fn p24_a_clock_that_is_set_back_makes_the_first_listing_not_fresh_again() {
    for setup in setups() {
        let history = vec![
            Op::Cut { by: 4096 },
            NIGHT,
            PLAIN,
            Op::Poke {
                block: 2,
                part: Part::Second,
                letter: 2,
            },
            mount(Mode::Long),
            Op::Poke {
                block: 1,
                part: Part::First,
                letter: 2,
            },
            Op::Turn(-700),
            Op::Flash { block: 0 },
            Op::Turn(700),
            Op::Below((1, Part::Second, 2)),
            Op::List,
        ];
        holds(setup, history);
    }
}

#[test]
fn p24_written_with_force_while_it_is_copied() {
    let written = Op::Write {
        block: 1,
        part: Part::First,
        letter: 2,
        looked: false,
        release: true,
    };
    for setup in setups() {
        for after in 0..24 {
            let synced = vec![
                mount(Mode::Force),
                plan(after, written.clone()),
                Op::Sync { target: 0 },
            ];
            holds(setup, synced);
        }
        let step = Op::Step { reader: 0 };
        let between = vec![
            mount(Mode::Force),
            Op::Start {
                block: 1,
                style: Style::Ordered,
                listed: true,
            },
            step.clone(),
            written.clone(),
            step.clone(),
            step,
        ];
        holds(setup, between);
    }
}

#[test]
fn p22_written_while_a_block_that_cannot_be_read_is_listed() {
    let written = |block, letter, looked, release| Op::Write {
        block,
        part: if looked { Part::Whole } else { Part::First },
        letter,
        looked,
        release,
    };
    for told in 0..3 {
        for after in 0..8 {
            let history = vec![
                Op::Submit((1, Part::Second, 0)),
                plan(9, Op::List),
                poke(0, 2),
                Op::Sync { target: 0 },
                Op::Bad {
                    block: 0,
                    bad: true,
                },
                Op::Submit((0, Part::Whole, 1)),
                NIGHT,
                CRASH,
                plan(12, Op::Grow { by: 700 }),
                mount(Mode::Force),
                written(3, 2, true, true),
                plan(after, written(0, 1, false, false)),
                Op::List,
            ];
            holds(Setup { told, size: 0 }, history);
        }
    }
}
