//! `bmapfs run`: a mount for one command.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::command::Tool;
use crate::support::machine::{self, Identity};
use crate::support::mounted::one_line;
use crate::support::pattern::{assert_same, disk_like};
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{BLOCK, Rig, change};

fn image(scene: &Scene) -> PathBuf {
    scene.file("a.img", &disk_like(1, 8 * 65_536 + 500))
}

/// `bmapfs run` without an index.
fn run(scene: &Scene, image: &Path) -> Tool {
    scene.bmapfs().words("run -b 64K").arg(image).arg("--")
}

/// The mount point that the command is given.
fn place(scene: &Scene, image: &Path) -> PathBuf {
    run(scene, image).words("echo {}").ok().trim_end().into()
}

#[test]
fn braces_and_the_variable_are_the_mount_point() {
    let scene = Scene::new();
    let image = image(&scene);
    let script = "printf '%s\\n' \"$@\"; echo \"$BMAPFS_MOUNT\"; ls \"$BMAPFS_MOUNT\"; pwd";
    let said = run(&scene, &image)
        .args([
            "sh", "-c", script, "sh", "{}", "{}/x", "a{}b{}c", "{", "{ }", "",
        ])
        .within(&scene.dir("here"))
        .ok();
    let lines: Vec<&str> = said.lines().collect();
    let place = lines[0];
    assert!(place.starts_with("/run/bmapfs.mounts/"), "{place}");
    assert_eq!(lines[1], format!("{place}/x"));
    assert_eq!(lines[2], format!("a{place}b{place}c"));
    assert_eq!(lines[3..6], ["{", "{ }", ""]);
    assert_eq!(lines[6], place);
    assert_eq!(lines.len(), 7 + 9 + 1);
    assert_eq!(
        Path::new(lines[16]),
        scene.path("here"),
        "its directory is the caller's"
    );
    // The same path each time, however the source is written, and another one for another source.
    assert_eq!(self::place(&scene, &image), Path::new(place));
    let link = scene.path("link.img");
    std::os::unix::fs::symlink(&image, &link).unwrap();
    assert_eq!(self::place(&scene, &link), Path::new(place));
    let other = scene.file("b.img", &disk_like(2, 65_536));
    assert_ne!(self::place(&scene, &other), Path::new(place));
    let as_other = scene
        .bmapfs()
        .words("run -b 64K -o id=some-name")
        .arg(format!("--index={}", scene.path("a.index").display()))
        .arg(&image)
        .words("-- echo {}")
        .ok();
    assert!(
        as_other.starts_with("/run/bmapfs.mounts/some-name-"),
        "{as_other}"
    );

    assert!(!Path::new(place).exists(), "no directory is left");
}

#[test]
fn standard_streams_are_the_commands() {
    let scene = Scene::new();
    let image = image(&scene);
    let outcome = run(&scene, &image)
        .args(["sh", "-c", "cat; echo to stderr >&2"])
        .input(b"from stdin")
        .run();
    assert_eq!(outcome.stdout, "from stdin");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0], "to stderr");
    assert!(
        lines[1].contains("a.img: 9 blocks"),
        "the summary: {lines:?}"
    );
    let outcome = scene
        .bmapfs()
        .words("run -q")
        .arg(&image)
        .words("-- true")
        .run();
    assert_eq!(outcome.stderr, "");
}

#[test]
fn the_commands_status_is_passed_on() {
    let scene = Scene::new();
    let image = image(&scene);
    let plain = scene.file("plain", b"#!/bin/sh\n");
    fs::set_permissions(&plain, Permissions::from_mode(0o644)).unwrap();
    let place = place(&scene, &image);
    for (command, code) in [
        (vec!["true"], 0),
        (vec!["false"], 1),
        (vec!["sh", "-c", "exit 3"], 3),
        (vec!["sh", "-c", "exit 255"], 255),
        (vec!["sh", "-c", "kill -KILL $$"], 137),
        (vec!["sh", "-c", "kill -TERM $$"], 143),
        (vec!["sh", "-c", "kill -SEGV $$"], 139),
        (vec![plain.to_str().unwrap()], 126),
        (vec!["/"], 126),
        (vec!["no-such-program-anywhere"], 127),
        (vec!["/no/such/program"], 127),
    ] {
        let outcome = run(&scene, &image).args(&command).run();
        assert_eq!(outcome.code(), code, "{command:?}: {outcome:?}");
        assert!(!place.exists(), "{command:?} leaves its directory");
        if code == 126 || code == 127 {
            assert!(outcome.stderr.contains(command[0]), "{outcome:?}");
        }
    }
}

#[test]
fn the_command_starts_with_signals_as_usual() {
    let scene = Scene::new();
    let image = image(&scene);
    let usual = run(&scene, &image).words("cat /proc/self/status");
    let nohup = run(&scene, &image)
        .words("cat /proc/self/status")
        .ignoring("HUP");
    for (tool, ignored) in [(usual, 0), (nohup, 1)] {
        let status = tool.ok();
        for field in ["SigBlk", "SigIgn", "SigPnd", "ShdPnd"] {
            let line = status.lines().find(|line| line.starts_with(field)).unwrap();
            let mask = line.split_whitespace().nth(1).unwrap();
            // 32 and 33 are the C library's own, which ignores them in what it spawns.
            let mask = u64::from_str_radix(mask, 16).unwrap() & !(0b11 << 31);
            let expected = if field == "SigIgn" { ignored } else { 0 };
            assert_eq!(mask, expected, "{line}");
        }
    }
    // Nothing of bmapfs is open in it.
    let files = run(&scene, &image)
        .args(["sh", "-c", "ls -l /proc/$$/fd"])
        .ok();
    assert!(
        !files.contains("fuse") && !files.contains("a.img"),
        "{files}"
    );
}

/// Starts a command that waits, calls `look` with its process and its mount point, and lets it go on.
fn while_running(scene: &Scene, tool: Tool, look: impl FnOnce(&str, &Path)) {
    let (told, go) = (scene.path("told"), scene.path("go"));
    fs::remove_file(&told).ok();
    fs::remove_file(&go).ok();
    let script = "echo \"$$ $BMAPFS_MOUNT\" > \"$1.new\"; mv \"$1.new\" \"$1\"; while [ -e \"$1\" -a ! -e \"$2\" ]; do sleep 0.01; done";
    let running = tool
        .args(["sh", "-c", script, "sh"])
        .args([&told, &go])
        .spawn();
    wait_until("the command runs", || told.exists());
    let text = fs::read_to_string(&told).unwrap();
    let (process, place) = text.trim_end().split_once(' ').unwrap();
    look(process, Path::new(place));
    fs::write(&go, b"").unwrap();
    assert!(running.finish().success());
}

#[test]
fn as_root_nobody_else_sees_the_mount() {
    let scene = Scene::new();
    let image = image(&scene);
    while_running(&scene, run(&scene, &image), |process, place| {
        let at = |process: &str| {
            let mounts = machine::mounts_of(process).into_iter();
            mounts
                .filter(|mount| mount.point == place)
                .collect::<Vec<_>>()
        };
        assert_eq!(at("self").len(), 0);
        assert!(!place.exists(), "others do not even see its directory");
        let inside = at(process);
        assert_eq!(inside.len(), 1);
        assert_eq!(inside[0].kind, "fuse.bmapfs");
        assert_eq!(Path::new(&inside[0].source), image);
        assert!(inside[0].options.iter().any(|option| option == "ro"));
    });
}

#[test]
fn as_a_user_through_fusermount3() {
    let scene = Scene::new();
    let image = image(&scene);
    Identity::User.own(&image);
    let writable = scene.dir_of("user", Identity::User);
    let runtime = scene.dir_of("runtime", Identity::User);
    let run = || {
        let tool = run(&scene, &image).identity(Identity::User);
        tool.env("XDG_RUNTIME_DIR", &runtime).within(&writable)
    };
    let mut places = Vec::new();
    for _ in 0..2 {
        let text = run().args(["sh", "-c", "echo {}; cat {}/* | wc -c"]).ok();
        let (place, len) = text.trim_end().split_once('\n').unwrap();
        assert_eq!(len, "524788");
        assert!(Path::new(place).starts_with(&runtime));
        assert!(!Path::new(place).exists());
        places.push(place.to_owned());
    }
    assert_eq!(places[0], places[1]);
    assert!(machine::mounts_at(Path::new(&places[0])).is_empty());
    assert_eq!(run().words("sh -c").arg("exit 3").run().code(), 3);
    // Without XDG_RUNTIME_DIR, below the directory for temporary files.
    let tool = self::run(&scene, &image).identity(Identity::User);
    let text = tool
        .env("XDG_RUNTIME_DIR", "")
        .env("TMPDIR", &writable)
        .words("echo {}")
        .ok();
    assert!(Path::new(text.trim_end()).starts_with(&writable), "{text}");
}

#[test]
fn what_cannot_be_mounted_runs_nothing() {
    let scene = Scene::new();
    let marker = scene.path("marker");
    let missing = scene.path("missing.img");
    let locked = image(&scene);
    let mount = scene.mount(&locked).with("-rw -b 64K").up();
    for source in [missing.as_path(), &locked, Path::new("/dev/null")] {
        let tool = scene.bmapfs().words("run -rw -b 64K").arg(source);
        let outcome = tool.args(["--", "touch"]).arg(&marker).run();

        assert_ne!(outcome.code(), 0, "{}", source.display());
        let line = one_line(&outcome.stderr);
        assert!(line.contains(source.to_str().unwrap()), "{line}");
        assert!(!marker.exists(), "{}", source.display());
    }
    mount.unmount();
    // No command at all is a mistake.
    let outcome = scene.bmapfs().arg("run").arg(&locked).run();
    assert_eq!(outcome.code(), 1, "{outcome:?}");
}

#[test]
fn a_shrunk_image_is_refused_unless_that_is_meant() {
    let scene = Scene::new();
    let image = image(&scene);
    let rig = Rig::new(&scene, &image);
    let (backup, marker) = (scene.dir("backup"), scene.path("marker"));
    rig.sync_well(&backup);
    let content = fs::read(&image).unwrap();
    for len in [0, 1, 8 * BLOCK, 8 * BLOCK + 499] {
        let file = fs::File::options().write(true).open(&image).unwrap();
        file.set_len(len).unwrap();
        let outcome = rig.run("").arg("touch").arg(&marker).run();
        assert_eq!(outcome.code(), 32, "{len}: {outcome:?}");
        assert!(
            one_line(&outcome.stderr).contains("-o shrunk"),
            "{outcome:?}"
        );
        assert!(!marker.exists());
        change(&image, 0, &content);
    }
    // A mount by hand, and a scan that says so, may look at it; then it has been seen.
    rig.sync_well(&backup);
    fs::File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(3 * BLOCK)
        .unwrap();
    rig.rsync("-o shrunk", &backup).arg("--delete").ok();
    rig.same(&backup);
    assert_eq!(rig.sync_well(&backup), [0; 0]);
    change(&image, 3 * BLOCK, &content[3 * 65_536..]);
    rig.sync_well(&backup);
    assert_same(
        "grown again",
        &fs::read(&image).unwrap()[3 * 65_536..],
        &content[3 * 65_536..],
    );
}

#[test]
fn a_writable_run_writes_the_image() {
    let scene = Scene::new();
    let image = image(&scene);
    let script = "printf written | dd of={}/00000002 bs=1 seek=5 conv=notrunc status=none";
    let read_only = run(&scene, &image).args(["sh", "-c", script]).run();
    assert_ne!(read_only.code(), 0);
    let rig = Rig::new(&scene, &image);
    rig.scan("").ok();
    rig.run("-rw").args(["sh", "-c", script]).ok();
    let start = 2 * 65_536 + 5;
    assert_eq!(&fs::read(&image).unwrap()[start..start + 7], b"written");
    assert_eq!(rig.counts("-o rescan")["unchanged"], 9);
}

/// How many blocks a command that runs has in its mount.
fn seen_by(process: &str, place: &Path) -> usize {
    let inside = PathBuf::from(format!("/proc/{process}/root"));
    let dir = inside.join(place.strip_prefix("/").unwrap());
    fs::read_dir(dir).map(Iterator::count).unwrap_or_default()
}

#[test]
fn two_runs_of_one_image_at_once_do_not_disturb_each_other() {
    let scene = Scene::new();
    let image = image(&scene);
    while_running(&scene, run(&scene, &image), |process, place| {
        assert_eq!(seen_by(process, place), 9, "the harness");
        run(&scene, &image)
            .args(["sh", "-c", "cat {}/* > /dev/null"])
            .ok();
        assert_eq!(
            seen_by(process, place),
            9,
            "the mount of the run that goes on"
        );
    });
    assert!(!place(&scene, &image).exists());
}

#[test]
fn a_run_that_is_refused_does_not_disturb_the_one_that_has_the_index() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    while_running(&scene, rig.run(""), |process, place| {
        assert_eq!(seen_by(process, place), 9, "the harness");
        assert_eq!(rig.run("").arg("true").run().code(), 32);
        assert_eq!(
            seen_by(process, place),
            9,
            "the mount of the run that goes on"
        );
    });
}
