//! `bmapfs scan --bmap`: a block map that bmaptool takes, and what is refused.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use crate::support::blocks;
use crate::support::command::{Outcome, Tool, tool};
use crate::support::devices::LoopDevice;
use crate::support::pattern::{assert_same, disk_like, pattern};
use crate::support::scene::{Scene, poke};

use super::rig::{BLOCK, Rig, change};

/// An image with data of all kinds and lengths, holes and a short last block.
fn image(scene: &Scene) -> std::path::PathBuf {
    let image = scene.sparse("a.img", 200 * BLOCK + 1234);
    change(&image, 0, &disk_like(1, 3_000_000));
    change(&image, 90 * BLOCK + 20_480, &pattern(2, 9000));
    change(&image, 150 * BLOCK, &pattern(3, 2 * 65_536));
    change(&image, 170 * BLOCK, &vec![0; 65_536]);
    change(&image, 200 * BLOCK + 1000, &pattern(4, 234));
    tool("sync").arg(&image).ok();
    image
}

/// A scan that writes a map.
fn map_to(rig: &Rig<'_>, options: &str, map: &Path) -> Tool {
    rig.scan(options).arg("--bmap").arg(map)
}

fn bmaptool(map: &Path, from: &Path, to: &Path) -> Outcome {
    tool("bmaptool")
        .words("copy --bmap")
        .args([map, from, to])
        .run()
}

/// The units of 4096 bytes that a map lists.
fn units(map: &Path) -> Vec<u64> {
    let text = fs::read_to_string(map).unwrap();
    let ranges = text.split("<Range chksum=\"").skip(1);
    let ranges = ranges.map(|range| {
        let (_, rest) = range.split_once("\"> ").unwrap();
        let (range, _) = rest.split_once(" </Range>").unwrap();
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse().unwrap()..=last.parse().unwrap()
    });
    ranges.flatten().collect()
}

#[test]
fn bmaptool_copies_the_image_and_its_backup_by_the_map() {
    let scene = Scene::new();
    let image = image(&scene);
    let rig = Rig::new(&scene, &image);
    let (map, theirs) = (scene.path("a.bmap"), scene.path("theirs.bmap"));
    map_to(&rig, "", &map).ok();
    tool("bmaptool")
        .args([Path::new("create"), &image, Path::new("-o"), &theirs])
        .ok();
    assert_eq!(units(&map), units(&theirs), "as bmaptool itself sees it");
    let mode = |file: &Path| fs::metadata(file).unwrap().mode();
    assert_eq!(mode(&map), mode(&image), "as the umask has it");

    let content = fs::read(&image).unwrap();
    let copy = scene.path("copy");
    bmaptool(&map, &image, &copy).ok();
    assert_same("the copy", &fs::read(&copy).unwrap(), &content);

    let backup = scene.dir("backup");
    rig.sync(&backup);
    let reverse = scene.mount(&backup).up();
    fs::remove_file(&copy).unwrap();
    bmaptool(&map, &reverse.point().join("image"), &copy).ok();
    assert_same("of the backup", &fs::read(&copy).unwrap(), &content);
    reverse.unmount();

    let mut byte = [0];
    let damaged = blocks::open_rw(backup.join("00000151"));
    damaged.read_exact_at(&mut byte, 5000).unwrap();
    damaged.write_all_at(&[byte[0] ^ 1], 5000).unwrap();
    let reverse = scene.mount(&backup).up();
    let outcome = bmaptool(&map, &reverse.point().join("image"), &copy);
    reverse.unmount();
    assert_ne!(outcome.code(), 0, "{outcome:?}");
    assert!(outcome.stderr.contains("checksum mismatch"), "{outcome:?}");

    let text = fs::read_to_string(&map).unwrap();
    fs::write(&map, text.replace("> 0-", "> 1-")).unwrap();
    let outcome = bmaptool(&map, &image, &copy);
    assert_ne!(outcome.code(), 0, "{outcome:?}");
}

#[test]
fn a_device_is_mapped_as_a_whole() {
    let scene = Scene::new();
    let image = image(&scene);
    fs::File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(200 * BLOCK)
        .unwrap();
    let device = LoopDevice::new(&image);
    let (map, copy) = (scene.path("a.bmap"), scene.path("copy"));
    for block in ["4K", "64K", "1G"] {
        let rig = Rig::new(&scene, device.path()).with_blocks(block);
        map_to(&rig, "--dry-run", &map).ok();
        assert!(!rig.index.exists(), "a map without an index");
        assert_eq!(units(&map), (0..200 * BLOCK / 4096).collect::<Vec<_>>());
        bmaptool(&map, &image, &copy).ok();
        assert_same(block, &fs::read(&copy).unwrap(), &fs::read(&image).unwrap());
    }
}

#[test]
fn a_map_reads_everything_whatever_the_index_knows() {
    let scene = Scene::new();
    let image = image(&scene);
    let rig = Rig::new(&scene, &image);
    let map = scene.path("a.bmap");
    rig.wait_until_old();
    let all = rig.counts("")["bytes_read"];
    assert_eq!(rig.counts("")["bytes_read"], 0);
    let options = format!("--bmap {}", map.display());
    let counts = rig.counts(&options);
    assert_eq!((counts["bytes_read"], counts["unchanged"]), (all, 201));
    // Only what was written is another time, also after a scan for a map.
    change(&image, 3 * BLOCK, b"new");
    let outcome = rig.scan(&options).arg("-v").run();
    let said = outcome.stderr.clone();
    let listed = outcome.ok();
    assert!(listed.starts_with("3\n201 blocks: 1 changed,"), "{listed}");
    assert!(
        said.contains("all of it is read, for the block map"),
        "{said}"
    );
    let copy = scene.path("copy");
    bmaptool(&map, &image, &copy).ok();
    assert_same(
        "the copy",
        &fs::read(&copy).unwrap(),
        &fs::read(&image).unwrap(),
    );
}

#[test]
fn what_is_no_map_is_not_replaced() {
    let scene = Scene::new();
    let image = image(&scene);
    let rig = Rig::new(&scene, &image);
    let content = fs::read(&image).unwrap();
    rig.scan("").ok();
    let index = fs::read(&rig.index).unwrap();
    let refused = |file: &Path, code: i32, says: &str| {
        let said = map_to(&rig, "", file).fails(code);
        assert!(said.contains(says), "{said}");
    };
    refused(&image, 2, "a.img: what is there is something else");
    refused(&rig.index, 2, "what is there is something else");
    refused(Path::new("/dev/null"), 2, "it is not a regular file");
    refused(&scene.dir("directory"), 2, "it is not a regular file");
    refused(&scene.path("nowhere/map"), 2, "No such file");
    refused(Path::new("-"), 1, "name a file");
    refused(Path::new(""), 1, "must name a file");
    assert_same("the image", &fs::read(&image).unwrap(), &content);
    assert!(
        fs::read(&rig.index).unwrap() == index,
        "nothing was scanned"
    );
    let changed = scene.file("changes", b"0 4096\n");
    let options = format!("--dry-run --since n1 --changed {}", changed.display());
    let said = map_to(&rig, &options, Path::new("map")).fails(1);
    assert!(said.contains("exclude each other"), "{said}");

    // An older map is, also behind a link, and an empty file.
    let (map, link) = (scene.file("map", b""), scene.path("link"));
    symlink("map", &link).unwrap();
    map_to(&rig, "", &link).ok();
    let first = fs::read(&map).unwrap();
    poke(&image, 0, b"other");
    map_to(&rig, "", &link).ok();
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("map"));
    assert!(fs::read(&map).unwrap() != first);
    let empty = Rig::new(&scene, &scene.sparse("empty", 0)).with_index(scene.path("e"));
    let said = map_to(&empty, "", &map).fails(2);
    assert!(said.contains("an image without a byte has none"), "{said}");
    let left = fs::read_dir(scene.path("")).unwrap();
    let names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with(".bmapfs-")).count(), 0);
}

#[test]
fn without_a_block_there_is_no_map() {
    let scene = Scene::new();
    let file = scene.file("a.img", &disk_like(3, 10 * 65_536));
    let device = LoopDevice::new(&file);
    let rig = Rig::new(&scene, device.path());
    let map = scene.path("map");
    map_to(&rig, "", &map).ok();
    let before = fs::read(&map).unwrap();
    // The end of the device cannot be read any more.
    blocks::open_rw(&file).set_len(8 * BLOCK).unwrap();
    let said = map_to(&rig, "", &map).fails(2);
    let says = format!(
        "writing the block map {}: block 00000008 cannot be read",
        map.display()
    );
    assert!(said.contains(&says), "{said}");
    assert!(fs::read(&map).unwrap() == before, "it is the older one");
}
