//! Changed blocks that a tool has skipped (promise P26): it is told of, with the real tools, and nothing else is.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use crate::support::blocks;
use crate::support::command::{Outcome, Running, Tool, tool};
use crate::support::mounted::one_line;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{BLOCK, Rig};

const BLOCKS: u64 = 12;
/// What -o strict makes of it.
const SKIPPED: i32 = 9;

fn content(seed: u64) -> Vec<u8> {
    pattern(seed, usize::try_from(BLOCKS * BLOCK).unwrap() - 700)
}

/// An image with an index of its own.
fn rig<'a>(scene: &'a Scene, name: &str) -> Rig<'a> {
    let image = scene.file(format!("{name}.img"), &content(1));
    Rig::new(scene, &image).with_index(scene.path(format!("{name}.index")))
}

/// The warning, if there is one, which begins with the image's path.
fn warning(outcome: &Outcome) -> Option<&str> {
    let mut lines = outcome.stderr.lines();
    let (_, warning) = lines.find_map(|line| line.split_once(".img: the command "))?;
    Some(warning)
}

/// Expects that a run is told of what it skipped: with -o strict by its status, and without only in words.
fn is_told(run: impl Fn(&str) -> Outcome, expected: &str) {
    let outcome = run("");
    assert_eq!(outcome.code(), 0, "{outcome:#?}");
    let said = warning(&outcome).unwrap_or_else(|| panic!("nothing is said: {outcome:#?}"));
    assert!(said.starts_with(expected), "{said}");
    assert!(said.contains("-u or --size-only?"), "{said}");
    let outcome = run("-q -o strict");
    assert_eq!(outcome.code(), SKIPPED, "{outcome:#?}");
    assert!(one_line(&outcome.stderr).contains(expected), "{outcome:#?}");
}

/// A second of the year 2033.
fn make_newer(backup: &Path) {
    for name in blocks::names(backup) {
        let file = backup.join(name);
        tool("touch").words("-d @2000000000").arg(file).ok();
    }
}

#[test]
fn p26_a_tool_that_skips_changed_blocks_is_told_of() {
    let scene = Scene::new();
    thread::scope(|threads| {
        for (name, command) in [
            ("size-only", "rsync -a --size-only {}/"),
            ("newer", "rsync -a -u {}/"),
            ("cp", "cp -a -u -T {}"),
            ("list", "ls {}"),
            ("nothing", "true"),
        ] {
            let scene = &scene;
            threads.spawn(move || {
                let rig = rig(scene, name);
                let backup = scene.dir(name);
                rig.sync_well(&backup);
                make_newer(&backup);
                let run = |options: &str| {
                    for block in [3, 7, 11] {
                        rig.change(block, format!("with {options}").as_bytes());
                    }
                    rig.run(options).words(command).arg(&backup).run()
                };
                let expected = "skipped 3 of 3 changed blocks, the first is 00000003: ";
                is_told(run, expected);
                // Part of them.
                rig.change(3, b"once more");
                rig.change(7, b"once more");
                let outcome = rig.run("").words("cat {}/00000003").run();
                let said = warning(&outcome).unwrap();
                let expected = "skipped 1 of 2 changed blocks, the first is 00000007: ";
                assert!(said.starts_with(expected), "{said}");
                // Of the next night nothing is known, if nothing changes.
                let outcome = rig.run("-o strict").arg("true").run();
                assert_eq!((outcome.code(), warning(&outcome)), (0, None));
                // A command that fails is told of, and its status stays.
                rig.change(3, b"and again");
                let outcome = rig.run("-o strict").arg("false").run();
                assert_eq!(outcome.code(), 1);
                assert!(warning(&outcome).is_some(), "{outcome:#?}");
            });
        }
    });
}

/// A store that keeps no times, and its address.
fn webdav(scene: &Scene) -> (Running, PathBuf, String) {
    let (store, log) = (scene.dir("store"), scene.path("webdav.log"));
    let serve = tool("rclone").words("--config /dev/null serve webdav --addr 127.0.0.1:0");
    let running = serve.arg(&store).log_to(&log).spawn();
    let mut address = None;
    wait_until("the store can be reached", || {
        let said = fs::read_to_string(&log).unwrap();
        // Of whole lines.
        let (said, _) = said.rsplit_once('\n').unwrap_or_default();
        let url = said.split_whitespace().find(|word| word.contains("http"));
        address = url.map(str::to_owned);
        address.is_some()
    });
    (running, store, address.unwrap())
}

#[test]
fn p26_rclone_skips_what_changed_if_the_store_keeps_no_times() {
    let scene = Scene::new();
    let (_serving, store, address) = webdav(&scene);
    let rig = rig(&scene, "a");
    let sync = |options: &str, more: &str| {
        let run = rig.run(options).words("rclone --config /dev/null sync");
        let run = run
            .words("--webdav-vendor other --webdav-url")
            .arg(&address);
        run.words(more).words("{} :webdav:").run()
    };
    let first = sync("-o strict", "");
    assert_eq!((first.code(), warning(&first)), (0, None), "{first:#?}");
    assert_same(
        "the store, after the first time",
        &blocks::concatenated(&store),
        &blocks::read(&rig.source),
    );
    let again = |options: &str| {
        rig.change(5, format!("with {options}").as_bytes());
        sync(options, "")
    };
    is_told(
        again,
        "skipped 1 of 1 changed blocks, the first is 00000005: ",
    );
    // What the README has for such stores.
    rig.change(5, b"once more");
    let right = sync("-o strict", "--ignore-times");
    assert_eq!((right.code(), warning(&right)), (0, None), "{right:#?}");
    assert_same(
        "the store",
        &blocks::concatenated(&store),
        &blocks::read(&rig.source),
    );
}

/// Runs a tool three times, strictly: of all blocks, of none and of two that changed.
fn is_content(rig: &Rig<'_>, what: &str, tool: impl Fn(Tool) -> Tool) {
    for (round, changed) in [&[][..], &[], &[3, 11]].into_iter().enumerate() {
        for block in changed {
            rig.change(*block, b"changed");
        }
        let outcome = tool(rig.run("-o strict")).run();
        assert_eq!(outcome.code(), 0, "{what}, round {round}: {outcome:#?}");
        assert_eq!(warning(&outcome), None, "{what}, round {round}");
    }
}

#[test]
fn p26_tools_that_copy_what_changed_are_not_warned_of() {
    let scene = Scene::new();
    let restic = |tool: Tool| {
        let repository = scene.path("restic");
        tool.env("RESTIC_PASSWORD", "secret")
            .env("RESTIC_REPOSITORY", repository)
            .env("RESTIC_CACHE_DIR", scene.path("cache"))
    };
    let borg = |tool: Tool| {
        tool.env("BORG_BASE_DIR", scene.path("borg-base"))
            .env("BORG_REPO", scene.path("borg"))
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
    };
    restic(tool("restic").words("init -q")).ok();
    borg(tool("borg").words("init -e none")).ok();
    let plain = |command: &'static str, target: &str| {
        let target = scene.path(target);
        move |run: Tool| run.words(command).arg(&target)
    };
    thread::scope(|threads| {
        let scene = &scene;
        threads.spawn(move || {
            is_content(
                &rig(scene, "rsync"),
                "rsync",
                plain("rsync -a --inplace {}/", "a"),
            );
        });
        threads.spawn(move || {
            is_content(&rig(scene, "cp"), "cp", plain("cp -a -T {}", "b"));
        });
        threads.spawn(move || {
            is_content(&rig(scene, "tar"), "tar", plain("tar -C {} -c . -f", "c"));
        });
        threads.spawn(move || {
            let command = plain("rclone --config /dev/null sync {}", "d");
            is_content(&rig(scene, "rclone"), "rclone", command);
        });
        threads.spawn(|| {
            is_content(&rig(scene, "restic"), "restic", |run| {
                restic(run.words("restic backup -q {}"))
            });
        });
        threads.spawn(|| {
            is_content(&rig(scene, "borg"), "borg", |run| {
                borg(run.words("borg create ::{now:%s%f} {}"))
            });
        });
    });
}

#[test]
fn p26_a_second_target_and_linked_versions_are_not_warned_of() {
    let scene = Scene::new();
    let rig = rig(&scene, "a");
    for target in ["one", "two"] {
        let run = rig.run("-o strict").words("rsync -a --inplace {}/");
        let outcome = run.arg(scene.path(target)).run();
        assert_eq!((outcome.code(), warning(&outcome)), (0, None));
    }
    for (version, last) in [("three", "two"), ("four", "three")] {
        rig.change(4, version.as_bytes());
        let run = rig.run("-o strict").words("rsync -a {}/");
        let run = run.arg(format!("--link-dest=../{last}"));
        let outcome = run.arg(scene.path(version)).run();
        assert_eq!((outcome.code(), warning(&outcome)), (0, None));
        rig.same(&scene.path(version));
    }
}

#[test]
fn p26_a_block_that_has_lost_its_file_is_not_warned_of() {
    let scene = Scene::new();
    let rig = rig(&scene, "a");
    let backup = scene.dir("backup");
    for zeros in [&[][..], &[2, 3, 7]] {
        for block in zeros {
            super::rig::change(&rig.source, block * BLOCK, &vec![0; 65_536]);
        }
        let run = rig.run("--sparse -o strict");
        let run = run.words("rsync -a --inplace --delete {}/").arg(&backup);
        let outcome = run.run();
        assert_eq!((outcome.code(), warning(&outcome)), (0, None));
        let names = blocks::names(&backup);
        assert_eq!(names.len() as u64, BLOCKS - zeros.len() as u64);
    }
}

#[test]
fn p26_the_last_line_of_a_mount_counts_what_was_not_opened() {
    let scene = Scene::new();
    let rig = rig(&scene, "a");
    let mount = rig.mount("").up_in_foreground();
    fs::read(mount.block(0)).unwrap();
    fs::read(mount.block(2)).unwrap();
    let log = mount.unmount_for_log();
    let expected = "; 10 blocks with new times were not opened, the first is 00000001";
    assert!(log.contains(expected), "{log}");
    // Who read none of a block has none of it: it has a new time again.
    let mount = rig.mount("").up_in_foreground();
    mount.image();
    let log = mount.unmount_for_log();
    assert!(
        log.contains("10 changed") && !log.contains("not opened"),
        "{log}"
    );
    let mount = rig.mount("").up_in_foreground();
    let log = mount.unmount_for_log();
    assert!(!log.contains("not opened"), "{log}");
}

/// A damaged image, and a good backup of it. `index`: use one for the restore.
fn restore<'a>(scene: &'a Scene, name: &str) -> (Rig<'a>, PathBuf) {
    let rig = rig(scene, name);
    let backup = scene.dir(name);
    rig.sync_well(&backup);
    for block in [3, 7] {
        rig.change(block, b"damaged");
    }
    (rig, backup)
}

#[test]
fn p26_a_restore_that_leaves_blocks_as_they_were_is_told_of() {
    let scene = Scene::new();
    let (rig, backup) = restore(&scene, "a");
    let run = |options: &str, command: &str| {
        let run = scene.bmapfs().words("run -b 64K -w").words(options);
        let run = run.arg(&rig.source).arg("--").words(command);
        run.arg(backup.join(".")).arg("{}/").run()
    };
    let all = "left 12 of 12 blocks as they were, the first is 00000000: ";
    is_told(|options| run(options, "rsync -a -u"), all);
    is_told(|options| run(options, "rsync -a --size-only"), all);
    assert_ne!(blocks::read(&rig.source), content(1), "the harness");
    // A single block is restored: it is known which were not.
    let one = scene.bmapfs().words("run -b 64K -w").arg(&rig.source);
    let one = one.arg("--").arg("cp").arg(backup.join(blocks::name(3)));
    let one = one.arg("{}/").run();
    assert_eq!(one.code(), 0, "{one:#?}");
    let expected = "left 11 of 12 blocks as they were, the first is 00000000: ";
    assert!(warning(&one).unwrap().starts_with(expected), "{one:#?}");
    for command in [
        "rsync -a --inplace",
        "rsync -a",
        "rsync -a --checksum",
        "rsync -rl --checksum",
        "cp -r",
    ] {
        let outcome = run("-o strict", command);
        assert_eq!(outcome.code(), 0, "{command}: {outcome:#?}");
        assert_eq!(warning(&outcome), None, "{command}");
        assert!(blocks::read(&rig.source) == content(1), "{command}");
    }
}

#[test]
fn p26_a_restore_with_the_index_is_told_of_what_differed() {
    let scene = Scene::new();
    let (rig, backup) = restore(&scene, "a");
    let run = |options: &str, command: &str| {
        for block in [3, 7] {
            rig.change(block, format!("with {options}").as_bytes());
        }
        let run = rig.run(options).words(command);
        run.arg(backup.join(".")).arg("{}/").run()
    };
    let both = "skipped 2 of 2 changed blocks, the first is 00000003: ";
    is_told(|options| run(&format!("-w {options}"), "rsync -a -u"), both);
    let outcome = run("-w -o strict", "rsync -a --inplace");
    assert_eq!((outcome.code(), warning(&outcome)), (0, None));
    assert!(blocks::read(&rig.source) == content(1));
}

#[test]
fn p26_a_whole_restore_to_a_new_image_is_not_warned_of() {
    let scene = Scene::new();
    let image = scene.file("a.img", &content(1));
    super::rig::change(&image, 4 * BLOCK, &vec![0; 3 * 65_536]);
    let rig = Rig::new(&scene, &image);
    let (full, sparse) = (scene.dir("full"), scene.dir("sparse"));
    rig.sync_well(&full);
    rig.run("--sparse").words("rsync -a {}/").arg(&sparse).ok();
    assert_eq!(blocks::names(&sparse).len(), 9, "the harness");
    for (backup, options, number) in [
        (&full, "", 0),
        (&full, "--sparse", 1),
        (&sparse, "--sparse", 2),
    ] {
        let new = scene.path(format!("new-{number}.img"));
        let run = scene.bmapfs().words("run -b 64K -w --resize -o strict");
        let run = run.words(options).arg(&new).arg("--");
        let run = run.words("rsync -a --inplace --delete");
        let outcome = run.arg(backup.join(".")).arg("{}/").run();
        assert_eq!(outcome.code(), 0, "{options}: {outcome:#?}");
        assert_eq!(warning(&outcome), None, "{options}");
        assert!(blocks::read(&new) == blocks::read(&image), "{options}");
    }
}

#[test]
fn p26_what_was_skipped_is_told_of_until_somebody_has_it() {
    let scene = Scene::new();
    let rig = rig(&scene, "a");
    let backup = scene.dir("backup");
    let said = |options: &str, command: &str| {
        let tool = rig.run(options).args(["sh", "-ec", command, "sh", "{}"]);
        let outcome = tool.arg(&backup).run();
        let said = outcome.stderr.clone();
        outcome.ok();
        said
    };
    let hint = |count: u64, first: &str| {
        format!("{count} others have not been read whole since they changed, the first is {first}")
    };
    let copy = "rsync -a --inplace \"$1\"/ \"$2\"";
    assert!(!said("", copy).contains("others have not"));
    rig.change(3, b"changed");
    rig.change(7, b"changed");
    // Block 3 is read in part, block 7 is skipped.
    let first = said("", "head -c 9 \"$1\"/00000003");
    assert!(
        first.contains("skipped 1 of 2 changed blocks, the first is 00000007"),
        "{first}"
    );
    assert!(first.contains(&hint(1, "00000003")), "{first}");
    // In the next run nothing changed: no error, also with -o strict, and a scan in between makes no difference.
    rig.scan("").ok();
    let second = said("-o strict", "true");
    assert!(
        second.contains(&hint(2, "00000003")) && !second.contains("skipped"),
        "{second}"
    );
    let third = said("-o strict", "cat \"$1\"/00000007");
    assert!(third.contains(&hint(1, "00000003")), "{third}");
    let fourth = said("-o strict", copy);
    assert!(!fourth.contains("others have not"), "{fourth}");
    assert!(!said("-o strict", "true").contains("others have not"));
    assert_same(
        "the backup",
        &blocks::concatenated(&backup),
        &fs::read(&rig.source).unwrap(),
    );
}
