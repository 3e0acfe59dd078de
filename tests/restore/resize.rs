//! --resize: an image of any size from a backup, from nothing and from any other size.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::rig::{
    BLOCK, IN_PLACE, REMOVING, UNITS, at_once, extents, space, with_gaps, write_thin,
};
use crate::support::blocks;
use crate::support::command::tool;
use crate::support::filesystem::{Filesystem, WITH_HOLES};
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
fn backups(scene: &Scene, sparse: &str) -> Vec<(Vec<u8>, PathBuf)> {
    let all: Vec<_> = (0..)
        .zip(SIZES)
        .map(|(seed, size)| (with_gaps(seed, size), scene.dir(&format!("backup-{size}"))))
        .collect();
    at_once((0_u64..).zip(&all), |scene, (number, (content, backup))| {
        let image = scene.path("source");
        write_thin(&image, content);
        // A time of its own, so that rsync takes no block for that of another.
        let time = UNIX_EPOCH + Duration::from_secs(1_000_000_000 + 10 * number);
        blocks::open_rw(&image).set_modified(time).unwrap();
        let mount = scene.mount(&image).with(UNITS).with(sparse).up();
        rsync("--inplace", mount.point(), backup);
        mount.unmount();
    });
    all
}

/// From nothing to a short last block, an exact one, a byte; and between any two in turns.
const STEPS: [(usize, usize); 12] = [
    (0, 8),
    (0, 6),
    (0, 1),
    (8, 1),
    (1, 7),
    (7, 0),
    (5, 6),
    (6, 2),
    (2, 8),
    (8, 3),
    (3, 4),
    (4, 5),
];

#[test]
fn resize_grows_and_shrinks() {
    let outer = [Scene::new(), Scene::new()];
    let modes = [("", 0), ("--sparse", 1)];
    let backups = modes.map(|(sparse, mode)| backups(&outer[mode], sparse));
    let cases = modes.into_iter().flat_map(|mode| {
        let every = STEPS.map(|step| (mode, "--inplace", step));
        let second = STEPS.into_iter().step_by(2);
        every
            .into_iter()
            .chain(second.map(move |step| (mode, "", step)))
    });
    at_once(cases, |scene, ((sparse, mode), options, (from, to))| {
        let (old, _) = &backups[mode][from];
        let (content, backup) = &backups[mode][to];
        let what = format!(
            "{} to {} bytes, {sparse} {options}",
            old.len(),
            content.len()
        );
        let image = scene.path("image");
        // An absent image is as good as an empty one.
        if !old.is_empty() {
            write_thin(&image, old);
        }
        let mount = scene
            .mount(&image)
            .with(&format!("{UNITS} -rw --resize {sparse}"))
            .up();
        rsync(options, backup, mount.point());
        assert_eq!(
            blocks::names(mount.point()),
            blocks::names(backup),
            "{what}"
        );
        mount.unmount();
        assert_same(&what, &fs::read(&image).unwrap(), content);
    });
}

#[test]
fn resize_within_one_mount() {
    at_once(
        ["", "--sparse", "--sparse --index=INDEX"],
        |scene, sparse| {
            let backups = backups(scene, if sparse.is_empty() { "" } else { "--sparse" });
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
        },
    );
}

#[test]
fn resize_every_tool_makes_a_new_image() {
    let outer = [Scene::new(), Scene::new()];
    let modes = [("", 0), ("--sparse", 1)];
    let backups = modes.map(|(sparse, mode)| backups(&outer[mode], sparse));
    let ways = || IN_PLACE.into_iter().chain(REMOVING).zip(1..);
    let cases = modes
        .into_iter()
        .flat_map(|mode| ways().map(move |way| (mode, way)));
    at_once(cases, |scene, ((sparse, mode), (way, number))| {
        // A short last block in one mode; in the other an exact one, or one block at most.
        let step = if number % 2 == mode {
            8
        } else {
            [7, 1, 4, 6, 3, 5][number % 6]
        };
        let (content, backup) = &backups[mode][step];
        let what = format!("{way:?}, {} bytes {sparse}", content.len());
        let new = scene.path("new");
        let mount = scene
            .mount(&new)
            .with(&format!("{UNITS} -rw --resize {sparse}"))
            .up();
        let outcome = way.copy(scene, backup, mount.point());
        assert_eq!(outcome.code(), 0, "{what}: {outcome:#?}");
        mount.unmount();
        assert_same(&what, &fs::read(&new).unwrap(), content);
    });
}

#[test]
fn resize_and_sparse_make_the_same_holes() {
    at_once(WITH_HOLES, |scene, kind| {
        let disk = Filesystem::new(scene, kind);
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
    });
}

#[test]
fn resize_a_run_makes_a_new_image_and_brings_it_in_step() {
    let scene = Scene::new();
    let source = scene.path("source");
    let (new, backup) = (scene.path("new"), scene.dir("backup"));
    let run = |options: &str, image: &Path, from: &Path, to: &Path| {
        scene
            .bmapfs()
            .words(&format!("run -q --sparse {UNITS} {options}"))
            .arg(image)
            .words("-- rsync -a --inplace --delete")
            .args([&from.join("."), to])
            .ok()
    };
    let mount = Path::new("{}");
    for size in [9 * BLOCK + 12_345, 4 * BLOCK] {
        let content = with_gaps(1, size);
        write_thin(&source, &content);
        run("", &source, mount, &backup);
        run("-w --resize", &new, &backup, mount);
        assert_same("the new image", &fs::read(&new).unwrap(), &content);
        assert_eq!(extents(&new), extents(&source));
    }
}
