//! Histories that once went wrong, or that chance seldom finds.

use super::op::{Fault, History, Mode, Op, Part, Style, Time};
use super::play;
use super::told::{Map, Since, Telling};
use super::world::Setup;

/// A file whose times are believed, of three whole blocks.
pub(super) const FILE: Setup = Setup { told: 0, size: 0 };

pub(super) fn mount(mode: Mode) -> Op {
    Op::Mount {
        mode,
        rescan: false,
    }
}

pub(super) fn poke(block: usize, letter: u8) -> Op {
    Op::Poke {
        block,
        part: Part::Whole,
        letter,
    }
}

pub(super) fn write(block: usize, letter: u8, release: bool) -> Op {
    Op::Write {
        block,
        part: Part::Whole,
        letter,
        looked: true,
        release,
    }
}

pub(super) fn plan(after: usize, what: Op) -> Op {
    Op::Plan {
        after,
        what: Box::new(what),
    }
}

pub(super) const CRASH: Op = Op::Fail {
    fault: Fault::Nothing,
    after: 0,
    crash: true,
};

pub(super) fn holds(setup: Setup, history: Vec<Op>) {
    let history = History(history);
    play(setup, true, &history);
    play(setup, false, &history);
}

#[test]
fn p24_a_listing_after_the_ceiling_was_passed_ends() {
    holds(
        FILE,
        vec![mount(Mode::Long), Op::Turn(700), poke(0, 2), Op::List],
    );
}

#[test]
fn p20_a_stamp_of_the_last_mount_counts_as_shown() {
    let unseen = Op::Write {
        block: 0,
        part: Part::Whole,
        letter: 0,
        looked: false,
        release: true,
    };
    holds(FILE, vec![Op::Night { target: 0 }, unseen]);
}

#[test]
fn p20_one_stamp_for_all_blocks_is_later_than_those_that_clients_set_back() {
    holds(
        FILE,
        vec![
            write(1, 2, true),
            Op::List,
            write(1, 1, true),
            Op::Utimens {
                block: 1,
                time: Time::FromNow(-1),
            },
            mount(Mode::Long),
            poke(1, 2),
            Op::List,
        ],
    );
}

#[test]
fn p20_a_block_that_comes_back_with_the_image_s_growth_is_another() {
    holds(
        FILE,
        vec![
            Op::List,
            Op::Cut { by: 4096 },
            mount(Mode::Run),
            Op::Grow { by: 4096 },
            Op::List,
        ],
    );
}

#[test]
fn p20_written_with_force_while_all_blocks_show_one_stamp() {
    holds(
        FILE,
        vec![
            mount(Mode::Force),
            poke(2, 2),
            Op::List,
            write(1, 0, true),
            Op::Attr { block: 1 },
            write(1, 2, true),
            Op::Attr { block: 1 },
        ],
    );
}

#[test]
fn p20_written_again_while_the_first_write_is_hashed() {
    holds(
        FILE,
        vec![
            mount(Mode::Write),
            write(0, 2, false),
            plan(2, write(0, 0, true)),
            Op::Release,
        ],
    );
}

#[test]
fn p20_written_and_hashed_while_the_scan_reads_it() {
    for after in 0..4 {
        holds(
            FILE,
            vec![
                mount(Mode::Write),
                plan(after, write(0, 2, true)),
                Op::Rescan,
            ],
        );
    }
}

#[test]
fn p21_killed_in_a_rescan_after_its_stamps_were_shown() {
    for after in 0..10 {
        holds(
            FILE,
            vec![
                mount(Mode::Long),
                Op::Turn(700),
                poke(0, 2),
                plan(
                    after,
                    Op::Start {
                        block: 0,
                        style: Style::Ordered,
                        listed: false,
                    },
                ),
                plan(0, Op::Step { reader: 0 }),
                plan(0, Op::Step { reader: 0 }),
                plan(0, CRASH),
                Op::Rescan,
                Op::Turn(-1),
                poke(0, 0),
            ],
        );
    }
}

#[test]
fn p24_a_copy_of_what_was_there_for_a_moment() {
    for after in 0..10 {
        for mode in [Mode::Long, Mode::Force] {
            for told in 0..7 {
                let setup = Setup { told, size: 0 };
                let flash = Op::Flash { block: 1 };
                let during_scan = vec![
                    mount(mode),
                    Op::Turn(10),
                    plan(after, flash.clone()),
                    Op::Rescan,
                ];
                holds(setup, during_scan);
                let twice = vec![
                    mount(mode),
                    plan(after, flash.clone()),
                    Op::List,
                    flash,
                    Op::Rescan,
                ];
                holds(setup, twice);
            }
        }
    }
}

#[test]
fn p22_what_can_be_read_again_is_settled_without_a_scan() {
    let bad = |bad| Op::Bad { block: 1, bad };
    holds(
        FILE,
        vec![Op::Turn(5), bad(true), mount(Mode::Run), bad(false)],
    );
}

#[test]
fn p22_what_was_written_while_it_could_not_be_read() {
    let bad = |bad| Op::Bad { block: 1, bad };
    for mode in [Mode::Run, Mode::Long, Mode::Scan, Mode::Write, Mode::Force] {
        for told in 0..7 {
            let setup = Setup { told, size: 0 };
            let unreadable = vec![Op::Night { target: 0 }, bad(true), mount(mode)];
            let written = vec![poke(1, 2), Op::Sync { target: 0 }, bad(false)];
            let readable = vec![Op::Sync { target: 0 }, Op::Sync { target: 1 }];
            let later = vec![Op::Rescan, Op::Sync { target: 0 }];
            let night = vec![Op::Turn(5), Op::Night { target: 0 }];
            let all = [unreadable, written, readable, later, night];
            holds(setup, all.concat());
        }
    }
}

#[test]
fn p21_an_older_index_and_a_clock_that_goes_back_after_the_next_mount() {
    let odd = Setup { told: 0, size: 1 };
    // The index is put back, its mount learns of a block that it does not have only after the clock went back.
    for back in 690..710 {
        let history = vec![
            Op::Night { target: 0 },
            write(0, 2, false),
            mount(Mode::Long),
            Op::Crash { reboot: false },
            Op::Night { target: 1 },
            Op::Cut { by: 4096 },
            Op::PutBack {
                version: 0,
                link: false,
                note: true,
            },
            Op::List,
            Op::Grow { by: 4096 },
            Op::Turn(-back),
            poke(2, 2),
        ];
        holds(odd, history);
    }
}

#[test]
fn p24_a_listing_in_the_middle_of_a_rescan_gets_a_stamp_of_its_own() {
    let half = |block, letter| Op::Poke {
        block,
        part: Part::Second,
        letter,
    };
    let listing = Op::Start {
        block: 2,
        style: Style::Ordered,
        listed: true,
    };
    let history = vec![
        plan(2, half(3, 1)),
        Op::Grow { by: 2048 },
        write(2, 0, false),
        plan(12, half(0, 2)),
        plan(11, half(0, 0)),
        // Far behind all stamps, so that the scan's and the listing's are made of the same ones.
        Op::Turn(-40_000_000),
        Op::Flash { block: 0 },
        Op::Sync { target: 0 },
        plan(12, listing),
        plan(0, Op::Flash { block: 0 }),
        mount(Mode::Force),
        Op::Rescan,
    ];
    holds(FILE, history);
}

/// A night that is told what was written since the one before.
fn told_night(target: usize, map: Map) -> Op {
    let telling = Telling {
        since: Since::Last,
        map,
        named: true,
    };
    Op::ToldNight { target, telling }
}

#[test]
fn p23_a_state_that_was_named_before_the_image_was_written() {
    for map in [Map::Writes, Map::Difference] {
        holds(
            FILE,
            vec![
                Op::Turn(5),
                told_night(0, map),
                Op::Name,
                poke(1, 2),
                Op::Turn(5),
                told_night(0, map),
                told_night(0, map),
                told_night(0, map),
            ],
        );
    }
}

#[test]
fn p24_a_copy_of_what_was_written_after_the_state_was_named() {
    for told in 0..7 {
        let setup = Setup { told, size: 0 };
        holds(
            setup,
            vec![
                Op::Turn(5),
                told_night(0, Map::Writes),
                Op::Name,
                poke(1, 2),
                Op::Turn(5),
                told_night(1, Map::Writes),
                poke(1, 1),
                Op::Turn(5),
                told_night(1, Map::Writes),
            ],
        );
    }
}

#[test]
fn p24_what_differs_from_a_state_that_the_index_is_not_of() {
    for after in 0..12 {
        for told in 0..7 {
            let setup = Setup { told, size: 0 };
            holds(
                setup,
                vec![
                    plan(after, poke(1, 2)),
                    told_night(0, Map::Difference),
                    poke(1, 1),
                    told_night(0, Map::Difference),
                ],
            );
        }
    }
}

#[test]
fn p21_a_night_that_failed_hides_nothing() {
    let fail = |crash| Op::Fail {
        fault: Fault::Nothing,
        after: 0,
        crash,
    };
    for lost in [fail(true), fail(false), plan(3, CRASH)] {
        holds(
            FILE,
            vec![
                told_night(0, Map::Writes),
                poke(1, 2),
                lost,
                told_night(0, Map::Writes),
                poke(2, 2),
                told_night(0, Map::Writes),
            ],
        );
    }
}

#[test]
fn p21_a_wrong_map_is_found_out_where_all_else_is_checked() {
    for blocks in 0..8 {
        holds(
            FILE,
            vec![
                told_night(0, Map::Writes),
                poke(1, 2),
                poke(2, 0),
                told_night(0, Map::Blocks(blocks)),
            ],
        );
    }
}

#[test]
fn p24_served_between_a_write_and_its_hash_while_a_rescan_begins() {
    for (write_at, flash_at) in (0..100).map(|both| (both / 10, both % 10)) {
        for looked in [false, true] {
            let written = Op::Write {
                block: 1,
                part: Part::Whole,
                letter: 0,
                looked,
                release: false,
            };
            let history = vec![
                mount(Mode::Force),
                write(0, 1, false),
                plan(write_at, written),
                plan(flash_at, Op::Flash { block: 1 }),
                Op::Rescan,
            ];
            holds(FILE, history);
        }
    }
}

#[test]
fn p20_a_last_block_that_grows_while_its_image_is_being_opened_has_no_digest() {
    let telling = |map| Telling {
        since: Since::Last,
        map,
        named: true,
    };
    let odd = Setup { told: 0, size: 3 };
    for after in 0..10 {
        let history = vec![
            plan(after, Op::Grow { by: 2048 }),
            Op::ToldNight {
                target: 0,
                telling: telling(Map::Everything),
            },
            // The map does not tell of the growth.
            Op::ToldMount {
                mode: Mode::Scan,
                telling: telling(Map::Writes),
            },
        ];
        holds(odd, history);
    }
}
