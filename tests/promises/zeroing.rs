//! P10: fallocate zeroes exactly what it was told to, and frees the space where the image can.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::support::blocks::{open_rw, refused};
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::{Filesystem, WITH_HOLES};
use crate::support::mounted::Mounted;
use crate::support::pattern::{Random, assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

const BLOCK: usize = 1 << 20;

fn punch() -> FallocateFlags {
    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE
}

fn zero(file: &File, how: FallocateFlags, at: usize, len: usize) -> nix::Result<()> {
    fallocate(
        file.as_fd(),
        how,
        at.try_into().unwrap(),
        len.try_into().unwrap(),
    )
}

/// Zeroes ranges with every kind of edge in both ways, and compares the image with a model after each.
fn zeroes_exactly(what: &str, mount: &Mounted, image: &Path, content: &mut [u8]) {
    let mut random = Random::new(1);
    let ways = [
        punch(),
        FallocateFlags::FALLOC_FL_ZERO_RANGE,
        FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
    ];
    let fixed = [
        (0, 1),
        (75_775, 1),
        (4099, 4096),
        (4095, 2),
        (131_071, 262_147),
        (BLOCK - 1, 1),
        (8192, 65_536),
        (511, 514),
    ];
    let chosen = (0..12).map(|_| {
        let at = random.index(BLOCK - 1);
        (at, 1 + random.index(BLOCK - at - 1))
    });
    for (round, (at, len)) in fixed
        .into_iter()
        .chain(chosen.collect::<Vec<_>>())
        .enumerate()
    {
        let index = 1 + round % 2;
        let file = open_rw(mount.block(index.try_into().unwrap()));
        zero(&file, ways[round % 3], at, len)
            .unwrap_or_else(|e| panic!("{what}: {len} bytes at {at}: {e}"));
        content[index * BLOCK + at..][..len].fill(0);
        assert_same(what, &mount.image(), content);
        assert_same(what, &fs::read(image).unwrap(), content);
        // Data comes back into what was zeroed.
        let back = pattern(round.try_into().unwrap(), len / 2);
        std::os::unix::fs::FileExt::write_all_at(&file, &back, at.try_into().unwrap()).unwrap();
        content[index * BLOCK + at..][..len / 2].copy_from_slice(&back);
    }
    assert_same(what, &fs::read(image).unwrap(), content);
}

/// An image of four blocks of data on `filesystem`.
fn full_image(filesystem: &Filesystem, content: &[u8]) -> PathBuf {
    let image = filesystem.path("a.img");
    fs::write(&image, content).unwrap();
    image
}

#[test]
fn p10_punch_hole_and_zero_range_zero_exactly_the_range() {
    let scene = Scene::new();
    // ramfs knows neither: there the zeros are written.
    for kind in WITH_HOLES.into_iter().chain(["ramfs"]) {
        let filesystem = Filesystem::new(&scene, kind);
        let mut content = pattern(2, 3 * BLOCK + 5000);
        let image = full_image(&filesystem, &content);
        let mount = scene.mount(&image).with("-rw -b 1M").up();
        zeroes_exactly(kind, &mount, &image, &mut content);
        mount.unmount();
    }
}

#[test]
fn p10_devices_zero_exactly_the_range() {
    let scene = Scene::new();
    for (options, kind) in [("", "ext4"), ("--sector-size 4096", "tmpfs"), ("", "ramfs")] {
        let filesystem = Filesystem::new(&scene, kind);
        let mut content = pattern(3, 4 * BLOCK);
        let image = full_image(&filesystem, &content);
        let device = LoopDevice::with(options, &image);
        let mount = scene.mount(device.path()).with("-rw -b 1M").up();
        zeroes_exactly(
            &format!("{kind} {options}"),
            &mount,
            device.path(),
            &mut content,
        );
        mount.unmount();
    }
}

/// Bytes that a file takes on its disk, when all is there.
fn space(path: &Path) -> u64 {
    File::open(path).unwrap().sync_all().unwrap();
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn p10_punching_frees_the_space() {
    let scene = Scene::new();
    for kind in WITH_HOLES {
        let filesystem = Filesystem::new(&scene, kind);
        let image = full_image(&filesystem, &pattern(4, 4 * BLOCK));
        let before = space(&image);
        let mount = scene.mount(&image).with("-rw -b 1M").up();
        let file = open_rw(mount.block(2));
        // Ragged edges: all but them is freed.
        zero(&file, punch(), 1, BLOCK - 2).unwrap();
        file.sync_all().unwrap();
        wait_until("the space of a punched block is free", || {
            before - space(&image) >= (1 << 20) - 2 * 65_536
        });
        drop(file);
        mount.unmount();
    }
}

#[test]
fn p10_a_device_is_told_to_free_the_space() {
    let scene = Scene::new();
    let filesystem = Filesystem::new(&scene, "ext4");
    let image = full_image(&filesystem, &pattern(5, 4 * BLOCK));
    let before = space(&image);
    let device = LoopDevice::new(&image);
    let mount = scene.mount(device.path()).with("-rw -b 1M").up();
    let file = open_rw(mount.block(2));
    zero(&file, punch(), 1, BLOCK - 2).unwrap();
    file.sync_all().unwrap();
    wait_until("the space behind the device is free", || {
        before - space(&image) >= (1 << 20) - 2 * 65_536
    });
    drop(file);
    mount.unmount();
}

#[test]
fn p10_mode_0_succeeds_within_the_block_and_changes_nothing() {
    let scene = Scene::new();
    let content = pattern(6, 2 * BLOCK + 1000);
    let image = scene.file("a.img", &content);
    let device = LoopDevice::new(&scene.file("b.img", &content[..2 * BLOCK]));
    for (source, end) in [(image.as_path(), content.len()), (device.path(), 2 * BLOCK)] {
        let mount = scene.mount(source).with("-rw -b 1M").up();
        let file = open_rw(mount.block(1));
        for how in [FallocateFlags::empty(), FallocateFlags::FALLOC_FL_KEEP_SIZE] {
            zero(&file, how, 0, BLOCK).unwrap();
            zero(&file, how, 1234, 4321).unwrap();
        }
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        assert_same("the image", &mount.image(), &content[..end]);
        drop(file);
        mount.unmount();
    }
}

#[test]
fn p10_beyond_the_block_is_efbig() {
    let scene = Scene::new();
    let content = pattern(7, 2 * BLOCK + 1000);
    let image = scene.file("a.img", &content);
    let mount = scene.mount(&image).with("-rw -b 1M").up();
    let nothing = FallocateFlags::empty();
    for (index, len) in [(0, BLOCK), (1, BLOCK), (2, 1000)] {
        let file = open_rw(mount.block(index));
        for how in [nothing, FallocateFlags::FALLOC_FL_ZERO_RANGE] {
            refused(
                "across the end",
                zero(&file, how, len - 10, 11),
                libc::EFBIG,
            );
            refused("behind the end", zero(&file, how, len, 1), libc::EFBIG);
        }
        assert_eq!(file.metadata().unwrap().len(), u64::try_from(len).unwrap());
    }
    assert_same("the image", &fs::read(&image).unwrap(), &content);
    // The tool that people use.
    let said = tool("fallocate")
        .words("-o 0 -l 1048577")
        .arg(mount.block(0))
        .fails(1);
    assert!(said.contains("File too large"), "{said}");
}

/// Where the length stays, a range that goes past the end is done up to the end, as on ext4.
#[test]
fn p10_keep_size_goes_up_to_the_end() {
    let scene = Scene::new();
    let mut content = pattern(9, 65_536 + 513);
    let image = scene.file("a.img", &content);
    let mount = scene.mount(&image).with("-rw -b 64K").up();
    let last = mount.block(1);
    let file = open_rw(&last);
    let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    for how in [punch(), FallocateFlags::FALLOC_FL_ZERO_RANGE | keep, keep] {
        zero(&file, how, 513, 4096).unwrap();
        zero(&file, how, 1 << 20, 4096).unwrap();
        assert_same("nothing is there", &mount.image(), &content);
    }
    zero(
        &file,
        FallocateFlags::FALLOC_FL_ZERO_RANGE | keep,
        500,
        4096,
    )
    .unwrap();
    content[65_536 + 500..].fill(0);
    assert_same("across the end", &mount.image(), &content);
    for words in ["-n -o 0 -l 65536", "-p -o 0 -l 65536"] {
        tool("fallocate").words(words).arg(&last).ok();
    }
    content[65_536..].fill(0);
    assert_same("the whole block", &mount.image(), &content);
    assert_eq!(file.metadata().unwrap().len(), 513);
}

#[test]
fn p10_other_modes_are_refused_and_change_nothing() {
    let scene = Scene::new();
    let content = pattern(8, 2 * BLOCK);
    let image = scene.file("a.img", &content);
    let mount = scene.mount(&image).with("-rw -b 1M").up();
    let file = open_rw(mount.block(0));
    for how in [
        FallocateFlags::FALLOC_FL_COLLAPSE_RANGE,
        FallocateFlags::FALLOC_FL_INSERT_RANGE,
    ] {
        refused("moving data", zero(&file, how, 0, 4096), libc::EOPNOTSUPP);
    }
    assert_same("the image", &fs::read(&image).unwrap(), &content);
}
