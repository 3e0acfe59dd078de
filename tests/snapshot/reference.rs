//! The clone that stays for the next run: whatever happens to it, the next run is right, and one later is cheap again.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bmapfs::changes::ImageState;

use crate::support::command::tool;
use crate::support::filesystem::Filesystem;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

use super::rig::{BLOCK, KINDS, Rig};

/// Does something to a clone.
type Damage = fn(&Path);

#[test]
fn a_clone_that_is_not_as_it_was_left_is_not_believed() {
    let damages: [(&str, Damage); 11] = [
        ("removed", |clone| fs::remove_file(clone).unwrap()),
        ("touched", |clone| {
            tool("touch").arg(clone).ok();
        }),
        ("its mode", |clone| {
            tool("chmod").arg("0640").arg(clone).ok();
        }),
        ("written", |clone| {
            let file = File::options().write(true).open(clone).unwrap();
            let stat = file.metadata().unwrap();
            file.write_all_at(b"x", 20 * BLOCK).unwrap();
            file.set_modified(stat.modified().unwrap()).unwrap();
        }),
        ("cut", |clone| {
            File::options()
                .write(true)
                .open(clone)
                .unwrap()
                .set_len(3 * BLOCK)
                .unwrap();
        }),
        ("replaced by its copy", |clone| {
            let copy = clone.with_file_name("copy");
            tool("cp")
                .args(["-a", "--reflink=always"])
                .arg(clone)
                .arg(&copy)
                .ok();
            fs::rename(copy, clone).unwrap();
        }),
        ("away and back", |clone| {
            let away = clone.with_file_name("away");
            fs::rename(clone, &away).unwrap();
            fs::rename(away, clone).unwrap();
        }),
        ("with a second name", |clone| {
            fs::hard_link(clone, clone.with_file_name("second")).unwrap();
        }),
        ("behind a link", |clone| {
            let away = clone.with_file_name("aside");
            fs::rename(clone, &away).unwrap();
            std::os::unix::fs::symlink(&away, clone).unwrap();
        }),
        ("a FIFO", |clone| {
            fs::remove_file(clone).unwrap();
            tool("mkfifo").arg(clone).ok();
        }),
        ("a directory", |clone| {
            fs::remove_file(clone).unwrap();
            fs::create_dir(clone).unwrap();
        }),
    ];
    for kind in KINDS {
        let scene = Scene::new();
        let rig = Rig::new(&scene, kind);
        for (what, damage) in damages {
            let then = rig.keep(&rig.take_for(&rig.index));
            rig.change(&[20]);
            assert_eq!(rig.since(&rig.index, &then), Some(vec![20]), "{kind}");
            let clone = rig.clone();
            damage(&clone);
            assert_eq!(rig.since(&rig.index, &then), None, "{kind}: {what}");
            // The next one is good again; what is in the place of a clone and no file is left alone.
            let is_file = clone.symlink_metadata().is_ok_and(|stat| stat.is_file());
            let is_there = clone.symlink_metadata().is_ok();
            let then = rig.keep(&rig.take_for(&rig.index));
            assert_eq!(
                clone.symlink_metadata().is_ok(),
                is_there && !is_file,
                "{kind}: {what}"
            );
            assert_eq!(rig.since(&rig.index, &then), Some(vec![]), "{kind}: {what}");
            if is_there && !is_file {
                fs::rename(&clone, rig.filesystem.path(what)).unwrap();
            }
        }
    }
}

#[test]
fn one_line_says_why_all_is_read() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, "xfs");
    rig.sync();
    tool("touch").arg(rig.clone()).ok();
    rig.change(&[20]);
    let synced = rig.sync();
    assert_eq!((synced.blocks, synced.read), (vec![20], Rig::all()));
    let lines = synced.said.lines();
    let whys: Vec<_> = lines
        .filter(|line| line.contains("touched: all of it is read"))
        .collect();
    assert_eq!(whys.len(), 1, "{}", synced.said);
    assert_eq!(rig.sync().read, 0);
}

#[test]
fn what_shares_its_bytes_again_is_the_same() {
    for kind in KINDS {
        let scene = Scene::new();
        let rig = Rig::new(&scene, kind);
        let then = rig.keep(&rig.take_for(&rig.index));
        let content = fs::read(&rig.image).unwrap();
        rig.change(&[7, 8, 9]);
        assert_eq!(rig.since(&rig.index, &then), Some(vec![7, 8, 9]), "{kind}");
        // Written back as it was: elsewhere on the disk, until something that deduplicates comes.
        let file = File::options().write(true).open(&rig.image).unwrap();
        let (start, end) = (
            usize::try_from(7 * BLOCK).unwrap(),
            usize::try_from(9 * BLOCK).unwrap(),
        );
        file.write_all_at(&content[start..end], 7 * BLOCK).unwrap();
        file.sync_all().unwrap();
        drop(file);
        assert_eq!(rig.since(&rig.index, &then), Some(vec![7, 8, 9]), "{kind}");
        let dedupe = format!(
            "dedupe {} {start} {start} {}",
            rig.clone().display(),
            2 * BLOCK
        );
        tool("xfs_io").args(["-c", &dedupe]).arg(&rig.image).ok();
        assert_eq!(rig.since(&rig.index, &then), Some(vec![9]), "{kind}");
    }
}

#[test]
fn two_backups_of_one_image_have_a_clone_each() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, "xfs");
    let (first, second) = (scene.path("a.index"), scene.path("b.index"));
    let of_first = rig.keep(&rig.take_for(&first));
    rig.change(&[1]);
    let of_second = rig.keep(&rig.take_for(&second));
    rig.change(&[2]);
    assert_eq!(rig.since(&first, &of_first), Some(vec![1, 2]));
    assert_eq!(rig.since(&second, &of_second), Some(vec![2]));
    // Each makes the next of its own, while another one of the other is in use.
    let used = rig.take_for(&second);
    let of_first = rig.keep(&rig.take_for(&first));
    assert_eq!(rig.clones().len(), 3);
    rig.change(&[3]);
    assert_eq!(rig.since(&second, &of_second), Some(vec![2, 3]));
    assert_eq!(rig.since(&first, &of_first), Some(vec![3]));
    let of_second = rig.keep(&used);
    assert_eq!(rig.since(&second, &of_second), Some(vec![3]));
    // Neither takes the other's for its own.
    assert_eq!(rig.since(&first, &of_second), None);
    drop(used);
    assert_eq!(rig.clones().len(), 2);
}

#[test]
fn what_is_in_use_is_not_removed() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, "btrfs");
    let waiting = rig.take_for(&rig.index);
    rig.keep_beside(&rig.take_for(&rig.index), 1);
    assert_eq!(rig.clones().len(), 2);
    let then = rig.keep(&waiting);
    assert_eq!(rig.clones().len(), 1);
    assert_eq!(rig.since(&rig.index, &then), Some(vec![]));
    drop(waiting);
    // Not even by its next user, who then leaves it to those after.
    let held = File::open(rig.clone()).unwrap();
    assert!(
        bmapfs::sys::try_flock(
            std::os::fd::AsFd::as_fd(&held),
            bmapfs::sys::FlockKind::Shared
        )
        .unwrap()
    );
    rig.keep_beside(&rig.take_for(&rig.index), 1);
    assert_eq!(rig.clones().len(), 2);
    drop(held);
    rig.keep(&rig.take_for(&rig.index));
    assert_eq!(rig.clones().len(), 1);
}

#[test]
fn a_clone_of_another_image_says_nothing() {
    for kind in KINDS {
        let scene = Scene::new();
        let mut rig = Rig::new(&scene, kind);
        let then = rig.keep(&rig.take_for(&rig.index));
        let (first, twin) = (rig.image.clone(), rig.filesystem.path("b.img"));
        tool("cp")
            .arg("--reflink=always")
            .arg(&first)
            .arg(&twin)
            .ok();
        rig.image = twin;
        assert_eq!(rig.since(&rig.index, &then), None, "{kind}");
        // One of the same name that shares nothing.
        rig.image = first;
        fs::remove_file(&rig.image).unwrap();
        let bytes = pattern(99, usize::try_from(Rig::all()).unwrap());
        fs::write(&rig.image, bytes).unwrap();
        let all: Vec<u64> = (0..100).collect();
        assert_eq!(rig.since(&rig.index, &then), Some(all), "{kind}");
        assert_eq!(
            rig.since(&rig.index, &ImageState::Named("monday".to_owned())),
            None
        );
        // The clones that the index has of any image here go with its next one.
        rig.image = rig.filesystem.path("b.img");
        rig.keep(&rig.take_for(&rig.index));
        assert!(rig.clones()[0].starts_with(".b.img."), "{:?}", rig.clones());
        assert_eq!(rig.clones().len(), 1, "{kind}");
    }
}

#[test]
fn on_another_file_system_all_is_read() {
    let scene = Scene::new();
    let mut rig = Rig::new(&scene, "xfs");
    let then = rig.keep(&rig.take_for(&rig.index));
    for kind in ["btrfs", "xfs"] {
        let scene = Scene::new();
        let other = Filesystem::new(&scene, kind);
        let copy = tool("cp").arg("-a").arg(&rig.image).arg(rig.clone());
        copy.arg(other.point()).ok();
        let image = std::mem::replace(&mut rig.image, other.path("a.img"));
        assert_eq!(rig.since(&rig.index, &then), None);
        rig.image = image;
    }
    assert_eq!(rig.since(&rig.index, &then), Some(vec![]));
}

#[test]
fn a_dry_run_leaves_everything_as_it_was() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, "btrfs");
    rig.sync();
    let before = (rig.clones(), fs::read(&rig.index).unwrap());
    rig.change(&[3, 9]);
    for _ in 0..2 {
        let said = rig.scan("--dry-run -v").ok();
        assert!(
            said.starts_with("3\n9\n") && said.contains("131072 bytes read"),
            "{said}"
        );
        assert_eq!((rig.clones(), fs::read(&rig.index).unwrap()), before);
    }
    let synced = rig.sync();
    assert_eq!((synced.blocks, synced.read), (vec![3, 9], 2 * BLOCK));
    // All of it, if that is asked for; and then it is as before.
    assert_eq!(rig.sync_with("-o rescan").read, Rig::all());
    assert_eq!(rig.sync().read, 0);
}

#[test]
fn an_index_that_cannot_be_saved_keeps_its_clone() {
    let scene = Scene::new();
    let mut rig = Rig::new(&scene, "xfs");
    let small = Filesystem::sized(&scene, "tmpfs", 32 << 10);
    rig.index = small.path("a.index");
    rig.sync();
    let before = (rig.clones(), fs::read(&rig.index).unwrap());
    fs::write(small.path("full"), vec![0; 32 << 10]).unwrap_err();
    rig.change(&[3]);
    let outcome = rig.run("").words("ls -a {}").run();
    assert!(outcome.stderr.contains("cannot be saved"), "{outcome:?}");
    assert_eq!(outcome.ok().lines().count(), 102);
    assert_eq!((rig.clones(), fs::read(&rig.index).unwrap()), before);
    fs::remove_file(small.path("full")).unwrap();
    let synced = rig.sync();
    assert_eq!((synced.blocks, synced.read), (vec![3], BLOCK));
}

#[test]
fn a_mount_that_fails_leaves_one_clone_that_is_good() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, "xfs");
    rig.sync();
    rig.change(&[3]);
    // Mounted last, and then the kernel refuses.
    rig.mount("-o max_read=1,context=none").refused(32);
    assert_eq!(rig.clones().len(), 1);
    let synced = rig.sync();
    assert_eq!(
        (synced.blocks, synced.read),
        (vec![3], 0),
        "it was scanned before"
    );
    // Refused before anything was saved.
    let running = rig.mount("").up();
    let kept = rig.clones();
    rig.run("").arg("true").fails(32);
    assert_eq!(rig.clones(), kept);
    let content = fs::read(&rig.image).unwrap();
    assert_same("the mount that goes on", &running.image(), &content);
    running.unmount();
    assert_eq!(rig.sync().read, 0);
}
