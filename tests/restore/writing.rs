//! P12: tools that write in place, or under a temporary name that they rename, restore to a writable mount.

use std::fs;
use std::path::Path;

use super::rig::{BLOCK, IN_PLACE, UNITS, Way, at_once};
use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::{Filesystem, WITH_HOLES};
use crate::support::machine::Identity;
use crate::support::pattern::{assert_same, disk_like, pattern};
use crate::support::scene::{Scene, poke};

const SIZE: usize = 9 * BLOCK + 12_345;

/// Restores in one way over old content.
fn restore(scene: &Scene, image: &Path, size: usize, options: &str, way: Way) {
    let what = format!("{way:?} {options}");
    let content = disk_like(1, size);
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &content, BLOCK);
    poke(image, 0, &pattern(2, size));
    let mount = scene.mount(image).with(options).up_in_foreground();
    let outcome = way.copy(scene, &backup, mount.point());
    assert_eq!(outcome.code(), 0, "{what}: {outcome:#?}");
    assert_same(&what, &mount.image(), &content);
    assert_eq!(
        blocks::names(mount.point()),
        blocks::expected_names(size.try_into().unwrap(), BLOCK.try_into().unwrap()),
        "{what}: nothing temporary is left"
    );
    let log = mount.unmount_for_log();
    assert!(log.contains("; 0 of them were neither"), "{what}: {log}");
    assert!(!log.contains("temporary"), "{what}: {log}");
    assert_same(&what, &fs::read(image).unwrap(), &content);
}

/// What the image is.
#[derive(Debug, Clone, Copy)]
enum Target {
    File,
    /// On a file system of this kind.
    FileOn(&'static str),
    Device,
}

#[test]
fn p12_every_tool_restores() {
    let mut cases = Vec::new();
    let all = [
        "--sparse",
        "--resize",
        "--sparse --resize -o zero=keep",
        "--sparse --index",
    ];
    for (way, options) in IN_PLACE.into_iter().zip(all.into_iter().cycle()) {
        cases.push((way, "", Target::File));
        cases.push((way, options, Target::File));
    }
    let ways = [Way::Rsync("-a"), Way::Rclone, Way::Cp("-p")];
    for (kind, way) in WITH_HOLES.into_iter().zip(ways.into_iter().cycle()) {
        cases.push((way, "", Target::FileOn(kind)));
    }
    for way in [Way::Rsync("-a"), Way::Rclone, Way::Borg] {
        cases.push((way, "", Target::Device));
        cases.push((way, "--sparse", Target::Device));
    }
    at_once(cases, |scene, (way, options, target)| {
        let index = format!("--index={}", scene.path("index").display());
        let options = format!("-rw {UNITS} {options}").replace("--index", &index);
        let file = |size: usize| scene.sparse("image", size.try_into().unwrap());
        match target {
            Target::File => restore(scene, &file(SIZE), SIZE, &options, way),
            Target::FileOn(kind) => {
                let disk = Filesystem::new(scene, kind);
                let image = disk.sparse("image", SIZE.try_into().unwrap());
                restore(scene, &image, SIZE, &options, way);
            }
            Target::Device => {
                let size = SIZE.next_multiple_of(4096);
                let device = LoopDevice::new(&file(size));
                restore(scene, device.path(), size, &options, way);
            }
        }
    });
}

#[test]
fn p12_a_user_restores_without_inplace() {
    let scene = Scene::new();
    let content = disk_like(1, SIZE);
    let backup = scene.dir_of("backup", Identity::User);
    blocks::split_into(&backup, &content, BLOCK);
    let image = scene.file("image", &pattern(2, SIZE));
    Identity::User.own(&image);
    let mount = scene
        .mount(&image)
        .with(&format!("-rw {UNITS}"))
        .by(Identity::User)
        .up();
    for _ in 0..2 {
        let said = tool("rsync")
            .identity(Identity::User)
            .arg("-ai")
            .args([&backup.join("."), mount.point()])
            .ok();
        assert_same("the image", &fs::read(&image).unwrap(), &content);
        if said.is_empty() {
            return;
        }
    }
    panic!("at once again there is something to do");
}

#[test]
fn what_was_restored_twice_is_sent_once() {
    let scene = Scene::new();
    let content = disk_like(3, SIZE);
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &content, BLOCK);
    let image = scene.file("image", &pattern(4, SIZE));
    let mount = scene.mount(&image).with(&format!("-rw {UNITS}")).up();
    let rsync = || {
        tool("rsync")
            .arg("-ai")
            .args([&backup.join("."), mount.point()])
            .ok()
    };
    assert_eq!(
        rsync()
            .lines()
            .filter(|line| line.starts_with(">f"))
            .count(),
        10
    );
    assert_eq!(rsync(), "");
    fs::write(backup.join("00000004"), pattern(5, BLOCK)).unwrap();
    assert_eq!(
        rsync()
            .lines()
            .filter(|line| line.starts_with(">f"))
            .count(),
        1
    );
    assert_same(
        "the image",
        &fs::read(&image).unwrap(),
        &blocks::concatenated(&backup),
    );
}

#[test]
fn several_restores_at_once() {
    let scene = Scene::new();
    let size = 24 * BLOCK;
    let content = pattern(6, size);
    let image = scene.file("image", &pattern(7, size));
    let parts: Vec<_> = (0..4)
        .map(|part| scene.dir(&format!("part-{part}")))
        .collect();
    let whole = scene.dir("whole");
    blocks::split_into(&whole, &content, BLOCK);
    for (name, part) in blocks::names(&whole).iter().zip(parts.iter().cycle()) {
        fs::rename(whole.join(name), part.join(name)).unwrap();
    }
    let mount = scene.mount(&image).with(&format!("-rw {UNITS}")).up();
    let ways = [
        Way::Rsync("-a"),
        Way::Rsync("-a --inplace"),
        Way::Rclone,
        Way::Cp("-p"),
    ];
    std::thread::scope(|scope| {
        for (part, way) in parts.iter().zip(ways) {
            let (scene, point) = (&scene, mount.point());
            scope.spawn(move || way.copy(scene, part, point).ok());
        }
    });
    assert_same("the mount", &mount.image(), &content);
    mount.unmount();
    assert_same("the image", &fs::read(&image).unwrap(), &content);
}
