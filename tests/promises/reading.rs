//! P4: a read returns the image's bytes as they are now, whoever changed them and however they are read.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::mounted::Mounted;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::{Scene, poke};

/// Changes the image again and again through `poke_at` and expects every next read to see it: by a handle
/// that was open before, by a new one, and by direct I/O.
fn every_change_is_seen(mount: &Mounted, poke_at: &dyn Fn(u64, &[u8])) {
    let block = 65_536;
    let open = File::open(mount.block(2)).unwrap();
    for round in 0..5 {
        let content = pattern(100 + round, 8192);
        let mut seen = vec![0; 8192];
        open.read_exact_at(&mut seen, 4096).unwrap();
        assert_ne!(seen, content, "the change is not there before it is made");
        poke_at(2 * block + 4096, &content);
        open.read_exact_at(&mut seen, 4096).unwrap();
        assert_same("a handle that was open", &seen, &content);
        assert_same(
            "a new handle",
            &blocks::read(&mount.block(2))[4096..12_288],
            &content,
        );
        let mut direct = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(mount.block(2))
            .unwrap();
        let mut all = Vec::new();
        direct.read_to_end(&mut all).unwrap();
        assert_same("direct I/O", &all[4096..12_288], &content);
    }
}

#[test]
fn p4_a_change_of_the_raw_file_is_seen_by_the_next_read() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(1, 300_000));
    for options in ["-b 64K", "-b 64K -rw"] {
        let mount = scene.mount(&image).with(options).up();
        every_change_is_seen(&mount, &|offset, bytes| poke(&image, offset, bytes));
        // By direct I/O, past the page cache.
        every_change_is_seen(&mount, &|offset, bytes| {
            let content = scene.file("content", bytes);
            dd(&content, &image, offset, "oflag=direct,seek_bytes");
        });
        mount.unmount();
    }
}

fn dd(from: &Path, to: &Path, offset: u64, options: &str) {
    let (from, to) = (
        format!("if={}", from.display()),
        format!("of={}", to.display()),
    );
    tool("dd")
        .args([from, to, format!("seek={offset}")])
        .words("bs=4096 conv=notrunc")
        .words(options)
        .ok();
}

#[test]
fn p4_a_change_of_the_raw_device_is_seen_by_the_next_read() {
    let scene = Scene::new();
    let device = LoopDevice::new(&scene.file("a.img", &pattern(2, 300_032)));
    let mount = scene.mount(device.path()).with("-b 64K").up();
    every_change_is_seen(&mount, &|offset, bytes| poke(device.path(), offset, bytes));
    every_change_is_seen(&mount, &|offset, bytes| {
        let content = scene.file("content", bytes);
        dd(&content, device.path(), offset, "oflag=direct,seek_bytes");
    });
}

#[test]
fn p4_a_change_through_a_partition_is_seen_by_the_next_read() {
    let scene = Scene::new();
    let device = LoopDevice::with("-P", &scene.file("disk.img", &pattern(3, 1 << 20)));
    let partition = device.partition(1, 65_536, 900 << 10);
    let mount = scene.mount(device.path()).with("-b 64K").up();
    every_change_is_seen(&mount, &|offset, bytes| {
        let file = File::options().write(true).open(&partition).unwrap();
        file.write_all_at(bytes, offset - 65_536).unwrap();
        // A partition has a page cache of its own, which is on no disk before this.
        file.sync_all().unwrap();
    });
    mount.unmount();

    // And the other way round: the partition is the source.
    let mount = scene.mount(&partition).with("-b 64K").up();
    every_change_is_seen(&mount, &|offset, bytes| {
        let file = File::options().write(true).open(device.path()).unwrap();
        file.write_all_at(bytes, offset + 65_536).unwrap();
        file.sync_all().unwrap();
    });
}

#[test]
fn p4_a_change_by_a_file_system_on_the_device_is_seen_by_the_next_read() {
    let scene = Scene::new();
    let image = scene.sparse("fs.img", 16 << 20);
    let device = LoopDevice::new(&image);
    tool("mkfs.ext4")
        .words("-q -F -b 4096")
        .arg(device.path())
        .ok();
    let point = scene.dir("fs");
    tool("mount").arg(device.path()).arg(&point).ok();
    let unmount = Unmount(&point);
    let mount = scene.mount(device.path()).with("-b 1M").up();
    for round in 0..3 {
        let before = mount.image();
        let content = pattern(20 + round, 200_000);
        assert!(!contains(&before, &content[..4096]));
        let file = File::create(point.join("file")).unwrap();
        file.write_all_at(&content, 0).unwrap();
        file.sync_all().unwrap();
        let now = mount.image();
        assert!(
            contains(&now, &content[..4096])
                && contains(&now, &content[100_000 / 4096 * 4096..][..4096])
        );
    }
    mount.unmount();
    drop(unmount);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        tool("umount").arg(self.0).run();
    }
}

/// Whether one of the image's pages is `page`.
fn contains(image: &[u8], page: &[u8]) -> bool {
    image.chunks(4096).any(|chunk| chunk == page)
}

#[test]
fn p4_reads_of_any_offset_and_length_return_the_images_bytes() {
    let scene = Scene::new();
    let content = pattern(4, 1_000_003);
    let image = scene.file("a.img", &content);
    let device_image = scene.file("b.img", &content[..999_936]);
    let device = LoopDevice::new(&device_image);
    let sources = [
        (image.as_path(), &content[..]),
        (device.path(), &content[..999_936]),
    ];
    for (source, content) in sources {
        for options in [
            "-b 128K",
            "-b 128K -rw",
            "-b 128K --threads 1",
            "-b 128K -o kernel_cache",
        ] {
            let mount = scene.mount(source).with(options).up();
            let mut random = crate::support::pattern::Random::new(9);
            for _ in 0..300 {
                let at = random.index(content.len());
                let block = at / 131_072;
                let end = content.len().min((block + 1) * 131_072);
                let offset = at % 131_072;
                let len = random.index(140_000);
                let mut buffer = vec![0; len];
                let file = File::open(mount.block(block.try_into().unwrap())).unwrap();
                let got = file
                    .read_at(&mut buffer, offset.try_into().unwrap())
                    .unwrap();
                assert_eq!(got, len.min(end - at), "{options}: {len} bytes at {at}");
                assert_same(options, &buffer[..got], &content[at..at + got]);
            }
            mount.unmount();
        }
    }
}

#[test]
fn p4_memory_maps_see_the_image() {
    let scene = Scene::new();
    let content = pattern(5, 3 << 20);
    let image = scene.file("a.img", &content);
    for options in ["-b 1M", "-b 1M -rw", "-b 1M -o kernel_cache"] {
        let mount = scene.mount(&image).with(options).up();
        for index in 0..3 {
            let part = scene.file("part", &content[index << 20..(index + 1) << 20]);
            let expected = tool("b3sum").args(["--no-names"]).arg(&part).ok();
            let block = mount.block(index.try_into().unwrap());
            // b3sum maps what it hashes; fio fails if it cannot map.
            assert_eq!(
                tool("b3sum").args(["--no-names"]).arg(&block).ok(),
                expected,
                "{options}"
            );
            let file = format!("--filename={}", block.display());
            tool("fio")
                .words("--name=map --ioengine=mmap --rw=read --bs=64k --size=1M --readonly")
                .arg(file)
                .ok();
        }
        mount.unmount();
    }
}

#[test]
fn p4_pages_are_kept_only_with_kernel_cache() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(6, 65_536));
    let mount = scene.mount(&image).with("-o kernel_cache").up();
    let first = blocks::read(&mount.block(0));
    poke(&image, 0, b"changed");
    assert_same(
        "pages of an image that nobody else writes",
        &blocks::read(&mount.block(0)),
        &first,
    );
    mount.unmount();
    let said = scene.mount(&image).with("-rw -o kernel_cache").refused(1);
    assert!(
        said.contains("kernel_cache") && said.contains("-w"),
        "{said}"
    );
    assert_eq!(&fs::read(&image).unwrap()[..7], b"changed");
}

#[test]
fn p4_a_block_file_can_be_the_source_of_another_mount() {
    let scene = Scene::new();
    let content = pattern(7, 300_000);
    let image = scene.file("a.img", &content);
    let outer = scene.mount(&image).with("-rw -b 256K").at("outer").up();
    let inner = scene
        .mount(outer.block(0))
        .with("-rw -b 4K")
        .at("inner")
        .up();
    assert_same("two mounts deep", &inner.image(), &content[..262_144]);
    fs::write(inner.block(5), [7; 4096]).unwrap();
    assert_eq!(&fs::read(&image).unwrap()[20_480..24_576], [7; 4096]);
    inner.unmount();
    outer.unmount();
}
