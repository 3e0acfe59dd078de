//! P33: the directory above the sources: their names, and nothing else.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::libc::{EEXIST, EISDIR, EPERM, EROFS, EXDEV};
use nix::sys::signal::Signal;

use crate::support::blocks::{self, refused};
use crate::support::command::tool;
use crate::support::machine;
use crate::support::mounted::Mounted;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{BLOCK, Many, image};

fn two(scene: &Scene) -> Many<'_> {
    Many::new(scene)
        .with("a", &scene.file("a.img", &image(1, 5)))
        .with("b", &scene.file("b.img", &image(2, 6)))
}

/// A mount of a and b in the foreground.
fn mount(scene: &Scene, many: &Many<'_>, options: &str) -> Mounted {
    let [first, last] = ["a", "b"].map(|name| &many.sources[name]);
    let words = format!("-b 64K {options} a={}", first.display());
    let last = format!("b={}", last.display());
    scene.mount(last).with(&words).up_in_foreground()
}

#[test]
fn p33_looking_at_the_top() {
    let scene = Scene::new();
    let many = two(&scene);
    let mount = mount(&scene, &many, &many.index_option());
    let top = mount.point();
    assert_eq!(blocks::names(top), ["a", "b"]);
    let listed = tool("ls").arg("-a").arg(top).ok();
    assert_eq!(listed, ".\n..\na\nb\n");
    assert_eq!(tool("find").arg(top).ok().lines().count(), 1 + 2 + 11);
    let stat = |path: &str| fs::metadata(top.join(path)).unwrap();
    // A directory has a link for itself, its name, and each one below.
    assert_eq!([stat("").nlink(), stat("a").nlink()], [4, 2]);
    assert_eq!(stat("").ino(), 1);
    assert_eq!(stat("a/..").ino(), 1);
    assert_eq!(stat("a/.").ino(), stat("a").ino());
    let mut inodes: Vec<u64> = ["", "a", "b", "a/00000000", "b/00000000", "a/00000001"]
        .map(|path| stat(path).ino())
        .into();
    inodes.sort_unstable();
    inodes.dedup();
    assert_eq!(inodes.len(), 6);
    // What a listing says of an inode is what stat says, also of a name that was never looked up.
    let pairs = tool("find").arg(top).args(["-printf", "%i %p\n"]).ok();
    for line in pairs.lines() {
        let (number, path) = line.split_once(' ').unwrap();
        assert_eq!(
            number,
            fs::metadata(path).unwrap().ino().to_string(),
            "{path}"
        );
    }
    assert_eq!(stat("").mtime(), stat("a").mtime().max(stat("b").mtime()));
    assert_eq!(stat("").permissions().mode() & 0o777, 0o755);
    let space = tool("df")
        .args(["--output=size,avail", "-B1"])
        .arg(top)
        .ok();
    let numbers: Vec<u64> = space
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    assert!(
        numbers[0] >= 11 * BLOCK - 6000 && numbers[1] == 0,
        "{space}"
    );
    refused(
        "a name that is none",
        File::open(top.join("c")),
        nix::libc::ENOENT,
    );
    let entry = machine::mounts_at(top).pop().unwrap();
    let wanted = format!("{}+1", many.sources["a"].display());
    assert_eq!(entry.source.to_str(), Some(&*wanted));
    // Nothing can be changed.
    refused("mkdir", fs::create_dir(top.join("c")), EROFS);
    refused(
        "chmod",
        fs::set_permissions(top, fs::Permissions::from_mode(0o700)),
        EROFS,
    );
    mount.unmount();
}

#[test]
fn p33_nothing_is_made_or_removed_at_the_top() {
    let scene = Scene::new();
    let many = two(&scene);
    let mount = mount(&scene, &many, "-w");
    let top = mount.point();
    let at = |name: &str| top.join(name);
    refused("mkdir", fs::create_dir(at("c")), EPERM);
    refused("a file", File::create(at("c")), EPERM);
    refused(
        "a temporary file",
        File::create(at(".00000000.abcdef")),
        EPERM,
    );
    refused("a file over a directory", File::create(at("a")), EISDIR);
    refused("mkdir of what is there", fs::create_dir(at("a")), EEXIST);
    refused("unlink", fs::remove_file(at("a")), EISDIR);
    refused("rmdir", fs::remove_dir(at("a")), EPERM);
    refused("symlink", std::os::unix::fs::symlink("a", at("l")), EPERM);
    refused("link", fs::hard_link(at("a/00000000"), at("l")), EPERM);
    refused("rename", fs::rename(at("a"), at("c")), EPERM);
    refused("rename over", fs::rename(at("a"), at("b")), EPERM);
    refused(
        "from one to the other",
        fs::rename(at("a/00000000"), at("b/00000000")),
        EXDEV,
    );
    refused("up", fs::rename(at("a/00000000"), at("00000000")), EXDEV);
    File::create(at("b/.00000001.abcdef")).unwrap();
    let across = fs::rename(at("b/.00000001.abcdef"), at("a/00000001"));
    refused("a staged file to the other", across, EXDEV);
    fs::remove_file(at("b/.00000001.abcdef")).unwrap();
    assert_eq!(tool("mv").args([at("a"), at("c")]).run().code(), 1);
    assert_eq!(tool("rm").arg("-r").arg(at("a")).run().code(), 1);
    // What a restore does.
    std::os::unix::fs::chown(top, Some(12), Some(34)).unwrap();
    fs::set_permissions(top, fs::Permissions::from_mode(0o750)).unwrap();
    tool("touch").args(["-d", "@1000000000"]).arg(top).ok();
    let stat = fs::metadata(top).unwrap();
    assert_eq!(
        (stat.uid(), stat.gid(), stat.mode() & 0o777),
        (12, 34, 0o750)
    );
    assert_eq!(stat.mtime(), 1_000_000_000);
    for name in ["a", "b"] {
        assert_ne!(fs::metadata(at(name)).unwrap().uid(), 12);
    }
    // The files below are where they were.
    fs::write(at("b/00000002"), vec![7; 65_536]).unwrap();
    let log = mount.unmount_for_log();
    assert!(
        log.contains("a.img: 5 blocks") && log.contains("2 sources, 11 blocks"),
        "{log}"
    );
    let mut expected = image(2, 6);
    expected[2 * 65_536..3 * 65_536].fill(7);
    assert!(fs::read(&many.sources["b"]).unwrap() == expected);
    assert!(fs::read(&many.sources["a"]).unwrap() == image(1, 5));
}

#[test]
fn p33_who_may_not_look_into_one_may_not_by_the_top() {
    let scene = Scene::new();
    let many = two(&scene);
    for (name, mode) in [("a", 0o600), ("b", 0o644)] {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(&many.sources[name], mode).unwrap();
    }
    let mount = mount(&scene, &many, "-o allow_other");
    let cat = |name: &str| {
        let tool = tool("cat").arg(mount.point().join(name).join("00000000"));
        tool.identity(machine::Identity::Nobody).run().code()
    };
    assert_eq!([cat("a"), cat("b")], [1, 0]);
    mount.unmount();
}

#[test]
fn p33_signals_look_again_at_each_and_end_all() {
    let scene = Scene::new();
    let many = two(&scene);
    many.sync();
    for signal in [Some(Signal::SIGTERM), Some(Signal::SIGINT), None] {
        let mount = mount(&scene, &many, &many.index_option());
        let time = |name: &str| fs::metadata(mount.point().join(name)).unwrap().mtime();
        let (a, b) = (time("a/00000001"), time("b/00000001"));
        many.change("b", 1, format!("{signal:?}").as_bytes());
        mount.signal(Signal::SIGHUP);
        wait_until("both were looked at again", || {
            mount.log().matches("was looked at again").count() == 2
        });
        wait_until("the new time is shown", || time("b/00000001") > b);
        assert_eq!(time("a/00000001"), a);
        match signal {
            Some(signal) => {
                mount.signal(signal);
                mount.wait_for_end();
            }
            None => mount.unmount(),
        }
        assert_eq!(many.sync().len(), 1);
    }
    assert_eq!(many.sync(), []);
}

#[test]
fn p33_several_block_directories_as_images() {
    let scene = Scene::new();
    let (a, b) = (image(1, 5), image(2, 6));
    let [first, last] = [("a", &a), ("b", &b)].map(|(name, content)| {
        let directory = scene.dir(&format!("backup-{name}"));
        blocks::split_into(&directory, content, 65_536);
        directory
    });
    let words = format!("a={}", first.display());
    let mount = scene
        .mount(format!("b={}", last.display()))
        .with(&words)
        .up();
    assert_eq!(blocks::names(mount.point()), ["a", "b"]);
    assert!(blocks::read(&mount.point().join("a/image")) == a);
    assert!(blocks::read(&mount.point().join("b/image")) == b);
    refused(
        "a write",
        File::create(mount.point().join("a/image")),
        EROFS,
    );
    // Not with an image among them, nor for a command if one of them is empty.
    mount.unmount();
    let image = scene.file("c.img", &a);
    let said = scene
        .mount(format!("c={}", image.display()))
        .with(&words)
        .refused(1);
    assert!(
        said.contains("backup-a") && said.contains("c.img"),
        "{said}"
    );
    let empty = scene.dir("empty");
    let run = scene.bmapfs().words("run -q").args([&first, &empty]);
    let said = run.words("-- true").fails(32);
    assert!(said.contains("empty"), "{said}");
}
