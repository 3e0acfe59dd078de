//! What --resize cannot do, and what a mount without it says to a backup that is larger than the image.

use std::fs;

use super::rig::{BLOCK, UNITS, at_once};
use crate::support::blocks;
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

#[test]
fn a_block_past_the_end_is_refused_and_the_log_says_what_to_do() {
    let rsync = ["-a --inplace", "-a"];
    let cases = ["", "--sparse"]
        .into_iter()
        .flat_map(|sparse| rsync.map(|options| (sparse, options)));
    at_once(cases, |scene, (sparse, options)| {
        let size = 4 * BLOCK;
        let image = scene.file("image", &pattern(1, size));
        let content = pattern(2, 6 * BLOCK);
        let backup = scene.dir("backup");
        blocks::split_into(&backup, &content, BLOCK);
        let mount = scene
            .mount(&image)
            .with(&format!("{UNITS} -rw {sparse}"))
            .up_in_foreground();
        blocks::refused(
            "a block past the end",
            fs::write(mount.block(4), b"x"),
            libc::EFBIG,
        );
        let log = mount.log();
        assert!(log.contains("--resize"), "{log}");
        let outcome = tool("rsync")
            .words(options)
            .args([&backup.join("."), mount.point()])
            .run();
        assert_eq!(outcome.code(), 23, "{outcome:#?}");
        mount.unmount();
        assert_same(options, &fs::read(&image).unwrap(), &content[..size]);
    });
}

#[test]
fn resize_refusals_are_one_line() {
    let scene = Scene::new();
    let image = scene.file("image", &pattern(3, BLOCK));
    let line = scene.mount(&image).with("--resize").refused(1);
    assert!(line.contains("--resize") && line.contains("-w"), "{line}");
    let device = LoopDevice::new(&image);
    let line = scene.mount(device.path()).with("-rw --resize").refused(1);
    assert!(line.contains("resize"), "{line}");
    let line = scene
        .mount("/dev/bmapfs-no-such-device")
        .with("-rw --resize")
        .refused(32);
    assert!(line.contains("/dev/bmapfs-no-such-device"), "{line}");
    let line = scene.mount(scene.path("absent")).with("-rw").refused(32);
    assert!(line.contains("absent"), "{line}");
    assert!(!scene.path("absent").exists());
    let line = scene
        .mount(scene.path("no/such/directory"))
        .with("-rw --resize")
        .refused(32);
    assert!(line.contains("no/such/directory"), "{line}");
}
