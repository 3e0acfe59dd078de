//! P23: what proves that a file was not written is about one mount of its file system, and about writes that have
//! ended.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use crate::support::blocks;
use crate::support::command::{Running, tool};
use crate::support::devices::LoopDevice;
use crate::support::machine::Identity;
use crate::support::pattern::pattern;
use crate::support::scene::Scene;

use super::disk::{Disk, KINDS, SIZE};
use super::rig::{Rig, wait_until_old};
use super::throttle::Throttle;

/// In the middle of block 6.
const AT: u64 = 393_216;

/// Does the same on file systems of these kinds, at the same time: most of it is waiting for a second to end.
fn on_each(kinds: &[&str], test: impl Fn(&str) + Sync) {
    thread::scope(|threads| {
        for kind in kinds {
            let test = &test;
            threads.spawn(move || test(kind));
        }
    });
}

/// Does it until it was in time: any sync(1) on the machine can come in between.
fn in_time(attempt: impl Fn() -> bool) {
    assert!((0..5).any(|_| attempt()), "never in time");
}

/// Content, and all times.
fn look(image: &Path) -> (Vec<u8>, [i64; 4]) {
    let stat = fs::metadata(image).unwrap();
    let times = [
        stat.mtime(),
        stat.mtime_nsec(),
        stat.ctime(),
        stat.ctime_nsec(),
    ];
    (blocks::read(image), times)
}

fn bytes_read(rig: &Rig<'_>) -> u64 {
    rig.counts("")["bytes_read"]
}

/// A program that has the file open for writing until it is dropped.
fn held_open(image: &Path) -> Running {
    let mut holder = tool("sh")
        .args(["-c", "exec 3<>\"$1\"; echo; exec sleep 1000", "sh"])
        .arg(image)
        .spawn_talking();
    let mut line = [0; 1];
    let output = holder.child().stdout.as_mut().unwrap();
    std::io::Read::read_exact(output, &mut line).unwrap();
    holder
}

/// Whether the disk went before the new times were on it.
fn lost_and_found(kind: &str, scene: &Scene) -> bool {
    let disk = Disk::new(scene, kind);
    let rig = Rig::new(scene, &disk.image);
    let backup = scene.dir("backup");
    rig.wait_until_old();
    rig.sync_well(&backup);
    let before = look(&disk.image);
    let write = format!("pwrite -S 0x5a {AT} 6");
    tool("xfs_io")
        .args(["-c", &write, "-c", "fdatasync"])
        .arg(&disk.image)
        .ok();
    disk.shut_down();
    disk.unmount();
    disk.mount();
    let after = look(&disk.image);
    assert!(before.0 != after.0, "{kind}: the harness");
    assert_eq!(rig.sync_well(&backup), [6], "{kind}");
    before.1 == after.1
}

#[test]
fn p23_a_disk_that_was_lost_and_found_has_data_that_is_newer_than_its_times() {
    on_each(&["ext4", "xfs"], |kind| {
        in_time(|| lost_and_found(kind, &Scene::new()));
    });
}

/// Whether the second copy was made before the new times were on the disk.
fn another_copy(kind: &str, scene: &Scene) -> bool {
    let disk = Disk::new(scene, kind);
    let rig = Rig::new(scene, &disk.image);
    let backup = scene.dir("backup");
    rig.wait_until_old();
    let one = disk.copy("one");
    let write = format!("pwrite -S 0x5a {AT} 4096");
    tool("xfs_io")
        .args(["-d", "-c", &write])
        .arg(&disk.image)
        .ok();
    let two = disk.copy("two");
    disk.unmount();
    disk.put_back(&one);
    disk.mount();
    rig.sync_well(&backup);
    let before = look(&disk.image);
    disk.unmount();
    disk.put_back(&two);
    disk.mount();
    let after = look(&disk.image);
    rig.sync(&backup);
    rig.same(&backup);
    // Only copy-on-write keeps the data away until the times are there, too.
    before.1 == after.1 && (before.0 != after.0 || kind == "btrfs")
}

#[test]
fn p23_another_copy_of_a_disk_in_its_place_may_have_other_data() {
    on_each(&KINDS, |kind| {
        in_time(|| another_copy(kind, &Scene::new()));
    });
}

#[test]
fn p23_a_write_in_flight_lands_after_its_time() {
    // On Btrfs whoever reads waits for such a write.
    on_each(&["ext4", "xfs"], |kind| {
        let scene = Scene::new();
        let disk = Disk::new(&scene, kind);
        let rig = Rig::new(&scene, &disk.image);
        let backup = scene.dir("backup");
        let new = scene.file("new", &pattern(2, SIZE));
        let throttle = Throttle::new(disk.device.path(), 30_000);
        let writer = throttle
            .tool("dd")
            .arg(format!("if={}", new.display()))
            .arg(format!("of={}", disk.image.display()))
            .words("bs=2M oflag=direct conv=notrunc status=none")
            .spawn();
        let before = fs::metadata(&disk.image).unwrap().modified().unwrap();
        crate::support::wait_until("the write has been submitted", || {
            fs::metadata(&disk.image).unwrap().modified().unwrap() != before
        });
        rig.wait_until_old();
        rig.sync(&backup);
        let first = blocks::concatenated(&backup);
        throttle.lift();
        assert!(writer.finish().success());
        assert!(first != blocks::read(&disk.image), "{kind}: the harness");
        rig.sync(&backup);
        rig.same(&backup);
    });
}

#[test]
fn p23_an_image_that_somebody_has_open_for_writing_is_read() {
    on_each(&KINDS, |kind| {
        let scene = Scene::new();
        let disk = Disk::new(&scene, kind);
        let rig = Rig::new(&scene, &disk.image);
        let all = SIZE as u64;
        rig.wait_until_old();
        let holder = held_open(&disk.image);
        for _ in 0..2 {
            assert_eq!(bytes_read(&rig), all, "{kind}: it is open");
        }
        drop(holder);
        assert_eq!(bytes_read(&rig), all, "{kind}: it was open");
        assert_eq!(bytes_read(&rig), 0, "{kind}: it is not any more");
        // Who opens it later leaves traces.
        let holder = held_open(&disk.image);
        assert_eq!(bytes_read(&rig), 0, "{kind}: and was not");
        drop(holder);
        // So does the kernel: only the second of these can write.
        let device = LoopDevice::with("-r", &disk.image);
        assert_eq!(bytes_read(&rig), 0, "{kind}: a read-only loop device");
        drop(device);
        let device = LoopDevice::new(&disk.image);
        rig.counts("-o rescan");
        assert_eq!(bytes_read(&rig), all, "{kind}: a loop device");
        drop(device);
    });
}

#[test]
fn p23_times_of_whole_seconds_prove_nothing() {
    let scene = Scene::new();
    let disk = Disk::with(&scene, "ext4", "-q -F -I 128");
    let rig = Rig::new(&scene, &disk.image);
    assert_eq!(fs::metadata(&disk.image).unwrap().ctime_nsec(), 0);
    rig.wait_until_old();
    for _ in 0..3 {
        assert_eq!(bytes_read(&rig), SIZE as u64);
    }
    assert_eq!(rig.counts("")["unchanged"], 32);
}

#[test]
fn p23_a_quiet_night_is_quiet_whoever_runs_it_and_wherever() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(1, SIZE));
    Identity::User.own(&image);
    wait_until_old(&image);
    let runtime = scene.dir_of("runtime", Identity::User);
    let state = scene.dir_of("state", Identity::User);
    let run = |by: Identity, within: &str, index: &Path| {
        let mut words = within.split_whitespace();
        let tool = match words.next() {
            Some(wrapper) => tool(wrapper).args(words).arg(scene.program()),
            None => scene.bmapfs(),
        };
        let outcome = tool
            .identity(by)
            .env("XDG_RUNTIME_DIR", &runtime)
            .words("run -b 64K")
            .arg(format!("--index={}", index.display()))
            .arg(&image)
            .args(["--", "sh", "-c", "cat {}/* > /dev/null"])
            .run();
        assert_eq!(outcome.code(), 0, "{outcome:?}");
        let said = outcome.stderr;
        said.contains(" 0 bytes read") && !said.contains("not scanned")
    };
    // A service has a mount namespace of its own each night.
    for (name, by, within) in [
        ("root", Identity::Root, ""),
        ("service", Identity::Root, "unshare -m --propagation slave"),
        ("user", Identity::User, ""),
    ] {
        let index = state.join(name);
        assert!(!run(by, within, &index), "{name}: the first night");
        for _ in 0..2 {
            assert!(run(by, within, &index), "{name}: quiet");
        }
    }
    // Sometimes by hand.
    assert!(run(Identity::Root, "", &state.join("service")));
}
