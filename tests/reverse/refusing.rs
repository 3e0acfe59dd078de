//! Directories that are no image, options that do not fit, and others that use the directory.

use std::fs;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

const BLOCK: usize = 65_536;

#[test]
fn what_is_no_image_is_refused_by_name() {
    let scene = Scene::new();
    let backup = scene.dir("backup");
    let refused = |options: &str, code: i32, says: &str| {
        let line = scene.mount(&backup).with(options).refused(code);
        assert!(line.contains(says), "{line}");
    };
    blocks::split_into(&backup, &pattern(1, 9 * BLOCK + 100), BLOCK);
    fs::remove_file(backup.join("00000003")).unwrap();
    fs::remove_file(backup.join("00000007")).unwrap();
    refused("", 32, "backup: block 00000003 is missing and 1 more: if");
    fs::write(backup.join("00000003"), [0; 9]).unwrap();
    refused(
        "--sparse",
        32,
        "block 00000003 is 9 bytes long, where blocks have 65536",
    );
    fs::remove_file(backup.join("00000003")).unwrap();
    refused(
        "--sparse -b 1M",
        1,
        "block 00000000 is 65536 bytes long, not 1048576",
    );
    fs::remove_file(backup.join("00000000")).unwrap();
    refused("--sparse", 1, "block 00000000 is missing, so nothing tells");
    scene.mount(&backup).with("--sparse -b 64K").up().unmount();
    fs::create_dir(backup.join("00000000")).unwrap();
    refused("--sparse", 32, "block 00000000 is not a regular file");
}

#[test]
fn options_for_images_only_are_refused() {
    let scene = Scene::new();
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &pattern(1, BLOCK), BLOCK);
    for (options, typed) in [
        ("--index", "--index has no meaning for"),
        ("-rw --resize", "--resize has no meaning for"),
        ("-rw -o no-latch", "-o no-latch has no meaning for"),
        ("-rw -o staging=1M", "-o staging=1M has no meaning for"),
    ] {
        let line = scene.mount(&backup).with(options).refused(1);
        assert!(line.contains(typed), "{line}");
    }
    let said = scene.bmapfs().arg("scan").arg(&backup).fails(1);
    assert!(said.contains("it is a directory"), "{said}");
    let said = scene
        .bmapfs()
        .words("run -o strict")
        .arg(&backup)
        .words("-- true")
        .fails(1);
    assert!(said.contains("-o strict has no meaning"), "{said}");
    let listed = scene
        .bmapfs()
        .arg("run")
        .arg(&backup)
        .words("-- ls {}")
        .ok();
    assert_eq!(listed, "image\n");
}

#[test]
fn names_that_are_no_blocks_are_told_and_ignored() {
    let scene = Scene::new();
    let content = pattern(2, 3 * BLOCK);
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &content, BLOCK);
    for name in [".00000001.Xy12Z3", "00000002~", "notes", "zzz"] {
        fs::write(backup.join(name), b"x").unwrap();
    }
    let mount = scene.mount(&backup).up_in_foreground();
    let image = fs::read(mount.point().join("image")).unwrap();
    assert_same("the image", &image, &content);
    let log = mount.unmount_for_log();
    let told = "names that are no blocks are ignored, 4 of them: \".00000001.Xy12Z3\", \"00000002~\", \"notes\" and \
                others";
    assert!(log.contains(told), "{log}");

    let empty = scene.dir("empty");
    let mount = scene.mount(&empty).up();
    assert_eq!(fs::metadata(mount.point().join("image")).unwrap().len(), 0);
    mount.unmount();
    fs::write(empty.join("notes"), b"x").unwrap();
    let line = scene.mount(&empty).refused(32);
    assert!(
        line.contains("it is not a backup made from a mount"),
        "{line}"
    );
}

#[test]
fn one_writer_at_a_time() {
    let scene = Scene::new();
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &pattern(3, BLOCK), BLOCK);
    let reader = scene.mount(&backup).up();
    let line = scene.mount(&backup).with("-rw").at("w").refused(32);
    assert!(
        line.contains("holds a shared flock on it; end that first"),
        "{line}"
    );
    let forced = scene.mount(&backup).with("-rw -o force").at("w").up();
    forced.unmount();
    let second = scene.mount(&backup).at("second").up();
    second.unmount();
    reader.unmount();
    let writer = scene.mount(&backup).with("-rw").at("w").up();
    scene.mount(&backup).with("-rw").at("x").refused(32);
    let reader = scene.mount(&backup).up_in_foreground();
    let log = reader.unmount_for_log();
    assert!(
        log.contains("holds an exclusive flock on it; the image may be"),
        "{log}"
    );
    writer.unmount();
}

#[test]
fn the_length_of_the_image_is_fixed() {
    let scene = Scene::new();
    let content = pattern(4, 3 * BLOCK + 10);
    let backup = scene.dir("backup");
    blocks::split_into(&backup, &content, BLOCK);
    let mount = scene.mount(&backup).with("-rw").up();
    let path = mount.point().join("image");
    let said = tool("truncate").words("-s 0").arg(&path).fails(1);
    assert!(said.contains("Operation not permitted"), "{said}");
    let said = tool("truncate").words("-s 1M").arg(&path).fails(1);
    assert!(said.contains("File too large"), "{said}");
    tool("truncate").words("-s 196618").arg(&path).ok();
    let onto = format!("of={}", path.display());
    tool("dd")
        .words("if=/dev/zero bs=1 count=1")
        .arg(&onto)
        .fails(1);
    assert_same("nothing has changed", &fs::read(&path).unwrap(), &content);
    for program in ["rm", "rmdir"] {
        tool(program).arg(&path).fails(1);
    }
    tool("touch").arg(mount.point().join("other")).fails(1);
    let new = scene.file("new.img", &pattern(5, 3 * BLOCK + 10));
    let rsync = || {
        tool("rsync")
            .words("-a --inplace --itemize-changes")
            .args([&new, &path])
            .ok()
    };
    assert_ne!(rsync(), "");
    assert_eq!(rsync(), "", "repeated at once it has nothing to do");
    mount.unmount();
    assert_same(
        "restored into the backup",
        &blocks::concatenated(&backup),
        &fs::read(&new).unwrap(),
    );
}
