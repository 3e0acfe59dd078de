//! P25 where the length of a block file is the client's to choose: a backup with another block size, or of an image of
//! another size, ends all writing; a true backup goes through in any order that tools use.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::rig::{BLOCK, IN_PLACE, UNITS, Way, at_once, with_gaps, write_thin};
use crate::support::blocks::{self, refused, split_into};
use crate::support::command::{Outcome, tool};
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

/// A backup of 22 blocks and a bit, with blocks of `block` bytes.
fn backup(scene: &Scene, block: usize) -> (Vec<u8>, PathBuf) {
    let content = pattern(7, 22 * BLOCK + 5000);
    let backup = scene.dir("backup");
    split_into(&backup, &content, block);
    (content, backup)
}

/// Copies all block files, four at a time, in the order that `sorted` gives them.
fn in_parallel(sorted: &str, from: &Path, to: &Path) -> Outcome {
    let copy = format!(
        "ls '{from}' | {sorted} | xargs -P 4 -I % dd 'if={from}/%' 'of={to}/%' bs=30K status=none",
        from = from.display(),
        to = to.display()
    );
    tool("sh").args(["-c", &copy]).run()
}

/// The orders in which files arrive.
const ORDERS: [&str; 3] = ["cat", "tac", "shuf"];

#[test]
fn p25_a_backup_with_smaller_blocks_ends_all_writing_with_resize() {
    let ways = IN_PLACE.into_iter().map(Ok).chain(ORDERS.map(Err));
    at_once(ways, |scene, way| {
        let (_, backup) = backup(scene, 64 << 10);
        let new = scene.path("new");
        let mount = scene
            .mount(&new)
            .with(&format!("{UNITS} -rw --resize"))
            .up_in_foreground();
        let outcome = match way {
            Ok(way) => way.copy(scene, &backup, mount.point()),
            Err(order) => in_parallel(order, &backup, mount.point()),
        };
        // Borg goes on after an error and says so with 1; all of them say something.
        assert_ne!(outcome.code(), 0, "{way:?}: {outcome:#?}");
        refused(
            "a later write",
            fs::File::create(mount.block(0)),
            libc::EPERM,
        );
        let log = mount.log();
        assert!(
            log.contains("made with -b 64K? This mount has -b 256K"),
            "{way:?}: {log}"
        );
        mount.unmount();
    });
}

#[test]
fn p25_the_image_ends_where_the_first_short_block_file_ended() {
    let scene = Scene::new();
    let (content, backup) = backup(&scene, 64 << 10);
    for options in ["--inplace", "", "--sparse --inplace"] {
        let new = scene.path("new");
        let outcome = scene
            .bmapfs()
            .words(&format!("run -w --resize {UNITS}"))
            .arg(&new)
            .words(&format!("-- rsync -a {options}"))
            .args([&backup.join("."), Path::new("{}")])
            .run();
        assert_eq!(outcome.code(), 23, "{options}: {outcome:#?}");
        assert!(
            outcome.stderr.contains("-b 64K?"),
            "{options}: {outcome:#?}"
        );
        // Whether the kernel's word that the file was closed comes before the next is created is a matter of luck.
        let image = fs::read(&new).unwrap();
        assert!(image.len() <= BLOCK, "{options}: {} bytes", image.len());
        assert_same(options, &image[..64 << 10], &content[..64 << 10]);
        fs::remove_file(&new).unwrap();
    }
}

#[test]
fn p25_run_fails_if_the_command_does_not_tell() {
    let scene = Scene::new();
    let (_, backup) = backup(&scene, 64 << 10);
    let run = |options: &str, image: &Path, from: &Path| {
        let copy = format!("cp '{}'/* {{}} || true", from.display());
        scene
            .bmapfs()
            .words(&format!("run -w {UNITS} {options}"))
            .arg(image)
            .args(["--", "sh", "-c", &copy])
            .run()
    };
    let outcome = run("--resize", &scene.path("new"), &backup);
    assert_eq!(outcome.code(), 9, "{outcome:#?}");
    let outcome = run("--resize -o no-latch", &scene.path("other"), &backup);
    assert_eq!(outcome.code(), 0, "{outcome:#?}");

    // Only the last block differs, and cp says nothing: it truncates it, and writes less than there was.
    let smaller = scene.dir("smaller");
    split_into(&smaller, &pattern(8, 3 * BLOCK + BLOCK / 2), BLOCK);
    let image = scene.file("image", &pattern(9, 4 * BLOCK));
    let outcome = run("", &image, &smaller);
    assert_eq!(outcome.code(), 9, "{outcome:#?}");
    assert!(
        outcome.stderr.contains("of an image of another size?"),
        "{outcome:#?}"
    );
}

#[test]
fn p25_a_backup_with_larger_blocks_is_named_for_temporary_files_too() {
    let scene = Scene::new();
    let (_, backup) = backup(&scene, 4 * BLOCK);
    let image = scene.file("image", &pattern(9, 22 * BLOCK));
    for (options, image) in [("--resize", scene.path("new")), ("", image)] {
        let before = fs::read(&image).unwrap_or_default();
        let mount = scene
            .mount(&image)
            .with(&format!("{UNITS} -rw {options}"))
            .up_in_foreground();
        let outcome = Way::Rsync("-a").copy(&scene, &backup, mount.point());
        assert_ne!(outcome.code(), 0, "{outcome:#?}");
        let log = mount.unmount_for_log();
        assert!(log.contains("another block size?"), "{log}");
        assert_same(options, &fs::read(&image).unwrap(), &before);
    }
}

#[test]
fn p25_a_true_backup_goes_through_in_any_order() {
    let cases = ORDERS
        .into_iter()
        .flat_map(|order| ["", "--sparse"].map(|sparse| (order, sparse)));
    at_once(cases, |scene, (order, sparse)| {
        let new = scene.path("new");
        // From nothing, and then to a larger one: the block that was last is a whole one then.
        for (seed, size) in [(1, 5 * BLOCK + 70_000), (2, 22 * BLOCK + 5000)] {
            let content = with_gaps(seed, size);
            let (source, backup) = (scene.path("source"), scene.dir(&format!("backup-{size}")));
            write_thin(&source, &content);
            let mount = scene.mount(&source).with(UNITS).with(sparse).up();
            Way::Rsync("-a").copy(scene, mount.point(), &backup);
            mount.unmount();
            let mount = scene
                .mount(&new)
                .with(&format!("{UNITS} -rw --resize {sparse}"))
                .up_in_foreground();
            let outcome = in_parallel(order, &backup, mount.point());
            assert_eq!(outcome.code(), 0, "{order} {sparse}: {outcome:#?}");
            let log = mount.unmount_for_log();
            assert!(!log.contains("block size"), "{order} {sparse}: {log}");
            let restored = fs::read(&new).unwrap();
            if sparse.is_empty() || size < 6 * BLOCK {
                assert_same(order, &restored, &content);
            } else {
                assert_eq!(restored.len(), content.len());
            }
        }
    });
}

#[test]
fn p25_restic_fills_a_file_piece_by_piece_and_out_of_order() {
    // Blocks of many of its chunks, of which several files have some before any of them is complete.
    at_once(["", "--sparse"], |scene, sparse| {
        let content = pattern(5, (22 << 20) + 5000);
        let backup = scene.dir("backup");
        split_into(&backup, &content, 4 << 20);
        let new = scene.path("new");
        let mount = scene
            .mount(&new)
            .with(&format!("-rw --resize {sparse}"))
            .up_in_foreground();
        let outcome = Way::Restic.copy(scene, &backup, mount.point());
        assert_eq!(outcome.code(), 0, "{outcome:#?}");
        let log = mount.unmount_for_log();
        assert!(!log.contains("block size"), "{log}");
        assert_same("restic", &fs::read(&new).unwrap(), &content);
    });
}

#[test]
fn p25_what_was_announced_and_did_not_come_is_said_at_the_end() {
    let scene = Scene::new();
    let new = scene.path("new");
    let mount = scene
        .mount(&new)
        .with(&format!("{UNITS} -rw --resize"))
        .up_in_foreground();
    // As restic does: announced, one piece written, and then another file.
    let file = fs::File::create(mount.block(0)).unwrap();
    announce_size(&file);
    file.write_all_at(b"piece", 0).unwrap();
    drop(file);
    fs::write(mount.block(1), pattern(1, BLOCK)).unwrap();
    let log = mount.unmount_for_log();
    assert!(
        log.contains("00000000: its file has 5 bytes, and the block has 262144"),
        "{log}"
    );
}

/// Says that the file will be as long as a block, and leaves its length.
fn announce_size(file: &fs::File) {
    let flags = nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
    // It cannot be had for what lies past the image's end, and restic does not mind.
    let _ = nix::fcntl::fallocate(file.as_fd(), flags, 0, BLOCK.try_into().unwrap());
}

#[test]
fn the_pages_tell_the_size_of_a_backup_of_many_blocks() {
    let scene = Scene::new();
    let (backup, image) = (scene.dir("backup"), scene.path("web.img"));
    // More names than a command can be given.
    for block in 0..70_000 {
        fs::write(backup.join(blocks::name(block)), b"x").unwrap();
    }
    for page in ["README.md", "doc/RESTORE.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
        let line = text.lines().find(|line| line.starts_with("truncate -s"));
        let line = line
            .unwrap()
            .replace("/backup/web", backup.to_str().unwrap())
            .replace("/var/lib/vm/web.img", image.to_str().unwrap());
        tool("sh").args(["-c", &line]).ok();
        assert_eq!(fs::metadata(&image).unwrap().len(), 70_000, "{page}");
        fs::remove_file(&image).unwrap();
    }
}
