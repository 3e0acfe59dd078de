//! A mount of a snapshot: of one moment, with the face of its image, and cheap to bring up to date.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::Filesystem;
use crate::support::machine::{self, Identity};
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{BLOCK, Rig, on_each_kind};

#[test]
fn a_second_run_reads_and_sends_what_changed() {
    on_each_kind(|kind| {
        let scene = Scene::new();
        let rig = Rig::new(&scene, kind);
        assert_eq!(rig.sync().read, 0, "the copy was the one pass");
        let mut before = rig.clones();
        for blocks in [&[3, 4, 77][..], &[]] {
            rig.change(blocks);
            let synced = rig.sync();
            assert_eq!(synced.blocks, *blocks, "{kind}: {synced:?}");
            let read = BLOCK * u64::try_from(blocks.len()).unwrap();
            assert_eq!(synced.read, read, "{kind}: {synced:?}");
            assert!(!synced.said.contains("meanwhile"), "{synced:?}");
            let after = rig.clones();
            assert_ne!(before, after, "a new one each time");
            before = after;
        }
        // The size is followed.
        let file = File::options().write(true).open(&rig.image).unwrap();
        file.set_len(Rig::all() - 1).unwrap();
        drop(file);
        let synced = rig.sync_with("-o shrunk");
        assert_eq!(
            (synced.blocks, synced.read),
            (vec![99], BLOCK - 1),
            "{kind}"
        );
    });
}

#[test]
fn what_is_served_does_not_change() {
    on_each_kind(|kind| {
        let scene = Scene::new();
        let rig = Rig::new(&scene, kind);
        let content = fs::read(&rig.image).unwrap();
        for options in ["", "-o snapshot-keep=no"] {
            let mount = rig.mount(options).up_in_foreground();
            rig.change(&[1, 2, 50]);
            assert_same("while it is mounted", &mount.image(), &content);
            File::options()
                .write(true)
                .open(&rig.image)
                .unwrap()
                .set_len(5)
                .unwrap();
            assert_same("after it was cut", &mount.image(), &content);
            mount.signal(Signal::SIGHUP);
            wait_until("SIGHUP is answered", || mount.log().contains("SIGHUP"));
            fs::remove_file(&rig.image).unwrap();
            assert_same("after it was removed", &mount.image(), &content);
            let log = mount.unmount_for_log();
            assert!(!log.contains("meanwhile") && !log.contains("WARN"), "{log}");
            fs::write(&rig.image, &content).unwrap();
        }
    });
}

#[test]
fn it_has_the_face_of_its_image() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, "xfs");
    Identity::User.own(&rig.image);
    fs::set_permissions(&rig.image, fs::Permissions::from_mode(0o640)).unwrap();
    tool("touch")
        .args(["-d", "2001-02-03 04:05:06"])
        .arg(&rig.image)
        .ok();
    let stat = fs::metadata(&rig.image).unwrap();
    let link = scene.path("link.img");
    std::os::unix::fs::symlink(&rig.image, &link).unwrap();
    for (source, index) in [(&rig.image, false), (&rig.image, true), (&link, false)] {
        let index = format!("--index={}", rig.index.display()).repeat(usize::from(index));
        let mount = scene
            .mount(source)
            .with(&format!("--snapshot -b 64K {index}"))
            .up();
        let seen = fs::metadata(mount.block(7)).unwrap();
        assert_eq!(
            (seen.uid(), seen.gid(), seen.mode()),
            (stat.uid(), stat.gid(), stat.mode())
        );
        if index.is_empty() {
            assert_eq!(seen.mtime(), stat.mtime());
        }
        let entry = machine::mounts_at(mount.point()).remove(0);
        assert_eq!(Path::new(&entry.source), rig.image);
        for name in rig.clones() {
            let clone = fs::metadata(rig.filesystem.path(&name)).unwrap();
            assert_eq!(clone.mode() & 0o7777, 0o600);
        }
        mount.unmount();
    }
    let header = fs::read(&rig.index).unwrap();
    let text = String::from_utf8_lossy(&header);
    assert!(
        text.contains(&format!("\"source\":\"{}\"", rig.image.display())),
        "the index's name"
    );
}

#[test]
fn without_an_index_nothing_is_left_and_times_follow_the_image() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, "btrfs");
    let stamp = |wanted: Option<&str>| {
        if let Some(time) = wanted {
            tool("touch").args(["-d", time]).arg(&rig.image).ok();
        }
        let mount = scene.mount(&rig.image).with("--snapshot -b 64K").up();
        assert_eq!(rig.clones(), [""; 0], "no name, even while it is mounted");
        let stamp = fs::metadata(mount.block(0)).unwrap().mtime();
        mount.unmount();
        stamp
    };
    let first = stamp(Some("2011-01-01"));
    assert_eq!(stamp(None), first, "nobody wrote");
    // Written, a snapshot at once, and written again: three contents, three times, in whole seconds.
    rig.change(&[5]);
    let second = stamp(None);
    rig.change(&[5]);
    let third = stamp(None);
    assert!(first < second && second < third, "{first} {second} {third}");
    assert_eq!(stamp(None), third);
}

#[test]
fn who_writes_the_image_is_no_matter() {
    let scene = Scene::new();
    let filesystem = Filesystem::new(&scene, "xfs");
    let image = filesystem.path("a.img");
    fs::write(&image, pattern(1, 300_000)).unwrap();
    let device = LoopDevice::new(&image);
    let said = |options: &str| {
        let run = scene.bmapfs().words("run").words(options).arg(&image);
        run.words("-- true").run().stderr
    };
    assert!(said("").contains("two moments"), "{}", said(""));
    assert!(
        !said("--snapshot").contains("two moments"),
        "{}",
        said("--snapshot")
    );
    // It is locked all the same, as by every reader.
    let mount = scene.mount(&image).with("--snapshot").up();
    drop(device);
    let refusal = scene.mount(&image).at("other").with("-w").refused(32);
    assert!(
        refusal.contains("flock") || refusal.contains("lock"),
        "{refusal}"
    );
    mount.unmount();
}

#[test]
fn an_image_may_have_other_attributes_than_its_directory() {
    let scene = Scene::new();
    let mut rig = Rig::new(&scene, "btrfs");
    for directory in ["+C", "+c"] {
        for image in ["", "+C", "+c"] {
            let place = rig.filesystem.path(&format!("in{directory}with{image}"));
            fs::create_dir(&place).unwrap();
            rig.image = place.join("a.img");
            let elsewhere = rig.filesystem.path("new.img");
            File::create(&elsewhere).unwrap();
            if !image.is_empty() {
                tool("chattr").arg(image).arg(&elsewhere).ok();
            }
            fs::write(&elsewhere, pattern(3, 500_000)).unwrap();
            tool("chattr").arg(directory).arg(&place).ok();
            fs::rename(&elsewhere, &rig.image).unwrap();
            let then = rig.keep(&rig.take_for(&rig.index));
            assert_eq!(rig.clones().len(), 1, "{directory} {image}");
            let read = rig.since(&rig.index, &then);
            // What is compressed is always read, and random bytes are not.
            assert_eq!(read, Some(vec![]), "{directory} {image}");
        }
    }
}

#[test]
fn nothing_is_kept_with_keep_no() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, "xfs");
    rig.sync();
    rig.change(&[8]);
    // What the last one left is still of use, and then goes.
    let synced = rig.sync_with("-o snapshot-keep=no");
    assert_eq!((synced.blocks, synced.read), (vec![8], BLOCK));
    assert_eq!(rig.clones(), [""; 0]);
    let synced = rig.sync_with("-o snapshot-keep=no");
    assert_eq!((synced.blocks.len(), synced.read), (0, Rig::all()));
    assert_eq!(rig.clones(), [""; 0]);
    // Nor by a run without a snapshot, since its index does not describe the clone.
    rig.scan("").ok();
    assert_eq!(rig.clones().len(), 1);
    let plain = scene.bmapfs().words("scan -b 64K");
    let index = format!("--index={}", rig.index.display());
    plain.arg(index).arg(&rig.image).ok();
    assert_eq!(rig.clones(), [""; 0]);
    assert_eq!(rig.sync().read, Rig::all());
}

#[test]
fn a_user_may_do_it_where_he_may_write() {
    let scene = Scene::new();
    let filesystem = Filesystem::new(&scene, "xfs");
    let directory = filesystem.path("user");
    fs::create_dir(&directory).unwrap();
    let image = directory.join("a.img");
    fs::write(&image, pattern(1, 300_000)).unwrap();
    for path in [&directory, &image] {
        Identity::User.own(path);
    }
    let state = scene.dir_of("state", Identity::User);
    let scan = || {
        let tool = scene
            .bmapfs()
            .identity(Identity::User)
            .env("XDG_STATE_HOME", &state);
        tool.words("scan --snapshot --json").arg(&image).ok()
    };
    assert!(scan().contains("\"bytes_read\":300000"));
    assert!(scan().contains("\"bytes_read\":0"));
    // In a directory of somebody else's he is told what to do.
    Identity::Root.own(&directory);
    let refusal = scene
        .bmapfs()
        .identity(Identity::User)
        .env("XDG_STATE_HOME", &state)
        .words("scan --snapshot")
        .arg(&image)
        .fails(1);
    assert!(refusal.contains("without --snapshot"), "{refusal}");
    assert_eq!(refusal.lines().count(), 1, "{refusal}");
}

#[test]
fn a_sparse_mount_of_a_snapshot_knows_its_holes() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, "btrfs");
    tool("fallocate")
        .words("-p -o 131072 -l 262144")
        .arg(&rig.image)
        .ok();
    let listed = |options: &str| {
        let run = rig.run(options).words("ls {}").ok();
        run.lines().count()
    };
    assert_eq!(listed("--sparse"), 96);
    assert_eq!(listed(""), 100);
    let plain = scene
        .bmapfs()
        .words("run --snapshot --sparse -b 64K")
        .arg(&rig.image);
    assert_eq!(plain.words("-- ls {}").ok().lines().count(), 96);
}
