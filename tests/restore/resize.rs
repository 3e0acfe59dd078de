//! --resize: an image of any size from a backup, from nothing and from any other size.

use std::fs;
use std::path::Path;

use super::rig::{BLOCK, IN_PLACE, REMOVING, UNITS, extents, space, with_gaps, write_thin};
use crate::support::blocks;
use crate::support::command::tool;
use crate::support::filesystem::Filesystem;
use crate::support::pattern::assert_same;
use crate::support::scene::Scene;

/// Nothing, a byte, around one block, exactly some blocks, a short last one.
const SIZES: [usize; 9] = [
    0,
    1,
    4096,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    5 * BLOCK,
    7 * BLOCK,
    9 * BLOCK + 12_345,
];

fn rsync(options: &str, from: &Path, to: &Path) {
    tool("rsync")
        .words("-a --delete")
        .words(options)
        .args([&from.join("."), to])
        .ok();
}

/// A backup of each size, sparse or not, as mounts of bmapfs give them.
fn backups(scene: &Scene, sparse: &str) -> Vec<(Vec<u8>, std::path::PathBuf)> {
    (0..)
        .zip(SIZES)
        .map(|(seed, size)| {
            let content = with_gaps(seed, size);
            let image = scene.path("source");
            write_thin(&image, &content);
            let backup = scene.dir(&format!("backup-{size}"));
            let mount = scene.mount(&image).with(UNITS).with(sparse).up();
            rsync("--inplace", mount.point(), &backup);
            mount.unmount();
            (content, backup)
        })
        .collect()
}

/// From one of the sizes to the next, each step a mount of its own.
fn steps(sparse: &str, options: &str, steps: &[usize]) {
    let scene = Scene::new();
    let backups = backups(&scene, sparse);
    let new = scene.path("new");
    for step in steps {
        let (content, backup) = &backups[*step];
        let what = format!("{} bytes, {sparse} {options}", content.len());
        let mount = scene
            .mount(&new)
            .with(&format!("{UNITS} -rw --resize {sparse}"))
            .up();
        rsync(options, backup, mount.point());
        assert_eq!(
            blocks::names(mount.point()),
            blocks::names(backup),
            "{what}"
        );
        mount.unmount();
        assert_same(&what, &fs::read(&new).unwrap(), content);
    }
}

#[test]
fn resize_grows_and_shrinks() {
    steps("", "--inplace", &[8, 1, 7, 0, 5, 6, 2, 8, 3, 4, 8, 0]);
}

#[test]
fn resize_grows_and_shrinks_without_inplace() {
    steps("", "", &[5, 8, 2, 7, 1, 6, 3, 8, 4, 0]);
}

#[test]
fn resize_grows_and_shrinks_sparse() {
    steps(
        "--sparse",
        "--inplace",
        &[8, 1, 7, 0, 5, 6, 2, 8, 3, 4, 8, 0],
    );
}

#[test]
fn resize_grows_and_shrinks_sparse_without_inplace() {
    steps("--sparse", "", &[5, 8, 2, 7, 1, 6, 3, 8, 4, 0]);
}

#[test]
fn resize_within_one_mount() {
    for sparse in ["", "--sparse", "--sparse --index=INDEX"] {
        let scene = Scene::new();
        let backups = backups(&scene, if sparse.is_empty() { "" } else { "--sparse" });
        let new = scene.path("new");
        let sparse = sparse.replace("INDEX", &scene.path("index").to_string_lossy());
        let mount = scene
            .mount(&new)
            .with(&format!("{UNITS} -rw --resize {sparse}"))
            .up();
        for step in [8, 0, 5, 7, 1, 8, 6, 3, 4, 2, 8, 5, 0, 6] {
            let (content, backup) = &backups[step];
            let what = format!("{} {sparse}", content.len());
            rsync("--inplace", backup, mount.point());
            assert_eq!(
                blocks::names(mount.point()),
                blocks::names(backup),
                "{what}"
            );
            assert_same(&what, &fs::read(&new).unwrap(), content);
        }
        mount.unmount();
        assert_same("the end", &fs::read(&new).unwrap(), &backups[6].0);
        let mount = scene.mount(&new).with(&format!("{UNITS} {sparse}")).up();
        assert_eq!(mount.image(), blocks::concatenated(&backups[6].1));
    }
}

#[test]
fn resize_every_tool_makes_a_new_image() {
    for sparse in ["--sparse", ""] {
        let scene = Scene::new();
        let backups = backups(&scene, sparse);
        let new = scene.path("new");
        for (number, way) in (1..).zip(IN_PLACE.into_iter().chain(REMOVING)) {
            // A short last block, and an exact one in turns with what has one block at most.
            for step in [8, [7, 1, 4, 6, 3, 5][number % 6]] {
                let (content, backup) = &backups[step];
                let what = format!("{way:?}, {} bytes {sparse}", content.len());
                let mount = scene
                    .mount(&new)
                    .with(&format!("{UNITS} -rw --resize {sparse}"))
                    .up();
                let outcome = way.copy(&scene, backup, mount.point());
                assert_eq!(outcome.code(), 0, "{what}: {outcome:#?}");
                mount.unmount();
                assert_same(&what, &fs::read(&new).unwrap(), content);
                fs::remove_file(&new).unwrap();
            }
        }
    }
}

#[test]
fn resize_and_sparse_make_the_same_holes() {
    for kind in ["ext4", "xfs", "btrfs", "tmpfs"] {
        let scene = Scene::new();
        let disk = Filesystem::new(&scene, kind);
        let (source, new) = (disk.path("source"), disk.path("new"));
        write_thin(&source, &with_gaps(1, 30 * BLOCK + 12_345));
        let backup = scene.dir("backup");
        let mount = scene.mount(&source).with(UNITS).with("--sparse").up();
        rsync("--inplace", mount.point(), &backup);
        mount.unmount();
        let mount = scene
            .mount(&new)
            .with(UNITS)
            .with("-rw --resize --sparse")
            .up();
        rsync("--inplace", &backup, mount.point());
        mount.unmount();
        assert_same(kind, &fs::read(&new).unwrap(), &fs::read(&source).unwrap());
        assert_eq!(extents(&new), extents(&source), "{kind}");
        assert_eq!(space(&new), space(&source), "{kind}");
    }
}
