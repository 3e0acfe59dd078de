use super::*;
use proptest::prelude::*;

const UNWRITTEN: u32 = 0x800;
const SHARED: u32 = 0x2000;
const LAST: u32 = 1;

fn extent((logical, physical, length, flags): (u64, u64, u64, u32)) -> MappedExtent {
    MappedExtent::new(logical, physical, length, flags)
}

fn map(size: u64, extents: &[(u64, u64, u64, u32)]) -> Map {
    let extents: Vec<_> = extents.iter().copied().map(extent).collect();
    Map::new(size, &extents).unwrap()
}

fn ranges(then: &Map, now: &Map) -> Vec<(u64, u64)> {
    let differing = differing(then, now, 10);
    let pair = |span: &Span| (span.start, span.end);
    differing.ranges().iter().map(pair).collect()
}

#[test]
fn only_the_same_place_is_the_same() {
    let then = map(100, &[(0, 1000, 40, SHARED), (60, 500, 40, LAST)]);
    for (size, extents, expected) in [
        (100, vec![(0, 1000, 40, 0), (60, 500, 40, SHARED)], vec![]),
        // The same extent in other pieces.
        (
            100,
            vec![
                (0, 1000, 7, 0),
                (7, 1007, 33, 0),
                (60, 500, 1, 0),
                (61, 501, 39, 0),
            ],
            vec![],
        ),
        // A hole that is space without data.
        (
            100,
            vec![(0, 1000, 40, 0), (40, 7, 20, UNWRITTEN), (60, 500, 40, 0)],
            vec![],
        ),
        // What reaches past the end.
        (
            100,
            vec![(0, 1000, 40, 0), (60, 500, 400, 0), (900, 8, 4, 0)],
            vec![],
        ),
        // Written elsewhere, moved by a byte, punched, filled.
        (
            100,
            vec![
                (0, 1000, 10, 0),
                (10, 2000, 5, 0),
                (15, 1015, 25, 0),
                (60, 500, 40, 0),
            ],
            vec![(10, 15)],
        ),
        (100, vec![(0, 1001, 40, 0), (60, 500, 40, 0)], vec![(0, 40)]),
        (100, vec![(60, 500, 40, 0)], vec![(0, 40)]),
        (
            100,
            vec![(0, 1000, 60, 0), (60, 500, 40, 0)],
            vec![(40, 60)],
        ),
        // Space that once was data.
        (
            100,
            vec![(0, 1000, 40, 0), (60, 500, 40, UNWRITTEN)],
            vec![(60, 100)],
        ),
        // Shorter and longer: from the last whole unit on.
        (
            95,
            vec![(0, 1000, 40, 0), (60, 500, 35, 0)],
            vec![(90, 100)],
        ),
        (
            101,
            vec![(0, 1000, 40, 0), (60, 500, 41, 0)],
            vec![(100, 101)],
        ),
        (0, vec![], vec![(0, 100)]),
    ] {
        let now = map(size, &extents);
        assert_eq!(ranges(&then, &now), expected, "{extents:?}");
        assert_eq!(ranges(&now, &then), expected, "{extents:?} the other way");
        assert!(ranges(&now, &now).is_empty(), "{extents:?}");
    }
}

#[test]
fn doubt_differs_from_everything_even_itself() {
    for flag in [
        2_u32,
        4,
        8,
        0x80,
        0x100,
        0x200,
        0x400,
        0x1000,
        0x4000,
        1 << 31,
    ] {
        for more in [0, SHARED, UNWRITTEN] {
            let doubtful = map(
                50,
                &[
                    (0, 100, 20, 0),
                    (20, 120, 10, flag | more),
                    (30, 130, 20, 0),
                ],
            );
            let certain = map(50, &[(0, 100, 50, 0)]);
            assert_eq!(ranges(&doubtful, &doubtful), [(20, 30)], "{flag:x}");
            assert_eq!(ranges(&doubtful, &certain), [(20, 30)], "{flag:x}");
            assert_eq!(ranges(&certain, &doubtful), [(20, 30)], "{flag:x}");
        }
    }
    for nonsense in [(0, 0, 50, 0), (0, u64::MAX - 10, 50, 0)] {
        let nonsense = map(50, &[nonsense]);
        assert_eq!(ranges(&nonsense, &nonsense), [(0, 50)]);
    }
}

#[test]
fn maps_that_make_no_sense_are_refused() {
    for extents in [
        &[(10, 100, 20, 0), (29, 500, 5, 0)][..],
        &[(10, 100, 20, 0), (0, 500, 5, 0)],
        &[(10, 100, 0, 0)],
        &[(u64::MAX, 100, 2, 0)],
    ] {
        let extents: Vec<_> = extents.iter().copied().map(extent).collect();
        assert_eq!(Map::new(100, &extents), None, "{extents:?}");
    }
}

#[test]
fn neighbours_become_one_piece() {
    let pieces = map(
        100,
        &[
            (0, 500, 10, 0),
            (10, 510, 10, LAST),
            (20, 521, 10, 0),
            (40, 9, 10, UNWRITTEN),
        ],
    );
    // Data, data elsewhere, zeros up to the end.
    assert_eq!(pieces.pieces(), 3);
    assert_eq!(map(0, &[]).pieces(), 0);
}

/// What each byte of a file is, painted one by one: zeros, a byte of the device, or nobody knows.
fn painted(size: u64, extents: &[MappedExtent]) -> Vec<Option<u64>> {
    let zeros = u64::MAX;
    let mut bytes = vec![Some(zeros); usize::try_from(size).unwrap()];
    for extent in extents {
        for at in 0..extent.length {
            let byte = usize::try_from(extent.logical + at).unwrap();
            if byte < bytes.len() {
                bytes[byte] = match extent.flags {
                    0 | SHARED | LAST => Some(extent.physical + at),
                    UNWRITTEN => Some(zeros),
                    _ => None,
                };
            }
        }
    }
    bytes
}

fn flag() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => Just(0),
        3 => Just(SHARED),
        2 => Just(UNWRITTEN),
        1 => Just(LAST),
        1 => Just(8_u32),
        1 => Just(SHARED | 0x200),
    ]
}

/// Extents over few places, so that they meet often: gap before, length, place, flags.
fn file() -> impl Strategy<Value = (u64, Vec<MappedExtent>)> {
    let pieces = prop::collection::vec((0..3_u64, 1..5_u64, 0..4_u64, flag()), 0..8);
    (0..24_u64, pieces).prop_map(|(size, pieces)| {
        let mut at = 0;
        let extents = pieces
            .into_iter()
            .map(|(gap, length, place, flags)| {
                let logical = at + gap;
                at = logical + length;
                // Mostly, what is at byte N of a file is at byte N of one of a few places.
                MappedExtent::new(
                    logical,
                    1000 * (1 + place) + logical * u64::from(place < 3),
                    length,
                    flags,
                )
            })
            .collect();
        (size, extents)
    })
}

proptest! {
    #![proptest_config(crate::model::config(4_000, 20_000))]

    #[test]
    fn differences_are_those_of_the_bytes(then in file(), now in file()) {
        let (old, new) = (painted(then.0, &then.1), painted(now.0, &now.1));
        let found = differing(&Map::new(then.0, &then.1).unwrap(), &Map::new(now.0, &now.1).unwrap(), 4);
        let common = old.len().min(new.len());
        for at in 0..old.len().max(new.len()) {
            let in_tail = old.len() != new.len() && at >= common - common % 4;
            let same = !in_tail && old[at].is_some() && old[at] == new[at];
            let at = u64::try_from(at).unwrap();
            prop_assert_eq!(found.touch(Span::new(at, at + 1)), !same, "byte {} of {:?} and {:?}", at, then, now);
        }
        prop_assert!(found.ranges().iter().all(|span| span.end <= then.0.max(now.0)));
    }

    #[test]
    fn maps_are_equal_if_they_say_the_same(file in file()) {
        let (size, extents) = file;
        let map = Map::new(size, &extents).unwrap();
        // The same extents, byte by byte.
        let bytes: Vec<_> = extents
            .iter()
            .flat_map(|extent| {
                (0..extent.length).map(|at| {
                    MappedExtent::new(extent.logical + at, extent.physical + at, 1, extent.flags)
                })
            })
            .collect();
        prop_assert_eq!(Map::new(size, &bytes).unwrap(), map);
    }
}
