//! P16: sources and mount points whose names are full of what separates options, fields and lines.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::machine::{Identity, daemons_with, mounts_at};
use crate::support::mounted::one_line;
use crate::support::namespace::Namespace;
use crate::support::pattern::pattern;
use crate::support::scene::Scene;
use crate::support::wait_until;

/// Names of files, and of the directories that they are mounted on.
fn names() -> Vec<OsString> {
    let strange: [&[u8]; 16] = [
        b"a,b.img",
        b"a b.img",
        b"a\\b.img",
        b"a\\,b.img",
        b"back\\",
        b"line\nbreak.img",
        b"tab\tbreak.img",
        b"\xff\xfe.img",
        b"quote\"'.img",
        b"#hash%41.img",
        b"equals=rw,ro",
        b"\\040\\054",
        b"-rw",
        b"{}",
        b"$HOME`;&|<>*?[]",
        b"\xc3\xa4\xe2\x82\xac",
    ];
    strange
        .into_iter()
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect()
}

#[test]
fn p16_strange_names_are_the_source_and_the_target() {
    let scene = Scene::new();
    for who in [Identity::Root, Identity::User] {
        for (seed, name) in (0..).zip(names()) {
            let content = pattern(seed, 5000);
            let image = scene.file(&name, &content);
            let point = scene.path("points").join(&name);
            fs::create_dir_all(&point).unwrap();
            who.own(&image);
            who.own(&point);
            scene
                .bmapfs()
                .identity(who)
                .args(["-b", "4K", "--"])
                .args([&image, &point])
                .ok();
            let mounts = mounts_at(&point);
            assert_eq!(mounts.len(), 1, "{name:?}");
            assert_eq!(
                (mounts[0].kind.as_str(), mounts[0].source.as_os_str()),
                ("fuse.bmapfs", image.as_os_str())
            );
            let seen = tool("cat")
                .identity(who)
                .arg(point.join("00000001"))
                .run()
                .ok();
            assert_eq!(seen, String::from_utf8_lossy(&content[4096..]));
            // By its source, which umount(8) looks up in mountinfo; a path that ends in a newline is beyond it.
            let what = if seed % 2 == 0 { &image } else { &point };
            tool("umount").identity(who).arg("--").arg(what).ok();
            assert!(mounts_at(&point).is_empty(), "{name:?}");
            wait_until("the daemon has ended", || {
                daemons_with(point.as_os_str()).is_empty()
            });
            fs::remove_dir(&point).unwrap();
            fs::remove_file(&image).unwrap();
        }
    }
}

/// A field of fstab.
fn escaped(path: &Path) -> OsString {
    let mut text = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => text.extend(format!("\\{byte:03o}").bytes()),
            _ => text.push(byte),
        }
    }
    OsString::from_vec(text)
}

#[test]
fn p16_strange_names_in_fstab() {
    let scene = Scene::new();
    let namespace = Namespace::new(&scene);
    let mut table = OsString::new();
    let all: Vec<_> = names()
        .into_iter()
        .map(|name| {
            let image = scene.file(&name, &pattern(1, 5000));
            let point = scene.path("points").join(&name);
            fs::create_dir_all(&point).unwrap();
            for field in [
                escaped(&image).as_os_str(),
                OsStr::new(" "),
                &escaped(&point),
                OsStr::new(" bmapfs ro,bs=4K 0 0\n"),
            ] {
                table.push(field);
            }
            (image, point)
        })
        .collect();
    fs::write(scene.dir("etc").join("fstab"), table.as_bytes()).unwrap();
    namespace.overlay("etc", Path::new("/etc"));
    for _ in 0..2 {
        // The second time nothing is to be done.
        namespace.tool("mount").words("-a -t bmapfs").ok();
        for (image, point) in &all {
            let mounts = namespace.mounts_at(point);
            assert_eq!(mounts.len(), 1, "{}", point.display());
            assert_eq!(mounts[0].source, image.as_os_str());
            assert_eq!(blocks::names(&namespace.outside(point)).len(), 2);
        }
    }
    for (image, point) in &all {
        namespace.tool("umount").arg("--").arg(image).ok();
        assert!(namespace.mounts_at(point).is_empty());
        assert!(
            daemons_with(point.as_os_str()).is_empty(),
            "umount(8) returned before the daemon had ended"
        );
    }
}

#[test]
fn names_of_others_are_printed_escaped() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(1, 5000));
    // The kernel calls a process by the name of its file.
    let strange = scene.path("\u{1b}[31m\nforged");
    tool("cp").arg("/usr/bin/flock").arg(&strange).ok();
    let missing = scene.path("no\n\u{1b}[2Jsuch");
    let fit = |said: &str, name: &str| {
        let line = one_line(said);
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.contains(name), "{line}");
    };
    let point = scene.dir("mnt");
    let refused = scene.bmapfs().args([&missing, &point]).fails(32);
    fit(&refused, "no\\n\\u{1b}[2Jsuch");
    let locked = scene.path("locked");
    let _holder = tool(&strange)
        .arg("-ox")
        .arg(&image)
        .args([
            "sh",
            "-c",
            "touch \"$0\"; while kill -0 $PPID 2>/dev/null; do sleep 0.1; done",
        ])
        .arg(&locked)
        .spawn();
    wait_until("the image is locked", || locked.exists());
    let refused = scene.bmapfs().arg("-rw").args([&image, &point]).fails(32);
    fit(&refused, "\\u{1b}[31m\\nforged");
    // A warning goes another way than an error.
    let run = scene
        .bmapfs()
        .args(["run", "-q"])
        .arg(&image)
        .words("-- true")
        .run();
    fit(&run.stderr, "\\u{1b}[31m\\nforged");
    run.ok();
}
