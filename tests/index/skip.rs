//! P23: what is certainly unwritten is not read again; whatever else is.

use std::fs::{self, File, FileTimes};

use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::Filesystem;
use crate::support::pattern::disk_like;
use crate::support::scene::Scene;

use super::rig::{BLOCK, Rig};

const SIZE: u64 = 10 * BLOCK;

fn image(scene: &Scene) -> std::path::PathBuf {
    // No zeros in it, so that all of it is data.
    scene.file("a.img", &crate::support::pattern::pattern(1, 10 * 65_536))
}

fn bytes_read(rig: &Rig<'_>, options: &str) -> u64 {
    let counts = rig.counts(options);
    assert_eq!(counts["blocks"], 10);
    counts["bytes_read"]
}

#[test]
fn p23_an_unwritten_file_is_not_read_again() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    rig.wait_until_old();
    assert_eq!(bytes_read(&rig, ""), SIZE);
    for _ in 0..2 {
        let counts = rig.counts("");
        assert_eq!(counts["bytes_read"], 0);
        assert_eq!(counts["unchanged"], 10);
    }
    let before = rig.stamps();
    assert_eq!(rig.stamps(), before);
    assert_eq!(bytes_read(&rig, ""), 0, "a read-only mount changes nothing");
    assert_eq!(bytes_read(&rig, "-o rescan"), SIZE);
    assert_eq!(bytes_read(&rig, ""), 0);
    // Reading it, and other names for it, move nothing either.
    tool("cat").arg(&rig.source).ok();
    assert_eq!(bytes_read(&rig, ""), 0);
    let outcome = rig.run("").arg("true").run();
    assert!(
        outcome.stderr.contains(" 0 bytes read"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn p23_whatever_may_have_been_written_is_read() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    rig.wait_until_old();
    rig.scan("").ok();
    let skips_again = |what: &str| {
        rig.wait_until_old();
        rig.scan("").ok();
        assert_eq!(bytes_read(&rig, ""), 0, "after {what}");
    };

    tool("touch").arg(&rig.source).ok();
    assert_eq!(bytes_read(&rig, ""), SIZE, "touched");
    assert_eq!(
        bytes_read(&rig, ""),
        SIZE,
        "touched less than two seconds ago"
    );
    skips_again("touch");

    // Written, and the time put back.
    let time = fs::metadata(&rig.source).unwrap().modified().unwrap();
    rig.change(3, b"changed");
    let file = File::options().write(true).open(&rig.source).unwrap();
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
    drop(file);
    let counts = rig.counts("");
    assert_eq!((counts["bytes_read"], counts["changed"]), (SIZE, 1));
    skips_again("a time put back");

    // Replaced by another file that looks alike.
    let other = scene.path("other.img");
    tool("cp").arg("-p").args([&rig.source, &other]).ok();
    fs::rename(&other, &rig.source).unwrap();
    assert_eq!(bytes_read(&rig, ""), SIZE, "replaced");
    skips_again("replacement");

    // Written by bmapfs itself, and even only opened for that.
    let mount = rig.mount("-rw").up();
    mount.unmount();
    assert_eq!(bytes_read(&rig, ""), SIZE, "mounted with -w in between");
    skips_again("-w");

    // A daemon that was killed had its own doubts.
    let mut mount = rig.mount("-rw").up();
    mount.kill();
    mount.detach();
    assert_eq!(bytes_read(&rig, ""), SIZE, "killed with -w");
}

#[test]
fn p23_a_write_right_after_the_scan_is_seen() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    // Within one grain of any clock, again and again.
    for round in 0..30_u8 {
        rig.change(3, &[round; 8]);
        rig.scan("").ok();
        rig.change(3, &[round, round, 99, 99, 99, 99, 99, 99]);
        assert_eq!(rig.counts("")["changed"], 1, "round {round}");
    }
}

#[test]
fn p23_a_device_is_always_read() {
    let scene = Scene::new();
    let device = LoopDevice::new(&image(&scene));
    let rig = Rig::new(&scene, device.path());
    for _ in 0..3 {
        assert_eq!(bytes_read(&rig, ""), SIZE);
    }
    assert_eq!(rig.counts("")["unchanged"], 10);
}

#[test]
fn p23_holds_on_ext4_xfs_and_btrfs_and_on_nothing_else() {
    let scene = Scene::new();
    for (kind, skipped) in [
        ("ext4", true),
        ("xfs", true),
        ("btrfs", true),
        ("tmpfs", false),
    ] {
        let filesystem = Filesystem::new(&scene, kind);
        let image = filesystem.path("a.img");
        fs::write(&image, disk_like(2, 10 * 65_536)).unwrap();
        let rig = Rig::new(&scene, &image).with_index(scene.path(format!("{kind}.index")));
        rig.wait_until_old();
        let first = bytes_read(&rig, "");
        assert!(first > SIZE / 4, "{kind}");
        let expected = if skipped { 0 } else { first };
        assert_eq!(bytes_read(&rig, ""), expected, "{kind}");
        rig.change(3, b"changed");
        assert_eq!(rig.counts("")["changed"], 1, "{kind}");
    }
}

#[test]
fn p23_unsettled_blocks_get_their_new_stamps_without_reading() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    rig.scan("").ok();
    // Written while it is served and half read; then it rests.
    let write = "printf x | dd of=\"$1\" bs=1 seek=5000 conv=notrunc,fsync status=none; head -c 9 \"$2\"/00000007";
    rig.run("")
        .args(["sh", "-c", write, "sh"])
        .arg(&rig.source)
        .arg("{}")
        .ok();
    rig.wait_until_old();
    let counts = rig.counts("--dry-run");
    assert_eq!(counts["unsettled"], 1, "{counts:?}");
    rig.scan("").ok();
    let settled = rig.stamps();
    assert_eq!(bytes_read(&rig, ""), 0);
    // Now half a block of a mount that nothing is written under: nobody is misled.
    rig.run("").args(["sh", "-c", "head -c 9 {}/00000002"]).ok();
    assert_eq!(rig.stamps(), settled);
}
