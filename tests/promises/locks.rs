//! P18: nobody writes to what someone else has open. Writing is refused, and names the holder; reading a
//! source that someone writes warns.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use crate::support::blocks::open_rw;
use crate::support::command::{Running, tool};
use crate::support::devices::LoopDevice;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

/// With a user of `source` there: -rw is refused and names it, reading warns and names it too, and `-o force`
/// overrides the refusal.
pub(super) fn is_respected(scene: &Scene, source: &Path, names: &[&str]) {
    let names_it = |said: &str| {
        assert!(
            names.iter().all(|name| said.contains(name)),
            "{names:?} in: {said}"
        );
    };
    names_it(&scene.mount(source).with("-rw").refused(32));
    let mount = scene.mount(source).up();
    names_it(mount.said());
    mount.unmount();
    let mount = scene.mount(source).with("-rw -o force").up();
    names_it(mount.said());
    mount.unmount();
}

/// Nobody uses `source`: -rw succeeds, and nothing is said.
pub(super) fn is_free(scene: &Scene, source: &Path) {
    for options in ["-rw", ""] {
        let mount = scene.mount(source).with(options).up();
        assert_eq!(mount.said(), "", "a warning without a reason");
        mount.unmount();
    }
}

/// Holds an flock until dropped.
fn hold_flock(scene: &Scene, kind: &str, file: &Path) -> Running {
    let there = scene.path("locked");
    fs::remove_file(&there).ok();
    let script = format!("touch {}; exec sleep 1000", there.display());
    // -F: sleep itself holds the lock, and so it ends with sleep.
    let running = tool("flock")
        .args(["-F", kind])
        .arg(file)
        .args(["sh", "-c", &script])
        .spawn();
    wait_until("the lock is held", || there.exists());
    running
}

#[test]
fn p18_flock_is_respected() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 10_000);
    let device = LoopDevice::new(&scene.sparse("b.img", 8192));
    for source in [image.as_path(), device.path()] {
        let holder = hold_flock(&scene, "-x", source);
        is_respected(&scene, source, &["lock", &holder.pid().to_string()]);
        drop(holder);
        let holder = hold_flock(&scene, "-s", source);
        let said = scene.mount(source).with("-rw").refused(32);
        assert!(said.contains(&holder.pid().to_string()), "{said}");
        // Two readers do not disturb each other.
        let mount = scene.mount(source).up();
        assert_eq!(mount.said(), "");
        mount.unmount();
        drop(holder);
        is_free(&scene, source);
    }
}

#[test]
fn p18_bmapfs_holds_an_flock() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 10_000);
    let device = LoopDevice::new(&scene.sparse("b.img", 8192));
    for source in [image.as_path(), device.path()] {
        let flock = |kind: &str| {
            tool("flock")
                .args(["-n", kind])
                .arg(source)
                .arg("true")
                .run()
                .code()
        };
        for (options, shared, exclusive) in [("", 0, 1), ("-rw", 1, 1)] {
            let mount = scene.mount(source).with(options).up();
            assert_eq!((flock("-s"), flock("-x")), (shared, exclusive), "{options}");
            mount.unmount();
            assert_eq!(flock("-x"), 0, "the lock ends with the mount");
        }
    }
}

#[test]
fn p18_two_mounts_of_one_image() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 10_000);
    let device = LoopDevice::new(&scene.sparse("b.img", 8192));
    for source in [image.as_path(), device.path()] {
        let first = scene.mount(source).at("first").up();
        let second = scene.mount(source).at("second").up();
        assert_eq!(second.said(), "", "any number may read");
        let said = scene.mount(source).with("-rw").refused(32);
        assert!(said.contains("bmapfs"), "{said}");
        first.unmount();
        second.unmount();

        let writer = scene.mount(source).with("-rw").at("first").up();
        let said = scene.mount(source).with("-rw").refused(32);
        assert!(
            said.contains("bmapfs") && said.contains(&writer.pid().to_string()),
            "{said}"
        );
        let reader = scene.mount(source).up();
        assert!(
            reader.said().contains("bmapfs"),
            "reading what is written warns: {}",
            reader.said()
        );
        reader.unmount();
        writer.unmount();
        is_free(&scene, source);
    }
}

/// qemu-io with the image open, until dropped.
fn qemu_io(image: &Path, options: &str) -> Running {
    let mut running = tool("qemu-io")
        .words("-f raw")
        .words(options)
        .arg(image)
        .spawn_talking();
    // It answers when it has opened the image.
    let child = running.child();
    writeln!(child.stdin.as_mut().unwrap(), "length").unwrap();
    let mut answer = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut answer)
        .unwrap();
    assert!(answer.contains("qemu-io>"), "{answer}");
    running
}

#[test]
fn p18_an_image_that_qemu_writes_is_respected() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 1 << 20);
    let holder = qemu_io(&image, "");
    is_respected(&scene, &image, &["qemu-io", &holder.pid().to_string()]);
    drop(holder);

    let socket = scene.path("nbd.sock");
    let nbd = tool("qemu-nbd")
        .words("-f raw --persistent -k")
        .arg(&socket)
        .arg(&image)
        .spawn();
    wait_until("qemu-nbd serves", || socket.exists());
    is_respected(&scene, &image, &["qemu-nbd", &nbd.pid().to_string()]);
    drop(nbd);
    is_free(&scene, &image);
}

#[test]
fn p18_qemu_respects_a_writing_mount_and_is_not_hindered_by_a_reading_one() {
    let scene = Scene::new();
    let content = pattern(1, 1 << 20);
    let image = scene.file("a.img", &content);
    let write = || {
        tool("qemu-io")
            .words("-f raw")
            .args(["-c", "write -P 7 0 512"])
            .arg(&image)
            .run()
    };

    let mount = scene.mount(&image).with("-rw").up();
    let outcome = write();
    assert!(
        outcome.code() != 0 && outcome.stderr.contains("lock"),
        "{outcome:#?}"
    );
    assert_same("QEMU has not written", &fs::read(&image).unwrap(), &content);
    mount.unmount();

    let mount = scene.mount(&image).up();
    write().ok();
    assert_eq!(
        mount.image()[..512],
        [7; 512],
        "a virtual machine can start, and its writes are seen"
    );
    // Nor does a QEMU that only reads disturb a mount that only reads.
    let reader = qemu_io(&image, "-r");
    let second = scene.mount(&image).at("second").up();
    assert_eq!(second.said(), "");
    second.unmount();
    drop(reader);
    mount.unmount();
}

#[test]
fn p18_a_forced_mount_writes() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(3, 65_536));
    let holder = hold_flock(&scene, "-x", &image);
    let mount = scene.mount(&image).with("-rw -o force").up();
    let file = open_rw(mount.block(0));
    std::os::unix::fs::FileExt::write_all_at(&file, b"forced", 0).unwrap();
    drop(file);
    mount.unmount();
    drop(holder);
    assert_eq!(&fs::read(&image).unwrap()[..6], b"forced");
}
