//! Known histories of mounts without an index, alone and between others.

use super::known::{FILE, holds, mount, plan, poke, write};
use super::op::{Mode, Op, Place, Time};
use super::unproven::{NIGHT, PLAIN, SUBMIT, setups};
use super::world::Setup;

// The file keeps the second of the submission as its time, and the next mount without an index shows that.
#[test]
fn p14_no_stamp_is_of_the_second_of_a_write_that_is_under_way() {
    for setup in setups() {
        for wait in 0..6 {
            for mode in [Mode::Run, Mode::Long] {
                let history = vec![
                    SUBMIT,
                    Op::Turn(wait),
                    mount(mode),
                    Op::Sync { target: 0 },
                    Op::Turn(wait),
                    Op::Sync { target: 0 },
                    Op::LetGo,
                    PLAIN,
                ];
                holds(setup, history);
            }
            let again = vec![Op::Turn(5), SUBMIT, Op::Turn(wait), PLAIN, Op::LetGo, PLAIN];
            holds(setup, again);
        }
        for after in 0..20 {
            let while_scanned = vec![
                plan(after, Op::LetGo),
                SUBMIT,
                mount(Mode::Run),
                PLAIN,
                poke(1, 1),
                NIGHT,
            ];
            holds(setup, while_scanned);
            let between = vec![Op::Turn(5), plan(after, SUBMIT), PLAIN, Op::LetGo, PLAIN];
            holds(setup, between);
        }
    }
}

#[test]
fn p14_between_two_nights_with_an_index_one_without() {
    for setup in setups() {
        for (before, after) in (0..36).map(|both| (both / 6, both % 6)) {
            let history = vec![
                NIGHT,
                Op::Turn(before),
                poke(1, 2),
                PLAIN,
                poke(1, 0),
                Op::Turn(after),
                NIGHT,
                poke(1, 1),
                PLAIN,
            ];
            holds(setup, history);
        }
    }
}

#[test]
fn p14_written_twice_in_a_second_through_a_mount_without_an_index() {
    let writes = Op::Plain {
        target: 0,
        writes: true,
    };
    for after in 0..4 {
        holds(
            FILE,
            vec![plan(after, Op::Turn(700)), writes.clone(), PLAIN],
        );
    }
}

#[test]
fn p14_whole_seconds_and_a_clock_that_is_set_back_after_the_scan() {
    let whole = Setup { told: 8, size: 0 };
    for back in 1..8 {
        let history = vec![
            poke(1, 2),
            Op::Turn(5),
            mount(Mode::Long),
            Op::Sync { target: 0 },
            Op::Turn(-back),
            poke(1, 0),
            Op::Sync { target: 0 },
            NIGHT,
        ];
        holds(whole, history);
    }
}

#[test]
fn p14_what_was_written_last_is_waited_for_whatever_else_a_client_sets_or_fails() {
    let far = Op::Utimens {
        block: 0,
        time: Time::FromNow(40_000_000),
    };
    for also in [far, Op::Keep(Place::Full), Op::Keep(Place::Hidden)] {
        for setup in setups() {
            let history = vec![
                write(1, 1, false),
                also.clone(),
                write(1, 2, false),
                Op::List,
                PLAIN,
            ];
            holds(setup, history);
        }
    }
}

#[test]
fn p14_written_and_put_back_while_it_is_copied_without_an_index() {
    for setup in setups() {
        for (after, first) in (0..80).map(|both| (both / 4, both % 4)) {
            let first = [Mode::Run, Mode::Long, Mode::Write, Mode::Force][first];
            let history = vec![
                mount(first),
                Op::Close { busy: false },
                plan(after, poke(1, 2)),
                Op::Plain {
                    target: 1,
                    writes: false,
                },
                poke(1, 1),
                NIGHT,
            ];
            holds(setup, history);
        }
    }
}

#[test]
fn p14_a_block_that_appears_in_a_mount_shows_a_second_that_is_over() {
    for setup in setups() {
        for (turn, after) in (0..4).flat_map(|turn| (0..12).map(move |after| (turn, after))) {
            let history = vec![
                mount(Mode::Run),
                Op::Turn(turn),
                Op::Grow { by: 4096 },
                plan(after, poke(3, 0)),
                Op::Sync { target: 1 },
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
fn p14_a_time_that_is_set_far_ahead_hides_none_that_was_shown_before() {
    for block in 0..2 {
        let far = Op::Utimens {
            block,
            time: Time::FromNow(40_000_000),
        };
        for setup in setups() {
            let history = vec![
                write(1, 2, true),
                Op::List,
                write(1, 1, true),
                Op::List,
                write(1, 0, true),
                far.clone(),
                PLAIN,
                PLAIN,
                NIGHT,
            ];
            holds(setup, history);
        }
    }
}
