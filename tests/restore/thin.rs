//! Zero detection: a restored image is thin whatever tool writes it, unless that is not wanted.

use std::fs::{self, File};

use super::rig::{BLOCK, UNITS, Way, at_once, disk_usage, extents, space, with_gaps, write_thin};
use crate::support::blocks;
use crate::support::filesystem::Filesystem;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::{Scene, poke};

const SIZE: usize = 13 * BLOCK;

/// Those whose writes are 64 KiB or more.
const WAYS: [Way; 6] = [
    Way::Rsync("-a"),
    Way::Rsync("-a --inplace"),
    Way::Restic,
    Way::Borg,
    Way::Cp("-p --sparse=never"),
    Way::Cp("-p"),
];

/// Restores to an image that was `old`, and compares it with one that has all the holes it can have.
fn is_thin(scene: &Scene, disk: &Filesystem, way: Way, old: &[u8], options: &str) {
    let what = format!("{way:?} {options} {}", disk.point().display());
    let content = with_gaps(1, SIZE);
    // Others use the same file system.
    let name = scene.path("").file_name().unwrap().to_owned();
    let name = name.to_str().unwrap();
    let (thin, image) = (
        disk.path(&format!("{name}.thin")),
        disk.path(&format!("{name}.img")),
    );
    write_thin(&thin, &content);
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &content, BLOCK);
    // Not appended: XFS would keep what it has reserved behind the end for more of it.
    let file = File::create(&image).unwrap();
    file.set_len(old.len().try_into().unwrap()).unwrap();
    poke(&image, 0, old);
    let mount = scene
        .mount(&image)
        .with(&format!("{UNITS} -rw {options}"))
        .up();
    way.copy(scene, &backup, mount.point()).ok();
    mount.unmount();
    assert_same(&what, &fs::read(&image).unwrap(), &content);
    assert_eq!(extents(&image), extents(&thin), "{what}");
    // File systems count some blocks of their own.
    assert!(space(&image) <= space(&thin) + (64 << 10), "{what}");
    assert!(disk_usage(&image) <= space(&thin) + (64 << 10), "{what}");
}

#[test]
fn a_restored_image_is_thin() {
    let outer = Scene::new();
    let disks = ["ext4", "xfs", "btrfs", "tmpfs"].map(|kind| Filesystem::new(&outer, kind));
    let olds = [
        (Vec::new(), "-o zero=detect --resize"),
        (pattern(2, SIZE), "-o zero=detect"),
        (pattern(3, SIZE), "--sparse"),
    ];
    // rsync in every way, the others once; on each file system some.
    let mut cases = Vec::new();
    for (number, way) in WAYS.into_iter().enumerate() {
        for (third, (old, options)) in olds.iter().enumerate() {
            if matches!(way, Way::Rsync(_)) || number % 3 == third {
                cases.push((&disks[cases.len() % 4], way, old, *options));
            }
        }
    }
    at_once(cases, |scene, (disk, way, old, options)| {
        is_thin(scene, disk, way, old, options);
    });
}

#[test]
fn zeros_are_kept_where_that_is_wanted() {
    let options = ["", "-o zero=keep", "--sparse -o zero=keep"];
    // cp truncates to nothing first, which makes holes by itself.
    let ways = [Way::Rsync("-a"), Way::Rsync("-a --inplace"), Way::Restic];
    let cases = ways.into_iter().flat_map(|way| {
        let some = if way == Way::Restic { 1 } else { 3 };
        options
            .into_iter()
            .rev()
            .take(some)
            .map(move |options| (way, options))
    });
    at_once(cases, |scene, (way, options)| {
        let what = format!("{way:?} {options}");
        let content = with_gaps(1, SIZE);
        let backup = scene.dir("backup");
        blocks::split_into(&backup, &content, BLOCK);
        let image = scene.file("image", &pattern(4, SIZE));
        let mount = scene
            .mount(&image)
            .with(&format!("{UNITS} -rw {options}"))
            .up();
        way.copy(scene, &backup, mount.point()).ok();
        mount.unmount();
        assert_same(&what, &fs::read(&image).unwrap(), &content);
        assert_eq!(extents(&image), [(0, SIZE.try_into().unwrap())], "{what}");
    });
}
