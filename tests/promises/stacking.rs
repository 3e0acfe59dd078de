//! P19: several mounts on one path. Each ends by itself, and takes no other with it.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::machine::mounts_at;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

#[test]
fn p19_umount_of_an_upper_mount_leaves_the_lower_one() {
    let scene = Scene::new();
    let contents = [pattern(1, 10_000), pattern(2, 10_000)];
    let lower_image = scene.file("lower.img", &contents[0]);
    let upper_image = scene.file("upper.img", &contents[1]);
    for way in ["umount", "signal"] {
        let lower = scene.mount(&lower_image).up();
        let upper = scene.mount(&upper_image).up();
        assert_same(
            "the upper one is seen",
            &blocks::read(&upper.block(0)),
            &contents[1],
        );
        if way == "signal" {
            upper.signal(Signal::SIGTERM);
        } else {
            tool("umount").arg(upper.point()).ok();
        }
        upper.wait_for_end();
        assert_eq!(mounts_at(lower.point()).len(), 1, "{way}");
        assert_same(
            "the lower one is seen again",
            &blocks::read(&lower.block(0)),
            &contents[0],
        );
        assert!(lower.daemon_lives());
        lower.unmount();
    }
}

#[test]
fn p19_a_mount_stacked_on_the_same_path_survives_the_end_of_the_lower_one() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(3, 10_000));
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let lower = scene.mount(&image).up();
        tool("mount").words("-t tmpfs none").arg(lower.point()).ok();
        fs::write(lower.point().join("mine"), "on top").unwrap();
        lower.signal(signal);
        // Whether the lower mount can go while something lies on it is the kernel's matter. What lies on it
        // stays, for as long as one looks.
        for _ in 0..200 {
            assert_eq!(
                fs::read_to_string(lower.point().join("mine")).unwrap(),
                "on top"
            );
        }
        assert_eq!(mounts_at(lower.point()).last().unwrap().kind, "tmpfs");
        tool("umount").arg(lower.point()).ok();
        // The daemon could not take its mount away, and has ended in order without; unless it was late.
        tool("umount").arg(lower.point()).run_when_free();
        assert!(mounts_at(lower.point()).is_empty());
        lower.wait_for_end();
    }
}

#[test]
fn p19_another_bmapfs_stacked_on_top_survives_too() {
    let scene = Scene::new();
    let content = pattern(5, 10_000);
    let lower_image = scene.file("lower.img", &pattern(4, 10_000));
    let upper_image = scene.file("upper.img", &content);
    let lower = scene.mount(&lower_image).up();
    let mut upper = scene.mount(&upper_image).up();
    lower.signal(Signal::SIGTERM);
    for _ in 0..100 {
        assert_same("the upper one", &blocks::read(&upper.block(0)), &content);
    }
    assert!(upper.daemon_lives());
    // A killed one on top does not confuse the lower one either.
    upper.kill();
    tool("umount").arg(upper.point()).ok();
    upper.wait_for_end();
    tool("umount").arg(lower.point()).ok();
    lower.wait_for_end();
}

#[test]
fn p19_a_killed_lower_daemon_does_not_touch_the_upper_mount() {
    let scene = Scene::new();
    let content = pattern(7, 10_000);
    let lower_image = scene.file("lower.img", &pattern(6, 10_000));
    let upper_image = scene.file("upper.img", &content);
    let mut lower = scene.mount(&lower_image).up();
    let upper = scene.mount(&upper_image).up();
    lower.kill();
    assert_same("the upper one", &blocks::read(&upper.block(0)), &content);
    tool("umount").arg(upper.point()).ok();
    upper.wait_for_end();
    tool("umount").arg(lower.point()).ok();
    lower.wait_for_end();
}
