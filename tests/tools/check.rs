//! `bmapfs --check` on machines where things are missing: each is told with what to do, and nothing stays behind.

use std::path::Path;

use crate::support::command::{Outcome, Tool};
use crate::support::filesystem::Filesystem;
use crate::support::machine::mounts_of;
use crate::support::mounted::one_line;
use crate::support::namespace::Namespace;
use crate::support::scene::Scene;

const SYSTEM: i32 = 2;

/// The one line of a check that has these words; with which word it begins, and the whole.
fn line<'a>(outcome: &'a Outcome, words: &str) -> (&'a str, &'a str) {
    let mut lines = outcome.stdout.lines().filter(|line| line.contains(words));
    let (Some(line), None) = (lines.next(), lines.next()) else {
        panic!("one line with {words:?}: {outcome:#?}");
    };
    (line.split(' ').next().unwrap(), line)
}

/// A namespace in which bmapfs and its helpers are installed, and the programs that a check looks for in PATH.
fn whole(scene: &Scene) -> Namespace {
    for program in ["rsync", "virsh", "nbdfuse"] {
        let path = scene.dir("programs").join(program);
        std::fs::copy("/bin/true", path).unwrap();
    }
    Namespace::new(scene)
}

fn check(tool: Tool, scene: &Scene) -> Tool {
    let path = format!("PATH={}", scene.path("programs").display());
    let tool = tool.arg(path).arg("/usr/local/bin/bmapfs").arg("--check");
    tool.env("TMPDIR", "/tmp")
}

#[test]
fn a_machine_that_has_all() {
    let scene = Scene::new();
    let namespace = whole(&scene);
    namespace.set_etc("fuse.conf", "# a remark\n user_allow_other \n");
    let before = mounts_of("self").len();
    for user in [false, true] {
        let env = if user {
            namespace.user_tool("env")
        } else {
            namespace.tool("env")
        };
        let outcome = check(env, &scene).run();
        assert_eq!(outcome.code(), 0, "{outcome:#?}");
        assert_eq!(outcome.stderr, "");
        assert_eq!(outcome.stdout.lines().count(), 10, "{outcome:#?}");
        let (word, mount) = line(&outcome, "a mount can be made");
        assert_eq!((word, mount.contains("FUSE 7.")), ("ok", true), "{mount}");
        for words in [
            "/dev/fuse is open to every user",
            "fusermount3: every user",
            "user_allow_other in",
            "/sbin/mount.bmapfs:",
            "/sbin/umount.fuse.bmapfs:",
            "/usr/local/bin/bmapfs:",
            "programs/rsync:",
            "programs/virsh:",
            "programs/nbdfuse:",
        ] {
            assert_eq!(line(&outcome, words).0, "ok", "{words}: {outcome:#?}");
        }
    }
    assert_eq!(mounts_of("self").len(), before, "no mount stays");
}

#[test]
fn what_can_be_done_without_is_optional_and_what_to_do_is_told() {
    let scene = Scene::new();
    let namespace = whole(&scene);
    namespace.set_etc("fuse.conf", "#user_allow_other\n");
    for file in [
        "/sbin/mount.bmapfs",
        "/sbin/umount.fuse.bmapfs",
        "/usr/local/bin/bmapfs",
    ] {
        // A file that is no program.
        let none = scene.file("none", b"");
        let tool = namespace.tool("mount").arg("--bind");
        tool.args([none.as_path(), Path::new(file)]).ok();
    }
    let program = scene.program();
    let tool = namespace.tool("env").arg("PATH=/nowhere").arg(&program);
    let outcome = tool.arg("--check").run();
    assert_eq!(outcome.code(), 0, "{outcome:#?}");
    for (words, remedy) in [
        ("user_allow_other", "without that line"),
        (
            "mount.bmapfs is not in /sbin, where mount(8)",
            "copy it there",
        ),
        ("umount.fuse.bmapfs is not in /sbin", "copy it there"),
        ("not where the helpers look", "ln -s"),
        ("rsync", "apt install rsync"),
        ("virsh", "apt install libvirt-clients"),
        ("nbdfuse", "apt install libnbd-bin"),
    ] {
        let (word, line) = line(&outcome, words);
        assert_eq!(word, "optional", "{line}");
        assert!(line.contains(remedy), "{line}");
    }
}

#[test]
fn without_fusermount_users_cannot_mount_and_root_can() {
    let scene = Scene::new();
    let namespace = whole(&scene);
    let real = scene.file("none", b"");
    let tool = namespace.tool("mount").arg("--bind");
    tool.args([real.as_path(), Path::new("/usr/bin/fusermount3")])
        .ok();
    let outcome = check(namespace.tool("env"), &scene).run();
    assert_eq!(outcome.code(), 0, "{outcome:#?}");
    let (word, said) = line(&outcome, "fusermount3");
    assert_eq!(
        (word, said.contains("only root")),
        ("optional", true),
        "{said}"
    );

    let outcome = check(namespace.user_tool("env"), &scene).run();
    assert_eq!(outcome.code(), SYSTEM, "{outcome:#?}");
    assert!(one_line(&outcome.stderr).contains("this user cannot mount"));
    let (word, said) = line(&outcome, "fusermount3 is not there");
    assert_eq!(
        (word, said.contains("apt install fuse3")),
        ("missing", true),
        "{said}"
    );
    assert_eq!(line(&outcome, "no mount can be made").0, "missing");
}

#[test]
fn without_dev_fuse_nobody_can_mount() {
    let scene = Scene::new();
    let namespace = whole(&scene);
    let tool = namespace.tool("mount").words("--bind /dev/null /dev/fuse");
    tool.ok();
    let outcome = check(namespace.tool("env"), &scene).run();
    assert_eq!(outcome.code(), SYSTEM, "{outcome:#?}");
    assert!(one_line(&outcome.stderr).contains("root cannot mount"));
    assert_eq!(line(&outcome, "modprobe fuse").0, "missing");
    assert_eq!(line(&outcome, "no mount can be made").0, "missing");
}

#[test]
fn reflinks_are_tried_in_each_directory() {
    let scene = Scene::new();
    let shares = Filesystem::new(&scene, "xfs");
    let namespace = whole(&scene);
    let (plain, foreign) = (Path::new("/dev/shm"), Path::new("/proc"));
    let tool = check(namespace.tool("env"), &scene);
    let outcome = tool.args([plain, foreign, &shares.path("")]).run();
    assert_eq!(outcome.code(), 0, "{outcome:#?}");
    let (word, said) = line(&outcome, "fs-xfs");
    assert_eq!(
        (word, said.contains("only what changed")),
        ("ok", true),
        "{said}"
    );
    let (word, said) = line(&outcome, "/dev/shm");
    assert_eq!(
        (word, said.contains("no reflinks")),
        ("optional", true),
        "{said}"
    );
    let (word, said) = line(&outcome, "/proc");
    assert_eq!(
        (word, said.contains("cannot be tried")),
        ("optional", true),
        "{said}"
    );
}
