//! Holders in a made-up /proc and /sys, and real ones.

use std::os::unix::fs::{FileExt, symlink};

use super::*;
use crate::image::lock::testing::{LoopDevice, Mounted, output, run, wait_for};

const IMAGE: Identity = Identity::File {
    device: 1,
    inode: 2,
};

/// What the paths of the made-up system are.
fn identify(path: &Path) -> Option<Identity> {
    let device = |minor| Some(Identity::Device(DeviceNumber { major: 8, minor }));
    match path.to_str()? {
        "/dev/sda" | "/dev/disk/by-id/a" => device(0),
        "/dev/sda1" => device(1),
        "/dev/sda2" => device(2),
        "/images/a b" | "/images/\\+12" => Some(IMAGE),
        "/images/other" | "/images/a b (deleted)" => Some(Identity::File {
            device: 1,
            inode: 3,
        }),
        _ => None,
    }
}

/// A disk 8:0 with two partitions, and the files that are given as `path=content` or `path=-> link target`.
fn find(image: Identity, entries: &[&str]) -> Vec<(String, bool)> {
    let directory = tempfile::tempdir().unwrap();
    let common = [
        "sys/devices/sda/dev=8:0\n",
        "sys/devices/sda/uevent=MAJOR=8\nMINOR=0\nDEVNAME=sda\nDEVTYPE=disk\n",
        "sys/devices/sda/sda1/dev=8:1\n",
        "sys/devices/sda/sda1/partition=1\n",
        "sys/devices/sda/sda1/uevent=DEVNAME=sda1\n",
        "sys/devices/sda/sda2/dev=8:2\n",
        "sys/devices/sda/sda2/partition=2\n",
        "sys/devices/sda/sda2/uevent=DEVNAME=sda2\n",
        "sys/dev/block/8:0=-> ../../devices/sda",
        "sys/dev/block/8:1=-> ../../devices/sda/sda1",
        "sys/dev/block/8:2=-> ../../devices/sda/sda2",
    ];
    for entry in common.iter().chain(entries) {
        let (path, content) = entry.split_once('=').unwrap();
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.strip_prefix("-> ") {
            Some(target) => symlink(target, path).unwrap(),
            None => fs::write(path, content).unwrap(),
        }
    }
    let (proc, sys) = (directory.path().join("proc"), directory.path().join("sys"));
    let holders = System {
        proc: &proc,
        sys: &sys,
        identify: &identify,
    }
    .find(image);
    holders
        .iter()
        .map(|holder| (holder.to_string(), holder.writes))
        .collect()
}

fn sda(minor: u64) -> Identity {
    Identity::Device(DeviceNumber { major: 8, minor })
}

/// Checks one holder, or none where `expected` is empty.
fn check(image: Identity, entries: &[&str], expected: &str, writes: bool) {
    let expected: Vec<_> = Some((expected.to_owned(), writes))
        .into_iter()
        .filter(|(text, _)| !text.is_empty())
        .collect();
    assert_eq!(find(image, entries), expected, "{entries:?}");
}

#[test]
fn mounts_are_found_by_device_number_and_by_source() {
    let mount =
        |line: &str| format!("proc/self/mountinfo=22 1 0:5 / /proc rw - proc proc rw\n{line}\n");
    for (image, line, expected, writes) in [
        (
            sda(1),
            "36 22 8:1 / /srv rw - ext4 /dev/root rw",
            "it is mounted on /srv (read-write)",
            true,
        ),
        (
            sda(1),
            "36 22 8:1 / /srv ro - ext4 /dev/root rw",
            "it is mounted on /srv (read-write)",
            true,
        ),
        (
            sda(1),
            "36 22 8:1 / /a\\040b ro shared:1 master:2 - xfs /dev/root attr2,ro",
            "it is mounted on /a b (read-only)",
            false,
        ),
        (sda(1), "36 22 8:2 / /srv rw - ext4 /dev/sda1 rw", "", false),
        (
            sda(0),
            "36 22 8:2 / / rw - ext4 x rw",
            "its partition /dev/sda2 is mounted on / (read-write)",
            true,
        ),
        (
            sda(2),
            "36 22 8:0 / / rw - ext4 x rw",
            "its disk /dev/sda is mounted on / (read-write)",
            true,
        ),
        (
            sda(0),
            "36 22 0:40 / /b rw - btrfs /dev/disk/by-id/a rw,ssd",
            "it is mounted on /b (read-write)",
            true,
        ),
        (
            IMAGE,
            "36 22 0:41 / /e rw - erofs /images/a\\040b ro",
            "it is mounted on /e (read-only)",
            false,
        ),
        (
            IMAGE,
            "36 22 0:41 / /e rw - fuse.bmapfs /images/a\\040b rw",
            "",
            false,
        ),
        (
            IMAGE,
            "36 22 0:41 / /e rw - ext4 /images/other rw",
            "",
            false,
        ),
        (IMAGE, "36 22 0:41 / /e rw - tmpfs tmpfs rw", "", false),
        (IMAGE, "36 22", "", false),
    ] {
        check(image, &[&mount(line)], expected, writes);
    }
    let twice = "36 22 8:1 / /one rw - ext4 x rw\n37 22 8:1 /sub /two rw - ext4 x rw";
    check(
        sda(1),
        &[&mount(twice)],
        "it is mounted on /one (read-write)",
        true,
    );
}

#[test]
fn devices_of_a_btrfs_that_mountinfo_does_not_list() {
    let member = "sys/fs/btrfs/0f-1/devices/sda1=-> ../../../../devices/sda/sda1";
    let (features, other) = (
        "sys/fs/btrfs/features/raid1=0\n",
        "sys/fs/btrfs/0f-1/devinfo/1/missing=0\n",
    );
    check(
        sda(1),
        &[member, features, other],
        "it is part of a mounted Btrfs file system",
        true,
    );
    check(sda(2), &[member, features, other], "", true);
}

#[test]
fn swap_is_found_by_device_and_by_file() {
    let swaps = |path: &str| {
        format!("proc/swaps=Filename Type Size Used Priority\n{path} partition 8 0 -2\n")
    };
    for (image, path, expected) in [
        (sda(2), "/dev/sda2", "it is active swap"),
        (
            sda(0),
            "/dev/sda2",
            "its partition /dev/sda2 is active swap",
        ),
        (IMAGE, "/images/a\\040b", "it is active swap"),
        (IMAGE, "/images/\\+12", "it is active swap"),
        (IMAGE, "/images/other", ""),
        (IMAGE, "", ""),
    ] {
        check(image, &[&swaps(path)], expected, true);
    }
}

#[test]
fn loop_devices_are_found_by_what_is_below_them() {
    for (image, backing, ro, expected, writes) in [
        (
            IMAGE,
            "/images/a b\n",
            "0\n",
            "/dev/loop3 is set up on it",
            true,
        ),
        (
            IMAGE,
            "/images/a b\n",
            "1\n",
            "/dev/loop3 is set up on it (read-only)",
            false,
        ),
        (
            IMAGE,
            "/images/a b (deleted)\n",
            "0\n",
            "/dev/loop3 is set up on it",
            true,
        ),
        (IMAGE, "/images/other\n", "0\n", "", false),
        (
            sda(1),
            "/dev/sda1\n",
            "0\n",
            "/dev/loop3 is set up on it",
            true,
        ),
        (
            sda(0),
            "/dev/sda1\n",
            "0\n",
            "/dev/loop3 is set up on its partition /dev/sda1",
            true,
        ),
    ] {
        let backing = format!("sys/block/loop3/loop/backing_file={backing}");
        let ro = format!("sys/block/loop3/ro={ro}");
        check(
            image,
            &[&backing, &ro, "sys/block/loop4/ro=0\n"],
            expected,
            writes,
        );
    }
}

#[test]
fn devices_made_of_a_device_are_named() {
    let volume = [
        "sys/devices/dm-0/dm/name=vg0-root\n",
        "sys/devices/dm-0/uevent=DEVNAME=dm-0\n",
        "sys/devices/dm-0/ro=0\n",
        "sys/devices/sda/sda2/holders/dm-0=-> ../../../dm-0",
    ];
    check(
        sda(2),
        &volume,
        "device-mapper volume vg0-root (/dev/dm-0) uses it",
        true,
    );
    let of_disk = "device-mapper volume vg0-root (/dev/dm-0) uses its partition /dev/sda2";
    check(sda(0), &volume, of_disk, true);
    check(sda(1), &volume, "", true);
    let raid = [
        "sys/devices/md0/uevent=DEVNAME=md/0\n",
        "sys/devices/md0/ro=1\n",
        "sys/devices/sda/holders/md0=-> ../../md0",
    ];
    check(sda(0), &raid, "/dev/md/0 uses it (read-only)", false);
    check(
        sda(1),
        &raid,
        "/dev/md/0 uses its disk /dev/sda (read-only)",
        false,
    );
}

/// What really uses this path, with the names of loop devices and directories as they are.
fn real(path: &Path) -> Vec<String> {
    super::find(&File::open(path).unwrap())
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
#[ignore = "needs root and loop devices, as make test has them"]
fn a_real_mount_on_a_real_loop_device_and_partition() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("an image");
    File::create(&image).unwrap().set_len(64 << 20).unwrap();
    assert_eq!(real(&image), [""; 0]);
    // A partition table with one entry: type 83 at sector 2048, 32768 sectors long.
    let entry = [0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0x80, 0, 0];
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&entry, 446).unwrap();
    file.write_all_at(&[0x55, 0xaa], 510).unwrap();
    drop(file);
    let device = LoopDevice::on(&image, &["--partscan"]);
    let partition = PathBuf::from(format!("{}p1", device.path().display()));
    // Kernels without support for this kind of table are told.
    if !partition.exists() {
        run(
            "addpart",
            &[device.path().to_str().unwrap(), "1", "2048", "32768"],
        );
    }
    wait_for("the partition", || partition.exists());
    let on_image = format!("{} is set up on it", device.path().display());
    assert_eq!(real(&image), std::slice::from_ref(&on_image));
    assert_eq!(real(device.path()), [""; 0]);
    let link = directory.path().join("link");
    fs::hard_link(&image, &link).unwrap();
    assert_eq!(real(&link), [on_image]);

    let point = directory.path().join("mount point");
    fs::create_dir(&point).unwrap();
    let node = partition.to_str().unwrap();
    run("mkfs.ext4", &["-q", node]);
    for (option, access) in [("rw", "read-write"), ("ro", "read-only")] {
        let mounted = Mounted::at(&point, &["-o", option, node]);
        let place = format!("mounted on {} ({access})", point.display());
        assert_eq!(real(&partition), [format!("it is {place}")]);
        assert_eq!(
            real(device.path()),
            [format!("its partition {node} is {place}")]
        );
        drop(mounted);
        assert_eq!(real(device.path()), [""; 0]);
    }
    run(
        "mkfs.btrfs",
        &["-q", "-f", "-m", "single", device.path().to_str().unwrap()],
    );
    let mounted = Mounted::at(&point, &[device.path().to_str().unwrap()]);
    assert_eq!(
        real(device.path()),
        [format!("it is mounted on {} (read-write)", point.display())]
    );
    drop(mounted);

    let over = LoopDevice::on(device.path(), &["--read-only"]);
    assert_eq!(
        real(device.path()),
        [format!(
            "{} is set up on it (read-only)",
            over.path().display()
        )]
    );
}

#[test]
#[ignore = "needs root and loop devices, as make test has them"]
fn real_swap() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let device = LoopDevice::on(&image, &[]);
    run("mkswap", &[device.path()]);
    run("swapon", &[device.path()]);
    let found = real(device.path());
    output("swapoff", &[device.path()]);
    assert_eq!(found, ["it is active swap"]);
    assert_eq!(real(device.path()), [""; 0]);
}
