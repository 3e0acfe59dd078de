//! Random histories of an image and its index, beside a model that keeps every stamp and content that anybody
//! could ever have copied together.
//!
//! What must hold: whoever skips a block because size and second are those of the copy has a content that the
//! block had since it was last looked at; and a block that nobody touches keeps its stamp.

mod act;
mod check;
mod disk;
mod known;
mod live;
mod memory;
mod op;
mod plain;
mod read;
mod told;
mod unindexed;
mod unproven;
mod unsaved;
mod unseen;
mod world;

use proptest::prelude::*;

use op::{History, decode};
use world::{Setup, World};

fn setup() -> impl Strategy<Value = Setup> {
    (0_u8..9, 0_u8..4).prop_map(|(told, size)| Setup { told, size })
}

fn history(longest: usize) -> impl Strategy<Value = History> {
    prop::collection::vec(any::<u64>(), 1..longest)
        .prop_map(|numbers| History(numbers.into_iter().map(decode).collect()))
}

/// `zeros`: everything is read before a mount is ready; else a first one shows its blocks at once.
fn play(setup: Setup, zeros: bool, history: &History) {
    let world = World::new(setup, zeros);
    for op in &history.0 {
        world.apply(op);
    }
    world.finish();
}

proptest! {
    #![proptest_config(super::config(20_000, 20_000))]

    // P20, P21, P23 and P24, all at once.
    #[test]
    fn p20_to_p24_no_short_history_hides_a_change(setup in setup(), zeros: bool, history in history(24)) {
        play(setup, zeros, &history);
    }
}

proptest! {
    #![proptest_config(super::config(4_000, 20_000))]

    #[test]
    fn p20_to_p24_no_long_history_hides_a_change(setup in setup(), zeros: bool, history in history(120)) {
        play(setup, zeros, &history);
    }
}
