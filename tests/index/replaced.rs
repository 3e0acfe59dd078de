//! What `--index=FILE` may replace: an index, or nothing (promise P21); never the image, nor what others have put in
//! its place.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

use crate::support::command::{Tool, tool};
use crate::support::devices::LoopDevice;
use crate::support::machine::Identity;
use crate::support::mounted::one_line;
use crate::support::namespace::Namespace;
use crate::support::pattern::{assert_same, disk_like};
use crate::support::scene::Scene;

use super::rig::{Rig, change};

const USAGE: i32 = 1;
const FAILED: i32 = 32;

fn image(scene: &Scene) -> PathBuf {
    scene.file("a.img", &disk_like(1, 8 * 65_536 + 500))
}

/// All ways to use an index of `source` at `index`.
fn ways(scene: &Scene, source: &Path, index: &str) -> Vec<Tool> {
    let point = scene.dir("mnt");
    let index = format!("--index={index}");
    let program = |words: &str| scene.bmapfs().words(words).args(["-b", "64K", &index]);
    vec![
        program("scan").arg(source),
        program("scan --dry-run").arg(source),
        program("run").arg(source).words("-- true"),
        program("").args([source, &point]),
        program("-w").args([source, &point]),
    ]
}

/// Expects that all of them are refused with a line that has all of `words`, and that nothing was made.
fn refuses(scene: &Scene, source: &Path, index: &str, code: i32, words: &[&str]) {
    let before = names(scene);
    for way in ways(scene, source, index) {
        let line = one_line(&way.fails(code));
        for word in [index].iter().chain(words) {
            assert!(line.contains(word), "'{word}' is not in: {line}");
        }
    }
    assert_eq!(names(scene), before);
}

fn names(scene: &Scene) -> Vec<PathBuf> {
    scene.dir("mnt");
    scene.dir("bin");
    let entries = fs::read_dir(scene.path("")).unwrap();
    let mut names: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

#[test]
fn p21_the_image_by_any_name() {
    let scene = Scene::new();
    for content in [
        disk_like(1, 8 * 65_536 + 500),
        b"bmapfs index 01\n".repeat(500),
    ] {
        let image = scene.file("a.img", &content);
        let scene_path = scene.path("");
        fs::hard_link(&image, scene.path("hard")).unwrap();
        fs::hard_link(&image, scene.path("as.lock")).unwrap();
        symlink("a.img", scene.path("link")).unwrap();
        for name in ["a.img", "hard", "link", "mnt/../a.img"] {
            let name = scene_path.join(name);
            let name = name.to_str().unwrap();
            refuses(&scene, &image, name, USAGE, &["it is the source itself"]);
        }
        let lock = scene_path.join("as");
        let words = ["as.lock", "it is the source itself"];
        refuses(&scene, &image, lock.to_str().unwrap(), USAGE, &words);
        let open = r#"exec "$1" scan --index=/proc/self/fd/7 "$2" 7<"$2""#;
        let inherited = tool("sh").args(["-c", open, "sh"]).arg(scene.program());
        let line = one_line(&inherited.arg(&image).fails(USAGE));
        assert!(line.contains("it is the source itself"), "{line}");
        assert_same("the image", &fs::read(&image).unwrap(), &content);
        for name in ["hard", "as.lock", "link"] {
            fs::remove_file(scene.path(name)).unwrap();
        }
    }
}

#[test]
fn p21_the_image_on_another_mount() {
    let scene = Scene::new();
    // An index by its content, so that only its inode tells.
    let content = b"bmapfs index 01\n".repeat(500);
    let image = scene.file("a.img", &content);
    let space = Namespace::bare(&scene);
    let (here, there) = (scene.path(""), scene.dir("there"));
    space
        .tool("mount")
        .words("--bind")
        .args([&here, &there])
        .ok();
    let index = format!("--index={}", there.join("a.img").display());
    let scan = space.tool(scene.program()).args(["scan", &index]);
    let line = one_line(&scan.arg(&image).fails(USAGE));
    assert!(line.contains("it is the source itself"), "{line}");
    assert_same("the image", &fs::read(&image).unwrap(), &content);
}

#[test]
fn p21_a_device() {
    let scene = Scene::new();
    let image = image(&scene);
    let content = fs::read(&image).unwrap();
    let device = LoopDevice::new(&image);
    let path = device.path().to_str().unwrap();
    refuses(
        &scene,
        device.path(),
        path,
        USAGE,
        &["it is the source itself"],
    );
    let other = scene.file("b.img", &content);
    refuses(&scene, &other, path, USAGE, &["a block device"]);
    let file = image.to_str().unwrap();
    refuses(&scene, device.path(), file, FAILED, &["no index"]);
    assert!(fs::metadata(path).unwrap().file_type().is_block_device());
    assert_same("the image", &fs::read(&image).unwrap(), &content);
}

#[test]
fn p21_what_is_no_regular_file() {
    let scene = Scene::new();
    let image = image(&scene);
    scene.dir("directory");
    nix::unistd::mkfifo(&scene.path("fifo"), Mode::S_IRUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(scene.path("socket")).unwrap();
    symlink("fifo", scene.path("link")).unwrap();
    for (name, kind) in [
        ("directory", "a directory"),
        ("fifo", "a FIFO"),
        ("link", "a FIFO"),
        ("socket", "a socket"),
    ] {
        let path = scene.path(name);
        refuses(&scene, &image, path.to_str().unwrap(), USAGE, &[kind]);
    }
    refuses(&scene, &image, "/dev/null", USAGE, &["a character device"]);
    nix::unistd::mkfifo(&scene.path("b.index.lock"), Mode::S_IRUSR).unwrap();
    let path = scene.path("b.index");
    let words = ["b.index.lock", "a FIFO"];
    refuses(&scene, &image, path.to_str().unwrap(), USAGE, &words);
}

#[test]
fn p21_a_file_of_somebody_else_and_its_like_for_a_lock() {
    let scene = Scene::new();
    let image = image(&scene);
    let letter = scene.file("letter", b"Dear all");
    let shown = letter.to_str().unwrap().to_owned();
    refuses(
        &scene,
        &image,
        &shown,
        FAILED,
        &["no index", "not overwritten"],
    );
    assert_eq!(fs::read(&letter).unwrap(), b"Dear all");
    let lock = scene.file("a.index.lock", b"Dear all");
    let index = scene.path("a.index");
    let words = ["a.index.lock", "not overwritten"];
    refuses(&scene, &image, index.to_str().unwrap(), FAILED, &words);
    assert_eq!(fs::read(&lock).unwrap(), b"Dear all");
    // An empty file is nobody's.
    for file in [&lock, &index] {
        fs::write(file, b"").unwrap();
    }
    let rig = Rig::new(&scene, &image);
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    assert_eq!(rig.sync_well(&backup), [0; 0]);
    // A damaged one is known by its lock file, without which it could be anything.
    fs::write(&index, b"BMAPFS INDEX").unwrap();
    fs::copy(&lock, scene.path("kept")).unwrap();
    fs::remove_file(&lock).unwrap();
    refuses(
        &scene,
        &image,
        index.to_str().unwrap(),
        FAILED,
        &["no index"],
    );
    fs::rename(scene.path("kept"), &lock).unwrap();
    rig.sync_well(&backup);
    assert_eq!(rig.sync_well(&backup), [0; 0]);
}

#[test]
fn p21_what_has_come_to_its_name_while_it_was_used() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    let letter = scene.file("letter", b"Dear all");
    let outcome = rig.run("").args(["cp", "--remove-destination"]);
    let outcome = outcome.args([&letter, &rig.index]).run();
    assert_eq!(outcome.code(), 2, "{outcome:?}");
    assert!(outcome.stderr.contains("no index"), "{}", outcome.stderr);
    assert_eq!(fs::read(&rig.index).unwrap(), b"Dear all");
}

#[test]
fn p21_links_in_directories_of_everybody() {
    let scene = Scene::new();
    let image = image(&scene);
    let content = fs::read(&image).unwrap();
    let victim = scene.dir("victim");
    let open = scene.dir("open");
    symlink("../victim/a.index", open.join("a.index")).unwrap();
    symlink("../victim", open.join("dir")).unwrap();
    for (mode, owner) in [("1777", "1000"), ("0777", "0"), ("0775", "0")] {
        tool("chmod").arg(mode).arg(&open).ok();
        for link in ["a.index", "dir"] {
            tool("chown").args(["-h", owner]).arg(open.join(link)).ok();
        }
        for name in ["a.index", "dir/a.index"] {
            let path = open.join(name);
            refuses(
                &scene,
                &image,
                path.to_str().unwrap(),
                FAILED,
                &["symbolic link"],
            );
        }
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
    // One's own, and that of the directory's owner.
    tool("chmod").arg("1777").arg(&open).ok();
    tool("chown")
        .args(["-h", "0"])
        .arg(open.join("a.index"))
        .ok();
    let rig = Rig::new(&scene, &image).with_index(open.join("a.index"));
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    assert_eq!(rig.sync_well(&backup), [0; 0]);
    assert!(victim.join("a.index").is_file());
    assert_same("the image", &fs::read(&image).unwrap(), &content);
}

#[test]
fn p21_below_the_mount_point() {
    let scene = Scene::new();
    let image = image(&scene);
    let point = scene.dir("mnt");
    scene.dir("mnt/below");
    scene.dir("beside");
    symlink("../mnt/below/a.index", scene.path("beside/link")).unwrap();
    symlink("mnt", scene.path("to-mnt")).unwrap();
    let before = names(&scene);
    for name in [
        "mnt/a.index",
        "mnt/below/a.index",
        "beside/link",
        "to-mnt/a.index",
    ] {
        let index = scene.path(name).display().to_string();
        for option in [format!("--index={index}"), format!("-oindex={index}")] {
            for place in [&point, &scene.path("to-mnt")] {
                let mount = scene.bmapfs().args(["-b", "64K", &option]);
                let line = one_line(&mount.args([&image, place]).fails(FAILED));
                assert!(
                    line.contains(&index) && line.contains("would hide"),
                    "{line}"
                );
            }
        }
    }
    assert_eq!(names(&scene), before);
    assert_eq!(fs::read_dir(&point).unwrap().count(), 1, "nothing was made");
    let beside = scene.path("mnt/../a.index");
    let rig = Rig::new(&scene, &image).with_index(beside);
    rig.mount("").up().unmount();
}

#[test]
fn p21_below_the_mount_point_by_a_bind_mount() {
    let scene = Scene::new();
    let image = image(&scene);
    let (point, other) = (scene.dir("tree/mnt"), scene.dir("other"));
    let space = Namespace::bare(&scene);
    let bind = space.tool("mount").words("--bind");
    bind.args([&scene.path("tree"), &other]).ok();
    let index = format!("--index={}", other.join("mnt/a.index").display());
    let mount = space.tool(scene.program()).args(["-b", "64K", &index]);
    let line = one_line(&mount.args([&image, &point]).fails(FAILED));
    assert!(line.contains("would hide"), "{line}");
}

#[test]
fn p21_a_users_index_is_no_way_to_another_users_file() {
    let scene = Scene::new();
    let image = image(&scene);
    Identity::User.own(&image);
    let secret = scene.file("secret", b"secret");
    tool("chmod").arg("600").arg(&secret).ok();
    let own = scene.dir_of("own", Identity::User);
    symlink("../secret", own.join("a.index")).unwrap();
    let index = format!("--index={}", own.join("a.index").display());
    let scan = scene
        .bmapfs()
        .identity(Identity::User)
        .args(["scan", &index]);
    assert_ne!(scan.arg(&image).run().code(), 0);
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    change(&image, 0, b"still writable");
}
