//! Where the index is: its lock, and the places where none can be (promise P21); the state directory.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Instant;

use crate::support::command::tool;
use crate::support::machine::Identity;
use crate::support::mounted::one_line;
use crate::support::namespace::Namespace;
use crate::support::pattern::{assert_same, disk_like};
use crate::support::scene::Scene;
use crate::support::{DEADLINE, wait_until};

use super::rig::{Rig, stamps_at};

fn image(scene: &Scene) -> std::path::PathBuf {
    scene.file("a.img", &disk_like(1, 8 * 65_536 + 500))
}

#[test]
fn p19_an_index_in_use_is_refused_with_the_name_of_its_holder() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    let mount = rig.mount("").up();
    let holder = mount.pid().to_string();
    for outcome in [
        rig.run("").arg("true").run(),
        rig.scan("").run(),
        rig.scan("--dry-run").run(),
    ] {
        assert_eq!(outcome.code(), 32, "{outcome:?}");
        let line = one_line(&outcome.stderr);
        assert!(line.contains(&holder) && line.contains("a.index"), "{line}");
    }
    let line = rig.mount("").at("second").refused(32);
    assert!(line.contains(&holder) && line.contains("a.index"), "{line}");
    // Any number may read the image without it.
    let other = scene.mount(&rig.source).with("-b 64K").at("third").up();
    assert_same("served", &other.image(), &fs::read(&rig.source).unwrap());
    mount.unmount();
    rig.run("").arg("true").ok();
}

#[test]
fn p19_the_next_one_waits_while_the_holder_is_ending() {
    let scene = Scene::new();
    let image = image(&scene);
    let point = scene.dir("mnt");
    let index = format!("--index={}", scene.path("a.index").display());
    // Other tests make mount namespaces at any time, each with a copy of all mounts of this one; an unmount here
    // does not end those where the root is not shared.
    let space = Namespace::bare(&scene);
    let program = || space.tool(scene.program());
    // Mounts that follow each other at once, as in a script.
    for _ in 0..5 {
        let mount = program().args(["-b", "64K", &index]);
        mount.args([&image, &point]).ok();
        space.tool("umount").arg("-l").arg(&point).ok();
        let run = program().args(["run", "-b", "64K", &index]);
        run.arg(&image).words("-- true").ok();
    }
}

#[test]
fn the_index_is_one_file_for_its_owner_alone() {
    let scene = Scene::new();
    let image = image(&scene);
    let dir = scene.dir("indexes");
    let rig = Rig::new(&scene, &image).with_index(dir.join("a.index"));
    let mount = rig.mount("-rw").up();
    tool("touch").arg(mount.block(2)).ok();
    mount.unmount();
    rig.stamps();
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert!(name.starts_with("a.index"), "left over: {name}");
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// Expects that a mount and a run work without index, with one warning that names it.
fn works_without(rig: &Rig<'_>) {
    let content = fs::read(&rig.source).unwrap();
    let mount = rig.mount("").up_in_foreground();
    assert_same("served", &mount.image(), &content);
    assert_eq!(stamps_at(mount.point()).len(), 9);
    let log = mount.unmount_for_log();
    let outcome = rig.run("").args(["sh", "-c", "cat {}/* | wc -c"]).run();
    let said = outcome.stderr.clone();
    assert_eq!(outcome.ok().trim(), content.len().to_string());
    for text in [log, said] {
        let warnings: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("warning"))
            .collect();
        assert_eq!(warnings.len(), 1, "{text}");
        let name = rig.index.to_str().unwrap();
        assert!(warnings[0].contains(name), "{text}");
    }
    // A scan has nothing else to do, so that is a failure.
    let outcome = rig.scan("").run();
    assert_eq!(outcome.code(), 2, "{outcome:?}");
}

#[test]
fn p21_a_missing_directory() {
    let scene = Scene::new();
    let index = scene.path("nowhere/a.index");
    works_without(&Rig::new(&scene, &image(&scene)).with_index(index));
}

#[test]
fn p21_a_link_to_a_missing_directory() {
    let scene = Scene::new();
    let link = scene.path("a.index");
    symlink(scene.path("nowhere/b.index"), &link).unwrap();
    works_without(&Rig::new(&scene, &image(&scene)).with_index(link));
}

#[test]
fn p21_a_dangling_link_is_followed_and_stays_a_link() {
    let scene = Scene::new();
    let link = scene.path("a.index");
    scene.dir("elsewhere");
    symlink("elsewhere/b.index", &link).unwrap();
    let rig = Rig::new(&scene, &image(&scene)).with_index(link.clone());
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    assert_eq!(rig.sync_well(&backup), [0; 0]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(scene.path("elsewhere/b.index").is_file());
    // One index, one lock, whatever it is called.
    let mount = rig.mount("").up();
    let other = Rig::new(&scene, &rig.source).with_index(scene.path("elsewhere/b.index"));
    other.run("").arg("true").fails(32);
    mount.unmount();
}

#[test]
fn p21_a_read_only_file_system() {
    let scene = Scene::new();
    let space = Namespace::bare(&scene);
    let dir = scene.dir("ro");
    let rig = Rig::new(&scene, &image(&scene)).with_index(dir.join("a.index"));
    rig.stamps();
    space.tool("mount").words("--bind").args([&dir, &dir]).ok();
    space
        .tool("mount")
        .words("-o remount,bind,ro")
        .arg(&dir)
        .ok();
    let command = ["run", "-b", "64K"];
    let outcome = space
        .tool(scene.program())
        .args(command)
        .arg(format!("--index={}", rig.index.display()))
        .arg(&rig.source)
        .args(["--", "sh", "-c", "cat {}/* | wc -c"])
        .run();
    assert!(outcome.stderr.contains("warning"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("a.index"), "{}", outcome.stderr);
    assert_eq!(outcome.ok().trim(), (8 * 65_536 + 500).to_string());
}

#[test]
fn p21_a_full_file_system() {
    let scene = Scene::new();
    let full = crate::support::filesystem::Filesystem::sized(&scene, "tmpfs", 1 << 20);
    // Enough blocks that their index fits no free page: none is free.
    let rig = Rig::new(&scene, &image(&scene)).with_index(full.path("a.index"));
    let backup = scene.dir("backup");
    rig.sync_well(&backup);
    let filler = File::create(full.path("filler")).unwrap();
    let filling = tool("dd")
        .arg("if=/dev/zero")
        .arg(format!("of={}", full.path("filler").display()));
    assert_ne!(filling.arg("bs=4096").run().code(), 0);
    drop(filler);
    rig.change(3, b"changed");
    let outcome = rig.sync(&backup);
    rig.same(&backup);
    assert!(outcome.said.contains("warning"), "{}", outcome.said);
    fs::remove_file(full.path("filler")).unwrap();
    rig.change(3, b"again  ");
    rig.sync_well(&backup);
    assert_eq!(rig.sync_well(&backup), [0; 0]);
}

fn only_index_in(dir: &Path) -> String {
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.contains(".lock"))
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    names.remove(0)
}

#[test]
fn the_default_index_of_a_user_is_in_the_users_state_directory() {
    let scene = Scene::new();
    let image = image(&scene);
    Identity::User.own(&image);
    let state = scene.dir_of("state", Identity::User);
    let runtime = scene.dir_of("runtime", Identity::User);
    let run = |options: &str| {
        scene
            .bmapfs()
            .identity(Identity::User)
            .env("XDG_STATE_HOME", &state)
            .env("XDG_RUNTIME_DIR", &runtime)
            .words("run -b 64K --index")
            .words(options)
            .arg(&image)
            .args([
                "--",
                "sh",
                "-c",
                "cd {} && cat -- * > /dev/null && stat -c '%n %Y %u' *",
            ])
            .run()
    };
    let first = run("");
    let before = first.stdout.clone();
    first.ok();
    let index = only_index_in(&state.join("bmapfs"));
    assert!(index.contains("a.img"), "{index}");
    let mode = fs::metadata(state.join("bmapfs"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(run("").ok(), before, "the same times");
    run("-o id=other-name").ok();
    let names: Vec<String> = fs::read_dir(state.join("bmapfs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names.iter().any(|name| name.starts_with("other-name")),
        "{names:?}"
    );
    assert_eq!(fs::read_dir(runtime.join("bmapfs")).unwrap().count(), 0);
}

#[test]
fn a_user_who_names_no_state_directory_has_it_at_home() {
    let scene = Scene::new();
    let image = image(&scene);
    Identity::User.own(&image);
    let runtime = scene.dir_of("runtime", Identity::User);
    for (number, state) in [None, Some(""), Some("relative")].into_iter().enumerate() {
        let home = scene.dir_of(&format!("home-{number}"), Identity::User);
        let tool = scene.bmapfs().identity(Identity::User);
        let tool = tool.env("HOME", &home).env("XDG_RUNTIME_DIR", &runtime);
        let tool = match state {
            Some(state) => tool.env("XDG_STATE_HOME", state),
            None => tool,
        };
        let tool = tool.words("run -b 64K --index").arg(&image);
        tool.words("-- true").ok();
        let index = only_index_in(&home.join(".local/state/bmapfs"));
        assert!(index.contains("a.img"), "{state:?}: {index}");
    }
}

#[test]
fn the_default_index_of_root_is_in_var_lib() {
    let scene = Scene::new();
    let image = image(&scene);
    let space = Namespace::bare(&scene);
    space.tool("mount").words("-t tmpfs none /var/lib").ok();
    let run = |block: &str| {
        let tool = space
            .tool(scene.program())
            .words("run --index -b")
            .arg(block);
        tool.arg(&image)
            .args([
                "--",
                "sh",
                "-c",
                "cd {} && cat -- * > /dev/null && stat -c '%n %Y' *",
            ])
            .ok()
    };
    let before = run("64K");
    let state = space.outside(Path::new("/var/lib/bmapfs"));
    let index = only_index_in(&state);
    assert!(index.contains("a.img"), "{index}");
    assert_eq!(run("64K"), before, "the same times");
    run("128K");
    assert_eq!(run("64K"), before, "each block size has its own");
}

#[test]
fn a_waiting_mount_does_not_wait_for_ever() {
    let scene = Scene::new();
    let rig = Rig::new(&scene, &image(&scene));
    let mount = rig.mount("").up();
    let start = Instant::now();
    rig.run("").arg("true").fails(32);
    assert!(start.elapsed() < DEADLINE / 4);
    wait_until("it is still there", || mount.daemon_lives());
}
