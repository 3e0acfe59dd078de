//! What a scan reads, and what it does not.

use super::*;
use crate::geometry::BlockSize;
use crate::image::faulty::{Memory, pattern};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const BLOCK: usize = 4096;

/// Digests by block; `None`: it cannot be read. And how many bytes were read.
fn scan(memory: &Arc<Memory>, size: usize, threads: usize) -> (BTreeMap<u64, Option<Digest>>, u64) {
    let geometry = Geometry::new(size as u64, BlockSize::MIN).unwrap();
    let zeros = ZeroDigests::new(BLOCK as u64);
    let (tally, found) = (Tally::default(), Mutex::new(BTreeMap::new()));
    Hasher::new(memory, geometry, &zeros)
        .scan(threads, &tally, &|_| true, &|block, what| {
            let digest = match what {
                Found::Digest(digest) => Some(digest),
                Found::Unreadable(_) => None,
            };
            let twice = found.lock().unwrap().insert(block.get(), digest);
            assert!(twice.is_none(), "block {block} twice");
        })
        .unwrap();
    assert_eq!(tally.done.load(Relaxed), size as u64);
    (found.into_inner().unwrap(), tally.read.load(Relaxed))
}

fn digests(bytes: &[u8]) -> BTreeMap<u64, Option<Digest>> {
    let blocks = bytes.chunks(BLOCK);
    (0..)
        .zip(blocks.map(|block| Some(*blake3::hash(block).as_bytes())))
        .collect()
}

#[test]
fn p22_any_number_of_threads_finds_the_same() {
    let bytes = pattern(700 * BLOCK + 123);
    let memory = Memory::new(bytes.clone());
    memory.faults(|faults| {
        faults.longest_read = Some(1000);
        faults.interrupts = 50;
    });
    for threads in 0..=4 {
        let (found, read) = scan(&memory, bytes.len(), threads);
        assert!(found == digests(&bytes), "{threads} threads");
        assert_eq!(read, bytes.len() as u64);
    }
    assert!(memory.met() >= 50, "the interrupts never happened");
}

#[test]
fn p22_holes_are_known_without_reading() {
    let mut bytes = pattern(6 * BLOCK + 900);
    let memory = Memory::new(bytes.clone());
    let holes = [
        (512, 1024),
        (BLOCK, 2 * BLOCK),
        (3 * BLOCK - 512, 3 * BLOCK + 512),
        (5 * BLOCK, bytes.len()),
    ];
    for (start, end) in holes {
        memory.punch(start, end);
        bytes[start..end].fill(0);
        // Whoever reads them fails.
        let span = Span::new(start as u64, end as u64);
        memory.faults(|faults| faults.bad.push(span));
    }
    let (found, read) = scan(&memory, bytes.len(), 2);
    assert!(found == digests(&bytes));
    let empty: usize = holes.iter().map(|(start, end)| end - start).sum();
    assert_eq!(read, (bytes.len() - empty) as u64);
    assert_eq!(memory.met(), 0);
}

#[test]
fn p22_zeros_have_one_digest_whether_hole_or_data() {
    let size = 2 * BLOCK + 300;
    let zeros = ZeroDigests::new(BLOCK as u64);
    let (data, hole) = (Memory::new(vec![0; size]), Memory::new(vec![1; size]));
    hole.punch(0, size);
    let (of_data, read) = scan(&data, size, 1);
    assert_eq!(read, size as u64);
    let (of_hole, read) = scan(&hole, size, 1);
    assert_eq!(read, 0);
    assert_eq!(of_data, of_hole);
    assert_eq!(of_data[&1], Some(zeros.of(BLOCK as u64)));
    assert_eq!(of_data[&2], Some(zeros.of(300)));
    assert_ne!(of_data[&1], of_data[&2]);
    assert_eq!(of_hole, digests(&vec![0; size]));
    let large = ZeroDigests::new(1 << 20);
    let expected = blake3::hash(&vec![0; 1 << 20]);
    assert_eq!(large.of(1 << 20), *expected.as_bytes());
}

#[test]
fn p22_one_bad_place_costs_one_block() {
    let bytes = pattern(5 * BLOCK);
    let memory = Memory::new(bytes.clone());
    for bad in [0, BLOCK - 1, 2 * BLOCK + 77, 5 * BLOCK - 1] {
        let span = Span::new(bad as u64, bad as u64 + 1);
        memory.faults(|faults| faults.bad = vec![span]);
        let mut expected = digests(&bytes);
        expected.insert((bad / BLOCK) as u64, None);
        assert!(scan(&memory, bytes.len(), 2).0 == expected, "byte {bad}");
    }
}

#[test]
fn p5_an_image_that_ends_early_is_unreadable_and_never_zeros() {
    let size = 4 * BLOCK;
    for punched in [false, true] {
        for cut in [0, 1, BLOCK, BLOCK + 1, 2 * BLOCK + 512, size - 1] {
            let memory = Memory::new(pattern(size));
            if punched {
                memory.punch(0, size);
            }
            memory.cut(cut);
            let bytes = memory.bytes();
            let mut expected = digests(&bytes);
            for block in cut / BLOCK..4 {
                expected.insert(block as u64, None);
            }
            let (found, _) = scan(&memory, size, 2);
            assert!(found == expected, "cut to {cut}, punched: {punched}");
        }
    }
}

#[test]
fn p22_a_scan_can_be_ended_at_any_block() {
    let memory = Memory::new(pattern(20 * BLOCK));
    let geometry = Geometry::new(20 * BLOCK as u64, BlockSize::MIN).unwrap();
    let zeros = ZeroDigests::new(BLOCK as u64);
    for last in 0..20 {
        let tally = Tally::default();
        let found = AtomicU64::new(0);
        let ended =
            Hasher::new(&memory, geometry, &zeros).scan(1, &tally, &|_| true, &|block, _| {
                found.fetch_add(1, Relaxed);
                tally.cancel.fetch_or(block.get() == last, Relaxed);
            });
        assert_eq!(ended, Err(Cancelled));
        assert_eq!(found.into_inner(), last + 1);
    }
}

#[test]
fn p22_only_what_is_wanted_is_read() {
    let memory = Memory::new(pattern(10 * BLOCK));
    let geometry = Geometry::new(10 * BLOCK as u64, BlockSize::MIN).unwrap();
    let zeros = ZeroDigests::new(BLOCK as u64);
    let tally = Tally::default();
    let odd = |block: BlockIndex| block.get() % 2 == 1;
    let sink = |block, _| assert!(odd(block));
    let hasher = Hasher::new(&memory, geometry, &zeros);
    hasher.scan(2, &tally, &odd, &sink).unwrap();
    assert_eq!(tally.read.into_inner(), 5 * BLOCK as u64);
}

#[test]
fn p33_the_wait_for_others_is_no_time_of_a_scan() {
    let memory = Memory::new(pattern(BLOCK));
    let geometry = Geometry::new(BLOCK as u64, BlockSize::MIN).unwrap();
    let zeros = ZeroDigests::new(BLOCK as u64);
    let tally = Tally::default();
    let share = tally.turns.begin(u64::MAX, 1);
    let turn = share.ticket().turn();
    let start = Instant::now();
    let (hasher, own) = (Hasher::new(&memory, geometry, &zeros), tally.beside());
    let held = std::thread::scope(|scope| {
        scope.spawn(|| hasher.scan(1, &own, &|_| true, &|_, _| ()).unwrap());
        while start.elapsed() < Duration::from_millis(100) {
            std::thread::yield_now();
        }
        let held = start.elapsed();
        drop(turn);
        held
    });
    let taken = Duration::from_micros(own.taken.load(Relaxed));
    assert!(!taken.is_zero() && held + taken <= start.elapsed());
}
