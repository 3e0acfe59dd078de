//! P24 for devices whose content can change below their own statistics, as that of a loop device does when its file
//! is written.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::pattern::pattern;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{BLOCK, Rig, change, stamps_at};

const A: &[u8] = b"the content that comes back";
const B: &[u8] = b"the content of meanwhile---";

/// A loop device with A in block 3, and the file below it.
fn device(scene: &Scene, options: &str) -> (LoopDevice, PathBuf) {
    let backing = scene.file("b.img", &pattern(1, 12 * 65_536));
    change(&backing, 3 * BLOCK + 1000, A);
    (LoopDevice::with(options, &backing), backing)
}

/// Writes below the device; its cache does not hide that.
fn change_below(device: &LoopDevice, backing: &Path, bytes: &[u8]) {
    change(backing, 3 * BLOCK + 1000, bytes);
    tool("blockdev").arg("--flushbufs").arg(device.path()).ok();
}

#[test]
fn p24_a_b_a_below_a_device_while_it_is_copied() {
    for options in ["", "-r"] {
        let scene = Scene::new();
        let (device, backing) = device(&scene, options);
        let rig = Rig::new(&scene, device.path());
        let backup = scene.dir("backup");
        let script = "put() { printf %s \"$1\" | dd of=\"$2\" bs=1 seek=197608 conv=notrunc,fsync status=none; \
                      blockdev --flushbufs \"$3\"; }; \
                      put \"$5\" \"$1\" \"$2\"; rsync -a --inplace \"$6\"/ \"$3\"; put \"$4\" \"$1\" \"$2\"";
        let script = script.replace("\"$3\"; }", "\"$DEVICE\"; }");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        rig.run("")
            .env("DEVICE", device.path())
            .args(["sh", "-ec", &script, "sh"])
            .args([&backing, device.path(), &backup])
            .args([&text(A), &text(B)])
            .arg("{}")
            .ok();
        let copied = blocks::read(&backup.join(blocks::name(3)));
        assert_eq!(&copied[1000..1000 + B.len()], B, "the harness");
        rig.sync(&backup);
        rig.same(&backup);
    }
}

#[test]
fn p21_a_killed_mount_of_a_device_may_have_shown_anything() {
    let scene = Scene::new();
    let (device, backing) = device(&scene, "");
    let rig = Rig::new(&scene, device.path());
    let backup = scene.dir("backup");
    let mut mount = rig.mount("").up();
    change_below(&device, &backing, B);
    tool("rsync")
        .words("-a --inplace")
        .arg(mount.point().join("."))
        .arg(&backup)
        .ok();
    mount.kill();
    mount.detach();
    change_below(&device, &backing, A);
    rig.sync(&backup);
    rig.same(&backup);
}

#[test]
fn p24_a_mount_of_a_device_that_stays_shows_new_times_at_each_listing() {
    let scene = Scene::new();
    let (device, backing) = device(&scene, "-r");
    let rig = Rig::new(&scene, device.path());
    let backup = scene.dir("backup");
    let mount = rig.mount("").up();
    let sync = || {
        tool("rsync")
            .words("-a --inplace")
            .arg(mount.point().join("."))
            .arg(&backup)
            .ok();
        rig.same(&backup);
    };
    sync();
    for bytes in [B, A, B] {
        let before = stamps_at(mount.point());
        change_below(&device, &backing, bytes);
        sync();
        // Also if nothing was written.
        wait_until("the times are new", || {
            let after = stamps_at(mount.point());
            after
                .iter()
                .all(|(block, stamp)| *stamp >= before[block] + 2)
        });
    }
    mount.unmount();
    rig.sync(&backup);
    rig.same(&backup);
}

#[test]
fn p24_what_others_may_do_to_a_device_is_no_failure() {
    let scene = Scene::new();
    let (device, backing) = device(&scene, "");
    let rig = Rig::new(&scene, device.path());
    let backup = scene.dir("backup");
    for night in 0..3 {
        let outcome = rig.rsync("-o strict", &backup).run();
        assert_eq!(outcome.code(), 0, "{outcome:?}");
        assert!(!outcome.stderr.contains("two moments"), "{outcome:?}");
        let stamps = outcome.stdout.lines().filter(|line| line.starts_with(">f"));
        assert_eq!(stamps.count(), if night == 0 { 12 } else { 0 });
    }
    // Attached again it is another device, which has what it has.
    drop(device);
    change(&backing, 3 * BLOCK + 1000, B);
    let again = LoopDevice::new(&backing);
    let again = Rig::new(&scene, again.path()).with_index(rig.index.clone());
    let source = fs::read(&backing).unwrap();
    again.sync(&backup);
    assert_eq!(blocks::concatenated(&backup), source);
}
