//! --sparse in a mount that stays: the listing follows what others write, as promise P2 follows the size.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::{Filesystem, WITH_HOLES};
use crate::support::mounted::Mounted;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::{Scene, poke};
use crate::support::wait_until;

const BLOCK: u64 = 64 << 10;

/// Waits until the blocks with these numbers have a file, and no others.
fn lists(what: &str, mount: &Mounted, numbers: &[u64]) {
    let expected: Vec<_> = numbers.iter().map(|number| blocks::name(*number)).collect();
    wait_until(what, || blocks::names(mount.point()) == expected);
}

fn write(path: &Path, block: u64) {
    poke(path, block * BLOCK + 8192, &pattern(block, 4096));
}

#[test]
fn p2_what_is_written_into_a_hole_gets_a_file_at_the_next_opendir() {
    let scene = Scene::new();
    for kind in WITH_HOLES {
        let disk = Filesystem::new(&scene, kind);
        for index in ["", "--index=INDEX"] {
            let what = format!("{kind} {index}");
            let image = disk.sparse("a.img", 16 * BLOCK);
            write(&image, 5);
            // Zeros that take space: no hole, but the index knows them.
            poke(&image, 9 * BLOCK, &vec![0; 64 << 10]);
            let index = index.replace("INDEX", &scene.path(kind).to_string_lossy());
            let options = format!("-b 64K --sparse {index}");
            let mount = scene.mount(&image).with(&options).up();
            let known = if index.is_empty() { &[9][..] } else { &[] };
            let first = [&[0, 5], known, &[15]].concat();
            let expected: Vec<_> = first.iter().map(|number| blocks::name(*number)).collect();
            assert_eq!(blocks::names(mount.point()), expected, "{what}: at first");
            write(&image, 3);
            lists(&what, &mount, &[0, 3, 5, 9, 15]);
            // One that was known as zeros, one more, and a hole that is new.
            write(&image, 9);
            write(&image, 12);
            tool("fallocate")
                .words("-p -o 327680 -l 65536")
                .arg(&image)
                .ok();
            lists(&what, &mount, &[0, 3, 9, 12, 15]);

            let backup = scene.dir("backup");
            tool("rsync")
                .words("-a --inplace --delete")
                .args([&mount.point().join("."), &backup])
                .ok();
            for block in [3, 9, 12] {
                let shown = blocks::read(&backup.join(blocks::name(block)));
                assert_same(&what, &shown[8192..12_288], &pattern(block, 4096));
            }
            mount.unmount();
        }
    }
}

#[test]
fn p2_a_block_that_was_cut_off_keeps_its_file() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 16 * BLOCK);
    write(&image, 5);
    write(&image, 9);
    let mount = scene.mount(&image).with("-b 64K --sparse").up();
    lists("at first", &mount, &[0, 5, 9, 15]);
    let file = File::options().write(true).open(&image).unwrap();
    file.set_len(7 * BLOCK + 100).unwrap();
    // No backup loses a block for that.
    lists("cut", &mount, &[0, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert!(fs::read(mount.block(9)).is_err());
}

#[test]
fn p2_a_sparse_device_is_followed_and_looked_at_again() {
    let scene = Scene::new();
    for index in ["", "--index=INDEX"] {
        let image = scene.sparse("a.img", 16 * BLOCK);
        write(&image, 5);
        write(&image, 9);
        let device = LoopDevice::new(&image);
        let index = index.replace("INDEX", &scene.path("index").to_string_lossy());
        let mount = scene
            .mount(device.path())
            .with(&format!("-b 64K --sparse {index}"))
            .up_in_foreground();
        let look_again = |times| {
            mount.signal(Signal::SIGHUP);
            wait_until("the device was looked at again", || {
                mount.log().matches("looked at again").count() == times
            });
        };
        lists("at first", &mount, &[0, 5, 9, 15]);
        look_again(1);
        let names = [0, 5, 9, 15].map(blocks::name);
        assert_eq!(blocks::names(mount.point()), names, "after SIGHUP");

        let file = File::options().write(true).open(device.path()).unwrap();
        file.write_all_at(&pattern(3, 4096), 3 * BLOCK).unwrap();
        file.sync_all().unwrap();
        drop(file);
        // Which of them are zeros is not known without reading.
        let all: Vec<_> = (0..16).collect();
        lists("after a write", &mount, &all);
        look_again(2);
        let names = [0, 3, 5, 9, 15].map(blocks::name);
        assert_eq!(blocks::names(mount.point()), names, "after SIGHUP again");
        mount.unmount();
    }
}
