//! `bmapfs verify` of a backup that is slow, cannot be read, or changes meanwhile (promise P28).

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::mounted::{Mounted, one_line};
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
fn p28_what_cannot_be_read_is_damaged() {
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
    let found = "damaged 10-20\nolder 0-9\n21 blocks: 0 right";
    assert!(outcome.stdout.starts_with(found), "{outcome:#?}");
    let said = one_line(&outcome.stderr);
    assert!(said.contains("it counts as damaged"), "{said}");
}
