//! Backup programs that know files by path, size and times: their second backup reads only what changed.

use std::fs;
use std::path::Path;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

use super::rig::{Rig, whole_numbers};

const BLOCKS: u64 = 24;

/// The numbers at the ends of the lines that `wanted` lets through.
fn blocks_named<'t>(lines: impl Iterator<Item = &'t str>) -> Vec<u64> {
    let mut blocks: Vec<u64> = lines
        .filter_map(|line| line.rsplit('/').next()?.get(..8)?.parse().ok())
        .collect();
    blocks.sort_unstable();
    blocks
}

/// An image, or a loop device with the same content.
fn each_kind_of_source(test: impl Fn(&Scene, &Path)) {
    let scene = Scene::new();
    let content = pattern(1, usize::try_from(BLOCKS * super::rig::BLOCK).unwrap());
    test(&scene, &scene.file("a.img", &content));
    let scene = Scene::new();
    let device = LoopDevice::new(&scene.file("a.img", &content));
    test(&scene, device.path());
}

#[test]
fn restic_sees_only_changed_files_as_changed() {
    each_kind_of_source(|scene, source| {
        let rig = Rig::new(scene, source);
        let repository = scene.path("restic");
        let restic = |tool: crate::support::command::Tool| {
            tool.env("RESTIC_PASSWORD", "secret")
                .env("RESTIC_REPOSITORY", &repository)
                .env("RESTIC_CACHE_DIR", scene.path("cache"))
        };
        restic(tool("restic").words("init -q")).ok();
        let backup = || {
            let text = restic(rig.run("").words("restic backup --json {}")).ok();
            let summary = whole_numbers(text.lines().last().unwrap());
            ["files_new", "files_changed", "files_unmodified"].map(|key| summary[key])
        };
        assert_eq!(backup(), [BLOCKS, 0, 0]);
        assert_eq!(backup(), [0, 0, BLOCKS]);
        rig.change(3, b"changed");
        rig.change(11, b"changed");
        assert_eq!(backup(), [0, 2, BLOCKS - 2]);
        assert_eq!(backup(), [0, 0, BLOCKS]);
        let target = scene.path("restored");
        restic(
            tool("restic")
                .words("restore latest -q --target")
                .arg(&target),
        )
        .ok();
        let mount = fs::read_dir(target.join("run/bmapfs.mounts"))
            .unwrap()
            .next();
        let restored = blocks::concatenated(&mount.unwrap().unwrap().path());
        assert_same("restored", &restored, &blocks::read(source));
    });
}

#[test]
fn borg_reads_only_changed_files_and_at_most_the_newest_again() {
    each_kind_of_source(|scene, source| {
        let rig = Rig::new(scene, source);
        let borg = |tool: crate::support::command::Tool| {
            tool.env("BORG_BASE_DIR", scene.path("borg-base"))
                .env("BORG_REPO", scene.path("borg"))
                .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
        };
        borg(tool("borg").words("init -e none")).ok();
        // With --list, A is a file that borg had not in mind, M one that changed, U one that it skipped.
        let backup = |name: &str| {
            let create = rig.run("").words("borg create --list --filter AMCEU");
            let outcome = borg(create.arg(format!("::{name}")).arg("{}")).run();
            let said = outcome.stderr.clone();
            outcome.ok();
            let with = |letters: &str| {
                blocks_named(said.lines().filter(|line| {
                    line.get(..2)
                        .is_some_and(|start| letters.contains(&start[..1]) && start.ends_with(' '))
                }))
            };
            (with("AMCE"), with("U"))
        };
        let all: Vec<u64> = (0..BLOCKS).collect();
        assert_eq!(backup("one").0, all);
        let (read, skipped) = backup("two");
        assert!(read.len() <= 1, "unchanged, but read: {read:?}");
        assert_eq!(skipped.len() + read.len(), all.len());
        rig.change(3, b"changed");
        rig.change(11, b"changed");
        let newest = read;
        let (read, _) = backup("three");
        let known: Vec<u64> = read
            .into_iter()
            .filter(|block| !newest.contains(block))
            .collect();
        assert_eq!(known, [3, 11]);
        let (read, _) = backup("four");
        assert!(read.len() <= 1, "unchanged, but read: {read:?}");
        let target = scene.dir("restored");
        borg(
            tool("borg")
                .words("extract --strip-components 3 ::four")
                .within(&target),
        )
        .ok();
        assert_same(
            "restored",
            &blocks::concatenated(&target),
            &blocks::read(source),
        );
    });
}

#[test]
fn rclone_copies_only_changed_files() {
    each_kind_of_source(|scene, source| {
        let rig = Rig::new(scene, source);
        let backup = scene.dir("backup");
        let sync = || {
            let rclone = rig.run("").words("rclone --config /dev/null -v sync {}");
            let outcome = rclone.arg(&backup).run();
            let said = outcome.stderr.clone();
            outcome.ok();
            let copied = said.lines().filter(|line| line.contains(": Copied"));
            blocks_named(copied.filter_map(|line| Some(line.split_once("INFO  : ")?.1)))
        };
        let all: Vec<u64> = (0..BLOCKS).collect();
        assert_eq!(sync(), all);
        assert_eq!(sync(), [0; 0]);
        rig.change(3, b"changed");
        rig.change(11, b"changed");
        assert_eq!(sync(), [3, 11]);
        assert_eq!(sync(), [0; 0]);
        rig.same(&backup);
    });
}

#[test]
fn tar_with_a_snapshot_file_stores_only_what_changed_and_at_most_the_newest_again() {
    each_kind_of_source(|scene, source| {
        let rig = Rig::new(scene, source);
        let stored = || {
            let archive = scene.path("a.tar");
            rig.run("")
                .words("tar --no-check-device -C {} -c . -g")
                .arg(scene.path("snapshot"))
                .arg("-f")
                .arg(&archive)
                .ok();
            let names = tool("tar").arg("-tf").arg(&archive).ok();
            blocks_named(names.lines())
        };
        let all: Vec<u64> = (0..BLOCKS).collect();
        assert_eq!(stored(), all);
        rig.change(3, b"changed");
        rig.change(11, b"changed");
        // Like borg, tar has doubts about the newest file.
        let newest = BLOCKS - 1;
        let read: Vec<u64> = stored()
            .into_iter()
            .filter(|block| *block != newest)
            .collect();
        assert_eq!(read, [3, 11]);
    });
}
