//! The partitions of a backup's image: single files come back out of them, by mount(8) alone.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::support::blocks::{self, data_ranges, refused};
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::{Scene, poke};

use super::rig::{back_up, everything, link_version, split_thin};

const MIB: u64 = 1 << 20;
/// File systems with where they begin and how long they are, in MiB. XFS takes no less.
const PARTITIONS: [(&str, u64, u64); 3] = [("ext4", 1, 20), ("xfs", 24, 320), ("btrfs", 350, 128)];

/// Writes a partition table with sfdisk into an image of `size` bytes with sectors of `sector` bytes.
fn sfdisk(scene: &Scene, name: &str, size: u64, sector: u64, script: &str) -> std::path::PathBuf {
    let image = scene.sparse(name, size);
    let device = LoopDevice::with(&format!("--sector-size {sector}"), &image);
    tool("sfdisk")
        .words("--quiet --no-reread --no-tell-kernel")
        .arg(device.path())
        .input(script.as_bytes())
        .ok();
    tool("sync").arg(device.path()).ok();
    image
}

/// The three file systems, each with a file of its name, in a table of this kind.
fn disk(scene: &Scene, label: &str) -> std::path::PathBuf {
    let lines = PARTITIONS.map(|(_, start, len)| format!("start={start}MiB, size={len}MiB\n"));
    let script = format!("label: {label}\n{}", lines.concat());
    let image = sfdisk(scene, label, 500 * MIB, 512, &script);
    for (kind, start, len) in PARTITIONS {
        let place = format!("--offset {} --sizelimit {}", start * MIB, len * MIB);
        let device = LoopDevice::with(&place, &image);
        let force = if kind == "ext4" { "-F" } else { "-f" };
        tool(format!("mkfs.{kind}"))
            .args(["-q", force])
            .arg(device.path())
            .ok();
        let point = scene.dir("making");
        tool("mount").arg(device.path()).arg(&point).ok();
        fs::create_dir(point.join("etc")).unwrap();
        fs::write(point.join("etc").join(kind), pattern(start, 300_000)).unwrap();
        tool("umount").arg(&point).ok();
    }
    image
}

#[test]
fn a_file_comes_back_from_last_nights_backup_in_three_commands() {
    let scene = Scene::new();
    for label in ["gpt", "dos"] {
        let image = disk(&scene, label);
        let backup = back_up(&scene, &image, "-b 1M --sparse", &format!("of-{label}"));
        for ((kind, start, _), number) in PARTITIONS.into_iter().zip(1..) {
            let (mnt, media) = (scene.dir("mnt"), scene.dir("media"));
            let back = scene.path("back");
            tool(scene.program())
                .arg("--sparse")
                .args([&backup, &mnt])
                .ok();
            tool("mount")
                .words("-o ro,loop")
                .args([&mnt.join(format!("image{number}")), &media])
                .ok();
            tool("cp")
                .arg("-p")
                .args([&media.join("etc").join(kind), &back])
                .ok();
            let found = tool("findmnt")
                .args(["-n", "-o", "FSTYPE"])
                .arg(&media)
                .ok();
            tool("umount").arg("-R").args([&media, &mnt]).ok();
            assert_eq!(found.trim(), kind, "{label}");
            assert_same(kind, &fs::read(&back).unwrap(), &pattern(start, 300_000));
        }
    }
}

#[test]
fn a_file_system_that_was_in_use_is_mounted_without_its_log() {
    let scene = Scene::new();
    let image = disk(&scene, "gpt");
    let copy = scene.path("snapshot.img");
    let devices = PARTITIONS.map(|(kind, start, len)| {
        let place = format!("--offset {} --sizelimit {}", start * MIB, len * MIB);
        (kind, LoopDevice::with(&place, &image))
    });
    for (kind, device) in &devices {
        let point = scene.dir(kind);
        tool("mount").arg(device.path()).arg(&point).ok();
        fs::write(point.join("new"), b"in the log").unwrap();
        tool("sync").args(["-f"]).arg(&point).ok();
    }
    tool("cp").arg("--sparse=auto").args([&image, &copy]).ok();
    for (kind, device) in devices {
        tool("umount").arg(scene.path(kind)).ok();
        drop(device);
    }
    let backup = back_up(&scene, &copy, "-b 1M --sparse", "backup");
    let mount = scene.mount(&backup).with("--sparse").up();
    let options = ["noload", "norecovery", "rescue=nologreplay"];
    for (((kind, start, _), number), option) in PARTITIONS.into_iter().zip(1..).zip(options) {
        let media = scene.dir("media");
        tool("mount")
            .args(["-o", &format!("ro,loop,{option}")])
            .args([&mount.point().join(format!("image{number}")), &media])
            .ok();
        let file = fs::read(media.join("etc").join(kind));
        tool("umount").arg(&media).ok();
        assert_same(kind, &file.unwrap(), &pattern(start, 300_000));
    }
    mount.unmount();
}

#[test]
fn each_partition_is_a_file_whatever_the_table() {
    let scene = Scene::new();
    let logical = "label: dos\nstart=2048, size=100\nstart=4096, size=8000, type=extended\n\
                   start=4200, size=300, type=83\nstart=5000, size=77, type=82\n";
    for (name, sector, script, expected) in [
        (
            "gpt",
            512,
            "label: gpt\nstart=2048, size=101\n128: start=4000, size=1\n3: start=3000, size=1000\n",
            vec![(1, 2048, 101), (3, 3000, 1000), (128, 4000, 1)],
        ),
        (
            "gpt4k",
            4096,
            "label: gpt\nstart=256, size=100\nstart=400, size=3\n",
            vec![(1, 2048, 800), (2, 3200, 24)],
        ),
        (
            "dos",
            512,
            logical,
            vec![(1, 2048, 100), (5, 4200, 300), (6, 5000, 77)],
        ),
        ("dos-empty", 512, "label: dos\n", vec![]),
    ] {
        let image = sfdisk(&scene, name, 16 * MIB, sector, script);
        let file = blocks::open_rw(&image);
        for (number, start, _) in &expected {
            file.write_all_at(&pattern(*number, 512), start * 512)
                .unwrap();
        }
        let content = fs::read(&image).unwrap();
        let backup = back_up(&scene, &image, "-b 64K", &format!("of-{name}"));
        let mount = scene.mount(&backup).up_in_foreground();
        let names = expected.iter().map(|(number, ..)| format!("image{number}"));
        let mut names: Vec<_> = std::iter::once("image".to_owned()).chain(names).collect();
        names.sort_unstable();
        assert_eq!(blocks::names(mount.point()), names, "{name}");
        let whole = fs::metadata(mount.point().join("image")).unwrap();
        for (number, start, len) in &expected {
            let path = mount.point().join(format!("image{number}"));
            let (start, end) = (start * 512, (start + len) * 512);
            let part = &content[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
            assert_same(name, &fs::read(&path).unwrap(), part);
            let part = fs::metadata(&path).unwrap();
            assert_eq!((part.ino(), part.len()), (2 + number, len * 512), "{name}");
            assert_eq!((part.mtime(), part.mode()), (whole.mtime(), whole.mode()));
            let writing = File::options().write(true).open(&path);
            refused("writing", writing, libc::EROFS);
        }
        let log = mount.unmount_for_log();
        assert!(!log.contains("the partitions of the image"), "{log}");
    }
}

#[test]
fn a_disk_without_a_table_has_no_partitions() {
    let scene = Scene::new();
    for kind in ["ext4", "xfs", "btrfs"] {
        // What was there before: its backup is still at the end.
        let image = sfdisk(&scene, kind, 320 * MIB, 512, "label: gpt\nsize=10MiB\n");
        let force = if kind == "ext4" { "-F" } else { "-f" };
        tool(format!("mkfs.{kind}"))
            .args(["-q", force])
            .arg(&image)
            .ok();
        let backup = back_up(&scene, &image, "--sparse", &format!("of-{kind}"));
        let mount = scene.mount(&backup).with("--sparse").up_in_foreground();
        assert_eq!(blocks::names(mount.point()), ["image"], "{kind}");
        let log = mount.unmount_for_log();
        assert!(!log.contains("the partitions of the image"), "{log}");
    }
}

#[test]
fn a_damaged_table_shows_what_is_sound_and_one_warning() {
    let scene = Scene::new();
    let script = "label: gpt\nstart=2048, size=100\nstart=3000, size=100\n";
    let image = sfdisk(&scene, "a.img", 8 * MIB, 512, script);
    let seen = |name: &str, options: &str| {
        let backup = back_up(&scene, &image, "-b 64K", name);
        let mount = scene.mount(&backup).with(options).up_in_foreground();
        let names = blocks::names(mount.point());
        let log = mount.unmount_for_log();
        let warnings = log.matches("the partitions of the image").count();
        assert_eq!(warnings, 1, "{log}");
        (names, log)
    };
    poke(&image, 512, &[0; 16_384]);
    let (names, log) = seen("backup-only", "");
    assert_eq!(names, ["image", "image1", "image2"]);
    assert!(
        log.contains("its GPT is damaged, and the copy at its end is used"),
        "{log}"
    );
    poke(&image, 8 * MIB - 512, &[0; 512]);
    let (names, log) = seen("neither", "-rw");
    assert_eq!(names, ["image"]);
    assert!(
        log.contains("protective MBR, but no GPT that is whole"),
        "{log}"
    );
    // An MBR of which one entry lies.
    let sector = |kind: u8, first: u32, len: u32| {
        let mut entry = vec![0, 0, 0, 0, kind, 0, 0, 0];
        entry.extend(first.to_le_bytes());
        entry.extend(len.to_le_bytes());
        entry
    };
    let entries = [sector(0x83, 2048, 100), sector(0x83, 16_000, 1000)];
    poke(&image, 446, &entries.concat());
    let (names, log) = seen("lying", "");
    assert_eq!(names, ["image", "image1"]);
    let says = "not shown: partition 2 (it reaches past the image's end)";
    assert!(log.contains(says), "{log}");
}

#[test]
fn a_partition_is_written_inside_its_bounds_and_versions_stay_apart() {
    let scene = Scene::new();
    let script = "label: dos\nstart=2048, size=65536\nstart=67584, size=100\n";
    let image = sfdisk(&scene, "a.img", 40 * MIB, 512, script);
    let backup = back_up(&scene, &image, "-b 256K", "today");
    let older = link_version(&scene, &backup, "yesterday");
    let before = everything(&older);
    let mount = scene.mount(&backup).with("-rw").up();
    let path = mount.point().join("image1");
    tool("mkfs.ext4").words("-q -F").arg(&path).ok();
    let point = scene.dir("inside");
    for round in 0..2 {
        tool("mount").words("-o loop").args([&path, &point]).ok();
        if round == 0 {
            fs::write(point.join("new"), pattern(1, 3_000_000)).unwrap();
        }
        let file = fs::read(point.join("new"));
        tool("umount").arg(&point).ok();
        assert_same("a file", &file.unwrap(), &pattern(1, 3_000_000));
    }
    tool("e2fsck").words("-f -n").arg(&path).ok();
    let second = mount.point().join("image2");
    bounds(&second);
    let seen = fs::read(mount.point().join("image")).unwrap();
    assert_same(
        "its end",
        &seen[67_584 * 512..][..51_200],
        &fs::read(&second).unwrap(),
    );
    mount.unmount();
    assert!(
        everything(&older) == before,
        "the older version has changed"
    );
    let content = blocks::concatenated(&backup);
    assert_same("the block files", &content, &seen);
    let original = fs::read(&image).unwrap();
    assert_same("before", &content[..1 << 20], &original[..1 << 20]);
    let end = (67_584 + 100) * 512;
    assert_same("behind", &content[end..], &original[end..]);
}

/// A file of 51,200 bytes cannot be written past its end, made longer, shorter, or go away.
fn bounds(path: &Path) {
    let file = blocks::open_rw(path);
    assert_eq!(file.write_at(&[5; 100], 51_150).unwrap(), 50);
    refused("past the end", file.write_at(b"x", 51_200), libc::EFBIG);
    refused("longer", file.set_len(51_201), libc::EFBIG);
    refused("shorter", file.set_len(51_199), libc::EPERM);
    file.set_len(51_200).unwrap();
    refused("removing", fs::remove_file(path), libc::EPERM);
    refused(
        "renaming",
        fs::rename(path, path.with_extension("x")),
        libc::EPERM,
    );
    let said = tool("dd")
        .words("if=/dev/zero bs=4096 conv=notrunc")
        .arg(format!("of={}", path.display()))
        .fails(1);
    assert!(said.contains("File too large"), "{said}");
}

#[test]
fn holes_of_a_partition_are_those_inside_it() {
    let scene = Scene::new();
    let script = "label: dos\nstart=2048, size=16384\n";
    let image = sfdisk(&scene, "a.img", 16 * MIB, 512, script);
    let mut content = fs::read(&image).unwrap();
    for start in [MIB - 8192, 3 * MIB, 9 * MIB - 4096] {
        let start = usize::try_from(start).unwrap();
        content[start..start + 16_384].copy_from_slice(&pattern(7, 16_384));
    }
    let backup = scene.dir("backup");
    split_thin(&backup, &content, 65_536, true);
    let mount = scene.mount(&backup).with("--sparse").up();
    let file = File::open(mount.point().join("image1")).unwrap();
    let expected = [(0, 8192), (2_097_152, 2_113_536), (8_384_512, 8_388_608)];
    assert_eq!(data_ranges(&file), expected);
    assert_eq!(
        file.metadata().unwrap().blocks(),
        (8192 + 16_384 + 4096) / 512
    );
    drop(file);
    mount.unmount();
}
