//! P6: holes and data, and how much space a block file says that it takes.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Whence, lseek};

use crate::support::blocks::{data_ranges, refused};
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::{Filesystem, WITH_HOLES};
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::{Scene, poke};

const BLOCK: i64 = 1 << 20;

/// Data in an image of six blocks and a bit: none in blocks 1 and 4, all of block 3, one run inside block 2,
/// two in block 5, and the end of the image.
const DATA: [(i64, i64); 6] = [
    (0, 200_704),
    (2 * BLOCK + 262_144, 2 * BLOCK + 524_288),
    (3 * BLOCK, 4 * BLOCK),
    (5 * BLOCK + 65_536, 5 * BLOCK + 131_072),
    (5 * BLOCK + 524_288, 6 * BLOCK),
    (6 * BLOCK, 6 * BLOCK + 5000),
];

fn make_image(filesystem: &Filesystem) -> std::path::PathBuf {
    let image = filesystem.sparse("a.img", (6 * BLOCK + 5000).try_into().unwrap());
    for (start, end) in DATA {
        let content = pattern(start.unsigned_abs(), usize::try_from(end - start).unwrap());
        poke(&image, start.unsigned_abs(), &content);
    }
    image
}

#[test]
fn p6_seek_hole_and_seek_data_say_what_the_image_says() {
    let scene = Scene::new();
    for kind in WITH_HOLES {
        let filesystem = Filesystem::new(&scene, kind);
        let image = make_image(&filesystem);
        for options in ["-b 1M", "-b 1M -rw"] {
            let mount = scene.mount(&image).with(options).up();
            for index in 0..7 {
                let (start, end) = (index * BLOCK, (index + 1) * BLOCK);
                let inside = DATA.iter().filter(|(s, e)| *s < end && *e > start);
                let expected: Vec<_> = inside
                    .map(|(s, e)| ((*s).max(start) - start, (*e).min(end) - start))
                    .collect();
                let file = File::open(mount.block(index.unsigned_abs())).unwrap();
                assert_eq!(
                    data_ranges(&file),
                    expected,
                    "{kind} {options}: block {index}"
                );
            }
            mount.unmount();
        }
    }
}

#[test]
fn p6_seeking_ends_where_the_block_ends() {
    let scene = Scene::new();
    let filesystem = Filesystem::new(&scene, "tmpfs");
    let image = make_image(&filesystem);
    let mount = scene.mount(&image).with("-b 1M").up();
    let seek = |index: u64, at: i64, whence| {
        lseek(File::open(mount.block(index)).unwrap().as_fd(), at, whence)
    };
    assert_eq!(seek(1, 0, Whence::SeekHole), Ok(0));
    refused("data in a hole", seek(1, 0, Whence::SeekData), libc::ENXIO);
    assert_eq!(
        seek(3, 0, Whence::SeekHole),
        Ok(BLOCK),
        "a full block ends with a hole of no length"
    );
    assert_eq!(seek(3, BLOCK - 1, Whence::SeekData), Ok(BLOCK - 1));
    refused(
        "data at the end",
        seek(3, BLOCK, Whence::SeekData),
        libc::ENXIO,
    );
    refused(
        "a hole at the end",
        seek(3, BLOCK, Whence::SeekHole),
        libc::ENXIO,
    );
    assert_eq!(
        seek(6, 0, Whence::SeekHole),
        Ok(5000),
        "the last block is short"
    );
    refused(
        "data behind the last block",
        seek(6, 5000, Whence::SeekData),
        libc::ENXIO,
    );
}

#[test]
fn p6_data_that_is_not_on_disk_yet_is_data() {
    let scene = Scene::new();
    for kind in WITH_HOLES {
        let filesystem = Filesystem::new(&scene, kind);
        let image = filesystem.sparse("a.img", 8 << 20);
        let mount = scene.mount(&image).with("-b 1M").up();
        for index in [1, 6] {
            let file = File::open(mount.block(index)).unwrap();
            assert_eq!(data_ranges(&file), [], "{kind}: before");
            poke(&image, (index << 20) + 131_072, &pattern(index, 65_536));
            assert_eq!(data_ranges(&file), [(131_072, 196_608)], "{kind}: after");
        }
        mount.unmount();
    }
}

#[test]
fn p6_st_blocks_is_zero_only_for_a_block_that_is_all_hole() {
    let scene = Scene::new();
    for kind in WITH_HOLES {
        let filesystem = Filesystem::new(&scene, kind);
        let image = make_image(&filesystem);
        let mount = scene.mount(&image).with("-b 1M").up();
        let allocated = |index| fs::metadata(mount.block(index)).unwrap().blocks() * 512;
        let full = BLOCK.unsigned_abs();
        assert_eq!(allocated(1), 0, "{kind}: a hole");
        assert_eq!(allocated(4), 0, "{kind}: a hole");
        assert_eq!(allocated(3), full, "{kind}: full of data");
        for index in [0, 2, 5] {
            assert!(
                (1..=full).contains(&allocated(index)),
                "{kind}: block {index} takes {}",
                allocated(index)
            );
        }
        assert!(
            (5000..=8192).contains(&allocated(6)),
            "{kind}: the short last block takes {}",
            allocated(6)
        );
        mount.unmount();
    }
}

#[test]
fn p6_on_a_device_everything_is_data() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 3 << 20);
    let device = LoopDevice::new(&image);
    for options in ["-b 1M", "-b 1M -rw"] {
        let mount = scene.mount(device.path()).with(options).up();
        for index in 0..3 {
            let file = File::open(mount.block(index)).unwrap();
            assert_eq!(data_ranges(&file), [(0, BLOCK)]);
            assert_eq!(file.metadata().unwrap().blocks() * 512, 1 << 20);
        }
        mount.unmount();
    }
}

#[test]
fn p6_on_a_file_system_that_is_not_known_everything_is_data() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 1 << 20);
    // The image lies on FUSE.
    let outer = scene.mount(&image).at("outer").up();
    let inner = scene.mount(outer.block(0)).with("-b 64K").at("inner").up();
    let file = File::open(inner.block(3)).unwrap();
    assert_eq!(data_ranges(&file), [(0, 65_536)]);
    assert_eq!(file.metadata().unwrap().blocks() * 512, 65_536);
    drop(file);
    inner.unmount();
    outer.unmount();
}

/// Bytes that a file takes on its disk.
fn space(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn p6_cp_tar_and_du_tell_the_truth() {
    let scene = Scene::new();
    for kind in ["xfs", "tmpfs"] {
        let filesystem = Filesystem::new(&scene, kind);
        let image = make_image(&filesystem);
        let mount = scene.mount(&image).with("-b 1M").up();
        let content = fs::read(&image).unwrap();

        let copies = filesystem.path("copies");
        fs::create_dir(&copies).unwrap();
        tool("cp")
            .words("-r --sparse=auto")
            .arg(mount.point().join("."))
            .arg(&copies)
            .ok();
        assert_same(
            "cp --sparse=auto",
            &crate::support::blocks::concatenated(&copies),
            &content,
        );
        assert_eq!(
            space(&copies.join("00000001")),
            0,
            "{kind}: cp keeps a hole"
        );
        assert!(
            space(&copies.join("00000002")) < 1 << 20,
            "{kind}: cp keeps a hole around data"
        );

        let archive = filesystem.path("a.tar");
        let unpacked = filesystem.path("unpacked");
        fs::create_dir(&unpacked).unwrap();
        tool("tar")
            .args(["-S", "-C"])
            .arg(mount.point())
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .ok();
        assert!(
            fs::metadata(&archive).unwrap().len() < 3 << 20,
            "{kind}: tar -S leaves holes out"
        );
        tool("tar")
            .arg("-C")
            .arg(&unpacked)
            .arg("-xf")
            .arg(&archive)
            .ok();
        assert_same(
            "tar -S",
            &crate::support::blocks::concatenated(&unpacked),
            &content,
        );

        let listed = tool("du")
            .words("--block-size=1")
            .arg(mount.block(1))
            .arg(mount.block(3))
            .ok();
        let sizes: Vec<&str> = listed
            .lines()
            .map(|line| line.split('\t').next().unwrap())
            .collect();
        assert_eq!(sizes, ["0", "1048576"], "{kind}: du");
        let apparent = tool("du")
            .words("--apparent-size --block-size=1")
            .arg(mount.block(1))
            .ok();
        assert!(apparent.starts_with("1048576\t"), "{apparent}");
        mount.unmount();
    }
}
