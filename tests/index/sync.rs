//! What the index is for: rsync transfers, and reads, exactly what changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::pattern::{Random, assert_same, disk_like, pattern};
use crate::support::scene::Scene;

use super::rig::{BLOCK, Rig, change, now, synced, transferred};
use crate::support::wait_until;

/// An image of `blocks` blocks, most of it holes, as disks are: every eighth block has data.
fn sparse_disk(scene: &Scene, blocks: u64) -> std::path::PathBuf {
    let image = scene.sparse("a.img", blocks * BLOCK);
    for block in (0..blocks).step_by(8) {
        change_unflushed(&image, block * BLOCK, &disk_like(block, 60_000));
    }
    image
}

fn change_unflushed(path: &Path, offset: u64, bytes: &[u8]) {
    crate::support::scene::poke(path, offset, bytes);
}

/// Changes one block in a hundred, and gives their numbers, in order.
fn change_one_percent(source: &Path, blocks: u64, seed: u64) -> Vec<u64> {
    let mut random = Random::new(seed);
    let mut changed: Vec<u64> = Vec::new();
    while changed.len() < usize::try_from(blocks / 100).unwrap() {
        let block = random.below(blocks);
        if !changed.contains(&block) {
            change(source, block * BLOCK + random.below(60_000), b"changed");
            changed.push(block);
        }
    }
    changed.sort_unstable();
    changed
}

/// The blocks that a program under strace has opened.
fn opened(trace: &Path) -> Vec<u64> {
    let text = fs::read_to_string(trace).unwrap();
    let mut blocks: Vec<u64> = text
        .lines()
        .filter(|line| !line.contains("O_PATH") && !line.contains("ENOENT"))
        .filter_map(|line| {
            let (_, rest) = line.split_once('"')?;
            let (path, _) = rest.split_once('"')?;
            let name = path.rsplit('/').next()?;
            (name.len() == 8).then(|| name.parse().ok())?
        })
        .collect();
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

fn one_percent_is_all_that_moves(scene: &Scene, source: &Path, blocks: u64) {
    let rig = Rig::new(scene, source);
    let backup = scene.dir("backup");
    let all: Vec<u64> = (0..blocks).collect();
    assert_eq!(rig.sync_well(&backup), all, "the first sync");
    assert_eq!(rig.sync_well(&backup), [0; 0], "an unchanged image");
    for round in 0..2 {
        let changed = change_one_percent(source, blocks, round);
        let trace = scene.path("trace");
        let outcome = rig
            .run("")
            .words("strace -f -e trace=open,openat -o")
            .arg(&trace)
            .words("rsync -a --inplace --itemize-changes {}/")
            .arg(&backup)
            .run();
        let synced = synced(outcome);
        assert_eq!(synced.blocks, changed);
        assert_eq!(opened(&trace), changed, "no other block is opened");
        let counts = format!("{} blocks, {} changed, ", blocks, changed.len());
        assert!(synced.said.contains(&counts), "{}", synced.said);
        rig.same(&backup);
    }
    assert_eq!(rig.sync_well(&backup), [0; 0], "at last");
}

#[test]
fn one_percent_of_a_file() {
    let scene = Scene::new();
    let image = sparse_disk(&scene, 1600);
    one_percent_is_all_that_moves(&scene, &image, 1600);
}

#[test]
fn one_percent_of_a_device_whose_times_never_move() {
    let scene = Scene::new();
    let device = LoopDevice::new(&sparse_disk(&scene, 1600));
    one_percent_is_all_that_moves(&scene, device.path(), 1600);
}

#[test]
fn one_percent_of_a_gibibyte_in_default_blocks() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 1 << 30);
    for block in (0..256).step_by(16) {
        change_unflushed(&image, block << 22, &pattern(block, 1 << 20));
    }
    let rig = Rig::new(&scene, &image).with_blocks("4M");
    let backup = scene.dir("backup");
    // Holes stay holes at the destination, so that the test needs no gibibyte of disk.
    let rsync = |options: &str| {
        let tool = rig
            .run("")
            .words("rsync -a --itemize-changes")
            .words(options);
        transferred(&tool.arg("{}/").arg(&backup).ok())
    };
    assert_eq!(rsync("--sparse").len(), 256);
    for block in [3, 16, 255] {
        change(&image, (block << 22) + 12_345, b"changed");
    }
    assert_eq!(rsync("--inplace"), [3, 16, 255]);
    assert_eq!(rsync("--inplace"), [0; 0]);
    for block in 0..256_u64 {
        let copy = backup.join(blocks::name(block));
        tool("cmp")
            .words(&format!(
                "--bytes={} --ignore-initial={}:0",
                1 << 22,
                block << 22
            ))
            .args([&image, &copy])
            .ok();
    }
}

#[test]
fn unchanged_blocks_of_link_dest_versions_are_hard_links() {
    let scene = Scene::new();
    let content = disk_like(1, 20 * 65_536 + 100);
    let image = scene.file("a.img", &content);
    let rig = Rig::new(&scene, &image);
    let versions = scene.dir("versions");
    let version = |name: &str, link: &str| {
        let tool = rig.run("").words("rsync -a").words(link);
        tool.arg("{}/").arg(versions.join(name)).ok();
    };
    version("1", "");
    rig.change(4, b"changed");
    rig.change(20, b"");
    change(&image, 20 * BLOCK + 99, b"!");
    version("2", "--link-dest=../1");
    let inode = |version: &str, block: u64| {
        let path = versions.join(version).join(blocks::name(block));
        fs::metadata(path).unwrap().ino()
    };
    for block in 0..=20 {
        let linked = inode("1", block) == inode("2", block);
        assert_eq!(linked, ![4, 20].contains(&block), "block {block}");
    }
    assert_same(
        "the first version",
        &blocks::concatenated(&versions.join("1")),
        &content,
    );
    rig.same(&versions.join("2"));
}

#[test]
fn what_was_restored_through_the_index_is_not_transferred_again() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(2, 40 * 65_536 + 5_000));
    let device = LoopDevice::new(&scene.file("b.img", &disk_like(2, 40 * 65_536)));
    for (name, source) in [("a", image.as_path()), ("b", device.path())] {
        let rig = Rig::new(&scene, source).with_index(scene.path(format!("{name}.index")));
        let backup = scene.dir(&format!("backup-{name}"));
        rig.sync_well(&backup);
        // Broken in three places, and put back.
        for block in [0, 17, 39] {
            rig.change(block, b"an accident");
        }
        let mount = rig.mount("-rw").up();
        let restored = tool("rsync")
            .words("-a --inplace --itemize-changes")
            .arg(backup.join("."))
            .arg(mount.point())
            .ok();
        // The scan at the mount has seen what differs.
        assert_eq!(transferred(&restored), [0, 17, 39], "{name}");
        mount.unmount();
        assert_eq!(rig.sync_well(&backup), [0; 0], "{name}");
        assert_eq!(rig.sync_well(&backup), [0; 0], "{name}, once more");
    }
}

#[test]
fn a_whole_restore_onto_zeros_is_not_transferred_again() {
    let scene = Scene::new();
    let content = disk_like(3, 30 * 65_536 + 7);
    let image = scene.file("a.img", &content);
    let backup = scene.dir("backup");
    Rig::new(&scene, &image).sync_well(&backup);
    let other = scene.sparse("other.img", u64::try_from(content.len()).unwrap());
    let rig = Rig::new(&scene, &other).with_index(scene.path("other.index"));
    let mount = rig.mount("-rw").up();
    tool("rsync")
        .words("-a --inplace")
        .arg(backup.join("."))
        .arg(mount.point())
        .ok();
    mount.unmount();
    assert_same("restored", &blocks::read(&other), &content);
    assert_eq!(rig.sync_well(&backup), [0; 0]);
}

#[test]
fn two_targets_at_different_times_from_one_index() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(4, 60 * 65_536));
    let rig = Rig::new(&scene, &image);
    let (often, seldom) = (scene.dir("often"), scene.dir("seldom"));
    rig.sync_well(&often);
    rig.sync_well(&seldom);
    let mut random = Random::new(4);
    for round in 0..6_u64 {
        let mut changed = Vec::new();
        for _ in 0..3 {
            let block = random.below(60);
            // Back to what it was in some rounds: a history that a digest alone would not see.
            rig.change(block, &pattern(round % 2, 50));
            changed.push(block);
        }
        changed.sort_unstable();
        changed.dedup();
        let moved = rig.sync_well(&often);
        assert!(
            moved.iter().all(|block| changed.contains(block)),
            "{moved:?} of {changed:?}"
        );
        if round % 3 == 2 {
            rig.sync_well(&seldom);
            assert_eq!(rig.sync_well(&seldom), [0; 0]);
        }
    }
}

#[test]
fn changes_in_quick_succession_are_all_seen() {
    let scene = Scene::new();
    let image = scene.file("a.img", &disk_like(5, 10 * 65_536));
    let rig = Rig::new(&scene, &image);
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    let begun = now();
    for round in 0..8_u8 {
        rig.change(5, &[round % 2; 40]);
        assert_eq!(rig.sync_well(&backup), [5], "round {round}");
    }
    // The stamps ran ahead of the clock; nothing of that hurts.
    assert!(rig.stamps()[&5] >= begun + 14);
    wait_until("the next second", || now() > begun + 1);
    assert_eq!(rig.sync_well(&backup), [0; 0]);
}

#[test]
fn p14_a_backup_followed_at_once_by_its_restore_is_right_each_time() {
    std::thread::scope(|scope| {
        for number in 0..10 {
            scope.spawn(move || {
                let scene = Scene::new();
                let image = scene.file("a.img", &disk_like(number, 3 * 65_536));
                let backup = scene.dir("backup");
                for round in 0..10_u8 {
                    let run = |options: &str| {
                        let tool = scene.bmapfs().words("run -b 64K").words(options);
                        tool.arg(&image).words("-- rsync -a --inplace")
                    };
                    change(&image, 65_536 + 5, &[round; 7]);
                    let good = blocks::read(&image);
                    run("").arg("{}/").arg(&backup).ok();
                    // Lost at once, and put back at once.
                    change(&image, 65_536 + 5, b"damaged");
                    change(&image, 2 * 65_536, b"damaged");
                    run("-rw")
                        .arg(format!("{}/", backup.display()))
                        .arg("{}/")
                        .ok();
                    assert_same("restored", &blocks::read(&image), &good);
                }
            });
        }
    });
}
