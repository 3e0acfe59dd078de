//! A snapshot of an image that is being written is of one moment.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use bmapfs::snapshot::{Purpose, Snapshot};

use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{Rig, on_each_kind};

const PIECE: usize = 4096;
const PIECES: u64 = 256;

/// Writes a counter into every piece in order, again and again.
fn write_counters(image: &Path, flags: i32, stop: &AtomicBool, passes: &AtomicU64) {
    let file = File::options()
        .write(true)
        .custom_flags(flags)
        .open(image)
        .unwrap();
    let mut memory = vec![0_u8; 2 * PIECE];
    let start = memory.as_ptr().align_offset(PIECE);
    let piece = &mut memory[start..start + PIECE];
    while !stop.load(SeqCst) {
        let pass = passes.fetch_add(1, SeqCst) + 1;
        for number in 0..PIECES {
            piece
                .chunks_exact_mut(8)
                .for_each(|word| word.copy_from_slice(&pass.to_le_bytes()));
            file.write_all_at(piece, number * PIECE as u64).unwrap();
        }
    }
}

/// Up to one place all pieces have the counter of one pass, behind it that of the pass before.
fn expect_one_moment(content: &[u8]) -> u64 {
    assert_eq!(content.len() as u64, PIECES * PIECE as u64);
    let counters: Vec<u64> = content
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
        .collect();
    let (first, last) = (counters[0], counters[counters.len() - 1]);
    assert!(first == last || first == last + 1, "{first} {last}");
    assert!(
        counters.is_sorted_by(|one, other| one >= other),
        "{counters:?}"
    );
    let turn = counters.partition_point(|counter| *counter == first);
    assert_eq!(turn % (PIECE / 8), 0, "a piece is written at once");
    first
}

fn served_views(kind: &str, flags: i32) {
    let scene = Scene::new();
    let rig = Rig::new(&scene, kind);
    fs::write(
        &rig.image,
        vec![0; usize::try_from(PIECES).unwrap() * PIECE],
    )
    .unwrap();
    let (stop, passes) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|threads| {
        threads.spawn(|| write_counters(&rig.image, flags, &stop, &passes));
        // The writer ends also if something fails here.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut seen = 0;
            for _ in 0..40 {
                let before = passes.load(SeqCst);
                wait_until("it was written", || passes.load(SeqCst) > before);
                let source = File::open(&rig.image).unwrap();
                let index = Some(rig.index.as_path());
                let taken = Snapshot::take(&source, &rig.image, index, Purpose::Keep).unwrap();
                let mut content = Vec::new();
                taken.file().unwrap().read_to_end(&mut content).unwrap();
                let view = expect_one_moment(&content);
                assert!(view >= before && view > seen, "{view} is of the past");
                seen = view;
            }
            let out = scene.path("served");
            let cat = format!("cat {{}}/* > {}", out.display());
            let outcome = rig.run("-o strict").args(["sh", "-c", &cat]).run();
            assert!(!outcome.stderr.contains("meanwhile"), "{outcome:?}");
            outcome.ok();
            assert!(expect_one_moment(&fs::read(&out).unwrap()) >= seen);
        }));
        stop.store(true, SeqCst);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn while_pages_are_written() {
    on_each_kind(|kind| served_views(kind, 0));
}

#[test]
fn while_it_is_written_past_the_page_cache() {
    on_each_kind(|kind| served_views(kind, nix::libc::O_DIRECT));
}
