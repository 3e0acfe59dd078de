//! P33: what several sources are told of, refused for, and listed as.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::support::command::Tool;
use crate::support::mounted::one_line;
use crate::support::pattern::disk_like;
use crate::support::scene::{Scene, poke};

/// Two images in blocks of 64 KiB.
fn images(scene: &Scene) -> (PathBuf, PathBuf) {
    let image = |name, seed| scene.file(name, &disk_like(seed, 4 * 65_536));
    (image("a.img", 1), image("b.img", 2))
}

/// `bmapfs FACE` with indexes in a directory of the scene.
fn face(scene: &Scene, face: &str) -> Tool {
    let index = format!("--index={}/", scene.path("indexes").display());
    scene.bmapfs().words(face).words("-b 64K").arg(index)
}

#[test]
fn p33_what_cannot_be_together_is_named_as_it_was_typed() {
    let scene = Scene::new();
    let (a, b) = images(&scene);
    let link = scene.path("link.img");
    symlink(&a, &link).unwrap();
    let directory = scene.dir("backup");
    let missing = scene.path("missing.img");
    let marker = scene.path("marker");
    for (one, other, code, named, why) in [
        (&a, &link, 1, vec![&a, &link], "the same file or device"),
        (&directory, &a, 1, vec![&directory, &a], "not both"),
        (&a, &directory, 1, vec![&directory, &a], "not both"),
        (&a, &missing, 32, vec![&missing], "No such file"),
        (&b, &missing, 32, vec![&missing], "No such file"),
    ] {
        let run = face(&scene, "run").arg(one).arg(other).arg("--");
        let said = one_line(&run.arg("touch").arg(&marker).fails(code));
        assert!(said.contains(why), "{said}");
        for path in named {
            assert!(said.contains(path.to_str().unwrap()), "{said}");
        }
        assert!(!marker.exists(), "nothing is run: {said}");
    }
    // What is not there is no image.
    let run = scene.bmapfs().arg("run").arg(&directory).arg(&missing);
    let said = run.words("-- true").fails(32);
    assert!(!said.contains("not both"), "{said}");
}

#[test]
fn a_directory_as_index_is_told_that_a_slash_is_missing() {
    let scene = Scene::new();
    let (a, _) = images(&scene);
    let directory = scene.dir("indexes");
    let option = format!("--index={}", directory.display());
    let scan = |option: &str| scene.bmapfs().arg("scan").arg(option).arg(&a);
    let said = one_line(&scan(&option).fails(1));
    assert!(said.contains(&format!("add a slash: {option}/")), "{said}");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    scan(&format!("{option}/")).ok();
    // It has the name that it has in the state directory.
    let kept = fs::read_dir(&directory).unwrap();
    let mut names: Vec<_> = kept
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0].contains("a.img-"), "{names:?}");
    assert!(names[0].ends_with("-4M.index"), "{names:?}");
    assert_eq!(names[1], format!("{}.lock", names[0]));
}

#[test]
fn p33_a_scan_of_several_says_which_blocks_are_whose() {
    let scene = Scene::new();
    let (a, b) = images(&scene);
    let scan = |options: &str| {
        let named = format!("second={}", b.display());
        let scan = face(&scene, "scan").words(options).arg(&a);
        scan.arg(named).ok()
    };
    scan("");
    poke(&a, 65_536, b"changed");
    poke(&a, 3 * 65_536, b"changed");
    let (a, b) = (a.display(), b.display());
    let said = scan("-v -o rescan");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], [&format!("{a}:"), "1", "3"], "{said}");
    assert!(lines[3].starts_with("4 blocks: 2 changed"), "{said}");
    assert!(lines[4].starts_with(&format!("{b}: 4 blocks: 0 changed")));
    assert_eq!(lines.len(), 5, "{said}");
    let object: serde_json::Value = serde_json::from_str(&scan("--json")).unwrap();
    for (at, (name, source)) in [("a.img", a), ("second", b)].into_iter().enumerate() {
        let told = &object["sources"][at];
        assert_eq!(told["name"], name);
        assert_eq!(told["source"], source.to_string());
        assert_eq!(told["blocks"], 4);
    }
}

#[test]
fn p33_the_last_line_tells_of_sources_that_were_written_meanwhile() {
    let scene = Scene::new();
    let (a, b) = images(&scene);
    let run = |script: &str| {
        let run = face(&scene, "run").arg(&a).arg(&b).arg("--");
        let outcome = run.args(["sh", "-c", script]).run();
        assert_eq!(outcome.code(), 0, "{outcome:?}");
        let is_last = |line: &&str| line.contains("2 sources, 8 blocks");
        let last = outcome.stderr.lines().find(is_last);
        last.unwrap_or_else(|| panic!("{outcome:?}")).to_owned()
    };
    let copy = "cat {}/*/* > /dev/null";
    assert!(!run(copy).contains("meanwhile"));
    let said = run(&format!("{copy}; echo x >> '{}'", b.display()));
    let told = "1 of the sources were, or may have been, written meanwhile";
    assert!(said.contains(told), "{said}");
}

#[test]
fn p33_each_source_of_a_mount_has_its_line() {
    let scene = Scene::new();
    let (a, b) = images(&scene);
    let mount = scene.mount(&a).with("-b 64K");
    let mount = mount.with(b.to_str().unwrap()).up_in_foreground();
    let point = mount.point().to_owned();
    let log = mount.unmount_for_log();
    for (image, name) in [(&a, "a.img"), (&b, "b.img")] {
        let place = point.join(name);
        let (image, place) = (image.display(), place.display());
        for line in [
            format!("mounted {image} on {place}: 4 blocks of 64K, read-only"),
            format!("unmounted {image}: 4 blocks"),
        ] {
            assert!(log.contains(&line), "{line}: {log}");
        }
    }
    assert!(log.contains("unmounted 2 sources, 8 blocks"), "{log}");
}

/// rsync says nothing of a directory that the backup does not have, and removes all that is in it.
#[test]
fn p33_no_restore_of_several_can_remove_blocks() {
    let scene = Scene::new();
    let (a, b) = images(&scene);
    let before = fs::read(&b).unwrap();
    let backup = scene.dir("backup");
    for (option, command) in [
        ("--sparse", "rsync -a --delete"),
        ("--resize", "rsync -a --delete"),
    ] {
        let run = scene.bmapfs().words("run -w -b 64K").arg(option);
        let said = run
            .arg(&a)
            .arg(&b)
            .arg("--")
            .words(command)
            .arg(format!("{}/", backup.display()))
            .arg("{}/")
            .fails(1);
        let said = one_line(&said);
        assert!(said.contains(option) && said.contains("one SRC"), "{said}");
        assert_eq!(fs::read(&b).unwrap(), before, "{option}");
    }
    let plain = scene.bmapfs().words("run -w -b 64K").arg(&a).arg(&b);
    let restore = plain.words("-- rsync -a --delete");
    let ended = restore.arg(format!("{}/", backup.display())).arg("{}/");
    assert_eq!(ended.run().code(), 23, "a block cannot be removed");
    assert_eq!(fs::read(&b).unwrap(), before);
}
