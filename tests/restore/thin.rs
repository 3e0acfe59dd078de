//! Zero detection: a restored image is thin whatever tool writes it, unless that is not wanted.

use std::fs;

use super::rig::{BLOCK, UNITS, Way, extents, space, with_gaps, write_thin};
use crate::support::blocks;
use crate::support::filesystem::Filesystem;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

const SIZE: usize = 24 * BLOCK;

/// Those whose writes are 64 KiB or more.
const WAYS: [Way; 5] = [
    Way::Rsync("-a"),
    Way::Rsync("-a --inplace"),
    Way::Restic,
    Way::Cp("-p --sparse=never"),
    Way::Cp("-p"),
];

#[test]
fn a_restored_image_is_thin() {
    for kind in ["ext4", "xfs", "tmpfs"] {
        let scene = Scene::new();
        let disk = Filesystem::new(&scene, kind);
        let content = with_gaps(1, SIZE);
        let thin = disk.path("thin");
        write_thin(&thin, &content);
        let backup = scene.dir("backup");
        blocks::split_into(&backup, &content, BLOCK);
        let image = disk.path("image");
        for way in WAYS {
            for (old, options) in [
                (Vec::new(), "-o zero=detect --resize"),
                (pattern(2, SIZE), "-o zero=detect"),
                (pattern(3, SIZE), "--sparse"),
            ] {
                let what = format!("{way:?} {options} {kind}");
                fs::write(&image, &old).unwrap();
                let mount = scene
                    .mount(&image)
                    .with(&format!("{UNITS} -rw {options}"))
                    .up();
                way.copy(&scene, &backup, mount.point()).ok();
                mount.unmount();
                assert_same(&what, &fs::read(&image).unwrap(), &content);
                assert_eq!(extents(&image), extents(&thin), "{what}");
                // File systems count some blocks of their own.
                assert!(space(&image) <= space(&thin) + (64 << 10), "{what}");
            }
            // Truncation to nothing makes holes by itself.
            if kind != "ext4" || matches!(way, Way::Cp(_)) {
                continue;
            }
            for options in ["", "-o zero=keep", "--sparse -o zero=keep"] {
                let what = format!("{way:?} {options} {kind}");
                fs::write(&image, pattern(4, SIZE)).unwrap();
                let mount = scene
                    .mount(&image)
                    .with(&format!("{UNITS} -rw {options}"))
                    .up();
                way.copy(&scene, &backup, mount.point()).ok();
                mount.unmount();
                assert_same(&what, &fs::read(&image).unwrap(), &content);
                assert_eq!(extents(&image), [(0, SIZE.try_into().unwrap())], "{what}");
            }
        }
    }
}
