//! P14: a mount without an index never shows a time that other content has, or can still get.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::filesystem::Filesystem;
use crate::support::mounted::Mounted;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::{Scene, poke};
use crate::support::wait_until;

const SIZE: usize = 12 * 65_536;

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

/// Copies, and expects that the copy is the source.
fn sync(mount: &Mounted, backup: &Path, source: &Path) {
    tool("rsync")
        .words("-a --inplace")
        .arg(mount.point().join("."))
        .arg(backup)
        .ok();
    assert_same(
        "the backup",
        &blocks::concatenated(backup),
        &blocks::read(source),
    );
}

#[test]
fn p14_a_device_that_is_written_below_shows_new_times() {
    for options in ["-r", ""] {
        let scene = Scene::new();
        let backing = scene.file("b.img", &pattern(1, SIZE));
        let device = LoopDevice::with(options, &backing);
        let backup = scene.dir("backup");
        let mount = scene.mount(device.path()).with("-b 64K").up();
        sync(&mount, &backup, device.path());
        for round in 0..3 {
            poke(&backing, 200_000, &[round; 8]);
            tool("blockdev").arg("--flushbufs").arg(device.path()).ok();
            sync(&mount, &backup, &backing);
        }
    }
}

#[test]
fn p14_a_page_that_is_written_again_while_it_is_dirty_does_not_move_the_files_time() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let scene = Scene::new();
        let filesystem = Filesystem::new(&scene, kind);
        let image = filesystem.path("a.img");
        fs::write(&image, pattern(1, SIZE)).unwrap();
        tool("sync").arg("-f").arg(&image).ok();
        let mut writer = tool("xfs_io").arg(&image).spawn();
        let map = format!("mmap -rw 0 {SIZE}");
        writeln!(writer.child().stdin.as_mut().unwrap(), "{map}").unwrap();
        let mut write = |byte: u8| {
            let input = writer.child().stdin.as_mut().unwrap();
            writeln!(input, "mwrite -S {byte} 200000 8").unwrap();
            wait_until("it is written", || blocks::read(&image)[200_000] == byte);
        };
        let backup = scene.dir("backup");
        let mount = scene.mount(&image).with("-b 64K").up();
        for round in 0..3_u8 {
            // Before and after the copy, with no time between the mount's look at the file and that.
            write(10 * round + 1);
            sync(&mount, &backup, &image);
            write(10 * round + 2);
            write(10 * round + 3);
            sync(&mount, &backup, &image);
        }
        drop(writer);
        mount.unmount();
    }
}

#[test]
fn p14_a_block_that_is_named_at_once_shows_a_second_that_is_over() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(1, SIZE));
    let mount = scene.mount(&image).with("-b 64K").up();
    let mut last = 0;
    for round in 0..5_u8 {
        poke(&image, 200_000, &[round; 8]);
        let shown = || fs::metadata(mount.block(3)).unwrap().mtime();
        // The kernel keeps attributes for a second.
        wait_until("the write shows", || shown() > last);
        last = shown();
        assert!(last < now(), "somebody may still write in this second");
    }
    // Nor does a mount that begins in the second of a write.
    for round in 0..3_u8 {
        poke(&image, 200_000, &[round + 100; 8]);
        let mount = scene.mount(&image).with("-b 64K").at("other").up();
        let shown = fs::metadata(mount.block(3)).unwrap().mtime();
        assert!(shown < now(), "{shown}");
    }
}

#[test]
fn p14_times_of_whole_seconds_are_not_shown() {
    let scene = Scene::new();
    let disk = scene.sparse("disk", 32 << 20);
    tool("mkfs.ext4").words("-q -F -I 128").arg(&disk).ok();
    let point = scene.dir("fs");
    tool("mount").words("-o loop").args([&disk, &point]).ok();
    let image = point.join("a.img");
    fs::write(&image, pattern(1, SIZE)).unwrap();
    let old = fs::metadata(&image).unwrap().mtime();
    wait_until("its second is long over", || now() > old + 2);
    let mount = scene.mount(&image).with("-b 64K").up();
    let first = fs::metadata(mount.block(3)).unwrap().mtime();
    assert!(first > old, "a clock that is set back could repeat it");
    wait_until("each listing shows a new one", || {
        fs::read_dir(mount.point()).unwrap().count();
        fs::metadata(mount.block(3)).unwrap().mtime() > first
    });
    mount.unmount();
    tool("umount").arg(&point).ok();
}
