//! Random requests to a block directory, beside a plain vector of bytes and a plain table of attributes: after
//! each of them both must be the same. And what a client sees when the image fails.

mod expect;
mod faults;
mod lengths;
mod promises;
mod resize;
mod skipped;
mod stamps;
mod world;

use proptest::prelude::*;

use crate::image::faulty::History;

use expect::Setup;
use world::World;

/// Where in a block a request begins; cut to the block at hand.
#[derive(Debug, Clone, Copy)]
enum BytePlace {
    /// So many bytes in, modulo the block's length.
    In(u16),
    /// So many bytes before the end.
    BeforeEnd(u16),
    /// So many bytes past the end.
    Past(u64),
}

/// A new length of a block file.
#[derive(Debug, Clone, Copy)]
enum Length {
    Own,
    Zero,
    Shorter,
    Longer,
}

/// What a client sets beside the length.
#[derive(Debug, Clone, Copy)]
struct Wish {
    mode: Option<u16>,
    uid: Option<u8>,
    gid: Option<u8>,
    atime: Option<Time>,
    mtime: Option<Time>,
}

#[derive(Debug, Clone, Copy)]
enum Time {
    Now,
    /// Seconds from now.
    From(i8),
    /// As the file shows it.
    Shown,
    /// Long ago.
    Old(u16),
}

/// A request, or what others do. Numbers of blocks and handles are taken modulo how many there are; one more is
/// one that does not exist.
#[derive(Debug, Clone, Copy)]
enum Op {
    Open {
        block: u8,
        write: bool,
    },
    Read {
        handle: u8,
        place: BytePlace,
        len: u16,
        whole: bool,
    },
    /// Many small reads in a row.
    Stream {
        handle: u8,
        len: u8,
    },
    Write {
        handle: u8,
        place: BytePlace,
        len: u16,
        fill: u8,
    },
    Allocate {
        handle: u8,
        place: BytePlace,
        len: u16,
        zero: bool,
        keep_size: bool,
    },
    Seek {
        handle: u8,
        place: BytePlace,
        hole: bool,
    },
    Change {
        block: u8,
        length: Option<Length>,
        wish: Wish,
    },
    Attr {
        block: u8,
    },
    Names {
        block: u8,
    },
    List {
        position: u8,
        room: u8,
        later: bool,
    },
    Sync {
        handle: u8,
        fails: bool,
    },
    Flush {
        handle: u8,
    },
    Release {
        handle: u8,
    },
    Poke {
        place: u16,
        len: u16,
        fill: u8,
    },
    Punch {
        place: u16,
        len: u16,
    },
    Grow {
        by: u16,
    },
    Cut {
        to: u16,
    },
    Turn {
        by: i8,
    },
}

fn place() -> impl Strategy<Value = BytePlace> {
    prop_oneof![
        24 => any::<u16>().prop_map(BytePlace::In),
        4 => Just(BytePlace::In(0)),
        8 => (1_u16..600).prop_map(BytePlace::BeforeEnd),
        1 => prop_oneof![Just(0), Just(1), 0_u64..9000, Just(u64::MAX)].prop_map(BytePlace::Past),
    ]
}

fn time() -> impl Strategy<Value = Time> {
    prop_oneof![
        Just(Time::Now),
        any::<i8>().prop_map(Time::From),
        (-4_i8..4).prop_map(Time::From),
        Just(Time::Shown),
        any::<u16>().prop_map(Time::Old),
    ]
}

fn maybe<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::weighted(0.3, value)
}

fn wish() -> impl Strategy<Value = Wish> {
    (
        maybe(0_u16..0o10000),
        maybe(6_u8..9),
        maybe(6_u8..9),
        maybe(time()),
        maybe(time()),
    )
        .prop_map(|(mode, uid, gid, atime, mtime)| Wish {
            mode,
            uid,
            gid,
            atime,
            mtime,
        })
}

fn length() -> impl Strategy<Value = Option<Length>> {
    prop_oneof![
        30 => Just(None),
        10 => Just(Some(Length::Own)),
        10 => Just(Some(Length::Zero)),
        1 => Just(Some(Length::Shorter)),
        1 => Just(Some(Length::Longer)),
    ]
}

fn len() -> impl Strategy<Value = u16> {
    prop_oneof![1_u16..100, 1_u16..10_000, Just(512), Just(4096)]
}

fn op() -> impl Strategy<Value = Op> {
    let h = any::<u8>;
    prop_oneof![
        6 => (h(), prop::bool::weighted(0.8)).prop_map(|(block, write)| Op::Open { block, write }),
        12 => (h(), place(), len(), any::<bool>())
            .prop_map(|(handle, place, len, whole)| Op::Read { handle, place, len, whole }),
        2 => (h(), 1_u8..).prop_map(|(handle, len)| Op::Stream { handle, len }),
        16 => (h(), place(), prop_oneof![20 => len(), 1 => Just(0)], any::<u8>())
            .prop_map(|(handle, place, len, fill)| Op::Write { handle, place, len, fill }),
        5 => (h(), place(), len(), prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|(handle, place, len, zero, keep_size)| Op::Allocate { handle, place, len, zero, keep_size }),
        6 => (h(), place(), any::<bool>()).prop_map(|(handle, place, hole)| Op::Seek { handle, place, hole }),
        8 => (h(), length(), wish()).prop_map(|(block, length, wish)| Op::Change { block, length, wish }),
        8 => h().prop_map(|block| Op::Attr { block }),
        1 => h().prop_map(|block| Op::Names { block }),
        4 => (0_u8..12, 0_u8..12, any::<bool>())
            .prop_map(|(position, room, later)| Op::List { position, room, later }),
        3 => (h(), prop::bool::weighted(0.3)).prop_map(|(handle, fails)| Op::Sync { handle, fails }),
        2 => h().prop_map(|handle| Op::Flush { handle }),
        2 => h().prop_map(|handle| Op::Release { handle }),
        4 => (any::<u16>(), len(), any::<u8>()).prop_map(|(place, len, fill)| Op::Poke { place, len, fill }),
        2 => (any::<u16>(), len()).prop_map(|(place, len)| Op::Punch { place, len }),
        2 => (1_u16..6000).prop_map(|by| Op::Grow { by }),
        1 => any::<u16>().prop_map(|to| Op::Cut { to }),
        8 => prop_oneof![4 => 0_i8..4, 1 => any::<i8>()].prop_map(|by| Op::Turn { by }),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let size = prop_oneof![
        Just(0_usize),
        Just(1),
        Just(4096),
        Just(8192),
        Just(8193),
        0_usize..24_000
    ];
    let history = prop_oneof![
        4 => Just(History::File),
        2 => Just(History::Device),
        1 => Just(History::Mute),
    ];
    (
        prop_oneof![4 => Just(4096_usize), 1 => Just(8192)],
        size,
        prop::bool::weighted(0.7),
        any::<bool>(),
        history,
        prop::bool::weighted(0.2),
    )
        .prop_map(|(block, size, writable, latch, history, direct)| Setup {
            block,
            size,
            writable,
            latch,
            history,
            direct,
        })
}

proptest! {
    #![proptest_config(super::config(3_000, 20_000))]

    // P2, P3, P4, P5, P7, P8, P9, P10, P11, P14 and P25, all at once.
    #[test]
    fn any_requests_do_what_the_model_does(
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
