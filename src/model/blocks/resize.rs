//! Random creations, renames, removals and truncations beside a plain vector of bytes, a set of names and a table of
//! temporary files: with and without --sparse, --resize and zero detection.

mod expect;
mod handles;
mod world;

use proptest::prelude::*;

use expect::Setup;
use world::World;

/// A file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    /// A block's, perhaps one past the end.
    Block(u8),
    /// A temporary one of a block.
    Temporary(u8, u8),
    /// Nothing that may be made.
    Wrong(u8),
}

/// A length or place in a block.
#[derive(Debug, Clone, Copy)]
enum Len {
    Zero,
    /// As long as the block with this number is.
    Fits(u8),
    Full,
    /// So many thousandths of a block.
    Part(u16),
    Past(u16),
}

/// A request. Numbers of handles are taken modulo how many there are.
#[derive(Debug, Clone, Copy)]
enum Op {
    Create {
        name: Name,
        exclusive: bool,
        truncate: bool,
        write: bool,
    },
    Open {
        name: Name,
        write: bool,
    },
    Lookup(Name),
    Truncate {
        name: Name,
        len: Len,
    },
    TruncateOpen {
        handle: u8,
        len: Len,
    },
    Stamp {
        name: Name,
        seconds: u16,
    },
    Rename {
        from: Name,
        to: Name,
        replace: bool,
    },
    Remove(Name),
    /// What rsync, rclone and others do: create, fill, rename.
    Stage {
        block: u8,
        len: Len,
        fill: u8,
        keep_open: bool,
    },
    Write {
        handle: u8,
        offset: Len,
        len: Len,
        fill: u8,
    },
    Read {
        handle: u8,
        offset: Len,
        len: Len,
    },
    Zero {
        handle: u8,
        offset: Len,
        len: Len,
        keep_size: bool,
    },
    Reserve {
        handle: u8,
        end: Len,
    },
    Release(u8),
    List,
}

fn name() -> impl Strategy<Value = Name> {
    prop_oneof![
        8 => (0_u8..9).prop_map(Name::Block),
        5 => (0_u8..9, 0_u8..2).prop_map(|(block, kind)| Name::Temporary(block, kind)),
        1 => (0_u8..4).prop_map(Name::Wrong),
    ]
}

fn len() -> impl Strategy<Value = Len> {
    prop_oneof![
        2 => Just(Len::Zero),
        4 => (0_u8..9).prop_map(Len::Fits),
        4 => Just(Len::Full),
        4 => (0_u16..1000).prop_map(Len::Part),
    ]
}

/// Also what is too long, which latches a mount and so must be rare.
fn any_len() -> impl Strategy<Value = Len> {
    prop_oneof![40 => len(), 1 => (1_u16..2000).prop_map(Len::Past)]
}

fn op() -> impl Strategy<Value = Op> {
    let fill = || prop_oneof![1 => Just(0_u8), 2 => any::<u8>()];
    prop_oneof![
        6 => (name(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.9))
            .prop_map(|(name, exclusive, truncate, write)| Op::Create { name, exclusive, truncate, write }),
        3 => (name(), prop::bool::weighted(0.8)).prop_map(|(name, write)| Op::Open { name, write }),
        2 => name().prop_map(Op::Lookup),
        4 => (name(), any_len()).prop_map(|(name, len)| Op::Truncate { name, len }),
        3 => (any::<u8>(), any_len()).prop_map(|(handle, len)| Op::TruncateOpen { handle, len }),
        2 => (name(), any::<u16>()).prop_map(|(name, seconds)| Op::Stamp { name, seconds }),
        8 => (name(), name(), prop::bool::weighted(0.8))
            .prop_map(|(from, to, replace)| Op::Rename { from, to, replace }),
        6 => name().prop_map(Op::Remove),
        8 => (0_u8..9, len(), fill(), any::<bool>())
            .prop_map(|(block, len, fill, keep_open)| Op::Stage { block, len, fill, keep_open }),
        12 => (any::<u8>(), len(), any_len(), fill())
            .prop_map(|(handle, offset, len, fill)| Op::Write { handle, offset, len, fill }),
        4 => (any::<u8>(), any_len(), any_len()).prop_map(|(handle, offset, len)| Op::Read { handle, offset, len }),
        3 => (any::<u8>(), len(), len(), any::<bool>())
            .prop_map(|(handle, offset, len, keep_size)| Op::Zero { handle, offset, len, keep_size }),
        2 => (any::<u8>(), any_len()).prop_map(|(handle, end)| Op::Reserve { handle, end }),
        3 => any::<u8>().prop_map(Op::Release),
        3 => Just(Op::List),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    (
        prop_oneof![9 => Just(4096_usize), 1 => Just(128 << 10)],
        // Thousandths of a block.
        prop_oneof![
            Just(0_usize),
            Just(1),
            Just(1000),
            Just(3000),
            0_usize..6000
        ],
        any::<[bool; 4]>(),
        prop_oneof![Just(1500_usize), Just(3000), Just(100_000)],
    )
        .prop_map(
            |(block, size, [sparse, resize, detect, latch], staging)| Setup {
                block,
                size: (block * size).div_ceil(1000),
                sparse,
                resize,
                detect,
                latch,
                staging: block * staging / 1000,
            },
        )
}

proptest! {
    #![proptest_config(crate::model::config(2_000, 20_000))]

    // P8, P12, P25, sparse directories, growing and shrinking, all at once.
    #[test]
    fn any_renames_and_removals_do_what_the_model_does(
        setup in setup(),
        ops in prop::collection::vec(op(), 1..80)
    ) {
        let mut world = World::new(setup);
        for op in ops {
            world.apply(op);
        }
        world.end();
    }
}

/// What chance seldom finds: files that are announced to be longer, and one that is removed before it is closed.
#[test]
fn p25_an_announcement_holds_until_a_truncation_and_a_removed_file_has_no_length() {
    let create = |block| Op::Create {
        name: Name::Block(block),
        exclusive: false,
        truncate: true,
        write: true,
    };
    let write = Op::Write {
        handle: 0,
        offset: Len::Zero,
        len: Len::Part(100),
        fill: 7,
    };
    let announce = Op::Reserve {
        handle: 0,
        end: Len::Full,
    };
    let cut = Op::TruncateOpen {
        handle: 0,
        len: Len::Part(500),
    };
    let [close, remove] = [Op::Release(0), Op::Remove(Name::Block(1))];
    for (resize, latches, ops) in [
        (true, true, vec![create(0), write, close, create(1)]),
        (
            true,
            false,
            vec![create(0), announce, write, close, create(1)],
        ),
        (
            true,
            false,
            vec![create(0), announce, write, create(1), close],
        ),
        (
            true,
            true,
            vec![create(0), announce, write, cut, close, create(1)],
        ),
        (false, true, vec![create(1), write, close]),
        (false, false, vec![create(1), write, remove, close]),
        (false, false, vec![create(1), announce, write, close]),
        (false, false, vec![create(1), close]),
    ] {
        let mut world = World::new(Setup {
            block: 4096,
            size: if resize { 0 } else { 3 * 4096 },
            sparse: true,
            resize,
            detect: false,
            latch: true,
            staging: 4096,
        });
        for op in &ops {
            world.apply(*op);
        }
        assert_eq!(world.model.latched, latches, "{ops:?}");
        world.end();
    }
}
