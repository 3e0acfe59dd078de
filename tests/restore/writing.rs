//! P12: tools that write in place, or under a temporary name that they rename, restore to a writable mount.

use std::fs;
use std::path::Path;

use super::rig::{BLOCK, IN_PLACE, UNITS, Way};
use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::Filesystem;
use crate::support::machine::Identity;
use crate::support::pattern::{assert_same, disk_like, pattern};
use crate::support::scene::Scene;

const SIZE: usize = 9 * BLOCK + 12_345;

/// Restores in every way over old content, beside the backup that is in the scene.
fn restore(scene: &Scene, image: &Path, size: usize, options: &str, ways: &[Way]) {
    let backup = scene.dir("backup");
    for (seed, way) in (0..).zip(ways) {
        let content = disk_like(seed, size);
        for name in blocks::names(&backup) {
            fs::remove_file(backup.join(name)).unwrap();
        }
        blocks::split_into(&backup, &content, BLOCK);
        tool("dd")
            .words("bs=1M conv=notrunc status=none")
            .arg(format!("of={}", image.display()))
            .arg(format!(
                "if={}",
                scene.file("old", &pattern(seed + 100, size)).display()
            ))
            .ok();
        let mount = scene.mount(image).with(options).up_in_foreground();
        let outcome = way.copy(scene, &backup, mount.point());
        assert_eq!(outcome.code(), 0, "{way:?}: {outcome:#?}");
        let what = format!("{way:?} {options}");
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
}

#[test]
fn p12_every_tool_restores_to_a_file() {
    let some = [Way::Rsync("-a"), Way::Rclone, Way::Cp("-p")];
    for (kind, ways) in [("ext4", &IN_PLACE[..]), ("xfs", &some), ("tmpfs", &some)] {
        let scene = Scene::new();
        let disk = Filesystem::new(&scene, kind);
        let image = disk.sparse("image", SIZE.try_into().unwrap());
        restore(&scene, &image, SIZE, &format!("-rw {UNITS}"), ways);
    }
}

#[test]
fn p12_every_tool_restores_with_all_options() {
    let scene = Scene::new();
    let image = scene.sparse("image", SIZE.try_into().unwrap());
    let all = ["--sparse", "--resize", "--sparse --resize -o zero=keep"];
    for (third, options) in all.into_iter().enumerate() {
        let ways: Vec<_> = IN_PLACE.into_iter().skip(third).step_by(3).collect();
        restore(
            &scene,
            &image,
            SIZE,
            &format!("-rw {UNITS} {options}"),
            &ways,
        );
    }
}

#[test]
fn p12_every_tool_restores_with_an_index() {
    let scene = Scene::new();
    let image = scene.sparse("image", SIZE.try_into().unwrap());
    let index = scene.path("index");
    let options = format!("-rw {UNITS} --sparse --index={}", index.display());
    let ways = [Way::Rsync("-a"), Way::Restic, Way::Dd];
    restore(&scene, &image, SIZE, &options, &ways);
}

#[test]
fn p12_every_tool_restores_to_a_device() {
    let scene = Scene::new();
    let size = 9 * BLOCK + 12_288;
    let image = scene.sparse("image", size.try_into().unwrap());
    let device = LoopDevice::new(&image);
    let ways = [Way::Rsync("-a"), Way::Rclone, Way::Borg];
    for options in ["", "--sparse"] {
        let options = format!("-rw {UNITS} {options}");
        restore(&scene, device.path(), size, &options, &ways);
    }
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
