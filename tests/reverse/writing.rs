//! Writing to a backup through its image: versions stay apart, sparse ones stay sparse, a kill leaves no half block.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::Filesystem;
use crate::support::pattern::{Random, assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{assembled, back_up, everything, link_version, split_thin};

/// Mounts the file system in `image` through a loop device, works in it and unmounts it.
fn inside(scene: &Scene, image: &Path, work: impl Fn(&Path)) {
    let device = LoopDevice::new(image);
    let point = scene.dir("inside");
    tool("mount").arg(device.path()).arg(&point).ok();
    let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&point)));
    tool("umount").arg(&point).ok();
    worked.unwrap();
}

#[test]
fn a_file_system_is_written_and_older_versions_stay_as_they_were() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 48 << 20);
    tool("mkfs.ext4").words("-q -F").arg(&image).ok();
    let backup = back_up(&scene, &image, "-b 256K", "today");
    let older = link_version(&scene, &backup, "yesterday");
    let before = everything(&older);
    let mount = scene.mount(&backup).with("-rw").up();
    let path = mount.point().join("image");
    inside(&scene, &path, |point| {
        fs::write(point.join("new"), pattern(1, 3_000_000)).unwrap();
    });
    inside(&scene, &path, |point| {
        let file = fs::read(point.join("new")).unwrap();
        assert_same("what was written", &file, &pattern(1, 3_000_000));
    });
    let seen = fs::read(&path).unwrap();
    mount.unmount();
    assert!(
        everything(&older) == before,
        "the older version has changed"
    );
    assert_same("the block files", &blocks::concatenated(&backup), &seen);
    let copy = scene.file("copy.img", &seen);
    tool("e2fsck").words("-f -n").arg(&copy).ok();
    let links: Vec<u64> = blocks::names(&backup)
        .iter()
        .map(|name| fs::metadata(backup.join(name)).unwrap().nlink())
        .collect();
    assert!(links.contains(&1) && links.contains(&2), "{links:?}");
    // The next forward backup of the same image goes on from there.
    let mount = scene.mount(&copy).with("-b 256K").at("forward").up();
    tool("rsync")
        .words("-a --checksum")
        .args([mount.point().join("."), backup.clone()])
        .ok();
    mount.unmount();
    assert_same("in step", &blocks::concatenated(&backup), &seen);
}

#[test]
fn a_sparse_backup_gets_the_blocks_that_are_written() {
    let scene = Scene::new();
    let (block, size) = (65_536, 64 << 20);
    for kind in ["ext4", "tmpfs"] {
        let filesystem = Filesystem::new(&scene, kind);
        let backup = filesystem.path("backup");
        fs::create_dir(&backup).unwrap();
        split_thin(&backup, &vec![0; size], block, true);
        assert_eq!(blocks::names(&backup), ["00000000", "00001023"]);
        let mount = scene.mount(&backup).with("-rw --sparse").up();
        let path = mount.point().join("image");
        tool("mkfs.ext4").words("-q -F").arg(&path).ok();
        inside(&scene, &path, |point| {
            fs::write(point.join("new"), pattern(2, 1_000_000)).unwrap();
        });
        tool("e2fsck").words("-f -n").arg(&path).ok();
        let seen = fs::read(&path).unwrap();
        let holes = blocks::data_ranges(&File::open(&path).unwrap()).len();
        assert!(holes > 1, "{kind}: it has holes");
        mount.unmount();
        let names = blocks::names(&backup);
        assert!(names.len() < 512, "{kind}: {} blocks", names.len());
        for name in &names {
            assert_eq!(fs::metadata(backup.join(name)).unwrap().len(), 65_536);
        }
        assert_same(kind, &assembled(&backup, block, size), &seen);
    }
}

#[test]
fn discarded_ranges_are_punched_in_private_copies() {
    let scene = Scene::new();
    let filesystem = Filesystem::new(&scene, "ext4");
    let (block, content) = (65_536, pattern(3, 16 * 65_536));
    let (backup, older) = (filesystem.path("today"), filesystem.path("yesterday"));
    fs::create_dir(&backup).unwrap();
    blocks::split_into(&backup, &content, block);
    tool("cp").arg("-al").args([&backup, &older]).ok();
    let before = everything(&older);
    let mount = scene.mount(&backup).with("-rw").up();
    let path = mount.point().join("image");
    let device = LoopDevice::new(&path);
    tool("blkdiscard")
        .words("--offset 131072 --length 262144")
        .arg(device.path())
        .ok();
    drop(device);
    tool("fallocate")
        .words("--punch-hole --offset 700000 --length 100001")
        .arg(&path)
        .ok();
    let mut expected = content;
    expected[131_072..393_216].fill(0);
    expected[700_000..800_001].fill(0);
    assert_same("through the mount", &fs::read(&path).unwrap(), &expected);
    let blocks_now = fs::metadata(&path).unwrap().blocks();
    assert!(blocks_now <= 2048 - 512 - 128, "{blocks_now} sectors");
    mount.unmount();
    assert_same("the files", &blocks::concatenated(&backup), &expected);
    assert!(
        everything(&older) == before,
        "the older version has changed"
    );
}

#[test]
fn a_kill_leaves_no_short_block_and_no_changed_version() {
    let scene = Scene::new();
    let (block, count) = (262_144, 40);
    let content = pattern(4, block * count);
    let backup = scene.dir("today");
    split_thin(&backup, &content, block, false);
    let older = link_version(&scene, &backup, "yesterday");
    let before = everything(&older);
    let mut random = Random::new(5);
    for round in 0..8 {
        for index in 1..count - 1 {
            let (name, gap) = (blocks::name(index as u64), index % 3 == round % 3);
            fs::remove_file(backup.join(&name)).ok();
            if !gap {
                fs::hard_link(older.join(&name), backup.join(&name)).unwrap();
            }
        }
        let mut mount = scene.mount(&backup).with("-rw --sparse").up();
        let image = blocks::open_rw(mount.point().join("image"));
        let victim = 2 + random.index(count - 4);
        let writer = std::thread::spawn(move || {
            for index in 1..count {
                if image
                    .write_at(&[7; 5000], (index * block + 100) as u64)
                    .is_err()
                {
                    return;
                }
            }
        });
        let reached = backup.join(blocks::name(victim as u64));
        wait_until("the writer has come so far", || {
            fs::metadata(&reached).is_ok_and(|stat| stat.nlink() == 1)
        });
        mount.kill();
        writer.join().unwrap();
        drop(mount);
        for name in blocks::names(&backup) {
            let path = backup.join(&name);
            if name.starts_with('.') {
                continue;
            }
            assert_eq!(fs::metadata(&path).unwrap().len(), block as u64, "{name}");
        }
        assert!(
            everything(&older) == before,
            "round {round}: a version changed"
        );
        // What was in the making goes with the next writer; nothing else does.
        let mount = scene.mount(&backup).with("-rw --sparse").up();
        assert!(
            blocks::names(&backup)
                .iter()
                .all(|name| !name.starts_with('.'))
        );
        mount.unmount();
    }
}

#[test]
fn fio_verifies_what_it_wrote() {
    let scene = Scene::new();
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &pattern(6, 300 * 4096), 4096);
    let older = link_version(&scene, &backup, "older");
    let before = everything(&older);
    let mount = scene.mount(&backup).with("-rw").up();
    for job in [
        "--rw=randwrite --bs=512-20k --bs_unaligned --verify=crc32c --ioengine=psync --fsync=50 --loops=3",
        "--rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=16 --verify=crc32c",
        "--rw=randwrite --bs=8k --numjobs=1 --ioengine=mmap --verify=crc32c",
    ] {
        tool("fio")
            .words("--name=verify --size=1200k --overwrite=1 --fallocate=none --verify_fatal=1 --verify_dump=0")
            .arg(format!("--filename={}", mount.point().join("image").display()))
            .words(job)
            .within(Path::new("/tmp"))
            .ok();
    }
    let seen = fs::read(mount.point().join("image")).unwrap();
    mount.unmount();
    assert_same("the files", &blocks::concatenated(&backup), &seen);
    assert!(
        everything(&older) == before,
        "the older version has changed"
    );
}
