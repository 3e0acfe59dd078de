//! P7 to P9: writes reach the image at once and nothing else, truncation never changes a size, fsync
//! reaches the disk.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::support::blocks::{self, open_rw, refused};
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::Filesystem;
use crate::support::machine::Identity;
use crate::support::pattern::{Random, assert_same, pattern};
use crate::support::scene::{Scene, poke};

#[test]
fn p7_a_write_is_in_the_image_when_it_is_acknowledged() {
    let scene = Scene::new();
    let mut content = pattern(1, 1_000_003);
    let image = scene.file("a.img", &content);
    let mut random = Random::new(2);
    let mount = scene.mount(&image).with("-rw -b 64K").up();
    for round in 0..300 {
        let at = random.index(content.len());
        let (index, offset) = (at / 65_536, at % 65_536);
        let left = (65_536 - offset).min(content.len() - at);
        let bytes = pattern(round, 1 + random.index(left));
        let file = open_rw(mount.block(index.try_into().unwrap()));
        file.write_all_at(&bytes, offset.try_into().unwrap())
            .unwrap();
        content[at..at + bytes.len()].copy_from_slice(&bytes);
        if round % 10 == 0 {
            assert_same("the image itself", &fs::read(&image).unwrap(), &content);
        }
    }
    assert_same("the image itself", &fs::read(&image).unwrap(), &content);
    assert_same("the mount", &mount.image(), &content);
}

#[test]
fn p7_a_user_writes_to_an_own_image() {
    let scene = Scene::new();
    let mut content = pattern(13, 300_000);
    let image = scene.file("a.img", &content);
    Identity::User.own(&image);
    let mount = scene
        .mount(&image)
        .with("-rw -b 64K")
        .by(Identity::User)
        .up();
    for (index, offset, len) in [(0, 0, 65_536), (1, 777, 3000), (4, 37_000, 856)] {
        let bytes = pattern(14, len);
        let target = format!("of={}", mount.block(index).display());
        let dd = tool("dd")
            .identity(Identity::User)
            .arg(target)
            .words("bs=64K conv=notrunc oflag=seek_bytes");
        dd.arg(format!("seek={offset}")).input(&bytes).ok();
        content[usize::try_from(index).unwrap() * 65_536 + offset..][..len].copy_from_slice(&bytes);
        assert_same("the image itself", &fs::read(&image).unwrap(), &content);
    }
}

#[test]
fn p7_direct_appending_and_synchronous_writers() {
    let scene = Scene::new();
    let content = pattern(3, 3 * 65_536);
    let image = scene.file("a.img", &content);
    let device = LoopDevice::new(&scene.file("b.img", &content));
    for source in [image.as_path(), device.path()] {
        let mount = scene.mount(source).with("-rw -b 64K -o no-latch").up();
        for flags in [
            libc::O_DIRECT,
            libc::O_SYNC,
            libc::O_DSYNC,
            libc::O_DIRECT | libc::O_SYNC,
        ] {
            let file = File::options()
                .write(true)
                .custom_flags(flags)
                .open(mount.block(1))
                .unwrap();
            let bytes = pattern(u64::from(flags.unsigned_abs()), 20_000);
            file.write_all_at(&bytes, 777).unwrap();
            assert_same(
                "what was written",
                &fs::read(source).unwrap()[65_536 + 777..][..20_000],
                &bytes,
            );
        }
        // A block file is full: there is nothing to append to.
        let mut file = File::options().append(true).open(mount.block(1)).unwrap();
        refused("appending", file.write_all(b"more"), libc::EFBIG);
        assert_same(
            "the next block",
            &fs::read(source).unwrap()[131_072..],
            &content[131_072..],
        );
        drop(file);
        mount.unmount();
    }
}

#[test]
fn p7_without_w_every_change_is_erofs_and_the_image_is_open_read_only() {
    let scene = Scene::new();
    let content = pattern(4, 100_000);
    let image = scene.file("a.img", &content);
    let mount = scene.mount(&image).with("-r -b 64K").up();
    let path = mount.block(0);
    refused(
        "opening for writing",
        File::options().write(true).open(&path),
        libc::EROFS,
    );
    refused("opening with O_TRUNC", File::create(&path), libc::EROFS);
    refused(
        "truncating",
        nix::unistd::truncate(&path, 65_536),
        libc::EROFS,
    );
    refused(
        "changing the mode",
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)),
        libc::EROFS,
    );
    assert_same("the image", &fs::read(&image).unwrap(), &content);
    let open: Vec<_> = fs::read_dir(format!("/proc/{}/fd", mount.pid()))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let of_image = open
        .iter()
        .filter(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == image));
    let mut count = 0;
    for fd in of_image {
        let info = fs::read_to_string(format!(
            "/proc/{}/fdinfo/{}",
            mount.pid(),
            fd.file_name().to_string_lossy()
        ))
        .unwrap();
        let flags = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .unwrap()
            .trim();
        let flags = i32::from_str_radix(flags, 8).unwrap();
        assert_eq!(flags & libc::O_ACCMODE, libc::O_RDONLY, "{info}");
        count += 1;
    }
    assert!(count > 0, "the daemon has the image open");
}

#[test]
fn p7_write_past_the_block_is_efbig() {
    let scene = Scene::new();
    let mut content = pattern(5, 2 * 65_536 + 1000);
    let image = scene.file("a.img", &content);
    let mount = scene.mount(&image).with("-rw -b 64K -o no-latch").up();
    for (index, len) in [(0_usize, 65_536_usize), (1, 65_536), (2, 1000)] {
        let file = open_rw(mount.block(index.try_into().unwrap()));
        let end = u64::try_from(len).unwrap();
        let bytes = pattern(6, 100);
        // Up to the end it is written short, as to a device.
        assert_eq!(file.write_at(&bytes, end - 30).unwrap(), 30);
        content[index * 65_536 + len - 30..][..30].copy_from_slice(&bytes[..30]);
        for at in [end, end + 1, end + 65_536, 1 << 40] {
            refused(
                "a write past the end",
                file.write_at(&bytes, at),
                libc::EFBIG,
            );
        }
        assert_eq!(file.metadata().unwrap().len(), end, "the size");
        assert_same("the image", &fs::read(&image).unwrap(), &content);
    }
}

#[test]
fn p7_a_full_file_system_is_told_to_the_writer() {
    let scene = Scene::new();
    let small = Filesystem::sized(&scene, "tmpfs", 2 << 20);
    let image = small.sparse("a.img", 16 << 20);
    let mount = scene.mount(&image).with("-rw -b 1M").up();
    let bytes = pattern(15, 1 << 20);
    let written: Vec<bool> = (0..16)
        .map(|index| {
            let result = open_rw(mount.block(index)).write_all_at(&bytes, 0);
            if let Err(e) = &result {
                assert_eq!(e.raw_os_error(), Some(libc::ENOSPC), "{e}");
            }
            result.is_ok()
        })
        .collect();
    assert!(
        written.contains(&true) && written.contains(&false),
        "{written:?}"
    );
    for (index, _) in (0..).zip(&written).filter(|(_, written)| **written) {
        assert_same(
            "what was acknowledged",
            &blocks::read(&mount.block(index)),
            &bytes,
        );
    }
    // Where there is room, writing goes on.
    open_rw(mount.block(0)).write_all_at(b"room", 10).unwrap();
    mount.unmount();
}

#[test]
fn p8_truncating_to_its_own_size_succeeds() {
    let scene = Scene::new();
    let content = pattern(7, 65_536 + 1000);
    let image = scene.file("a.img", &content);
    let mount = scene.mount(&image).with("-rw -b 64K").up();
    for (index, size) in [(0, 65_536), (1, 1000)] {
        open_rw(mount.block(index)).set_len(size).unwrap();
        nix::unistd::truncate(&mount.block(index), size.try_into().unwrap()).unwrap();
    }
    // Nor has it latched the mount.
    open_rw(mount.block(0))
        .write_all_at(&content[..10], 0)
        .unwrap();
    assert_same("the image", &fs::read(&image).unwrap(), &content);
}

#[test]
fn p8_truncating_to_zero_makes_zeros_and_keeps_the_size() {
    let scene = Scene::new();
    let original = pattern(8, 2 * 65_536 + 1000);
    let image = scene.file("a.img", &original);
    let mount = scene.mount(&image).with("-rw -b 64K").up();
    for (index, range) in [(0, 0..65_536), (1, 65_536..131_072), (2, 131_072..132_072)] {
        let mut content = original.clone();
        content[range.clone()].fill(0);
        for way in ["ftruncate", "truncate", "O_TRUNC"] {
            poke(&image, 0, &original);
            let path = mount.block(index);
            let watching = File::open(&path).unwrap();
            match way {
                "ftruncate" => open_rw(path.clone()).set_len(0).unwrap(),
                "truncate" => nix::unistd::truncate(&path, 0).unwrap(),
                _ => drop(File::create(&path).unwrap()),
            }
            let size = u64::try_from(range.len()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), size, "{way}");
            assert_eq!(
                watching.metadata().unwrap().len(),
                size,
                "{way}, a handle that was open"
            );
            assert_same(way, &fs::read(&image).unwrap(), &content);
            assert_same(way, &mount.image(), &content);
        }
    }
}

#[test]
fn p8_writing_through_a_handle_opened_with_o_trunc() {
    let scene = Scene::new();
    let mut content = pattern(9, 3 * 65_536);
    let image = scene.file("a.img", &content);
    let device = LoopDevice::new(&scene.file("b.img", &content));
    content[65_536..131_072].fill(0);
    content[65_536..65_536 + 300].copy_from_slice(&pattern(10, 300));
    for source in [image.as_path(), device.path()] {
        let mount = scene.mount(source).with("-rw -b 64K").up();
        fs::write(mount.block(1), pattern(10, 300)).unwrap();
        assert_same("the source", &fs::read(source).unwrap(), &content);
        assert_eq!(fs::metadata(mount.block(1)).unwrap().len(), 65_536);
        assert_eq!(blocks::read(&mount.block(1)).len(), 65_536);
        mount.unmount();
    }
}

#[test]
fn p8_other_sizes_are_eperm_and_beyond_the_end_efbig() {
    let scene = Scene::new();
    let content = pattern(11, 65_536 + 1000);
    let image = scene.file("a.img", &content);
    let mount = scene.mount(&image).with("-rw -b 64K -o no-latch").up();
    for (index, size) in [(0, 65_536), (1, 1000)] {
        let file = open_rw(mount.block(index));
        for wrong in [1, 999, size / 2, size - 1] {
            refused("truncating", file.set_len(wrong), libc::EPERM);
        }
        for wrong in [size + 1, 65_537, 1 << 40] {
            refused("extending", file.set_len(wrong), libc::EFBIG);
        }
        assert_eq!(file.metadata().unwrap().len(), size);
    }
    assert_same("the image", &fs::read(&image).unwrap(), &content);
}

#[test]
fn p9_fsync_and_fdatasync_reach_the_device() {
    let scene = Scene::new();
    let backing = scene.file("a.img", &pattern(12, 4 << 20));
    let device = LoopDevice::new(&backing);
    let mount = scene.mount(device.path()).with("-rw -b 1M").up();
    for round in 0..10 {
        let file = open_rw(mount.block(2));
        let bytes = pattern(200 + round, 300_000);
        file.write_all_at(&bytes, 1000).unwrap();
        if round % 2 == 0 {
            file.sync_all().unwrap();
        } else {
            file.sync_data().unwrap();
        }
        // What lies behind the device has it, not only the device's page cache.
        assert_same(
            "behind the device",
            &fs::read(&backing).unwrap()[(2 << 20) + 1000..][..300_000],
            &bytes,
        );
    }
    // A handle that has written nothing and the directory can be synced too.
    File::open(mount.block(0)).unwrap().sync_all().unwrap();
    File::open(mount.point()).unwrap().sync_all().unwrap();
    mount.unmount();
}
