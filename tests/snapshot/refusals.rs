//! Where no snapshot can be: one line, and nothing left behind.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::Filesystem;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

use super::rig::{BLOCK, BLOCKS, Rig};

#[test]
fn file_systems_without_reflinks() {
    for kind in ["ext4", "tmpfs"] {
        let scene = Scene::new();
        let filesystem = Filesystem::new(&scene, kind);
        let image = filesystem.path("a.img");
        fs::write(&image, pattern(1, 100_000)).unwrap();
        let line = scene.mount(&image).with("--snapshot").refused(32);
        for part in ["a.img", "reflinks", "without --snapshot"] {
            assert!(line.contains(part), "{line}");
        }
        let names = fs::read_dir(filesystem.point()).unwrap().count();
        let lost_and_found = usize::from(kind == "ext4");
        assert_eq!(names, 1 + lost_and_found, "{kind}");
    }
    // XFS can be made without.
    let scene = Scene::new();
    let disk = scene.sparse("disk.img", 512 << 20);
    tool("mkfs.xfs").words("-q -m reflink=0").arg(&disk).ok();
    let point = scene.dir("fs-plain");
    tool("mount")
        .args(["-o", "loop"])
        .arg(&disk)
        .arg(&point)
        .ok();
    fs::write(point.join("a.img"), pattern(1, 100_000)).unwrap();
    let line = scene
        .mount(point.join("a.img"))
        .with("--snapshot")
        .refused(32);
    assert!(line.contains("reflinks"), "{line}");
    tool("umount").arg(&point).ok();
}

#[test]
fn what_is_no_image_file() {
    let scene = Scene::new();
    let device = LoopDevice::new(&scene.file("a.img", &pattern(1, 1 << 20)));
    let line = scene.mount(device.path()).with("-o snapshot").refused(1);
    assert!(line.contains("-o snapshot is for image files"), "{line}");
    scene.dir("blocks");
    fs::write(scene.path("blocks/00000000"), pattern(1, 65_536)).unwrap();
    let line = scene
        .mount(scene.path("blocks"))
        .with("--snapshot")
        .refused(1);
    assert!(
        line.contains("--snapshot") && line.contains("directory"),
        "{line}"
    );
}

#[test]
fn options_that_contradict_it() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(1, 100_000));
    for (options, parts) in [
        ("--snapshot -w", ["--snapshot", "-w", "exclude"]),
        ("-o snapshot,write", ["-o snapshot", "-o write", "exclude"]),
        ("--snapshot --resize", ["--snapshot", "--resize", "exclude"]),
        (
            "-o snapshot-keep=no",
            ["-o snapshot-keep=no", "without", "--snapshot"],
        ),
        (
            "--snapshot -o snapshot-keep=perhaps",
            ["snapshot-keep", "yes", "no"],
        ),
        ("-o snapshot=yes", ["-o snapshot=yes", "takes", "no value"]),
    ] {
        let line = scene.mount(&image).with(options).refused(1);
        for part in parts {
            assert!(line.contains(part), "{options}: {line}");
        }
    }
}

#[test]
fn a_full_file_system() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, "btrfs");
    rig.sync();
    rig.change(&[3]);
    // As many files as there may be, which is what a quota says too.
    let point = rig.filesystem.point();
    tool("btrfs").words("quota enable").arg(point).ok();
    tool("btrfs").words("quota rescan -w").arg(point).ok();
    tool("btrfs").words("qgroup limit 1M").arg(point).ok();
    let before = rig.clones();
    let line = rig.run("").arg("true").fails(2);
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(
        line.contains("making a snapshot of") && line.contains("make room"),
        "{line}"
    );
    assert_eq!(rig.clones(), before);
    tool("btrfs").words("quota disable").arg(point).ok();
    assert_eq!(rig.sync().blocks, [3]);
}

/// Flips bits of each block of the image below Btrfs, whose checksums then tell.
fn corrupt_each_block(rig: &Rig<'_>, below: &Path) {
    tool("sync").arg("-f").arg(&rig.image).ok();
    let content = fs::read(&rig.image).unwrap();
    let disk = File::options().read(true).write(true).open(below).unwrap();
    let mut page = [0; 4096];
    let mut found = 0;
    for at in (0..disk.metadata().unwrap().len()).step_by(page.len()) {
        disk.read_exact_at(&mut page, at).unwrap();
        if page == [0; 4096] {
            continue;
        }
        let starts = content.chunks(usize::try_from(BLOCK).unwrap());
        if starts.into_iter().any(|block| block[..4096] == page) {
            disk.write_all_at(&[!page[9]], at + 9).unwrap();
            found += 1;
        }
    }
    // Those of a file that was there before are found, too.
    assert!(found >= BLOCKS, "the harness");
    disk.sync_all().unwrap();
    tool("dd")
        .arg(format!("if={}", rig.image.display()))
        .words("iflag=nocache count=0 status=none")
        .ok();
}

#[test]
fn p27_a_source_that_is_gone_leaves_no_clone() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, "btrfs");
    let content = fs::read(&rig.image).unwrap();
    let is_refused = |why: &str, clones: &[String]| {
        let outcome = rig.rsync("").arg("--delete").run();
        assert_eq!(outcome.code(), 32, "{outcome:#?}");
        assert!(outcome.stderr.contains(why), "{outcome:#?}");
        assert_eq!(rig.clones(), clones);
    };
    let empty = "the image is empty";
    let unreadable = "no block of the image can be read";
    // Before there is a clone, and when the last run has left one.
    fs::write(&rig.image, b"").unwrap();
    is_refused(empty, &[]);
    fs::write(&rig.image, &content).unwrap();
    rig.sync();
    let clones = rig.clones();
    let index = fs::read(&rig.index).unwrap();
    corrupt_each_block(&rig, &scene.path("fs-btrfs.img"));
    is_refused(unreadable, &clones);
    fs::write(&rig.image, b"").unwrap();
    is_refused(empty, &clones);
    assert_same("the backup", &blocks::concatenated(&rig.backup), &content);
    assert!(fs::read(&rig.index).unwrap() == index, "it stays as it was");
    // It goes on from the last clone.
    fs::write(&rig.image, &content).unwrap();
    assert_eq!(rig.sync().blocks, [0; 0]);
}
