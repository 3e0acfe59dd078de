//! Staged files, request by request: what may be done with them, how much they may hold, what is left.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use super::rig::{BLOCK, UNITS};
use crate::support::blocks;
use crate::support::command::tool;
use crate::support::mounted::Mounted;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

const SIZE: usize = 8 * BLOCK + 12_345;

fn mounted(scene: &Scene, options: &str) -> (Mounted, PathBuf) {
    let image = scene.file("image", &pattern(1, SIZE));
    let mount = scene
        .mount(&image)
        .with(&format!("{UNITS} -rw {options}"))
        .up_in_foreground();
    (mount, image)
}

#[test]
fn p12_times_and_mode_go_with_the_content_and_handles_go_on() {
    let scene = Scene::new();
    let (mount, image) = mounted(&scene, "");
    let mut expected = pattern(1, SIZE);
    let temporary = mount.point().join(".00000003.Ab12Cd");
    fs::write(&temporary, pattern(2, BLOCK)).unwrap();
    let open = blocks::open_rw(&temporary);
    fs::set_permissions(&temporary, Permissions::from_mode(0o600)).unwrap();
    open.set_modified(UNIX_EPOCH + Duration::from_secs(1_234_567_890))
        .unwrap();
    assert_same("before", &fs::read(&image).unwrap(), &expected);
    assert_eq!(blocks::names(mount.point()).len(), 10);
    fs::rename(&temporary, mount.block(3)).unwrap();
    expected[3 * BLOCK..4 * BLOCK].copy_from_slice(&pattern(2, BLOCK));
    assert_same("after", &fs::read(&image).unwrap(), &expected);
    let shown = fs::metadata(mount.block(3)).unwrap();
    assert_eq!(shown.mtime(), 1_234_567_890);
    assert_eq!(shown.mode() & 0o7777, 0o600);
    assert_eq!((shown.ino(), shown.len()), (5, BLOCK as u64));
    blocks::refused("stat", fs::metadata(&temporary), libc::ENOENT);
    open.write_all_at(b"goes on", 100).unwrap();
    open.sync_all().unwrap();
    expected[3 * BLOCK + 100..][..7].copy_from_slice(b"goes on");
    assert_same("the image", &fs::read(&image).unwrap(), &expected);
    let mut some = [0; 7];
    open.read_exact_at(&mut some, 100).unwrap();
    assert_eq!(&some, b"goes on");
    assert_eq!(open.metadata().unwrap().len(), BLOCK as u64);
    blocks::refused(
        "past the end",
        open.write_at(b"x", BLOCK as u64),
        libc::EFBIG,
    );
    drop(open);
    mount.unmount();
    assert_same("the end", &fs::read(&image).unwrap(), &expected);
}

#[test]
fn p12_a_staged_file_is_a_file() {
    let scene = Scene::new();
    let (mount, image) = mounted(&scene, "");
    let at = |name: &str| mount.point().join(name);
    fs::write(at("00000002.tmp"), b"hello").unwrap();
    assert_eq!(fs::read(at("00000002.tmp")).unwrap(), b"hello");
    fs::rename(at("00000002.tmp"), at("x00000002")).unwrap();
    blocks::refused("the old name", fs::read(at("00000002.tmp")), libc::ENOENT);
    let file = blocks::open_rw(at("x00000002"));
    file.set_len(BLOCK as u64).unwrap();
    file.set_len(3).unwrap();
    file.set_len(6).unwrap();
    assert_eq!(fs::read(at("x00000002")).unwrap(), b"hel\0\0\0");
    for (words, len) in [("-n", 6), ("-p", 6), ("-z -n", 6), ("-z", 8)] {
        let range = tool("fallocate").words(words).words("-o 4 -l 4");
        range.arg(at("x00000002")).ok();
        assert_eq!(file.metadata().unwrap().len(), len, "{words}");
    }
    file.set_len(6).unwrap();
    blocks::refused("too long", file.set_len(BLOCK as u64 + 1), libc::EFBIG);
    blocks::refused(
        "too long",
        file.write_at(b"xx", BLOCK as u64 - 1),
        libc::EFBIG,
    );
    blocks::refused(
        "too short",
        fs::rename(at("x00000002"), mount.block(2)),
        libc::EPERM,
    );
    blocks::refused(
        "no block's",
        fs::rename(at("x00000002"), at("other")),
        libc::EPERM,
    );
    fs::write(at("y00000002"), b"y").unwrap();
    fs::rename(at("y00000002"), at("x00000002")).unwrap();
    assert_eq!(fs::read(at("x00000002")).unwrap(), b"y");
    assert_eq!(
        file.metadata().unwrap().len(),
        6,
        "the replaced one is still open"
    );
    fs::remove_file(at("x00000002")).unwrap();
    file.write_all_at(b"gone", 0).unwrap();
    drop(file);
    for name in ["other", "0000000", "000000020", "00000009", ".00000009.x"] {
        assert!(fs::write(at(name), b"").is_err(), "{name}");
    }
    blocks::refused(
        "a block",
        fs::rename(mount.block(1), mount.block(2)),
        libc::EPERM,
    );
    blocks::refused("a block", fs::remove_file(mount.block(1)), libc::EPERM);
    blocks::refused("mkdir", fs::create_dir(at(".00000001.d")), libc::EPERM);
    blocks::refused(
        "link",
        fs::hard_link(mount.block(1), at(".00000001.l")),
        libc::EPERM,
    );
    let log = mount.unmount_for_log();
    assert!(!log.contains("dropped"), "{log}");
    assert_same("the image", &fs::read(&image).unwrap(), &pattern(1, SIZE));
}

#[test]
fn p12_who_reads_and_syncs_meanwhile_goes_on_at_the_block() {
    let scene = Scene::new();
    let (mount, image) = mounted(&scene, "");
    let content = pattern(2, BLOCK);
    for round in 0..100 {
        let temporary = mount.point().join(format!(".00000003.{round}"));
        fs::write(&temporary, &content).unwrap();
        let open = blocks::open_rw(&temporary);
        let renamed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let work = || {
                let mut some = [0; 64];
                while !renamed.load(Ordering::SeqCst) {
                    open.read_exact_at(&mut some, 5000).unwrap();
                    assert_eq!(some, content[5000..5064]);
                    open.sync_data().unwrap();
                    assert_eq!(open.metadata().unwrap().len(), BLOCK as u64);
                }
            };
            scope.spawn(work);
            fs::rename(&temporary, mount.block(3)).unwrap();
            renamed.store(true, Ordering::SeqCst);
        });
    }
    mount.unmount();
    let mut expected = pattern(1, SIZE);
    expected[3 * BLOCK..4 * BLOCK].copy_from_slice(&content);
    assert_same("the image", &fs::read(&image).unwrap(), &expected);
}

#[test]
fn p12_what_is_left_at_the_end_is_logged_and_dropped() {
    let scene = Scene::new();
    let (mount, image) = mounted(&scene, "");
    for index in 0..3 {
        fs::write(
            mount.point().join(format!(".0000000{index}.left")),
            pattern(2, BLOCK),
        )
        .unwrap();
    }
    let log = mount.unmount_for_log();
    assert!(
        log.contains("3 temporary files") && log.contains(".00000000.left"),
        "{log}"
    );
    assert_same("the image", &fs::read(&image).unwrap(), &pattern(1, SIZE));
}

#[test]
fn p12_memory_is_bounded() {
    let scene = Scene::new();
    let (mount, image) = mounted(&scene, "-o staging=600K");
    let at = |index: u64| mount.point().join(format!(".{index:08}.x"));
    fs::write(at(0), pattern(2, BLOCK)).unwrap();
    fs::write(at(1), pattern(2, BLOCK)).unwrap();
    blocks::refused("no room", fs::write(at(2), pattern(2, BLOCK)), libc::ENOSPC);
    let two = File::options().write(true).open(at(2)).unwrap();
    blocks::refused("no room", two.set_len(BLOCK as u64), libc::ENOSPC);
    drop(two);
    fs::rename(at(0), mount.block(0)).unwrap();
    fs::write(at(2), pattern(2, BLOCK)).unwrap();
    fs::remove_file(at(1)).unwrap();
    fs::rename(at(2), mount.block(2)).unwrap();
    // With all its room taken a restore fails; with some, however little, it goes on.
    let backup = scene.dir("backup");
    let content = pattern(3, SIZE);
    blocks::split_into(&backup, &content, BLOCK);
    tool("rsync")
        .arg("-a")
        .args([&backup.join("."), mount.point()])
        .ok();
    let log = mount.unmount_for_log();
    assert!(
        log.contains("2 writes to temporary files found no room") && log.contains("-o staging"),
        "{log}"
    );
    assert_same("the image", &fs::read(&image).unwrap(), &content);
}
