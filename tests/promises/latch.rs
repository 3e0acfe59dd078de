//! P25: what looks like a backup made with another block size stops all writing.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::support::blocks::{self, open_rw, refused};
use crate::support::command::tool;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

#[test]
fn p25_a_refused_truncate_or_a_write_past_the_end_latches_the_mount() {
    let scene = Scene::new();
    let content = pattern(1, 4 * 65_536);
    let image = scene.file("a.img", &content);
    for cause in ["shorter", "longer", "write"] {
        let mount = scene.mount(&image).with("-rw -b 64K").up_in_foreground();
        let open_before = open_rw(mount.block(3));
        open_before
            .write_all_at(&content[3 * 65_536..][..10], 0)
            .unwrap();
        match cause {
            "shorter" => refused(cause, open_rw(mount.block(0)).set_len(4096), libc::EPERM),
            "longer" => refused(cause, open_rw(mount.block(0)).set_len(65_537), libc::EFBIG),
            _ => refused(
                cause,
                open_rw(mount.block(0)).write_at(b"x", 65_536),
                libc::EFBIG,
            ),
        }
        refused("a later write", open_before.write_at(b"x", 0), libc::EPERM);
        let late = fs::File::options()
            .write(true)
            .open(mount.block(2))
            .and_then(|file| file.write_at(b"x", 5));
        refused("a later write to another block", late, libc::EPERM);
        refused(
            "a later O_TRUNC",
            fs::File::create(mount.block(1)),
            libc::EPERM,
        );
        let punched = tool("fallocate")
            .words("-p -o 0 -l 4096")
            .arg(mount.block(1))
            .run();
        assert!(
            punched.code() != 0 && punched.stderr.contains("not permitted"),
            "{punched:#?}"
        );
        // Reading goes on.
        assert_same(cause, &mount.image(), &content);
        assert!(
            mount.log().contains("-b"),
            "{cause}: the log names the likely cause: {}",
            mount.log()
        );
        drop(open_before);
        mount.unmount();

        let again = scene.mount(&image).with("-rw -b 64K").up();
        open_rw(again.block(1))
            .write_all_at(&content[65_536..][..10], 0)
            .unwrap();
        again.unmount();
    }
    assert_same("the image", &fs::read(&image).unwrap(), &content);
}

#[test]
fn p25_no_latch_is_for_those_who_know() {
    let scene = Scene::new();
    let content = pattern(2, 2 * 65_536);
    let image = scene.file("a.img", &content);
    let mount = scene.mount(&image).with("-rw -b 64K -o no-latch").up();
    refused(
        "truncating",
        open_rw(mount.block(0)).set_len(4096),
        libc::EPERM,
    );
    refused(
        "writing past the end",
        open_rw(mount.block(0)).write_at(b"x", 65_536),
        libc::EFBIG,
    );
    open_rw(mount.block(1)).write_all_at(b"later", 100).unwrap();
    assert_eq!(&fs::read(&image).unwrap()[65_636..65_641], b"later");
}

#[test]
fn p25_a_restore_with_another_block_size_damages_no_second_block() {
    let scene = Scene::new();
    let old = pattern(3, 64 * 4096);
    let new = pattern(4, 64 * 4096);
    for (made_with, mounted_with) in [(8192_usize, 4096_usize), (4096, 8192)] {
        let image = scene.file("a.img", &old);
        let backup = scene.dir(&format!("backup-{made_with}"));
        blocks::split_into(&backup, &new, made_with);
        let mount = scene
            .mount(&image)
            .with(&format!("-rw -b {mounted_with}"))
            .up();
        let outcome = tool("rsync")
            .words("-r --inplace --existing")
            .args([&backup.join("."), mount.point()])
            .run();
        assert!(outcome.code() != 0, "{outcome:#?}");
        mount.unmount();
        assert_same(
            "all but the first block",
            &fs::read(&image).unwrap()[mounted_with..],
            &old[mounted_with..],
        );
    }
}

#[test]
fn p25_the_log_tells_how_many_blocks_a_restore_left_alone() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(5, 23 * 4096));
    let mount = scene.mount(&image).with("-rw -b 4K").up_in_foreground();
    open_rw(mount.block(3)).write_all_at(b"new", 0).unwrap();
    tool("touch")
        .words("-d 2001-01-01")
        .arg(mount.block(7))
        .ok();
    let log = mount.unmount_for_log();
    // 23 blocks, one written, one given a time.
    assert!(
        log.lines()
            .any(|line| line.split(|c: char| !c.is_ascii_digit()).any(|n| n == "21")),
        "{log}"
    );
}
