//! Tools that remove a file before they make it again: they can restore to a sparse directory, and are refused by
//! any other.

use std::fs;

use super::rig::{BLOCK, IN_PLACE, REMOVING, UNITS, at_once, extents, with_gaps, write_thin};
use crate::support::blocks;
use crate::support::command::tool;
use crate::support::filesystem::Filesystem;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

const SIZE: usize = 11 * BLOCK + 12_345;

#[test]
fn every_tool_restores_to_a_sparse_directory() {
    let outer = Scene::new();
    let disks = ["ext4", "xfs", "tmpfs"].map(|kind| Filesystem::new(&outer, kind));
    let content = with_gaps(1, SIZE);
    let source = disks[0].path("source");
    write_thin(&source, &content);
    let backup = outer.dir("backup");
    let mount = outer.mount(&source).with(UNITS).with("--sparse").up();
    tool("cp")
        .arg("-a")
        .arg(mount.point().join("."))
        .arg(&backup)
        .ok();
    mount.unmount();
    let names = blocks::names(&backup);
    let ways = REMOVING.into_iter().chain(IN_PLACE);
    let cases = ways.zip(disks.iter().cycle()).enumerate();
    at_once(cases, |scene, (number, (way, disk))| {
        let what = format!("{way:?}, {}", disk.point().display());
        let target = disk.path(&format!("target-{number}"));
        fs::write(&target, pattern(2, SIZE)).unwrap();
        let mount = scene.mount(&target).with(UNITS).with("-rw --sparse").up();
        for name in blocks::names(mount.point()) {
            if !names.contains(&name) {
                fs::remove_file(mount.point().join(name)).unwrap();
            }
        }
        let outcome = way.copy(scene, &backup, mount.point());
        assert_eq!(outcome.code(), 0, "{what}: {outcome:#?}");
        assert_eq!(blocks::names(mount.point()), names, "{what}");
        mount.unmount();
        assert_same(&what, &fs::read(&target).unwrap(), &content);
        let (new, old) = (extents(&target), extents(&source));
        let taken = |ranges: &[(i64, i64)]| ranges.iter().map(|(a, b)| b - a).sum::<i64>();
        // Small writes do not show long runs of zeros; whole blocks are holes whoever restores.
        let slack = i64::try_from(3 * BLOCK / 2).unwrap();
        assert!(
            taken(&new) <= taken(&old) + slack,
            "{what}: {new:?}, {old:?}"
        );
    });
}

#[test]
fn p12_what_removes_first_fails_without_sparse_and_changes_nothing() {
    at_once(REMOVING, |scene, way| {
        let content = pattern(3, SIZE);
        let backup = scene.dir("backup");
        blocks::split_into(&backup, &pattern(4, SIZE), BLOCK);
        let image = scene.file("image", &content);
        let mount = scene.mount(&image).with(UNITS).with("-rw").up();
        let outcome = way.copy(scene, &backup, mount.point());
        assert_ne!(outcome.code(), 0, "{way:?}");
        mount.unmount();
        assert_same(&format!("{way:?}"), &fs::read(&image).unwrap(), &content);
    });
}

#[test]
fn p12_delete_with_an_empty_source_fails_without_sparse_and_changes_nothing() {
    let scene = Scene::new();
    let content = pattern(5, SIZE);
    let image = scene.file("image", &content);
    let empty = scene.dir("empty");
    let mount = scene.mount(&image).with(UNITS).with("-rw").up();
    for options in [
        "-a --inplace --delete",
        "-a --delete",
        "-r --delete-after --force",
    ] {
        let outcome = tool("rsync")
            .words(options)
            .args([&empty.join("."), mount.point()])
            .run();
        assert_ne!(outcome.code(), 0, "{options}: {outcome:#?}");
    }
    let outcome = tool("sh")
        .arg("-c")
        .arg(format!("rm -f {}/*", mount.point().display()))
        .run();
    assert_ne!(outcome.code(), 0);
    assert_same("the mount", &mount.image(), &content);
    mount.unmount();
    assert_same("the image", &fs::read(&image).unwrap(), &content);
}
