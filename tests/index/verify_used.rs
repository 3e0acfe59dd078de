//! P28 as it is used: by a user, night after night as README.md has it, and where the disk fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::machine::Identity;
use crate::support::mounted::one_line;
use crate::support::pattern::pattern;
use crate::support::scene::Scene;

use super::rig::Rig;
use super::verify::{BLOCKS, b3sum, flip, image, verify};

#[test]
fn p28_a_user_verifies_by_an_index_whose_source_is_gone() {
    let scene = Scene::new();
    let image = image(&scene);
    let place = scene.dir_of("place", Identity::User);
    Identity::User.own(&image);
    fs::rename(&image, place.join("a.img")).unwrap();
    let backup = scene.dir_of("backup", Identity::User);
    let face = |name: &str| {
        let tool = scene.bmapfs().identity(Identity::User).within(&place);
        tool.env("XDG_STATE_HOME", place.join("state"))
            .env("XDG_RUNTIME_DIR", &place)
            .arg(name)
            .words("-b 64K")
    };
    let tool = face("run").words("--index a.img -- rsync -a {}/");
    tool.arg(&backup).ok();
    fs::remove_file(place.join("a.img")).unwrap();
    let list = face("sums").arg("a.img").ok();
    assert_eq!(list.lines().count() as u64, BLOCKS);
    b3sum(&list, &backup).ok();
    face("verify").arg("a.img").arg(&backup).ok();
    let said = face("verify").arg("b.img").arg(&backup).fails(32);
    assert!(said.contains("there is none"), "{said}");
    // A snapshot by LVM, which is gone in the morning.
    let tool = face("scan").words("-o id=/dev/mapper/vg--0-web--snap");
    tool.arg(scene.file("b.img", &pattern(9, 65_536))).ok();
    assert_eq!(
        face("sums").arg("/dev/vg-0/web-snap").ok().lines().count(),
        1
    );

    // A file that cannot be read for another reason than its disk is not damaged.
    let file = backup.join(blocks::name(7));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o0)).unwrap();
    let outcome = face("verify").arg("a.img").arg(&backup).run();
    assert_eq!((outcome.code(), &*outcome.stdout), (1, ""), "{outcome:#?}");
    assert!(outcome.stderr.contains("00000007: Permission denied"));
    // But what stands in its place is no block.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let file = backup.join(blocks::name(8));
    fs::rename(&file, place.join("moved")).unwrap();
    std::os::unix::fs::symlink(place.join("moved"), &file).unwrap();
    let outcome = face("verify").arg("-v").arg("a.img").arg(&backup).run();
    assert_eq!(outcome.code(), 9, "{outcome:#?}");
    assert!(
        outcome
            .stdout
            .starts_with("unreadable 7-8\n21 blocks: 19 right"),
        "{outcome:#?}"
    );
}

/// The disk may be full when what was copied is written to it, long after the copy has ended.
#[test]
fn p28_what_could_not_be_written_is_unreadable_and_the_rest_is_looked_at() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    for error in ["ENOSPC", "EDQUOT", "EIO"] {
        let inject = format!("inject=fsync:error={error}:when=8..9");
        let strace = ["-f", "-qq", "-o", "/dev/null", "-e", &*inject];
        let verify = verify(&rig, "-q --threads 1 -v", &backup);
        let outcome = verify.below("strace", &strace).run();
        assert_eq!(outcome.code(), 9, "{outcome:#?}");
        let found = &outcome.stdout;
        assert!(
            found.starts_with("unreadable 7-8\n21 blocks: 19 right"),
            "{found}"
        );
        let line = one_line(&outcome.stderr);
        assert!(line.contains("00000007: "), "{line}");
    }
}

#[test]
fn p28_the_night_after_is_as_the_readme_has_it() {
    let scene = Scene::new();
    let place = scene.dir_of("place", Identity::User);
    let image = scene.file("a.img", &pattern(8, 21 << 20));
    Identity::User.own(&image);
    let backup = scene.dir_of("backup", Identity::User);
    let ssh = scene.script("fake", "ssh", "shift; exec sh -c \"$*\"");
    let path = format!(
        "{}:{}:/usr/local/bin:/usr/bin:/bin",
        ssh.parent().unwrap().display(),
        scene.program().parent().unwrap().display()
    );
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, section) = readme.split_once("### The night after\n").unwrap();
    let commands = section.split("```\n").nth(1).unwrap();
    let (verifying, remote) = commands.split_at(commands.find("bmapfs sums").unwrap());
    let run = |commands: &str| {
        let commands = commands
            .replace("SRC", &image.display().to_string())
            .replace("/backup/web", &backup.display().to_string());
        tool("sh")
            .identity(Identity::User)
            .within(&place)
            .env("PATH", &path)
            .env("XDG_STATE_HOME", place.join("state"))
            .env("XDG_RUNTIME_DIR", &place)
            .arg("-c")
            .arg(commands)
            .run()
    };
    let copy = "bmapfs run -q --index SRC -- rsync -a --inplace {}/ /backup/web/";
    run(copy).ok();
    run(remote).ok();
    for number in 0..6 {
        flip(&backup.join(blocks::name(number)), 5);
    }
    let outcome = run(remote);
    assert_ne!(outcome.code(), 0, "{outcome:#?}");
    assert!(outcome.stdout.contains("00000003: FAILED"), "{outcome:#?}");
    // Each day of the month has one of ten parts.
    let mut before = 6;
    for (day, left) in [
        (10, &[1, 2, 3, 4, 5][..]),
        (31, &[2, 3, 4, 5]),
        (7, &[2, 3, 4, 5]),
        (22, &[3, 4, 5]),
        (3, &[4, 5]),
        (14, &[5]),
        (5, &[]),
    ] {
        scene.script("fake", "date", &format!("[ \"$*\" = +%-d ] && echo {day}"));
        let outcome = run(verifying);
        assert!(outcome.stderr.is_empty(), "{outcome:#?}");
        let expected = if left.len() < before { 9 } else { 0 };
        assert_eq!(outcome.code(), expected, "{outcome:#?}");
        before = left.len();
        run(copy).ok();
        let said = run("bmapfs verify -v SRC /backup/web").stdout;
        let damaged: Vec<_> = said
            .lines()
            .filter(|line| line.starts_with("damaged"))
            .collect();
        let expected = match left {
            [] => vec![],
            [one] => vec![format!("damaged {one}")],
            [first, .., last] => vec![format!("damaged {first}-{last}")],
        };
        assert_eq!(damaged, expected, "{day}: {said}");
        assert!(
            said.contains(" 0 missing, 0 surplus, 0 older, 0 newer"),
            "{said}"
        );
    }
    run(remote).ok();
    // What cannot be read may be good: it stays.
    let file = backup.join(blocks::name(0));
    fs::rename(&file, place.join("moved")).unwrap();
    std::os::unix::fs::symlink(place.join("moved"), &file).unwrap();
    scene.script("fake", "date", "[ \"$*\" = +%-d ] && echo 10");
    assert_eq!(run(verifying).code(), 9);
    assert!(file.is_symlink());
    let found = fs::read_to_string(place.join("found")).unwrap();
    assert!(found.starts_with("unreadable 0\n"), "{found}");
}
