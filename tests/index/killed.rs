//! SIGKILL at random points of scans, saves, syncs and restores: the next run is correct.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::pattern::{Random, disk_like};
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::Rig;

const BLOCKS: u64 = 200;

/// Whether any process has `text` in its command line.
fn is_mentioned(text: &Path) -> bool {
    let processes = fs::read_dir("/proc").unwrap();
    processes.filter_map(Result::ok).any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.windows(text.as_os_str().len())
            .any(|window| window == text.as_os_str().as_bytes())
    })
}

/// A few blocks, to one of two contents.
fn change_some(rig: &Rig<'_>, random: &mut Random) {
    for _ in 0..3 {
        let content = [u8::try_from(random.below(2)).unwrap(); 100];
        rig.change(random.below(BLOCKS), &content);
    }
}

fn killed_at_random(scene: &Scene, source: &Path, seed: u64) {
    let rig = Rig::new(scene, source);
    let backup = scene.dir("backup");
    let mut random = Random::new(seed);
    rig.sync_well(&backup);
    for round in 0..10 {
        change_some(&rig, &mut random);
        let log = scene.path("log");
        let running = rig.rsync("", &backup).log_to(&log).spawn();
        // A run takes some 50 ms here, of which the scan is about a third.
        thread::sleep(Duration::from_micros(random.below(60_000)));
        running.signal(Signal::SIGKILL);
        running.finish();
        // rsync lives on until it sees that the mount is dead.
        wait_until("the command has ended", || !is_mentioned(&backup));
        if random.below(2) == 0 {
            change_some(&rig, &mut random);
        }
        let moved = rig.sync_well(&backup);
        assert!(moved.len() as u64 <= BLOCKS, "round {round}");
        assert_eq!(rig.sync_well(&backup), [0; 0], "round {round}");
        nothing_is_left(&rig);
    }
}

/// Expects that saves that were killed have left nothing beside the index.
fn nothing_is_left(rig: &Rig<'_>) {
    let names = fs::read_dir(rig.index.parent().unwrap()).unwrap();
    for name in names.map(|entry| entry.unwrap().file_name()) {
        assert!(!name.as_bytes().starts_with(b".bmapfs"), "{name:?}");
    }
}

#[test]
fn a_file() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(1, 200 * 65_536));
    killed_at_random(&scene, &image, 1);
}

#[test]
fn a_device() {
    let scene = Scene::new();
    let device = LoopDevice::new(&scene.file("a.img", &disk_like(2, 200 * 65_536)));
    killed_at_random(&scene, device.path(), 2);
}

#[test]
fn scans() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(3, 200 * 65_536));
    let rig = Rig::new(&scene, &image);
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    let mut random = Random::new(3);
    for _ in 0..10 {
        for _ in 0..4 {
            change_some(&rig, &mut random);
            let running = rig.scan("").log_to(&scene.path("log")).spawn();
            thread::sleep(Duration::from_micros(random.below(25_000)));
            running.signal(Signal::SIGKILL);
            running.finish();
        }
        rig.sync_well(&backup);
        nothing_is_left(&rig);
    }
}

#[test]
fn restores() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(4, 200 * 65_536));
    let rig = Rig::new(&scene, &image);
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    let mut random = Random::new(4);
    for round in 0..6 {
        for _ in 0..10 {
            change_some(&rig, &mut random);
        }
        let mut mount = rig.mount("-rw").up();
        let restore = tool("rsync")
            .words("-a --inplace")
            .arg(backup.join("."))
            .arg(mount.point())
            .log_to(&scene.path("log"))
            .spawn();
        thread::sleep(Duration::from_micros(random.below(60_000)));
        mount.kill();
        restore.finish();
        mount.detach();
        drop(mount);
        // Half restored; what the backup gets now is the image as it is.
        rig.sync_well(&backup);
        assert_eq!(rig.sync_well(&backup), [0; 0], "round {round}");
    }
}
