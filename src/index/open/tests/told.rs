//! Changed blocks that were not copied (promise P26), and an image that is shorter than what is known of it (P27).

use super::*;
use crate::geometry::Span;

fn block(number: u64) -> BlockIndex {
    BlockIndex::new(number).unwrap()
}

/// Of each of three blocks, whether it was to be copied and was not.
fn skipped(index: &Index) -> [bool; 3] {
    [0, 1, 2].map(|number| index.was_skipped(block(number)))
}

#[test]
fn p26_a_block_with_a_new_stamp_is_skipped_until_it_is_opened() {
    let fixture = Fixture::new(pattern(2 * BLOCK + 700));
    let index = fixture.with(Index::open).unwrap();
    assert_eq!(skipped(&index), [true; 3], "all are new");
    // Who only looks has copied nothing.
    index.report_stamp(block(0));
    index.opened(block(1));
    assert_eq!(skipped(&index), [true, false, true]);
    // Nor has a restore that takes a file for equal.
    index.set(block(2), 7);
    assert_eq!(skipped(&index), [true, false, true]);
    index.close().unwrap();
    drop(index);
    let index = fixture.with(Index::open).unwrap();
    assert_eq!(skipped(&index), [false; 3], "nothing has changed");
    index.close().unwrap();
    drop(index);
    fixture.memory.poke(0, &[0xEE; 5]);
    let index = fixture.with(Index::open).unwrap();
    assert_eq!(skipped(&index), [true, false, false]);
    index.opened(block(0));
    // While it is mounted, another block changes, and this one again.
    fixture.memory.poke(1, &[4]);
    fixture.memory.poke(BLOCK, &[4]);
    index.rescan(&fixture.tally).unwrap();
    assert_eq!(skipped(&index), [true, true, false]);
    index.wrote(block(0));
    assert_eq!(skipped(&index), [false, true, false]);
}

#[test]
fn p26_what_cannot_be_read_was_not_skipped() {
    let (fixture, _, _) = saved();
    let bad = |at| vec![Span::new(at, at + 1)];
    for salvage in [false, true] {
        fixture.memory.faults(|faults| faults.bad = bad(5000));
        fixture.memory.poke(0, &[u8::from(salvage)]);
        let index = fixture.with(|request| {
            Index::open(&Request {
                salvage,
                ..request.clone()
            })
        });
        let index = index.unwrap();
        assert_eq!(skipped(&index), [true, false, false]);
        // The same of a block that only a client finds out of.
        index.cannot_read(block(0));
        assert_eq!(skipped(&index), [false; 3]);
        index.close().unwrap();
    }
    // It has a new time when it can be read again.
    fixture.memory.faults(|faults| faults.bad.clear());
    let index = fixture.with(Index::open).unwrap();
    assert_eq!(skipped(&index), [true, true, false]);
}

#[test]
fn p26_what_is_copied_again_since_nobody_knows_what_was_copied_counts() {
    let (fixture, _, _) = saved();
    let index = fixture.with(Index::open).unwrap();
    let epoch = index.epoch();
    index.served(block(1), None, epoch);
    // It may have been written meanwhile, for all that the image can say.
    fixture.memory.poke(BLOCK, &[1]);
    fixture.memory.poke(BLOCK, &pattern(BLOCK + 1)[BLOCK..]);
    index.close().unwrap();
    drop(index);
    let index = fixture.with(Index::open).unwrap();
    assert_eq!(index.report().unsettled, 1);
    assert_eq!(skipped(&index), [false, true, false]);
}

/// A run that refuses an image which has lost bytes. What it says of them.
fn shrunk(fixture: &Fixture) -> Option<(u64, u64)> {
    let opened = fixture.with(|request| {
        Index::open(&Request {
            purpose: Purpose::Run {
                refuse_shrunk: true,
                strict: false,
            },
            ..request.clone()
        })
    });
    match opened {
        Ok(index) => {
            index.close().unwrap();
            None
        }
        Err(OpenError::Shrunk { now, then }) => Some((now, then)),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn p27_a_shorter_image_is_refused_whatever_became_of_the_index() {
    let whole = 2 * BLOCK + 700;
    let lost = Some((BLOCK as u64, whole as u64));
    let (fixture, _, bytes) = saved();
    fixture.memory.cut(BLOCK);
    assert_eq!(shrunk(&fixture), lost, "the index knows");
    for (what, damaged) in [
        ("empty", &b""[..]),
        ("cut", &bytes[..bytes.len() - 1]),
        ("something else", b"no index"),
        ("another version", b"bmapfs index 99\n"),
    ] {
        fixture.damage(damaged);
        assert_eq!(shrunk(&fixture), lost, "{what}");
        let found = fs::read(fixture.path()).unwrap();
        assert_eq!(found, damaged, "{what}: it stays");
    }
    fs::remove_file(fixture.path()).unwrap();
    assert_eq!(shrunk(&fixture), lost, "no file");
    assert_eq!(shrunk(&fixture), lost, "it is not forgotten");
    // A note that says nothing of the size, as older ones.
    let note = fixture.path().with_extension("lock");
    let text = fs::read_to_string(&note).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words.len(), 4, "{text}");
    assert_eq!(words[3], whole.to_string());
    fs::write(&note, format!("{}\n", words[..3].join(" "))).unwrap();
    assert_eq!(shrunk(&fixture), None);
    // Now it has been seen.
    let text = fs::read_to_string(&note).unwrap();
    assert!(text.ends_with(&format!(" {BLOCK}\n")), "{text}");
}

#[test]
fn p27_a_shorter_image_is_refused_whatever_the_block_size() {
    let (mut fixture, _, _) = saved();
    fixture.memory.cut(2 * BLOCK);
    fixture.block_size = BlockSize::from_bytes(2 * BLOCK as u64).unwrap();
    let lost = Some((2 * BLOCK as u64, 2 * BLOCK as u64 + 700));
    assert_eq!(shrunk(&fixture), lost);
    fixture.memory.grow(&[0; 700]);
    assert_eq!(shrunk(&fixture), None);
}

#[test]
fn p27_of_an_image_that_cannot_be_read_at_all_nothing_is_saved_by_a_run() {
    let (fixture, stamps, bytes) = saved();
    let noted = || {
        let text = fs::read_to_string(fixture.path().with_extension("lock")).unwrap();
        // Before these stands who uses it.
        let words: Vec<_> = text.split_whitespace().skip(2).map(str::to_owned).collect();
        assert_eq!(words.len(), 2, "{text}");
        words
    };
    let before = noted();
    let bad = |blocks: usize| {
        let span = Span::new(0, (blocks * BLOCK) as u64);
        fixture.memory.faults(|faults| faults.bad = vec![span]);
    };
    let open = |purpose, writable, salvage| {
        fixture.with(|request| {
            Index::open(&Request {
                writable,
                salvage,
                purpose,
                ..request.clone()
            })
        })
    };
    let run = Purpose::Run {
        refuse_shrunk: false,
        strict: false,
    };
    bad(3);
    fixture.memory.poke(0, &[7]);
    for _ in 0..2 {
        let refused = open(run, false, false).err();
        assert!(
            matches!(refused, Some(OpenError::Unreadable)),
            "{refused:?}"
        );
        let found = fs::read(fixture.path()).unwrap();
        assert!(found == bytes, "it stays as it was");
        assert_eq!(noted(), before);
    }
    // It is as good as it was.
    bad(0);
    let again = fixture.stamps();
    assert!(again[0] > stamps[0] && again[1..] == stamps[1..]);
    for (blocks, purpose, writable, salvage) in [
        (3, run, true, false),
        (3, run, false, true),
        (3, Purpose::Mount, false, false),
        (2, run, false, false),
    ] {
        bad(blocks);
        let index = open(purpose, writable, salvage);
        index.unwrap().close().unwrap();
    }
}
