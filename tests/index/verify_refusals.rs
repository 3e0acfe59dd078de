//! What `bmapfs sums` and `bmapfs verify` refuse, on one line, and leave as it is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::mounted::one_line;
use crate::support::pattern::pattern;
use crate::support::scene::Scene;

use super::rig::Rig;
use super::verify::{image, state, sums, verify};

/// Expects that both refuse the index.
fn refuse(rig: &Rig<'_>, backup: &Path, code: i32, says: &str) {
    for tool in [sums(rig, ""), verify(rig, "", backup)] {
        let said = one_line(&tool.fails(code));
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn p28_an_index_that_is_in_use_or_lost_is_refused() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    let mount = rig.mount("").up();
    let before = state(&rig.index);
    let says = format!("it is in use by bmapfs (process {})", mount.pid());
    refuse(&rig, &backup, 32, &says);
    assert_eq!(state(&rig.index), before);
    mount.unmount();
    let before = state(&rig.index);
    verify(&rig, "", &backup).ok();
    assert_eq!(state(&rig.index), before);

    let stat = || fs::metadata(scene.path("")).unwrap();
    let lost = Rig::new(&scene, &rig.source).with_index(scene.path("lost.index"));
    let names = blocks::names(&scene.path(""));
    let changed = (stat().mtime(), stat().mtime_nsec());
    refuse(&lost, &backup, 32, "lost.index: there is none: name SRC");
    let nowhere = Rig::new(&scene, &rig.source).with_index(scene.path("no/where"));
    refuse(&nowhere, &backup, 32, "there is none: name SRC");
    assert_eq!(blocks::names(&scene.path("")), names, "nothing is made");
    assert_eq!((stat().mtime(), stat().mtime_nsec()), changed);

    let content = fs::read(&rig.index).unwrap();
    for (bytes, says) in [
        (&content[..content.len() - 1], "it is cut short or damaged"),
        (&content[..40], "it is not an index of this version"),
        (b"", "there is none: name SRC"),
        (b"bmapfs index 77\n", "it is not an index of this version"),
        (&pattern(1, 9999), "it is not an index of this version"),
    ] {
        let damaged = Rig::new(&scene, &rig.source).with_index(scene.file("b.index", bytes));
        refuse(&damaged, &backup, 32, says);
        assert_eq!(fs::read(&damaged.index).unwrap(), bytes);
    }
    for at in [0, 100, content.len() - 5] {
        let mut bytes = content.clone();
        bytes[at] ^= 1;
        let damaged = Rig::new(&scene, &rig.source).with_index(scene.file("b.index", &bytes));
        refuse(&damaged, &backup, 32, "it is ");
    }
    let directory = Rig::new(&scene, &rig.source).with_index(scene.dir("b"));
    refuse(&directory, &backup, 1, "it is a directory");
    tool("mkfifo").arg(scene.path("fifo")).ok();
    let fifo = Rig::new(&scene, &rig.source).with_index(scene.path("fifo"));
    refuse(&fifo, &backup, 1, "it is a FIFO");

    // A copy tells of what was, and says so.
    let copy = Rig::new(&scene, &rig.source).with_index(scene.file("copy.index", &content));
    let outcome = verify(&copy, "", &backup).run();
    let said = one_line(&outcome.stderr);
    assert!(said.contains("copy.index: it is a copy"), "{said}");
    outcome.ok();
    assert!(!scene.path("copy.index.lock").exists());
}

#[test]
fn p28_another_block_size_is_refused_with_what_to_do() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    let other = Rig::new(&scene, &rig.source).with_blocks("128K");
    let says = "it is for blocks of 64K, not of 128K: use -b 64K, or the index for 128K";
    refuse(&other, &backup, 32, says);
    for (block, size) in [("128K", 131_072), ("32K", 32_768), ("2M", 2 << 20)] {
        let theirs = scene.dir(block);
        blocks::split_into(&theirs, &blocks::read(&rig.source), size);
        let outcome = verify(&rig, "", &theirs).run();
        if block == "2M" {
            // One file, as long as the image: of no block size at all.
            assert_eq!(outcome.code(), 9, "{outcome:#?}");
            continue;
        }
        let said = one_line(&outcome.stderr);
        let says = format!(
            "its block files are of {block}, and the index is for blocks of 64K: use -b {block},"
        );
        assert!(outcome.code() == 1 && said.contains(&says), "{outcome:#?}");
    }
}

#[test]
fn p28_what_is_no_block_directory_is_refused() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    rig.scan("").ok();
    for (place, says) in [
        (scene.path("none"), "No such file or directory"),
        (rig.source.clone(), "Not a directory"),
        (scene.path(""), "has the name of a block"),
    ] {
        let said = one_line(&verify(&rig, "", &place).fails(1));
        assert!(said.contains(says), "{said}");
    }
    // A disk that is not mounted, for one.
    let outcome = verify(&rig, "-v", &scene.dir("empty")).run();
    assert_eq!(outcome.code(), 9, "{outcome:#?}");
    assert!(
        outcome
            .stdout
            .starts_with("missing 0-20\n21 blocks: 0 right"),
        "{outcome:#?}"
    );
}

#[test]
fn p28_a_closed_pipe_is_an_error_and_no_panic() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 4096 * 4096);
    let rig = Rig::new(&scene, &image).with_blocks("4K");
    rig.scan("").ok();
    let script = "{ \"$1\" sums -b 4K \"--index=$2\" \"$3\"; echo \"ended with $?\" >&2; } | true";
    let tool = tool("sh").args(["-c", script, "sh"]).arg(scene.program());
    let outcome = tool.arg(&rig.index).arg(&image).run();
    let said: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(
        said,
        [
            "bmapfs: writing to stdout: Broken pipe (os error 32)",
            "ended with 2"
        ]
    );
}
