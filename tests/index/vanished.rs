//! A source that is gone, although something is still there, does not empty the backup (promise P27).

use std::fs::{self, File};
use std::path::Path;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::mounted::one_line;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

use super::rig::{BLOCK, Rig};

const BLOCKS: usize = 8;

fn content() -> Vec<u8> {
    pattern(1, BLOCKS * 65_536)
}

fn cut(file: &Path, len: u64) {
    let file = File::options().write(true).open(file).unwrap();
    file.set_len(len).unwrap();
}

/// Expects that a sync with --delete is refused, says so, and leaves the backup alone.
fn is_refused(rig: &Rig<'_>, options: &str, backup: &Path, why: &str) {
    let run = rig.rsync(options, backup).arg("--delete").run();
    assert_eq!(run.code(), 32, "{options}: {run:#?}");
    // What the scan has said of single blocks comes before it.
    let line = run.stderr.lines().last().unwrap_or_default();
    assert!(line.contains(why), "{options}: {line}");
    assert_same("the backup", &blocks::concatenated(backup), &content());
}

#[test]
fn p27_an_empty_image_is_refused() {
    let scene = Scene::new();
    let image = scene.file("a.img", &content());
    let rig = Rig::new(&scene, &image);
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    cut(&image, 0);
    is_refused(&rig, "", &backup, "-o shrunk");
    // Also if nothing is known of it.
    let unknown = Rig::new(&scene, &image).with_index(scene.path("b.index"));
    is_refused(&unknown, "", &backup, "the image is empty");
    assert!(!scene.path("b.index").exists());
    let marker = scene.path("marker");
    let run = |options: &str, image: &Path| {
        let run = scene.bmapfs().arg("run").words(options).arg(image);
        run.arg("--").arg("touch").arg(&marker).run()
    };
    let outcome = run("", &image);
    assert_eq!(outcome.code(), 32, "{outcome:#?}");
    let line = one_line(&outcome.stderr);
    assert!(line.contains("empty") && line.contains("-o shrunk"));
    // So is a directory without a block file.
    assert_eq!(run("", &scene.dir("nothing")).code(), 32);
    assert!(!marker.exists());
    assert_eq!(run("-o shrunk", &image).code(), 0);
    assert!(marker.exists());
    // A mount, and a scan, may look at it.
    scene.mount(&image).up().unmount();
    rig.run("-o shrunk").words("ls {}").ok();
}

#[test]
fn p27_a_restore_may_begin_with_an_empty_image() {
    let scene = Scene::new();
    let image = scene.file("a.img", &content());
    let rig = Rig::new(&scene, &image);
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    let restored = |run: crate::support::command::Tool| {
        let run = run.words("rsync -a --inplace");
        run.arg(backup.join(".")).arg("{}/").ok();
        assert_same("restored", &blocks::read(&image), &content());
    };
    cut(&image, 0);
    let run = scene.bmapfs().words("run -b 64K -w --resize").arg(&image);
    restored(run.arg("--"));
    // Also if the index remembers more.
    cut(&image, 3);
    restored(rig.run("-w --resize"));
    assert_eq!(rig.sync_well(&backup), [0; 0]);
}

#[test]
fn p27_a_shorter_image_is_refused_whatever_became_of_its_index() {
    let scene = Scene::new();
    let image = scene.file("a.img", &content());
    let rig = Rig::new(&scene, &image);
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    let index = fs::read(&rig.index).unwrap();
    cut(&image, 4 * BLOCK);
    let why = "had 524288 when it was last scanned";
    is_refused(&rig, "", &backup, why);
    let mut flipped = index.clone();
    flipped[100] ^= 1;
    for damaged in [&index[..index.len() / 2], b"", &flipped] {
        fs::write(&rig.index, damaged).unwrap();
        is_refused(&rig, "", &backup, why);
    }
    fs::remove_file(&rig.index).unwrap();
    is_refused(&rig, "", &backup, why);
    is_refused(&rig, "-o strict", &backup, why);
    is_refused(&rig, "-b 16K", &backup, why);
    assert!(!rig.index.exists());
    rig.rsync("-o shrunk", &backup).arg("--delete").ok();
    rig.same(&backup);
    // That is what is known now.
    fs::remove_file(&rig.index).unwrap();
    rig.sync_well(&backup);
}

#[test]
fn p27_an_image_that_cannot_be_read_at_all_is_refused() {
    let scene = Scene::new();
    let image = scene.file("a.img", &content());
    let device = LoopDevice::with("--direct-io=on", &image);
    let rig = Rig::new(&scene, device.path());
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    let index = fs::read(&rig.index).unwrap();
    let can_read = |good: u64| {
        cut(&image, good);
        let flush = tool("blockdev").arg("--flushbufs");
        flush.arg(device.path()).ok();
    };
    can_read(0);
    let why = "no block of the image can be read";
    is_refused(&rig, "", &backup, why);
    is_refused(&rig, "--sparse", &backup, why);
    assert!(fs::read(&rig.index).unwrap() == index, "it stays as it was");
    let plain = scene.bmapfs().words("run -b 64K").arg(device.path());
    let outcome = plain.words("-- rsync -a --delete {}/").arg(&backup).run();
    assert_eq!(outcome.code(), 32, "{outcome:#?}");
    let said: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(said.len(), 2, "{outcome:#?}");
    assert!(said[0].contains("warning") && said[0].contains("block 00000000 cannot be read"));
    assert!(said[1].contains(why), "{outcome:#?}");
    // Some of each block, and all of none, is not enough either if it is known.
    let one = scene.file("one.img", &content()[..65_536]);
    let whole = LoopDevice::with("--direct-io=on", &one);
    let rig_of_one = Rig::new(&scene, whole.path()).with_index(scene.path("one.index"));
    rig_of_one.sync_well(&scene.dir("one"));
    cut(&one, 32_768);
    let flush = tool("blockdev").arg("--flushbufs");
    flush.arg(whole.path()).ok();
    let index = fs::read(&rig_of_one.index).unwrap();
    for _ in 0..2 {
        is_refused(&rig_of_one, "", &backup, why);
        assert!(fs::read(&rig_of_one.index).unwrap() == index, "it stays");
    }
    // Nothing is refused to who wants what is left, nor what has some blocks left.
    let salvaged = rig.run("--salvage").words("ls {}").run();
    assert_eq!(salvaged.code(), 9, "{salvaged:#?}");
    can_read(2 * BLOCK);
    let script = "ls {}; cat {}/* > /dev/null 2>&1; true";
    let some = rig.run("").args(["sh", "-c", script]).run();
    assert_eq!(some.code(), 9, "{some:#?}");
    assert_eq!(some.stdout.lines().count(), BLOCKS);
}
