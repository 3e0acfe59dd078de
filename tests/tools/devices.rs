//! Block device to block device, through two mounts.

use std::fs;

use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::pattern::{assert_same, disk_like, pattern};
use crate::support::scene::Scene;

#[test]
fn rsync_from_device_to_device() {
    let scene = Scene::new();
    let content = disk_like(1, 6 << 20);
    let from = LoopDevice::new(&scene.file("from.img", &content));
    let to_image = scene.file("to.img", &pattern(2, 6 << 20));
    let to = LoopDevice::with("--sector-size 4096", &to_image);
    let source = scene.mount(from.path()).with("-b 256K").at("source").up();
    let target = scene.mount(to.path()).with("-rw -b 256K").at("target").up();
    let rsync = |options: &str| {
        let arguments = [source.point().join("."), target.point().to_owned()];
        tool("rsync")
            .words("-a --inplace --itemize-changes")
            .words(options)
            .args(arguments)
            .ok()
    };
    rsync("--ignore-times");
    assert_same("the target", &fs::read(to.path()).unwrap(), &content);
    // The device could have been written from below, so each listing shows new times.
    assert!(!rsync("--checksum").contains(">f"), "nothing is left to do");
    source.unmount();
    target.unmount();
    assert_same("behind the target", &fs::read(&to_image).unwrap(), &content);
}

#[test]
fn a_file_system_travels_and_is_whole() {
    let scene = Scene::new();
    let from_image = scene.sparse("from.img", 32 << 20);
    let point = scene.dir("fs");
    tool("mkfs.ext4").words("-q -F").arg(&from_image).ok();
    tool("mount")
        .words("-o loop")
        .args([&from_image, &point])
        .ok();
    for index in 0..20 {
        fs::write(point.join(format!("file-{index}")), pattern(index, 100_000)).unwrap();
    }
    tool("umount").arg(&point).ok();
    let (from, to) = (
        LoopDevice::new(&from_image),
        LoopDevice::new(&scene.sparse("to.img", 32 << 20)),
    );
    let source = scene.mount(from.path()).with("-b 1M").at("source").up();
    let target = scene.mount(to.path()).with("-rw -b 1M").at("target").up();
    tool("rsync")
        .words("-a --inplace --checksum")
        .args([source.point().join("."), target.point().to_owned()])
        .ok();
    source.unmount();
    target.unmount();
    tool("e2fsck").words("-f -n").arg(to.path()).ok();
    tool("mount").words("-o ro").arg(to.path()).arg(&point).ok();
    let files = (0..20).map(|index| fs::read(point.join(format!("file-{index}"))));
    let files: Vec<_> = files.collect();
    tool("umount").arg(&point).ok();
    for (index, file) in (0..).zip(files) {
        assert_same("a file", &file.unwrap(), &pattern(index, 100_000));
    }
}
