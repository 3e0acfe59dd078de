//! A source that is written all the time: a run transfers what changed and what was torn, not everything; and when
//! it is quiet again, one run makes the backup equal to it (promise P24).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crate::support::devices::LoopDevice;
use crate::support::pattern::{Random, disk_like};
use crate::support::scene::Scene;

use super::rig::{BLOCK, Rig, synced};

const BLOCKS: u64 = 400;
/// The blocks that the writer writes: those from here on.
const BUSY: u64 = 380;

/// Tells a thread to end, when this is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Runs `then` while a writer that never stops counts up in the busy blocks.
fn while_written<T>(source: &Path, then: impl FnOnce() -> T) -> T {
    let (stop, written) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(source).unwrap();
            let mut random = Random::new(1);
            let mut counter = 0_u64;
            while !stop.load(SeqCst) {
                counter += 1;
                // Mostly the lowest bit: the same content comes back again and again.
                let bytes = [u8::try_from(counter % 2).unwrap() + 1; 512];
                let block = BUSY + random.below(BLOCKS - BUSY);
                let offset = block * BLOCK + random.below(100) * 512;
                file.write_all_at(&bytes, offset).unwrap();
                file.sync_data().unwrap();
                written.store(true, SeqCst);
                // So that the two processors also get to read.
                thread::sleep(Duration::from_micros(300));
            }
        });
        crate::support::wait_until("the writer writes", || written.load(SeqCst));
        // Also if what follows panics, or the failure would be a test that never ends.
        let _end = Ends(&stop);
        then()
    })
}

fn a_live_source_is_followed(scene: &Scene, source: &Path) {
    let rig = Rig::new(scene, source);
    let backup = scene.dir("backup");
    for round in 0..2 {
        while_written(source, || {
            let first = rig.sync(&backup);
            assert!(first.said.contains("two moments"), "{}", first.said);
            if round == 0 {
                assert_eq!(first.blocks.len() as u64, BLOCKS);
            }
            for _ in 0..4 {
                let later = rig.sync(&backup);
                assert!(
                    later.blocks.iter().all(|block| *block >= BUSY),
                    "blocks that nobody wrote: {:?}",
                    later.blocks
                );
                assert!(later.said.contains("two moments"), "{}", later.said);
            }
        });
        let moved = rig.sync_well(&backup);
        assert!(moved.iter().all(|block| *block >= BUSY), "{moved:?}");
        assert_eq!(rig.sync_well(&backup), [0; 0]);
    }
}

#[test]
fn p24_a_live_file() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(1, 400 * 65_536));
    a_live_source_is_followed(&scene, &image);
}

#[test]
fn p24_a_live_device() {
    let scene = Scene::new();
    let device = LoopDevice::new(&scene.file("a.img", &disk_like(2, 400 * 65_536)));
    a_live_source_is_followed(&scene, device.path());
}

#[test]
fn p24_strict_exits_9_if_the_image_was_written_and_0_if_not() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(3, 20 * 65_536));
    let device = LoopDevice::new(&scene.file("b.img", &disk_like(3, 20 * 65_536)));
    for (name, source) in [("file", image.as_path()), ("device", device.path())] {
        let rig = Rig::new(&scene, source).with_index(scene.path(format!("{name}.index")));
        let backup = scene.dir(&format!("backup-{name}"));
        let quiet = rig.rsync("-o strict", &backup).run();
        assert_eq!(quiet.code(), 0, "{name}: {quiet:?}");
        assert!(!synced(quiet).said.contains("two moments"));
        // Written by the command itself, and by nobody else.
        let script = "cat \"$1\"/* > /dev/null; printf x | dd of=\"$2\" bs=1 seek=70000 conv=notrunc,fsync status=none; exit $3";
        let written = |options: &str, code: &str| {
            let run = rig.run(options).args(["sh", "-c", script, "sh", "{}"]);
            run.arg(source).arg(code).run()
        };
        for (options, code, expected) in
            [("-o strict", "0", 9), ("-o strict", "7", 7), ("", "0", 0)]
        {
            let outcome = written(options, code);
            assert_eq!(outcome.code(), expected, "{name} {options}: {outcome:?}");
            let said = "two moments";
            assert!(outcome.stderr.contains(said), "{name}: {}", outcome.stderr);
        }
        // Whatever else is hidden.
        let outcome = written("-q -o strict", "0");
        assert_eq!(outcome.code(), 9, "{name}");
        rig.sync_well(&backup);
        assert_eq!(
            rig.rsync("-o strict", &backup).run().code(),
            0,
            "{name}: quiet again"
        );
    }
}
