//! P1 to P3: which files there are, how long they are, and their inode numbers.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};

use crate::support::blocks;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::Filesystem;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::{Scene, poke};

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

#[test]
fn p1_block_files_in_order_are_the_image() {
    let scene = Scene::new();
    for size in [1, 4095, 4096, 4097, 12_288, 100_001] {
        let content = pattern(size, usize::try_from(size).unwrap());
        let image = scene.file(format!("{size}.img"), &content);
        let mount = scene.mount(&image).with("-b 4K").up();
        assert_eq!(
            blocks::names(mount.point()),
            blocks::expected_names(size, 4 * K),
            "{size} bytes"
        );
        assert_same(&format!("{size} bytes"), &mount.image(), &content);
        mount.unmount();
    }
}

#[test]
fn p1_the_block_size_is_4m_unless_b_says_otherwise() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 9 * M);
    let mount = scene.mount(&image).up();
    let sizes: Vec<u64> = (0..3)
        .map(|i| fs::metadata(mount.block(i)).unwrap().len())
        .collect();
    assert_eq!(sizes, [4 * M, 4 * M, M]);
}

#[test]
fn p1_every_block_size_from_4k_to_1g() {
    let scene = Scene::new();
    let filesystem = Filesystem::new(&scene, "tmpfs");
    for shift in 12..=30 {
        let block = 1_u64 << shift;
        let size = 2 * block + block / 2 + 1;
        let image = filesystem.sparse("a.img", size);
        // Across both edges between blocks, and at the very end.
        poke(&image, block - 3, b"first edge");
        poke(&image, 2 * block - 4, b"second edge");
        poke(&image, size - 3, b"end");
        let mount = scene.mount(&image).with(&format!("-b {block}")).up();
        assert_eq!(
            blocks::names(mount.point()),
            blocks::expected_names(size, block),
            "-b {block}"
        );
        let sizes: Vec<u64> = (0..3)
            .map(|i| fs::metadata(mount.block(i)).unwrap().len())
            .collect();
        assert_eq!(sizes, [block, block, block / 2 + 1]);
        let bytes = |index: u64, offset: u64, len: usize| {
            let mut buffer = vec![0; len];
            File::open(mount.block(index))
                .unwrap()
                .read_exact_at(&mut buffer, offset)
                .unwrap();
            String::from_utf8(buffer).unwrap()
        };
        assert_eq!(bytes(0, block - 3, 3) + &bytes(1, 0, 7), "first edge");
        assert_eq!(bytes(1, block - 4, 4) + &bytes(2, 0, 7), "second edge");
        assert_eq!(bytes(2, block / 2 - 2, 3), "end");
        mount.unmount();
    }
}

#[test]
fn p1_sixteen_tebibytes() {
    let scene = Scene::new();
    let filesystem = Filesystem::new(&scene, "xfs");
    let image = filesystem.sparse("large.img", 16 << 40);
    let end = (16 << 40) - 7;
    poke(&image, end, b"the end");

    let mount = scene.mount(&image).with("-b 1G").up();
    assert_eq!(
        blocks::names(mount.point()),
        blocks::expected_names(16 << 40, G)
    );
    let mut tail = [0; 7];
    File::open(mount.block(16_383))
        .unwrap()
        .read_exact_at(&mut tail, G - 7)
        .unwrap();
    assert_eq!(&tail, b"the end");
    mount.unmount();

    let mount = scene.mount(&image).with("-b 256K").up();
    let last = (16_u64 << 40) / (256 * K) - 1;
    assert_eq!(fs::metadata(mount.block(last)).unwrap().len(), 256 * K);
    assert!(blocks::read(&mount.block(last)).ends_with(b"the end"));
    assert!(!fs::exists(mount.block(last + 1)).unwrap());
    mount.unmount();
}

#[test]
fn p1_more_than_a_hundred_million_blocks_propose_a_block_size() {
    let scene = Scene::new();
    let filesystem = Filesystem::new(&scene, "tmpfs");
    let image = filesystem.sparse("large.img", 16 << 40);
    let said = scene.mount(&image).with("-b 4K").refused(1);
    assert!(said.contains("-b 256K"), "{said}");
    scene.mount(&image).with("-b 256K").up().unmount();
}

#[test]
fn p1_other_names_do_not_exist() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(1, 10_000));
    let mount = scene.mount(&image).with("-b 4K").up();
    for name in [
        "00000003",
        "0",
        "000000000",
        "0000000",
        "+0000001",
        "0000000a",
        "00000001 ",
        "99999999",
        "-0000001",
    ] {
        assert!(
            fs::symlink_metadata(mount.point().join(name)).is_err(),
            "{name} exists"
        );
    }
}

#[test]
fn p2_an_empty_image_is_an_empty_directory() {
    let scene = Scene::new();
    let image = scene.file("empty.img", b"");
    for options in ["", "-rw"] {
        let mount = scene.mount(&image).with(options).up();
        assert!(blocks::names(mount.point()).is_empty());
        mount.unmount();
    }
}

#[test]
fn p2_the_size_of_a_device_is_the_kernels_word() {
    let scene = Scene::new();
    let content = pattern(2, 100_000);
    let image = scene.file("a.img", &content);
    // The device ends before its file does, and not at a multiple of the block.
    let device = LoopDevice::with("--sizelimit 50176", &image);
    for options in ["-b 4K", "-b 4K -rw"] {
        let mount = scene.mount(device.path()).with(options).up();
        assert_eq!(fs::metadata(mount.block(12)).unwrap().len(), 1024);
        assert_same("the device", &mount.image(), &content[..50_176]);
        mount.unmount();
    }
}

#[test]
fn p3_inodes_are_index_plus_two_for_ever() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 300 * 4 * K);
    for options in ["-b 4K", "-b 4K -rw"] {
        let mount = scene.mount(&image).with(options).up();
        assert_eq!(fs::metadata(mount.point()).unwrap().ino(), 1);
        let mut seen = HashSet::new();
        for entry in fs::read_dir(mount.point()).unwrap() {
            let entry = entry.unwrap();
            let index: u64 = entry.file_name().to_str().unwrap().parse().unwrap();
            let attributes = entry.metadata().unwrap();
            assert_eq!(attributes.ino(), index + 2);
            assert_eq!(entry.ino(), index + 2, "the number in the directory");
            assert_eq!(attributes.nlink(), 1);
            assert!(attributes.blksize().is_power_of_two() && attributes.blksize() <= 128 * K);
            assert!(seen.insert(index), "{index} is listed twice");
        }
        assert_eq!(seen.len(), 300);
        mount.unmount();
    }
}

#[test]
fn p3_a_listing_can_be_left_and_taken_up_again() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 5000 * 4 * K);
    let mount = scene.mount(&image).with("-b 4K").up();
    // Two readers of one directory, interleaved, each with its own position.
    let mut one = fs::read_dir(mount.point()).unwrap();
    let mut other = fs::read_dir(mount.point()).unwrap();
    let mut listed = [Vec::new(), Vec::new()];
    loop {
        let (a, b) = (one.next(), other.next());
        if a.is_none() && b.is_none() {
            break;
        }
        listed[0].extend(a.map(|e| e.unwrap().file_name().into_string().unwrap()));
        listed[1].extend(b.map(|e| e.unwrap().file_name().into_string().unwrap()));
    }
    for names in &mut listed {
        names.sort();
        assert_eq!(*names, blocks::expected_names(5000 * 4 * K, 4 * K));
    }
}
