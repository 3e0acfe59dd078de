//! cp, dd, cat, tar, cmp, b3sum and qemu-img do to block files what they do to ordinary files of fixed size.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::support::blocks::{self, open_rw};
use crate::support::command::tool;
use crate::support::mounted::Mounted;
use crate::support::pattern::{assert_same, disk_like, pattern};
use crate::support::scene::Scene;

const BLOCK: usize = 256 << 10;

/// A writable mount of an image of eight blocks and a bit, the image's path and content.
fn eight_blocks(scene: &Scene) -> (Mounted, PathBuf, Vec<u8>) {
    let content = disk_like(1, 8 * BLOCK + 10_000);
    let image = scene.file("a.img", &content);
    (scene.mount(&image).with("-rw -b 256K").up(), image, content)
}

/// Puts `bytes` where block `index` is in a copy of the image.
fn replace(content: &mut [u8], index: usize, bytes: &[u8]) {
    content[index * BLOCK..][..bytes.len()].copy_from_slice(bytes);
}

#[test]
fn cat_and_cmp_and_b3sum_and_wc() {
    let scene = Scene::new();
    let (mount, image, content) = eight_blocks(&scene);
    let whole = scene.path("whole");
    tool("sh")
        .args(["-c", "cat \"$1\"/* > \"$2\"", "sh"])
        .args([mount.point(), &whole])
        .ok();
    assert_same("cat", &fs::read(&whole).unwrap(), &content);
    tool("cmp").args([&image, &whole]).ok();
    for (index, part) in content.chunks(BLOCK).enumerate() {
        let file = scene.file("part", part);
        let block = mount.block(index.try_into().unwrap());
        tool("cmp").args([&file, &block]).ok();
        let sum = |path: &Path| tool("b3sum").arg("--no-names").arg(path).ok();
        assert_eq!(sum(&file), sum(&block));
        assert_eq!(
            tool("wc")
                .arg("-c")
                .arg(&block)
                .ok()
                .split(' ')
                .next()
                .unwrap(),
            part.len().to_string()
        );
    }
}

#[test]
fn cp_out_and_in() {
    let scene = Scene::new();
    let (mount, image, mut content) = eight_blocks(&scene);
    for options in [
        "",
        "--sparse=always",
        "--sparse=never",
        "--reflink=auto -p",
        "--reflink=never",
    ] {
        let copies = scene.dir("copies");
        tool("cp")
            .arg("-r")
            .words(options)
            .arg(mount.point().join("."))
            .arg(&copies)
            .ok();
        assert_same("copied out", &blocks::concatenated(&copies), &content);
        fs::remove_dir_all(&copies).unwrap();
    }
    for (index, options) in [
        "",
        "--sparse=always",
        "--sparse=never",
        "-p",
        "--preserve=all",
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = disk_like(20 + u64::try_from(index).unwrap(), BLOCK);
        let file = scene.file("new", &bytes);
        tool("cp")
            .words(options)
            .args([&file, &mount.block(index.try_into().unwrap())])
            .ok();
        replace(&mut content, index, &bytes);
        assert_same(
            &format!("cp {options}"),
            &fs::read(&image).unwrap(),
            &content,
        );
    }
    // A block to a block.
    tool("cp").args([mount.block(1), mount.block(6)]).ok();
    let bytes = content[BLOCK..2 * BLOCK].to_vec();
    replace(&mut content, 6, &bytes);
    assert_same("cp of a block", &fs::read(&image).unwrap(), &content);
    // What is too short leaves zeros behind itself: cp has truncated first.
    let short = scene.file("short", &pattern(30, 1000));
    tool("cp").args([&short, &mount.block(7)]).ok();
    content[7 * BLOCK..8 * BLOCK].fill(0);
    replace(&mut content, 7, &pattern(30, 1000));
    assert_same("cp of a short file", &fs::read(&image).unwrap(), &content);
}

#[test]
fn what_is_too_long_is_refused_and_touches_no_other_block() {
    let scene = Scene::new();
    let (mount, image, content) = eight_blocks(&scene);
    let long = scene.file("long", &pattern(31, BLOCK + 1));
    let outcome = tool("cp").args([&long, &mount.block(3)]).run();
    assert!(
        outcome.code() != 0 && outcome.stderr.contains("File too large"),
        "{outcome:#?}"
    );
    let now = fs::read(&image).unwrap();
    assert_same("the block before", &now[..3 * BLOCK], &content[..3 * BLOCK]);
    assert_same("the block behind", &now[4 * BLOCK..], &content[4 * BLOCK..]);
}

#[test]
fn dd_in_all_its_ways() {
    let scene = Scene::new();
    let (mount, image, mut content) = eight_blocks(&scene);
    let bytes = pattern(40, BLOCK);
    let file = scene.file("new", &bytes);
    let (from, block) = (format!("if={}", file.display()), |index| {
        format!("of={}", mount.block(index).display())
    });
    let ways = [
        "bs=64K conv=notrunc",
        "bs=1K",
        "bs=1M",
        "bs=4K conv=sparse,notrunc",
        "bs=64K conv=fsync oflag=direct",
        "bs=256K oflag=sync",
        "bs=1000 conv=fdatasync",
    ];
    for (index, way) in (0_u8..).zip(ways) {
        tool("dd")
            .args([&from, &block(index.into())])
            .words(way)
            .ok();
        replace(&mut content, index.into(), &bytes);
        assert_same(&format!("dd {way}"), &fs::read(&image).unwrap(), &content);
    }
    // In the middle of a block.
    tool("dd")
        .args([&from, &block(7)])
        .words("bs=1000 count=3 seek=50 conv=notrunc")
        .ok();
    content[7 * BLOCK + 50_000..][..3000].copy_from_slice(&bytes[..3000]);
    assert_same("dd seek", &fs::read(&image).unwrap(), &content);
    // And out again.
    for way in [
        "bs=64K",
        "bs=1000",
        "bs=1M iflag=direct",
        "bs=4K iflag=fullblock",
    ] {
        let to = scene.path("out");
        tool("dd")
            .arg(format!("if={}", mount.block(7).display()))
            .arg(format!("of={}", to.display()))
            .words(way)
            .ok();
        assert_same(
            &format!("dd {way}"),
            &fs::read(&to).unwrap(),
            &content[7 * BLOCK..8 * BLOCK],
        );
    }
}

#[test]
fn shell_redirection() {
    let scene = Scene::new();
    let (mount, image, mut content) = eight_blocks(&scene);
    let bytes = pattern(41, BLOCK);
    let file = scene.file("new", &bytes);
    tool("sh")
        .args(["-c", "cat \"$1\" > \"$2\"", "sh"])
        .args([&file, &mount.block(2)])
        .ok();
    replace(&mut content, 2, &bytes);
    assert_same("cat >", &fs::read(&image).unwrap(), &content);
    tool("sh")
        .args(["-c", ": > \"$1\"", "sh"])
        .arg(mount.block(3))
        .ok();
    content[3 * BLOCK..4 * BLOCK].fill(0);
    assert_same(": >", &fs::read(&image).unwrap(), &content);
    assert_eq!(
        fs::metadata(mount.block(3)).unwrap().len(),
        u64::try_from(BLOCK).unwrap()
    );
}

#[test]
fn tar_out_and_in() {
    let scene = Scene::new();
    let (mount, image, content) = eight_blocks(&scene);
    for options in ["", "--sparse"] {
        let archive = scene.path("a.tar");
        tool("tar")
            .words(options)
            .arg("-C")
            .arg(mount.point())
            .arg("-cf")
            .args([&archive, Path::new(".")])
            .ok();
        let unpacked = scene.dir("unpacked");
        tool("tar")
            .arg("-C")
            .arg(&unpacked)
            .arg("-xf")
            .arg(&archive)
            .ok();
        assert_same("unpacked", &blocks::concatenated(&unpacked), &content);
        fs::remove_dir_all(&unpacked).unwrap();

        // Over other content, and from the root's times to the blocks'.
        open_rw(mount.block(4))
            .write_all_at(&pattern(42, BLOCK), 0)
            .unwrap();
        assert_ne!(fs::read(&image).unwrap(), content);
        tool("tar")
            .arg("-C")
            .arg(mount.point())
            .arg("--overwrite")
            .arg("-xf")
            .arg(&archive)
            .ok();
        assert_same(
            &format!("tar {options} into the mount"),
            &fs::read(&image).unwrap(),
            &content,
        );
    }
}

#[test]
fn qemu_img_reads_maps_compares_and_writes() {
    let scene = Scene::new();
    let (mount, image, mut content) = eight_blocks(&scene);
    let block = mount.block(2);
    let part = scene.file("part", &content[2 * BLOCK..3 * BLOCK]);
    let info = tool("qemu-img")
        .words("info -f raw --output=json")
        .arg(&block)
        .ok();
    assert!(
        info.contains(&format!("\"virtual-size\": {BLOCK}")),
        "{info}"
    );
    tool("qemu-img")
        .words("compare -f raw -F raw")
        .args([&part, &block])
        .ok();
    let copy = scene.path("copy");
    for cache in ["writeback", "none"] {
        tool("qemu-img")
            .words("convert -f raw -O raw -T")
            .arg(cache)
            .args([&block, &copy])
            .ok();
        assert_same(
            "convert",
            &fs::read(&copy).unwrap(),
            &content[2 * BLOCK..3 * BLOCK],
        );
    }
    for cache in ["writeback", "none", "writethrough"] {
        let bytes = disk_like(43, BLOCK);
        let new = scene.file("new", &bytes);
        tool("qemu-img")
            .words("convert -n -f raw -O raw -t")
            .arg(cache)
            .args([&new, &mount.block(5)])
            .ok();
        replace(&mut content, 5, &bytes);
        assert_same("convert -n", &fs::read(&image).unwrap(), &content);
    }
    let commands = [
        "write -P 3 1000 5000",
        "write -z 20000 30000",
        "discard 100000 8192",
        "flush",
        "read -P 3 1000 5000",
    ];
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    tool("qemu-io")
        .words("-f raw -d unmap")
        .args(commands)
        .arg(mount.block(6))
        .ok();
    content[6 * BLOCK + 1000..][..5000].fill(3);
    content[6 * BLOCK + 20_000..][..30_000].fill(0);
    content[6 * BLOCK + 100_000..][..8192].fill(0);
    assert_same("qemu-io", &fs::read(&image).unwrap(), &content);
}

#[test]
fn grep_ls_find_and_stat_see_plain_files() {
    let scene = Scene::new();
    let (mount, _, _) = eight_blocks(&scene);
    let listed = tool("ls").arg("-1").arg(mount.point()).ok();
    assert_eq!(
        listed.lines().collect::<Vec<_>>(),
        blocks::names(mount.point())
    );
    let found = tool("find")
        .arg(mount.point())
        .words("-type f -size 262144c -links 1")
        .ok();
    assert_eq!(found.lines().count(), 8);
    // No attributes beyond the plain ones, and no complaint about that.
    let long = tool("ls").arg("-la").arg(mount.point()).run();
    assert_eq!((long.code(), long.stderr.as_str()), (0, ""));
    let archive = scene.path("a.tar");
    for reader in [
        tool("getfattr").words("-d"),
        tool("tar").words("--xattrs -cPf").arg(archive),
        tool("rsync").words("-aX --dry-run"),
    ] {
        let read = reader.arg(mount.block(1)).run();
        assert_eq!((read.code(), read.stderr.as_str()), (0, ""), "{read:?}");
    }
    open_rw(mount.block(0))
        .write_all_at(b"a needle in it", 1000)
        .unwrap();
    let hit = tool("grep")
        .args(["-l", "-a", "needle in"])
        .args((0..9).map(|i| mount.block(i)))
        .ok();
    assert_eq!(hit.trim(), mount.block(0).to_str().unwrap());
}

#[test]
fn an_image_on_a_file_system_that_is_never_written() {
    let scene = Scene::new();
    let content = disk_like(9, 5 * BLOCK + 1);
    scene.dir("packed");
    scene.file("packed/a.img", &content);
    let (packed, point) = (scene.path("packed.squashfs"), scene.dir("squashfs"));
    tool("mksquashfs")
        .args([scene.path("packed"), packed.clone()])
        .words("-quiet -no-progress")
        .ok();
    tool("mount").words("-o loop").args([&packed, &point]).ok();
    let image = point.join("a.img");
    // There is nothing to flush, so it cannot be flushed either.
    let error = fs::File::open(&image).unwrap().sync_all().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    let index = format!("--index={}", scene.path("a.index").display());
    for options in [&["-b", "256K"][..], &["-b", "256K", &index]] {
        for round in 0..2 {
            let backup = scene.dir(&format!("backup-{}", options.len()));
            let said = scene.bmapfs().arg("run").args(options).arg(&image);
            let said = said.words("-- rsync -ai --inplace {}/").arg(&backup).ok();
            assert_eq!(said.contains(">f"), round == 0, "{said}");
            assert_same("the backup", &blocks::concatenated(&backup), &content);
        }
    }
    tool("umount").arg(&point).ok();
}
