//! P16: what the mount is called, and that mount(8)'s family knows it by that.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::machine::{Identity, mounts_at};
use crate::support::scene::Scene;
use crate::support::wait_until;

fn found(arguments: &[&str], path: &Path) -> String {
    let outcome = tool("findmnt")
        .args(["-n", "-o", "SOURCE,TARGET,FSTYPE"])
        .args(arguments)
        .arg(path)
        .run();
    outcome
        .stdout
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn p16_the_type_is_fuse_bmapfs_and_the_source_the_canonical_path() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 10_000);
    let link = scene.path("link.img");
    symlink("a.img", &link).unwrap();
    let device = LoopDevice::new(&scene.sparse("b.img", 8192));
    let roundabout = scene.dir("sub").join("../link.img");
    for (source, canonical) in [
        (image.as_path(), &*image),
        (&link, &image),
        (&roundabout, &image),
        (device.path(), device.path()),
    ] {
        let mount = scene.mount(source).up();
        let entries = mounts_at(mount.point());
        assert_eq!(entries.len(), 1);
        assert_eq!(
            (entries[0].kind.as_str(), Path::new(&entries[0].source)),
            ("fuse.bmapfs", canonical)
        );
        let listed = format!(
            "{} {} fuse.bmapfs",
            canonical.display(),
            mount.point().display()
        );
        assert_eq!(found(&["--source"], canonical), listed);
        assert_eq!(found(&["--target"], mount.point()), listed);
        assert_eq!(
            found(&["-t", "fuse.bmapfs", "--mountpoint"], mount.point()),
            listed
        );
        mount.unmount();
    }
}

#[test]
fn p16_umount_knows_the_source() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 10_000);
    let device = LoopDevice::new(&scene.sparse("b.img", 8192));
    for source in [image.as_path(), device.path()] {
        for who in [Identity::Root, Identity::User] {
            if who == Identity::User && source == device.path() {
                continue;
            }
            let mount = scene.mount(source).by(who).at(&format!("mnt-{who:?}")).up();
            tool("umount").identity(who).arg(source).ok();
            assert!(mounts_at(mount.point()).is_empty());
            mount.wait_for_end();
        }
    }
}

#[test]
fn p16_relative_paths_and_a_trailing_slash() {
    let scene = Scene::new();
    scene.file("a.img", b"content");
    let point = scene.dir("mnt");
    scene
        .bmapfs()
        .within(&scene.path(""))
        .args(["a.img", "mnt/"])
        .ok();
    assert_eq!(mounts_at(&point)[0].source, scene.path("a.img"));
    assert_eq!(fs::read(point.join("00000000")).unwrap(), b"content");
    tool("umount").within(&scene.path("")).arg("mnt").ok();
    wait_until("it is unmounted", || mounts_at(&point).is_empty());
}

#[test]
fn p16_read_only_and_writable_show_in_the_options() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 10_000);
    for (options, shown, not_shown) in [
        ("", "ro", "rw"),
        ("-r", "ro", "rw"),
        ("-o rw", "ro", "rw"),
        ("-w", "rw", "ro"),
        ("-rw", "rw", "ro"),
        ("-o write", "rw", "ro"),
    ] {
        let mount = scene.mount(&image).with(options).up();
        let entry = &mounts_at(mount.point())[0];
        let has = |option: &str| entry.options.iter().any(|o| o == option);
        assert!(has(shown) && !has(not_shown), "{options}: {entry:?}");
        for always in ["nosuid", "nodev", "default_permissions"] {
            assert!(has(always), "{options}: {always} is missing in {entry:?}");
        }
        assert!(!has("allow_other"));
        mount.unmount();
    }
}

#[test]
fn p16_the_kernels_options_reach_the_kernel() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 10_000);
    let mount = scene
        .mount(&image)
        .with("-o noexec,noatime,allow_other,fsname=another,max_read=65536")
        .up();
    let entry = &mounts_at(mount.point())[0];
    for option in ["noexec", "noatime", "allow_other", "max_read=65536"] {
        assert!(
            entry.options.iter().any(|o| o == option),
            "{option} is missing in {entry:?}"
        );
    }
    assert_eq!(entry.source, "another");
}
