//! --sparse: the directory is the map of the image, and rsync keeps image and backup equal in both directions,
//! holes included.

use std::fs::{self, File};
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};

use super::rig::{BLOCK, UNITS, at_once, disk_usage, extents, space, with_gaps, write_thin};
use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::{Filesystem, WITH_HOLES};
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::{Scene, poke};

const SIZE: usize = 20 * BLOCK + 12_345;

/// The names of the blocks that have data, and of the first and the last.
fn map_of(content: &[u8]) -> Vec<String> {
    let last = content.len().div_ceil(BLOCK) - 1;
    (0..)
        .zip(content.chunks(BLOCK))
        .filter(|(index, block)| {
            *index == 0 || *index == last as u64 || block.iter().any(|byte| *byte != 0)
        })
        .map(|(index, _)| blocks::name(index))
        .collect()
}

fn sync(from: &Path, to: &Path) {
    tool("rsync")
        .words("-a --inplace --delete")
        .args([&from.join("."), to])
        .ok();
}

/// Backs `source` up and restores it to `target`; both are then the same, and the backup is their map.
fn both_ways(scene: &Scene, source: &Path, target: &Path, options: &str) {
    let options = format!("{UNITS} --sparse {options}");
    let content = fs::read(source).unwrap();
    let backup = scene.dir("backup");
    // A mount of a device that stays lists every block after a second: nothing proves that the others are zeros still.
    tool(env!("CARGO_BIN_EXE_bmapfs"))
        .words("run")
        .words(&options)
        .arg(source)
        .words("-- rsync -a --inplace --delete {}/")
        .arg(&backup)
        .ok();
    assert_eq!(blocks::names(&backup), map_of(&content), "{options}");
    let mount = scene.mount(target).with("-rw").with(&options).up();
    sync(&backup, mount.point());
    assert_eq!(blocks::names(mount.point()), map_of(&content), "{options}");
    mount.unmount();
    assert_same(&options, &fs::read(target).unwrap(), &content);
}

fn punch(path: &Path, start: usize, len: usize) {
    fallocate(
        File::options().write(true).open(path).unwrap(),
        FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        start.try_into().unwrap(),
        len.try_into().unwrap(),
    )
    .unwrap();
}

#[test]
fn sparse_image_and_backup_stay_equal_including_holes() {
    at_once(WITH_HOLES, |scene, kind| {
        let disk = Filesystem::new(scene, kind);
        let (source, target) = (disk.path("source"), disk.path("target"));
        write_thin(&source, &with_gaps(1, SIZE));
        fs::write(&target, pattern(2, SIZE)).unwrap();
        let check = |what: &str| {
            both_ways(scene, &source, &target, "");
            assert_eq!(extents(&source), extents(&target), "{kind}, {what}");
            assert_eq!(space(&source), space(&target), "{kind}, {what}");
            let files = blocks::names(&scene.path("backup")).len() * BLOCK;
            let taken = disk_usage(&scene.path("backup"));
            // Beside the files it has its own list of names.
            assert!(
                taken <= u64::try_from(files + (64 << 10)).unwrap(),
                "{kind}, {what}: {taken}"
            );
        };
        check("over old content");
        punch(&source, 6 * BLOCK, 2 * BLOCK);
        poke(
            &source,
            (2 * BLOCK + (64 << 10)).try_into().unwrap(),
            &pattern(3, 64 << 10),
        );
        check("a block has become zeros, another has come");
        punch(&source, 0, SIZE / BLOCK * BLOCK);
        check("all has become zeros");
    });
}

#[test]
fn sparse_zeros_that_are_written_are_absent_with_an_index() {
    let scene = Scene::new();
    let content = with_gaps(5, SIZE);
    let source = scene.file("source", &content);
    let target = scene.file("target", &pattern(6, SIZE));
    let mount = scene.mount(&source).with(UNITS).with("--sparse").up();
    assert_eq!(
        blocks::names(mount.point()).len(),
        21,
        "without an index what is written counts as data"
    );
    mount.unmount();
    for round in 0..2 {
        let options = format!("--index={}", scene.path("index").display());
        let backup = scene.dir("backup");
        let mount = scene
            .mount(&source)
            .with(UNITS)
            .with("--sparse")
            .with(&options)
            .up();
        assert_eq!(
            blocks::names(mount.point()),
            map_of(&content),
            "round {round}"
        );
        sync(mount.point(), &backup);
        mount.unmount();
        let options = format!("--index={}", scene.path("index-of-target").display());
        let mount = scene
            .mount(&target)
            .with(UNITS)
            .with("-rw --sparse")
            .with(&options)
            .up();
        sync(&backup, mount.point());
        mount.unmount();
        assert_same("the target", &fs::read(&target).unwrap(), &content);
        // What was restored is seen as it is.
        let mount = scene
            .mount(&target)
            .with(UNITS)
            .with("--sparse")
            .with(&options)
            .up();
        assert_eq!(
            blocks::names(mount.point()),
            map_of(&content),
            "round {round}"
        );
        assert_eq!(mount.image().len(), blocks::concatenated(&backup).len());
    }
}

#[test]
fn sparse_devices_are_scanned_for_zeros() {
    let scene = Scene::new();
    let size = 20 * BLOCK + 12_288;
    let content = with_gaps(7, size);
    let (source, target) = (
        scene.file("source", &content),
        scene.file("target", &pattern(8, size)),
    );
    let (from, to) = (LoopDevice::new(&source), LoopDevice::new(&target));
    both_ways(&scene, from.path(), to.path(), "");
    poke(
        from.path(),
        (6 * BLOCK).try_into().unwrap(),
        &vec![0; 2 * BLOCK],
    );
    both_ways(&scene, from.path(), to.path(), "");
    drop(to);
    assert!(
        space(&target) < u64::try_from(size * 3 / 4).unwrap(),
        "what was removed is a hole behind the device: {}",
        space(&target)
    );
}

#[test]
fn sparse_devices_with_an_index_show_the_same() {
    let scene = Scene::new();
    let content = with_gaps(7, SIZE.next_multiple_of(4096));
    let device = LoopDevice::new(&scene.file("source", &content));
    let index = format!("--index={}", scene.path("index").display());
    let mount = scene.mount(device.path()).with(UNITS).with("--sparse");
    let mount = mount.with(&index).up();
    assert_eq!(blocks::names(mount.point()), map_of(&content));
}

#[test]
fn sparse_a_removed_block_is_zeros_and_comes_back_when_written() {
    let scene = Scene::new();
    let mut content = pattern(9, SIZE);
    let image = scene.file("image", &content);
    let mount = scene.mount(&image).with(UNITS).with("-rw --sparse").up();
    let open = blocks::open_rw(mount.block(5));
    fs::remove_file(mount.block(5)).unwrap();
    fs::remove_file(mount.block(20)).unwrap();
    fs::remove_file(mount.block(0)).unwrap();
    content[..BLOCK].fill(0);
    content[5 * BLOCK..6 * BLOCK].fill(0);
    content[20 * BLOCK..].fill(0);
    assert_same("the image", &fs::read(&image).unwrap(), &content);
    blocks::refused("stat", fs::metadata(mount.block(5)), libc::ENOENT);
    assert_eq!(blocks::names(mount.point()).len(), 18);
    std::os::unix::fs::FileExt::write_all_at(&open, b"back", 77).unwrap();
    content[5 * BLOCK + 77..][..4].copy_from_slice(b"back");
    assert_eq!(fs::metadata(mount.block(5)).unwrap().len(), BLOCK as u64);
    assert_same(
        "block 5",
        &blocks::read(&mount.block(5)),
        &content[5 * BLOCK..6 * BLOCK],
    );
    fs::write(mount.block(20), b"end").unwrap();
    content[20 * BLOCK..][..3].copy_from_slice(b"end");
    assert_eq!(fs::metadata(mount.block(20)).unwrap().len(), 12_345);
    drop(open);
    mount.unmount();
    assert_same("the image", &fs::read(&image).unwrap(), &content);
    let mount = scene.mount(&image).with(UNITS).with("--sparse").up();
    let names = blocks::names(mount.point());
    assert_eq!(names.len(), 21, "the first and the last have a file again");
}

#[test]
fn sparse_a_device_is_scanned_with_progress() {
    let scene = Scene::new();
    let size = 256 << 20;
    let device = LoopDevice::new(&scene.sparse("image", size));
    let point = scene.dir("mnt");
    let command = format!(
        "{} --sparse {} {}",
        scene.program().display(),
        device.path().display(),
        point.display()
    );
    let said = tool("script").args(["-qec", &command, "/dev/null"]).ok();
    let names = blocks::names(&point);
    tool("umount").arg(&point).ok();
    assert_eq!(names, ["00000000", "00000063"], "all is zeros");
    assert!(said.contains("looking for zeros in"), "{said:?}");
    assert!(said.contains("/s"), "a rate: {said:?}");
}
