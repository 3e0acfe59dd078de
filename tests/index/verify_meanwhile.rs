//! `bmapfs verify` of a backup that is slow, cannot be read, or changes meanwhile (promise P28).

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::filesystem::Filesystem;
use crate::support::mounted::{Mounted, one_line};
use crate::support::pattern::pattern;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{BLOCK, Rig};
use super::verify::{image, verify};

/// A backup that answers nobody, until this is dropped.
#[derive(Debug)]
struct HeldBack<'a> {
    backup: &'a Mounted,
    /// Where the kernel's counts are.
    control: PathBuf,
}

impl<'a> HeldBack<'a> {
    fn new(backup: &'a Mounted, scene: &Scene) -> Self {
        let control = scene.dir("control");
        tool("mount").words("-t fusectl none").arg(&control).ok();
        let held = Self { backup, control };
        backup.signal(Signal::SIGSTOP);
        held
    }

    /// Waits until somebody waits for it.
    fn is_asked(&self) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let point = self.backup.point().to_str().unwrap();
        let mut lines = table
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let device = lines.find(|line| line[4] == point).unwrap()[2];
        let count = self
            .control
            .join(device.split(':').nth(1).unwrap())
            .join("waiting");
        wait_until("verify looks at the backup", || {
            fs::read_to_string(&count).unwrap() != "0\n"
        });
    }
}

impl Drop for HeldBack<'_> {
    fn drop(&mut self) {
        self.backup.signal(Signal::SIGCONT);
        tool("umount").arg(&self.control).run();
    }
}

/// A backup that can be held back, as it is a mount of `image`.
fn slow_backup(scene: &Scene, image: &Path) -> Mounted {
    let theirs = scene.file("theirs.img", &blocks::read(image));
    scene.mount(theirs).at("theirs").with("-b 64K").up()
}

#[test]
fn p28_an_index_that_is_used_meanwhile_is_told_of() {
    let scene = Scene::new();
    let image = image(&scene);
    let rig = Rig::new(&scene, &image);
    rig.scan("").ok();
    let backup = slow_backup(&scene, &image);
    for used in [false, true] {
        let held = HeldBack::new(&backup, &scene);
        let log = scene.path("log");
        let running = verify(&rig, "", backup.point()).log_to(&log).spawn();
        held.is_asked();
        if used {
            rig.change(3, b"new");
            rig.scan("").ok();
        }
        drop(held);
        assert_eq!(running.finish().code(), Some(9));
        let said = fs::read_to_string(&log).unwrap();
        assert_eq!(
            said.contains("its index was used meanwhile"),
            used,
            "{said}"
        );
    }
}

#[test]
fn p28_an_interrupted_verify_says_nothing_of_the_backup() {
    let scene = Scene::new();
    let image = image(&scene);
    let rig = Rig::new(&scene, &image);
    rig.scan("").ok();
    let backup = slow_backup(&scene, &image);
    let held = HeldBack::new(&backup, &scene);
    let mut running = verify(&rig, "", backup.point()).spawn_talking();
    held.is_asked();
    running.signal(Signal::SIGTERM);
    let status = format!("/proc/{}/status", running.pid());
    wait_until("the signal has come", || {
        let status = fs::read_to_string(&status).unwrap();
        status.contains("ShdPnd:\t0000000000000000")
    });
    let mut out = running.child().stdout.take().unwrap();
    drop(held);
    assert_eq!(running.finish().code(), Some(8));
    let mut said = String::new();
    out.read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn p28_what_cannot_be_read_is_not_called_damaged() {
    let scene = Scene::new();
    let image = image(&scene);
    let rig = Rig::new(&scene, &image);
    rig.scan("").ok();
    let backup = slow_backup(&scene, &image);
    blocks::open_rw(scene.path("theirs.img"))
        .set_len(10 * BLOCK)
        .unwrap();
    let outcome = verify(&rig, "-v", backup.point()).run();
    assert_eq!(outcome.code(), 9, "{outcome:#?}");
    let found = "unreadable 10-20\nolder 0-9\n21 blocks: 0 right, 0 damaged, 11 unreadable,";
    assert!(outcome.stdout.starts_with(found), "{outcome:#?}");
    let told = outcome.stderr.matches("it counts as unreadable").count();
    assert_eq!(told, 1, "{outcome:#?}");
}

#[test]
fn p28_nothing_is_called_damaged_when_the_disk_of_the_backup_is_gone() {
    let scene = Scene::new();
    let filesystem = Filesystem::new(&scene, "ext4");
    let rig = Rig::new(&scene, &image(&scene));
    let backup = filesystem.path("backup");
    rig.sync_well(&backup);
    verify(&rig, "", &backup).ok();
    filesystem.shut_down();
    let outcome = verify(&rig, "-v", &backup).run();
    assert_eq!(outcome.code(), 9, "{outcome:#?}");
    let found = "unreadable 0-20\n21 blocks: 0 right, 0 damaged, 21 unreadable,";
    assert!(outcome.stdout.starts_with(found), "{outcome:#?}");
    // No file was compared: nothing says that it is the wrong one.
    let said = one_line(&outcome.stderr);
    assert!(said.contains("Input/output error"), "{said}");
    let outcome = verify(&rig, "--json", &backup).run();
    let found =
        r#""damaged":{"blocks":0,"ranges":[]},"unreadable":{"blocks":21,"ranges":[[0,20]]},"#;
    assert!(outcome.stdout.contains(found), "{outcome:#?}");
    assert_eq!(outcome.code(), 9, "{outcome:#?}");
}

#[test]
fn p28_where_no_block_is_right_it_may_be_the_wrong_backup() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    let (backup, other) = (scene.dir("backup"), scene.dir("other"));
    rig.sync_well(&backup);
    blocks::split_into(&other, &pattern(9, 21 * 65_536), 65_536);
    let warnings = |backup: &Path| {
        let outcome = verify(&rig, "", backup).run();
        assert_eq!(outcome.code(), 9, "{outcome:#?}");
        outcome.stderr.matches("no block is right: ").count()
    };
    assert_eq!(warnings(&other), 1);
    assert_eq!(warnings(&scene.dir("empty")), 1);
    for number in 1..21 {
        fs::remove_file(backup.join(blocks::name(number))).unwrap();
    }
    assert_eq!(warnings(&backup), 0, "block 0 is right");
    let part = verify(&rig, "--part 2/21", &backup).run();
    assert_eq!(
        (part.code(), &*part.stderr),
        (9, ""),
        "one alone says little"
    );
}

#[test]
fn p28_what_lies_on_the_disk_is_read_and_not_what_is_cached() {
    let scene = Scene::new();
    let filesystem = Filesystem::new(&scene, "ext4");
    let rig = Rig::new(&scene, &image(&scene));
    let backup = filesystem.path("backup");
    rig.sync_well(&backup);
    tool("sync").arg("-f").arg(&backup).ok();
    filesystem.corrupt(&backup.join(blocks::name(3)), 5000);
    rig.same(&backup);
    let outcome = verify(&rig, "-v", &backup).run();
    assert_eq!(outcome.code(), 9, "{outcome:#?}");
    let found = "damaged 3\n21 blocks: 20 right";
    assert!(outcome.stdout.starts_with(found), "{outcome:#?}");
}
