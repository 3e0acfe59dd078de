//! Known histories of an index that cannot be saved.

use super::known::{CRASH, FILE, holds, mount, plan, poke, write};
use super::op::{Mode, Op, Part, Place, Style, Time};
use super::told::{Map, Since, Telling};
use super::unproven::{NIGHT, PLAIN, SUBMIT, setups};

const NOWHERE: [Place; 3] = [Place::Full, Place::ReadOnly, Place::Hidden];

#[test]
fn p21_an_index_that_cannot_be_saved_for_some_nights() {
    for setup in setups() {
        for place in NOWHERE {
            for turn in 0..6 {
                let mut history = vec![NIGHT, Op::Keep(place)];
                for letter in [2, 0, 1] {
                    history.extend([poke(1, letter), NIGHT, Op::Turn(turn), PLAIN]);
                }
                history.extend([Op::Grow { by: 4096 }, Op::Keep(Place::Fine)]);
                history.extend([poke(1, 0), NIGHT, poke(1, 2), NIGHT]);
                holds(setup, history);
            }
        }
    }
}

#[test]
fn p21_stamps_of_all_blocks_at_once_in_a_mount_that_cannot_be_saved() {
    for place in NOWHERE {
        for mode in [Mode::Long, Mode::Force] {
            let history = vec![
                Op::Keep(place),
                mount(mode),
                poke(0, 2),
                Op::List,
                Op::Store((1, Part::Second, 2)),
                PLAIN,
                Op::Keep(Place::Fine),
                poke(1, 0),
                NIGHT,
            ];
            holds(FILE, history);
        }
    }
}

#[test]
fn p21_a_far_time_that_a_client_set_in_a_mount_that_notes_nothing() {
    for place in NOWHERE {
        let history = vec![
            mount(Mode::Run),
            Op::Keep(place),
            Op::Turn(700),
            poke(1, 0),
            SUBMIT,
            mount(Mode::Force),
            Op::List,
            Op::Utimens {
                block: 1,
                time: Time::FromNow(40_000_000),
            },
        ];
        holds(FILE, history);
    }
}

#[test]
fn p21_killed_in_a_mount_that_cannot_be_saved() {
    for setup in setups() {
        let history = vec![
            Op::Keep(Place::Full),
            Op::Flash { block: 1 },
            Op::Crash { reboot: true },
            Op::Turn(-2),
        ];
        holds(setup, history);
    }
}

#[test]
fn p21_noted_in_a_crash_and_read_where_nothing_can_be_written() {
    for turn in 595..605 {
        let mut history = vec![
            mount(Mode::Run),
            plan(0, CRASH),
            Op::Sync { target: 0 },
            Op::Keep(Place::Full),
        ];
        for letter in [2, 1, 0, 2, 1, 2] {
            history.extend([poke(1, letter), NIGHT]);
        }
        history.extend([poke(1, 0), Op::Turn(turn), Op::Keep(Place::ReadOnly), NIGHT]);
        holds(FILE, history);
    }
}

#[test]
fn p21_a_client_s_time_far_ahead_in_a_mount_that_cannot_be_saved() {
    let telling = |map, named| Telling {
        since: Since::Last,
        map,
        named,
    };
    let whole = |block, letter| write(block, letter, false);
    holds(
        FILE,
        vec![
            Op::ToldNight {
                target: 0,
                telling: telling(Map::Difference, false),
            },
            Op::Keep(Place::ReadOnly),
            Op::Grow { by: 700 },
            whole(0, 0),
            Op::Utimens {
                block: 3,
                time: Time::FromNow(40_000_000),
            },
            plan(10, Op::Submit((0, Part::Second, 1))),
            plan(1, whole(0, 0)),
            Op::Start {
                block: 2,
                style: Style::Ordered,
                listed: true,
            },
            Op::ToldMount {
                mode: Mode::Scan,
                telling: telling(Map::Writes, true),
            },
        ],
    );
}
