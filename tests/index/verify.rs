//! `bmapfs sums` and `bmapfs verify`: what a backup is, by what the index knows (promise P28).

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::support::blocks;
use crate::support::command::{Outcome, Tool, tool};
use crate::support::pattern::{disk_like, pattern};
use crate::support::scene::Scene;

use super::rig::{BLOCK, Rig, change};

/// Blocks of the usual image.
pub(super) const BLOCKS: u64 = 21;

/// An image of 20 blocks and a short one, without a block of zeros.
pub(super) fn image(scene: &Scene) -> PathBuf {
    scene.file("a.img", &pattern(7, 20 * 65_536 + 1234))
}

pub(super) fn sums(rig: &Rig<'_>, options: &str) -> Tool {
    rig.face("sums", options)
}

pub(super) fn verify(rig: &Rig<'_>, options: &str, backup: &Path) -> Tool {
    rig.face("verify", options).arg(backup)
}

/// What it lists, without the counts.
fn listed(rig: &Rig<'_>, options: &str, backup: &Path) -> Vec<String> {
    let outcome = verify(rig, options, backup).arg("-v").run();
    let lines: Vec<_> = outcome.stdout.lines().map(str::to_owned).collect();
    let (_, list) = lines.split_last().unwrap();
    let status = if list.is_empty() { 0 } else { 9 };
    assert_eq!(outcome.code(), status, "{outcome:#?}");
    list.to_vec()
}

/// Has b3sum check a list in the backup's directory.
pub(super) fn b3sum(list: &str, backup: &Path) -> Outcome {
    tool("b3sum")
        .words("--check -")
        .input(list.as_bytes())
        .within(backup)
        .run()
}

/// Changes one bit and leaves the times.
pub(super) fn flip(file: &Path, offset: u64) {
    let stat = fs::metadata(file).unwrap();
    let opened = blocks::open_rw(file);
    let mut byte = [0];
    opened.read_exact_at(&mut byte, offset).unwrap();
    opened.write_all_at(&[byte[0] ^ 4], offset).unwrap();
    opened
        .set_times(FileTimes::new().set_modified(stat.modified().unwrap()))
        .unwrap();
}

/// Another time, in seconds from the present one.
fn retime(file: &Path, seconds: i64) {
    let opened = File::options().write(true).open(file).unwrap();
    let then = fs::metadata(file).unwrap().modified().unwrap();
    let step = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        then - step
    } else {
        then + step
    };
    opened
        .set_times(FileTimes::new().set_modified(time))
        .unwrap();
}

/// All that must stay as it is: content, inode and times of an index and its lock.
pub(super) fn state(index: &Path) -> Vec<(Vec<u8>, u64, i64, i64)> {
    [index.to_owned(), index.with_extension("index.lock")]
        .iter()
        .map(|file| {
            let stat = fs::metadata(file).unwrap();
            (
                fs::read(file).unwrap(),
                stat.ino(),
                stat.ctime(),
                stat.ctime_nsec(),
            )
        })
        .collect()
}

#[test]
fn p28_a_flipped_bit_a_missing_and_a_surplus_file_are_found() {
    let scene = Scene::new();
    let image = image(&scene);
    let rig = Rig::new(&scene, &image);
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    let before = state(&rig.index);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let times = FileTimes::new().set_accessed(long_ago);
    blocks::open_rw(backup.join(blocks::name(4)))
        .set_times(times)
        .unwrap();
    let list = sums(&rig, "").ok();
    assert_eq!(list.lines().count() as u64, BLOCKS);
    let said = verify(&rig, "", &backup).ok();
    let read = fs::metadata(backup.join(blocks::name(4))).unwrap();
    assert_eq!(read.accessed().unwrap(), long_ago, "not even that changes");
    b3sum(&list, &backup).ok();
    let all = "21 blocks: 21 right, 0 damaged, 0 unreadable, 0 missing, 0 surplus, 0 older, 0 newer, 0 unknown; 1311954 bytes read";
    assert!(said.starts_with(all), "{said}");

    flip(&backup.join(blocks::name(3)), 40_000);
    flip(&backup.join(blocks::name(20)), 1233);
    fs::remove_file(backup.join(blocks::name(5))).unwrap();
    fs::remove_file(backup.join(blocks::name(6))).unwrap();
    fs::write(backup.join(blocks::name(99)), b"more").unwrap();
    fs::write(backup.join(".00000003.Xy12Zw"), b"left").unwrap();
    let outcome = b3sum(&list, &backup);
    assert_eq!(outcome.code(), 1, "{outcome:#?}");
    for (number, failed) in [(3, true), (4, false), (5, true), (20, true)] {
        let line = format!("{}: FAILED", blocks::name(number));
        let all = outcome.stdout.clone() + &outcome.stderr;
        assert_eq!(all.contains(&line), failed, "{number}: {all}");
    }
    let found = ["damaged 3", "damaged 20", "missing 5-6", "surplus 99"];
    assert_eq!(listed(&rig, "", &backup), found);
    let outcome = verify(&rig, "--json", &backup).run();
    assert_eq!(outcome.code(), 9, "{outcome:#?}");
    for part in [
        r#"{"blocks":21,"right":17,"damaged":{"blocks":2,"ranges":[[3,3],[20,20]]},"#,
        r#""unreadable":{"blocks":0,"ranges":[]},"missing":{"blocks":2,"ranges":[[5,6]]},"surplus":{"blocks":1,"ranges":[[99,99]]},"#,
        r#""older":{"blocks":0,"ranges":[]},"newer":{"#,
        r#""unknown":{"blocks":0,"ranges":[]},"bytes_read":"#,
    ] {
        assert!(outcome.stdout.contains(part), "{part}: {outcome:#?}");
    }
    assert_eq!(outcome.stdout.lines().count(), 1);
    assert!(
        outcome
            .stderr
            .contains("names that are no blocks are ignored"),
        "{outcome:#?}"
    );
    assert_eq!(state(&rig.index), before, "the index is as it was");

    // rsync goes by the times: what is damaged it leaves, what is missing it copies.
    assert_eq!(rig.sync(&backup).blocks, [5, 6]);
    assert_eq!(
        listed(&rig, "", &backup),
        ["damaged 3", "damaged 20", "surplus 99"]
    );
    for number in [3, 20, 99] {
        fs::remove_file(backup.join(blocks::name(number))).unwrap();
    }
    assert_eq!(rig.sync(&backup).blocks, [3, 20]);
    assert_eq!(listed(&rig, "", &backup), [""; 0]);
}

#[test]
fn p28_what_the_next_copy_mends_is_older_or_newer() {
    let scene = Scene::new();
    let image = image(&scene);
    let rig = Rig::new(&scene, &image);
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    let file = |number| backup.join(blocks::name(number));
    // Not copied yet.
    rig.change(4, b"new");
    change(&image, 20 * BLOCK, b"new");
    rig.scan("").ok();
    // The same content, but of another time.
    retime(&file(6), -100);
    retime(&file(7), 100);
    // As rsync leaves a file when it is killed.
    blocks::open_rw(file(8)).write_all_at(b"half", 100).unwrap();
    blocks::open_rw(file(9)).set_len(1000).unwrap();
    for number in [8, 9] {
        let now = SystemTime::now() + Duration::from_secs(2);
        let opened = blocks::open_rw(file(number));
        opened
            .set_times(FileTimes::new().set_modified(now))
            .unwrap();
    }
    let found = ["older 4", "older 6-7", "older 20", "newer 8-9"];
    assert_eq!(listed(&rig, "", &backup), found);
    assert_eq!(rig.sync_well(&backup), [4, 6, 7, 8, 9, 20]);
    assert_eq!(listed(&rig, "", &backup), [""; 0]);
    // Cut short, and the time set back: rsync goes by the length, too.
    let time = fs::metadata(file(9)).unwrap().modified().unwrap();
    blocks::open_rw(file(9)).set_len(1000).unwrap();
    let opened = blocks::open_rw(file(9));
    opened
        .set_times(FileTimes::new().set_modified(time))
        .unwrap();
    assert_eq!(listed(&rig, "", &backup), ["damaged 9"]);
}

#[test]
fn p28_a_sparse_backup_needs_no_file_for_zeros() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 40 * BLOCK);
    change(&image, 3 * BLOCK, &disk_like(1, 200_000));
    change(&image, 20 * BLOCK, &vec![0; 65_536]);
    change(&image, 30 * BLOCK, &pattern(2, 65_536));
    let rig = Rig::new(&scene, &image);
    let backup = scene.dir("backup");
    rig.rsync("--sparse", &backup).arg("--delete").ok();
    let files = blocks::names(&backup);
    let list = sums(&rig, "--sparse").ok();
    let names: Vec<_> = list.lines().map(|line| &line[66..]).collect();
    assert_eq!(names, files);
    assert!(files.len() < 10 && files.contains(&blocks::name(39)));
    b3sum(&list, &backup).ok();
    assert_eq!(sums(&rig, "").ok().lines().count(), 40);
    assert_eq!(listed(&rig, "--sparse", &backup), [""; 0]);
    let missing = listed(&rig, "", &backup);
    assert!(missing.len() > 1 && missing.iter().all(|line| line.starts_with("missing ")));
    for number in [0, 30, 39] {
        fs::remove_file(backup.join(blocks::name(number))).unwrap();
    }
    let found = ["missing 0", "missing 30", "missing 39"];
    assert_eq!(listed(&rig, "--sparse", &backup), found);
    // Files of zeros do no harm, and holes in them are not read.
    rig.rsync("", &backup).arg("-S").ok();
    assert_eq!(listed(&rig, "--sparse", &backup), [""; 0]);
    let said = verify(&rig, "--json", &backup).ok();
    let read = said.split("\"bytes_read\":").nth(1).unwrap();
    let read: u64 = read.split(',').next().unwrap().parse().unwrap();
    assert!((2 * BLOCK..9 * BLOCK).contains(&read), "{said}");
}

#[test]
fn p28_what_is_not_settled_is_not_told() {
    let scene = Scene::new();
    let image = image(&scene);
    let rig = Rig::new(&scene, &image);
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    // A block that has changed is written again after the scan and before the copy.
    rig.change(2, b"new");
    let script = "printf other | dd of=\"$1\" bs=65536 seek=2 conv=notrunc status=none && rsync -a --inplace \"$2\"/ \"$3\"/";
    let command = |rig: &Rig<'_>| {
        let tool = rig.run("").args(["sh", "-c", script, "sh"]);
        tool.arg(&image).arg("{}").arg(&backup)
    };
    command(&rig).ok();
    let outcome = sums(&rig, "").run();
    assert_eq!(outcome.code(), 9, "{outcome:#?}");
    assert_eq!(outcome.stdout.lines().count() as u64, BLOCKS - 1);
    assert!(!outcome.stdout.contains("00000002"), "{outcome:#?}");
    let says = "the index is not certain of 1 of 21 blocks, the first is 00000002";
    assert!(outcome.stderr.contains(says), "{outcome:#?}");
    b3sum(&outcome.stdout, &backup).ok();
    assert_eq!(listed(&rig, "", &backup), ["unknown 2"]);
    // Whatever its file is.
    flip(&backup.join(blocks::name(2)), 9);
    assert_eq!(listed(&rig, "", &backup), ["unknown 2"]);
    fs::remove_file(backup.join(blocks::name(2))).unwrap();
    assert_eq!(listed(&rig, "", &backup), ["missing 2"]);
    assert_eq!(listed(&rig, "--sparse", &backup), ["unknown 2"]);
    assert_eq!(rig.sync_well(&backup), [2]);
    assert_eq!(listed(&rig, "", &backup), [""; 0]);

    let mut mount = rig.mount("").up();
    mount.kill();
    let outcome = sums(&rig, "").run();
    assert_eq!((outcome.code(), &*outcome.stdout), (9, ""), "{outcome:#?}");
    assert!(outcome.stderr.contains("was killed"), "{outcome:#?}");
    assert_eq!(listed(&rig, "", &backup), ["unknown 0-20"]);
    mount.detach();
}

#[test]
fn p28_each_block_is_in_one_part() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    flip(&backup.join(blocks::name(13)), 1);
    fs::remove_file(backup.join(blocks::name(8))).unwrap();
    fs::write(backup.join(blocks::name(30)), b"more").unwrap();
    for (part, blocks, found) in [
        ("1/3", 7, &["surplus 30"][..]),
        ("2/3", 7, &["damaged 13"]),
        ("3/3", 7, &["missing 8"]),
        ("1/1", 21, &["damaged 13", "missing 8", "surplus 30"]),
        ("9/4000", 1, &["missing 8"]),
        ("4000/4000", 0, &[]),
    ] {
        let options = format!("--part {part}");
        assert_eq!(listed(&rig, &options, &backup), found, "{part}");
        let said = verify(&rig, &options, &backup).run().stdout;
        assert!(said.starts_with(&format!("{blocks} blocks: ")), "{said}");
    }
}
