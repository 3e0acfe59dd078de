//! Reading a backup as one image: the bytes, the holes, and the tools that use disks.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::blocks::{self, data_ranges, refused};
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::{Filesystem, WITH_HOLES};
use crate::support::machine::Identity;
use crate::support::pattern::{assert_same, disk_like, pattern};
use crate::support::scene::{Scene, poke};

use super::rig::{back_up, data_runs, split_thin};

#[test]
fn a_backup_is_the_image_that_it_was_made_from() {
    let scene = Scene::new();
    let content = disk_like(1, (9 << 20) + 123);
    let image = scene.file("a.img", &content);
    for (options, at) in [("-b 256K", "b1"), ("", "b2"), ("-b 1G", "b3")] {
        let backup = back_up(&scene, &image, options, at);
        let mount = scene.mount(&backup).up();
        assert_eq!(blocks::names(mount.point()), ["image"]);
        let path = mount.point().join("image");
        assert_same(options, &fs::read(&path).unwrap(), &content);
        let (stat, origin) = (fs::metadata(&path).unwrap(), fs::metadata(&image).unwrap());
        assert_eq!((stat.ino(), stat.nlink(), stat.len()), (2, 1, 9_437_307));
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (origin.mtime(), 0));
        assert_eq!(stat.mode() & 0o7777, origin.mode() & 0o7777);
        tool("cmp").args([&path, &image]).ok();
        refused(
            "writing",
            File::options().write(true).open(&path),
            libc::EROFS,
        );
        mount.unmount();
    }
}

/// An image with an ext4 file system that holds a few files.
fn file_system(scene: &Scene, name: &str) -> std::path::PathBuf {
    let image = scene.sparse(name, 32 << 20);
    let point = scene.dir("fs");
    tool("mkfs.ext4").words("-q -F").arg(&image).ok();
    tool("mount").words("-o loop").args([&image, &point]).ok();
    for index in 0..20 {
        fs::write(point.join(format!("file-{index}")), pattern(index, 100_000)).unwrap();
    }
    tool("umount").arg(&point).ok();
    image
}

fn check_files(point: &Path) {
    for index in 0..20 {
        let file = fs::read(point.join(format!("file-{index}"))).unwrap();
        assert_same("a file", &file, &pattern(index, 100_000));
    }
}

#[test]
fn the_file_system_inside_is_checked_and_mounted() {
    let scene = Scene::new();
    let image = file_system(&scene, "a.img");
    let backup = back_up(&scene, &image, "-b 1M", "backup");
    let mount = scene.mount(&backup).up();
    let path = mount.point().join("image");
    tool("e2fsck").words("-f -n").arg(&path).ok();
    let device = LoopDevice::with("-r", &path);
    let point = scene.dir("inside");
    tool("mount")
        .words("-o ro,noload")
        .arg(device.path())
        .arg(&point)
        .ok();
    let seen = std::panic::catch_unwind(|| check_files(&point));
    tool("umount").arg(&point).ok();
    drop(device);
    seen.unwrap();
    mount.unmount();
}

#[test]
fn qemu_reads_it_raw_through_nbd_and_as_qcow2() {
    let scene = Scene::new();
    let image = file_system(&scene, "a.img");
    let backup = back_up(&scene, &image, "-b 64K --sparse", "backup");
    let mount = scene.mount(&backup).with("--sparse").up();
    let path = mount.point().join("image");
    let info = tool("qemu-img").args(["info", "-f", "raw"]).arg(&path).ok();
    assert!(info.contains("32 MiB (33554432 bytes)"), "{info}");
    tool("qemu-img")
        .words("compare -s -f raw -F raw")
        .args([&path, &image])
        .run();
    tool("qemu-img")
        .words("compare -f raw -F raw")
        .args([&path, &image])
        .ok();
    let socket = scene.path("nbd.sock");
    let server = tool("qemu-nbd")
        .words("--read-only --format=raw --persistent --socket")
        .args([&socket, &path])
        .spawn();
    crate::support::wait_until("qemu-nbd listens", || socket.exists());
    tool("qemu-img")
        .words("compare -f raw -F raw")
        .arg(format!("nbd+unix:///?socket={}", socket.display()))
        .arg(&image)
        .ok();
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.finish();
    mount.unmount();

    let qcow2 = scene.path("a.qcow2");
    tool("qemu-img")
        .words("convert -f raw -O qcow2")
        .args([&image, &qcow2])
        .ok();
    let backup = back_up(&scene, &qcow2, "-b 64K", "of-qcow2");
    let mount = scene.mount(&backup).up();
    let path = mount.point().join("image");
    let checked = tool("qemu-img").words("check -f qcow2").arg(&path).ok();
    assert!(checked.contains("No errors"), "{checked}");
    tool("qemu-img")
        .words("compare -f qcow2 -F raw")
        .args([&path, &image])
        .ok();
    mount.unmount();
}

#[test]
fn holes_are_those_of_the_block_files_and_blocks_without_a_file() {
    let scene = Scene::new();
    let block = 256 << 10;
    let mut content = vec![0; 10 * block + 5000];
    let end = content.len();
    for (start, len) in [
        (0, 8192),
        (block + 65_536, 65_536),
        (3 * block - 4096, 8192),
        (5 * block, 2 * block),
        (8 * block + 131_072, 131_072),
        (end - 904, 904),
    ] {
        content[start..start + len].copy_from_slice(&pattern(start as u64, len));
    }
    for kind in WITH_HOLES {
        let filesystem = Filesystem::new(&scene, kind);
        for (name, options) in [("full", ""), ("sparse", "--sparse"), ("w", "--sparse -rw")] {
            let backup = filesystem.path(name);
            fs::create_dir(&backup).unwrap();
            split_thin(&backup, &content, block, options.contains("sparse"));
            let mount = scene.mount(&backup).with(options).up();
            let image = File::open(mount.point().join("image")).unwrap();
            assert_eq!(data_ranges(&image), data_runs(&content), "{kind} {name}");
            let used: u64 = blocks::names(&backup)
                .iter()
                .map(|name| fs::metadata(backup.join(name)).unwrap().blocks())
                .sum();
            assert_eq!(image.metadata().unwrap().blocks(), used, "{kind} {name}");
            drop(image);
            let copy = filesystem.path("copy");
            tool("cp")
                .arg("--sparse=auto")
                .args([&mount.point().join("image"), &copy])
                .ok();
            assert_same(kind, &fs::read(&copy).unwrap(), &content);
            mount.unmount();
        }
    }
}

#[test]
fn a_huge_sparse_backup_is_there_at_once() {
    let scene = Scene::new();
    let backup = scene.dir("backup");
    let block = 4 << 20;
    let last: u64 = (16 << 40) / block - 1;
    for index in [0, 1_000_000, last] {
        let file = File::create(backup.join(blocks::name(index))).unwrap();
        file.set_len(block).unwrap();
    }
    poke(&backup.join("01000000"), 4096, b"data");
    let mount = scene.mount(&backup).with("--sparse").up();
    let image = File::open(mount.point().join("image")).unwrap();
    assert_eq!(image.metadata().unwrap().len(), 16 << 40);
    let start = i64::try_from(1_000_000 * block + 4096).unwrap();
    assert_eq!(data_ranges(&image), [(start, start + 4096)]);
    drop(image);
    mount.unmount();
}

#[test]
fn an_ordinary_user_reads_and_writes_a_backup() {
    let scene = Scene::new();
    let content = disk_like(5, 700_000);
    let backup = scene.dir_of("backup", Identity::User);
    blocks::split_into(&backup, &content, 65_536);
    for name in blocks::names(&backup) {
        Identity::User.own(&backup.join(name));
    }
    let other = scene.path("other");
    tool("cp").arg("-al").args([&backup, &other]).ok();
    let mount = scene.mount(&backup).with("-rw").by(Identity::User).up();
    let path = mount.point().join("image");
    let as_user = |program: &str| tool(program).identity(Identity::User);
    as_user("dd")
        .words("if=/dev/zero bs=1000 seek=100 count=1 conv=notrunc,fsync")
        .arg(format!("of={}", path.display()))
        .ok();
    let listed = as_user("stat").args(["-c", "%U"]).arg(&path).ok();
    assert_eq!(listed.trim(), crate::support::machine::USER);
    mount.unmount();
    let mut expected = content.clone();
    expected[100_000..101_000].fill(0);
    assert_same("the backup", &blocks::concatenated(&backup), &expected);
    assert_same("the other", &blocks::concatenated(&other), &content);
    let stat = fs::metadata(backup.join("00000001")).unwrap();
    assert_eq!(Some((stat.uid(), stat.gid())), Identity::User.ids());
}

#[test]
fn what_vanishes_under_the_mount_is_an_error() {
    let scene = Scene::new();
    let content = pattern(6, 10 * 65_536);
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &content, 65_536);
    let mount = scene.mount(&backup).with("--sparse").up_in_foreground();
    fs::remove_file(backup.join("00000004")).unwrap();
    File::options()
        .write(true)
        .open(backup.join("00000006"))
        .unwrap()
        .set_len(1000)
        .unwrap();
    let path = mount.point().join("image");
    refused("reading all", fs::read(&path), libc::EIO);
    let read = |block: usize| {
        use std::os::unix::fs::FileExt;
        let mut out = vec![0; 65_536];
        let at = (block * 65_536) as u64;
        File::open(&path)?.read_exact_at(&mut out, at).map(|()| out)
    };
    refused("the one that is gone", read(4), libc::EIO);
    refused("the one that is short", read(6), libc::EIO);
    assert_same(
        "another",
        &read(5).unwrap(),
        &content[5 * 65_536..6 * 65_536],
    );
    let log = mount.unmount_for_log();
    assert!(log.contains("reading block 00000004 at byte 0:"), "{log}");
    assert!(log.contains("1000 bytes long, and was 65536"), "{log}");
}
