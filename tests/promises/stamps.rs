//! P14: which times the block files show when there is no index.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::blocks::{self, open_rw};
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::mounted::Mounted;
use crate::support::pattern::{Random, assert_same, pattern};
use crate::support::scene::{Scene, poke};
use crate::support::wait_until;

const BLOCK: u64 = 65_536;

fn mtime(path: &Path) -> i64 {
    let attributes = fs::metadata(path).unwrap();
    assert_eq!(attributes.mtime(), attributes.ctime(), "mtime is ctime");
    attributes.mtime()
}

fn set_mtime(path: &Path, seconds: u64) {
    let times = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(seconds));
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_times(times)
        .unwrap();
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
        .try_into()
        .unwrap()
}

#[test]
fn p14_a_read_only_mount_of_a_file_follows_the_files_mtime() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(1, 300_000));
    set_mtime(&image, 1_000_000_000);
    let mount = scene.mount(&image).with("-b 64K").up();
    for index in 0..5 {
        assert_eq!(mtime(&mount.block(index)), 1_000_000_000);
    }
    assert_eq!(
        mtime(mount.point()),
        1_000_000_000,
        "the root's is the newest"
    );
    set_mtime(&image, 1_500_000_000);
    // Attributes may be a second old.
    wait_until("the blocks follow", || {
        (0..5).all(|index| mtime(&mount.block(index)) == 1_500_000_000)
    });
    wait_until("the root follows", || mtime(mount.point()) == 1_500_000_000);
    poke(&image, 0, b"written");
    let written = fs::metadata(&image).unwrap().mtime();
    wait_until("the blocks follow a write", || {
        (0..5).all(|index| mtime(&mount.block(index)) == written)
    });
}

#[test]
fn p14_reading_changes_no_time() {
    let scene = Scene::new();
    let device = LoopDevice::new(&scene.file("b.img", &pattern(2, 262_144)));
    let image = scene.file("a.img", &pattern(2, 300_000));
    set_mtime(&image, 1_000_000_000);
    for (source, options) in [
        (image.as_path(), "-b 64K"),
        (&image, "-b 64K -rw"),
        (device.path(), "-b 64K -rw"),
    ] {
        let mount = scene.mount(source).with(options).up();
        let before = mtime(&mount.block(1));
        let end = now() + 2;
        wait_until("two seconds have been read away", || {
            blocks::read(&mount.block(1));
            now() > end
        });
        assert_eq!(mtime(&mount.block(1)), before, "{options}");
        mount.unmount();
    }
}

#[test]
fn p14_on_a_writable_mount_a_time_is_fixed_until_the_block_is_written_or_set() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(3, 300_000));
    let device = LoopDevice::new(&scene.file("b.img", &pattern(3, 262_144)));
    for source in [image.as_path(), device.path()] {
        let mount = scene.mount(source).with("-rw -b 64K").up();
        let fixed: Vec<i64> = (0..4).map(|index| mtime(&mount.block(index))).collect();
        wait_until("a second has passed", || now() > fixed[0] + 1);
        open_rw(mount.block(1)).write_all_at(b"written", 9).unwrap();
        let written = mtime(&mount.block(1));
        assert!(
            written > fixed[1],
            "a written block: {written} after {}",
            fixed[1]
        );
        // Written again after its time was seen: no two contents with one time.
        open_rw(mount.block(1)).write_all_at(b"again", 9).unwrap();
        assert!(mtime(&mount.block(1)) > written, "a block written again");
        tool("touch")
            .words("-d @1234567890")
            .arg(mount.block(2))
            .ok();
        assert_eq!(mtime(&mount.block(2)), 1_234_567_890);
        assert_eq!(
            (mtime(&mount.block(0)), mtime(&mount.block(3))),
            (fixed[0], fixed[3]),
            "the others"
        );
        let newest = (0..4)
            .map(|index| mtime(&mount.block(index)))
            .max()
            .unwrap();
        wait_until("the root's time is the newest", || {
            mtime(mount.point()) == newest
        });
        // A time that was set is what the next write leaves behind.
        open_rw(mount.block(2)).write_all_at(b"written", 9).unwrap();
        assert!(mtime(&mount.block(2)) > 1_234_567_890);
        mount.unmount();
    }
}

#[test]
fn p14_truncation_and_fallocate_count_as_writes() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(4, 300_000));
    let mount = scene.mount(&image).with("-rw -b 64K").up();
    for index in 0..3 {
        tool("touch")
            .words("-d @1234567890")
            .arg(mount.block(index))
            .ok();
    }
    drop(File::create(mount.block(0)).unwrap());
    tool("fallocate")
        .words("-p -o 100 -l 5000")
        .arg(mount.block(1))
        .ok();
    tool("fallocate")
        .words("-z -o 100 -l 5000")
        .arg(mount.block(2))
        .ok();
    for index in 0..3 {
        assert!(mtime(&mount.block(index)) > 1_234_567_890, "block {index}");
    }
}

fn sync(mount: &Mounted, backup: &Path) {
    tool("rsync")
        .words("-a --inplace")
        .arg(mount.point().join("."))
        .arg(backup)
        .ok();
}

/// A mount that stays, synced again and again by plain rsync while `raw` is written between and during.
fn nothing_is_skipped(scene: &Scene, mount: &Mounted, raw: &Path, size: u64) {
    let backup = scene.dir("backup");
    let mut random = Random::new(7);
    sync(mount, &backup);
    assert_same(
        "the first backup",
        &blocks::concatenated(&backup),
        &blocks::read(raw),
    );
    for round in 0..3 {
        // Times are whole seconds: what is written in a later one than the last sync must be seen.
        let synced = now();
        wait_until("a second has passed", || now() > synced);
        let at = random.below(size - 10_000);
        poke(raw, at, &pattern(round, 10_000));
        sync(mount, &backup);
        assert_same(
            "after a write between",
            &blocks::concatenated(&backup),
            &blocks::read(raw),
        );
    }
    for round in 0..2 {
        // Someone writes all through the sync, and ends only in a later second.
        let stop = AtomicBool::new(false);
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut random = Random::new(100 + round);
                let mut written = 0;
                while !stop.load(Ordering::Relaxed) {
                    let at = random.below(size - 512) / 512 * 512;
                    poke(raw, at, &pattern(random.next(), 512));
                    written += 1;
                }
                written
            });
            sync(mount, &backup);
            let synced = now();
            wait_until("the writer has gone on for a second", || now() > synced + 1);
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap()
        });
        assert!(written > 100, "the writer wrote");
        sync(mount, &backup);
        assert_same(
            "after a write during the sync",
            &blocks::concatenated(&backup),
            &blocks::read(raw),
        );
    }
}

#[test]
fn p14_rsync_skips_nothing_of_a_long_lived_mount_of_a_file() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(5, 2_000_000));
    let mount = scene.mount(&image).with("-b 64K").up();
    nothing_is_skipped(&scene, &mount, &image, 2_000_000);
}

#[test]
fn p14_rsync_skips_nothing_of_a_long_lived_mount_of_a_device() {
    let scene = Scene::new();
    let device = LoopDevice::new(&scene.file("a.img", &pattern(6, 32 * 65_536)));
    let mount = scene.mount(device.path()).with("-b 64K").up();
    nothing_is_skipped(&scene, &mount, device.path(), 32 * BLOCK);
}

#[test]
fn p14_rsync_skips_nothing_of_a_long_lived_mount_of_a_partition() {
    let scene = Scene::new();
    let device = LoopDevice::with("-P", &scene.file("a.img", &pattern(7, 40 * 65_536)));
    let partition = device.partition(1, 65_536, 32 * BLOCK);
    let mount = scene.mount(&partition).with("-b 64K").up();
    nothing_is_skipped(&scene, &mount, &partition, 32 * BLOCK);
}
