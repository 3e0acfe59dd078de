//! P18: sources that the machine itself uses: looped, mounted, swapped on, or read-only.

use std::fs;
use std::path::{Path, PathBuf};

use super::locks::{is_free, is_respected};
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::Filesystem;
use crate::support::machine::Identity;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

#[test]
fn p18_an_image_behind_a_loop_device_is_respected() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 1 << 20);
    let device = LoopDevice::new(&image);
    is_respected(&scene, &image, &[device.path().to_str().unwrap()]);
    drop(device);
    is_free(&scene, &image);
    // Behind a read-only one nobody writes.
    let device = LoopDevice::with("--read-only", &image);
    let mount = scene.mount(&image).up();
    assert_eq!(mount.said(), "");
    mount.unmount();
    drop(device);
}

/// A device with a file system on it.
fn formatted(scene: &Scene) -> (LoopDevice, PathBuf) {
    let device = LoopDevice::with("-P", &scene.sparse("fs.img", 64 << 20));
    let partition = device.partition(1, 1 << 20, 60 << 20);
    tool("mkfs.ext4").words("-q -F").arg(&partition).ok();
    (device, partition)
}

#[test]
fn p18_a_mounted_file_system_is_respected() {
    let scene = Scene::new();
    let (device, partition) = formatted(&scene);
    is_free(&scene, &partition);
    let point = scene.dir("fs");
    tool("mount").arg(&partition).arg(&point).ok();
    // Writing to the whole disk would hit it too.
    for source in [partition.as_path(), device.path()] {
        is_respected(&scene, source, &[point.to_str().unwrap()]);
    }
    tool("umount").arg(&point).ok();
    is_free(&scene, &partition);
    is_free(&scene, device.path());
}

#[test]
fn p18_an_image_file_with_a_mounted_file_system_is_respected() {
    let scene = Scene::new();
    let filesystem = Filesystem::new(&scene, "ext4");
    let said = scene
        .mount(scene.path("fs-ext4.img"))
        .with("-rw")
        .refused(32);
    assert!(said.contains("/dev/loop"), "{said}");
    drop(filesystem);
}

#[test]
fn p18_swap_is_respected() {
    let scene = Scene::new();
    let device = LoopDevice::new(&scene.sparse("swap.img", 16 << 20));
    tool("mkswap").arg(device.path()).ok();
    let swap = Swap::on(device.path());
    is_respected(&scene, device.path(), &["swap"]);
    drop(swap);
    is_free(&scene, device.path());

    let file = scene.file("swapfile", &vec![0; 16 << 20]);
    Identity::Root.own(&file);
    tool("chmod").arg("600").arg(&file).ok();
    tool("mkswap").arg(&file).ok();
    let swap = Swap::on(&file);
    let said = scene.mount(&file).with("-rw").refused(32);
    assert!(said.contains("swap"), "{said}");
    drop(swap);
    is_free(&scene, &file);
}

struct Swap(PathBuf);

impl Swap {
    fn on(path: &Path) -> Self {
        tool("swapon").arg(path).ok();
        Self(path.to_owned())
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        tool("swapoff").arg(&self.0).run();
    }
}

#[test]
fn p18_a_device_mounted_rw_is_nobody_elses() {
    let scene = Scene::new();
    let (device, partition) = formatted(&scene);
    let point = scene.dir("fs");
    let mount = scene.mount(&partition).with("-rw").up();
    let said = tool("mount").arg(&partition).arg(&point).run();
    assert!(
        said.code() != 0,
        "a file system was mounted under a writing bmapfs: {said:#?}"
    );
    assert!(tool("swapon").arg(&partition).run().code() != 0);
    // The whole disk holds the partition that is written.
    let said = scene
        .mount(device.path())
        .with("-rw")
        .at("whole")
        .refused(32);
    assert!(
        said.contains("bmapfs")
            || said.contains(partition.to_str().unwrap())
            || said.contains("busy"),
        "{said}"
    );
    mount.unmount();
    tool("mount").arg(&partition).arg(&point).ok();
    tool("umount").arg(&point).ok();
}

#[test]
fn p18_read_only_devices_and_files_cannot_be_mounted_rw() {
    let scene = Scene::new();
    let content = pattern(2, 65_536);
    let image = scene.file("a.img", &content);
    let device = LoopDevice::new(&image);
    let read_only = ReadOnly::make(device.path());
    for options in ["-rw", "-rw -o force"] {
        let said = scene.mount(device.path()).with(options).refused(1);
        assert!(said.contains("read-only"), "{said}");
    }
    let mount = scene.mount(device.path()).up();
    assert_same("reading it", &mount.image(), &content);
    mount.unmount();
    drop(read_only);
    scene.mount(device.path()).with("-rw").up().unmount();

    // A file on a file system that is mounted read-only.
    let filesystem = Filesystem::new(&scene, "tmpfs");
    let file = filesystem.path("a.img");
    fs::write(&file, &content).unwrap();
    tool("mount")
        .words("-o remount,ro")
        .arg(filesystem.point())
        .ok();
    for options in ["-rw", "-rw -o force"] {
        let said = scene.mount(&file).with(options).refused(1);
        assert!(said.to_lowercase().contains("read-only"), "{said}");
    }
    let mount = scene.mount(&file).up();
    assert_same("reading it", &mount.image(), &content);
    mount.unmount();

    // A file that the user may not write.
    drop(device);
    tool("chmod").arg("444").arg(&image).ok();
    let said = scene
        .mount(&image)
        .with("-rw")
        .by(Identity::User)
        .at("user")
        .refused(1);
    assert!(said.contains("ermission"), "{said}");
}

/// A device that is read-only, until this is dropped: it would stay so for whoever uses its number next.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn make(device: &Path) -> Self {
        tool("blockdev").arg("--setro").arg(device).ok();
        Self(device.to_owned())
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        tool("blockdev").arg("--setrw").arg(&self.0).run();
    }
}
