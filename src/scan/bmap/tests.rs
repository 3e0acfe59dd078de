//! Maps of images in memory, beside what their bytes and holes are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proptest::prelude::*;
use proptest::test_runner::RngAlgorithm;

use super::*;
use crate::geometry::{BlockSize, Geometry, Span};
use crate::image::faulty::{Memory, pattern};
use crate::scan::{Found, Hasher, Tally, ZeroDigests};

const UNIT_LEN: usize = 4096;

/// The map of an image, made by so many threads.
fn map_of(memory: &Arc<Memory>, size: usize, threads: usize, block: BlockSize) -> BlockMap {
    let geometry = Geometry::new(size as u64, block).unwrap();
    let zeros = ZeroDigests::new(block.bytes());
    let map = BlockMap::default();
    let unreadable = AtomicU64::new(0);
    Hasher::new(memory, geometry, &zeros)
        .mapping(Some(&map))
        .scan(threads, &Tally::default(), &|_| true, &|_, found| {
            let is_bad = matches!(found, Found::Unreadable(_));
            unreadable.fetch_add(u64::from(is_bad), Relaxed);
        })
        .unwrap();
    assert_eq!(map.unreadable().is_some(), unreadable.load(Relaxed) > 0);
    map
}

fn text(map: &BlockMap, size: usize) -> String {
    let mut out = Vec::new();
    map.write(size as u64, &mut out).unwrap();
    assert!(out.starts_with(BlockMap::BEGINNING));
    String::from_utf8(out).unwrap()
}

/// Checks that the runs are apart, that their sums are right, and that they are the units that have data.
fn check(map: &BlockMap, bytes: &[u8], has_data: &[bool]) {
    let text = text(map, bytes.len());
    let runs = map.runs.lock().unwrap();
    let mut units = Vec::new();
    for run in &*runs {
        units.extend(run.first..=run.last);
        let at = |unit: u64| (usize::try_from(unit).unwrap() * UNIT_LEN).min(bytes.len());
        let sum = Sha256::digest(&bytes[at(run.first)..at(run.last + 1)]);
        assert_eq!(hex(&run.sum), hex(&sum), "{} to {}", run.first, run.last);
    }
    let expected = (0_u64..).zip(has_data).filter(|(_, has_data)| **has_data);
    let expected: Vec<u64> = expected.map(|(unit, _)| unit).collect();
    assert_eq!(units, expected);
    let mapped = format!("<MappedBlocksCount> {} <", units.len());
    assert!(text.contains(&mapped), "{text}");
    let (_, rest) = text.split_once("<BmapFileChecksum> ").unwrap();
    let whole = hex(&Sha256::digest(text.replace(&rest[..64], NO_SUM)));
    assert_eq!(rest[..64], whole);
}

#[test]
fn the_text_is_what_bmaptool_makes_of_it() {
    let bytes = pattern(5 * UNIT_LEN + 100);
    let memory = Memory::new(bytes.clone());
    memory.punch(UNIT_LEN, 3 * UNIT_LEN);
    let map = map_of(&memory, bytes.len(), 1, BlockSize::DEFAULT);
    let text = text(&map, bytes.len());
    let first = hex(&Sha256::digest(&bytes[..UNIT_LEN]));
    let last = hex(&Sha256::digest(&bytes[3 * UNIT_LEN..]));
    let (_, sum) = text.split_once("<BmapFileChecksum> ").unwrap();
    assert_eq!(
        text,
        format!(
            "<?xml version=\"1.0\" ?>\n<bmap version=\"2.0\">\n    <ImageSize> 20580 </ImageSize>\n    <BlockSize> 4096 \
             </BlockSize>\n    <BlocksCount> 6 </BlocksCount>\n    <MappedBlocksCount> 4 </MappedBlocksCount>\n    \
             <ChecksumType> sha256 </ChecksumType>\n    <BmapFileChecksum> {} </BmapFileChecksum>\n    <BlockMap>\n        \
             <Range chksum=\"{first}\"> 0 </Range>\n        <Range chksum=\"{last}\"> 3-5 </Range>\n    \
             </BlockMap>\n</bmap>\n",
            &sum[..64]
        )
    );
}

#[test]
fn a_block_that_cannot_be_read_leaves_no_whole_map() {
    let size = 6 * UNIT_LEN;
    let memory = Memory::new(pattern(size));
    let bad = Span::new(4 * 4096, 4 * 4096 + 512);
    memory.faults(|faults| faults.bad.push(bad));
    let map = map_of(&memory, size, 2, BlockSize::MIN);
    assert_eq!(map.unreadable(), BlockIndex::new(4));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::XorShift,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_byte_of_data_is_in_one_run(
        size in 1_usize..300_000,
        holes in prop::collection::vec((any::<prop::sample::Index>(), 1_usize..60_000), 0..12),
        threads in 1_usize..4,
        small in any::<bool>(),
    ) {
        let mut bytes = pattern(size);
        let memory = Memory::new(bytes.clone());
        let mut data = vec![true; size];
        for (start, len) in holes {
            let start = start.index(size);
            let end = (start + len).min(size);
            bytes[start..end].fill(0);
            data[start..end].fill(false);
        }
        // Holes that touch are one.
        let mut at = 0;
        for run in data.chunk_by(|one, next| one == next) {
            if !run[0] {
                memory.punch(at, at + run.len());
            }
            at += run.len();
        }
        let has_data: Vec<bool> = data
            .chunks(UNIT_LEN)
            .map(|unit| unit.iter().any(|data| *data))
            .collect();
        let block = if small { BlockSize::MIN } else { BlockSize::from_bytes(65_536).unwrap() };
        check(&map_of(&memory, size, threads, block), &bytes, &has_data);
    }
}
