//! P19: SIGTERM, SIGINT and SIGHUP.

use std::fs;
use std::os::unix::fs::FileExt;

use nix::sys::signal::Signal;

use crate::support::blocks::{self, open_rw};
use crate::support::machine::{Identity, mounts_at};
use crate::support::namespace::Namespace;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

#[test]
fn p19_sigterm_and_sigint_unmount_and_end_in_order() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(1, 300_000));
    Identity::User.own(&image);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        for who in [Identity::Root, Identity::User] {
            let mount = scene
                .mount(&image)
                .with("-rw -b 64K")
                .by(who)
                .at(&format!("mnt-{who:?}"))
                .up_in_foreground();
            mount.signal(signal);
            let point = mount.point().to_owned();
            // Its exit status is checked there: an ordered end is a success.
            mount.wait_for_end();
            assert!(mounts_at(&point).is_empty(), "{signal}");
        }
    }
}

#[test]
fn p19_a_signal_while_busy_serves_what_is_open_to_the_end() {
    let scene = Scene::new();
    let content = pattern(2, 300_000);
    let image = scene.file("a.img", &content);
    let mount = scene.mount(&image).with("-rw -b 64K").up_in_foreground();
    let open = open_rw(mount.block(1));
    mount.signal(Signal::SIGTERM);
    wait_until("the mount is detached", || {
        mounts_at(mount.point()).is_empty()
    });
    let mut bytes = vec![0; 65_536];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert_same("read after the signal", &bytes, &content[65_536..131_072]);
    open.write_all_at(b"written", 0).unwrap();
    assert!(mount.daemon_lives());
    assert_eq!(&fs::read(&image).unwrap()[65_536..65_543], b"written");
    drop(open);
    mount.wait_for_end();
}

#[test]
fn p19_a_signal_while_another_namespace_holds_the_mount() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(4, 300_000));
    for again in [false, true] {
        let mount = scene.mount(&image).with("-b 64K").up_in_foreground();
        let namespace = Namespace::bare(&scene);
        mount.signal(Signal::SIGTERM);
        wait_until("it says so", || {
            mount.log().contains("still in use elsewhere")
        });
        assert!(mounts_at(mount.point()).is_empty());
        namespace
            .tool("cmp")
            .args(["-n", "65536"])
            .args([&mount.block(0), &image])
            .ok();
        if again {
            mount.signal(Signal::SIGTERM);
        } else {
            namespace.tool("umount").arg(mount.point()).ok();
        }
        mount.wait_for_end();
    }
}

#[test]
fn p19_sighup_changes_nothing_that_is_open() {
    let scene = Scene::new();
    let content = pattern(3, 300_000);
    let image = scene.file("a.img", &content);
    for daemon in [true, false] {
        let mount = scene.mount(&image).with("-rw -b 64K");
        let mount = if daemon {
            mount.up()
        } else {
            mount.up_in_foreground()
        };
        let open = open_rw(mount.block(1));
        for _ in 0..5 {
            mount.signal(Signal::SIGHUP);
            open.write_all_at(&content[65_536..65_636], 0).unwrap();
        }
        assert_same("after SIGHUP", &mount.image(), &content);
        assert!(mount.daemon_lives());
        drop(open);
        mount.unmount();
    }
    assert_eq!(blocks::read(&image), content);
}

#[test]
fn p19_a_signal_during_heavy_use_loses_nothing_that_was_acknowledged() {
    let scene = Scene::new();
    let image = scene.file("a.img", &vec![0; 64 * 65_536]);
    let mount = scene.mount(&image).with("-rw -b 64K").up();
    let written = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u8)
            .map(|writer| {
                let mount = &mount;
                scope.spawn(move || {
                    let mut last = 0;
                    for round in 1..=255_u8 {
                        let done = (0..16).all(|i| {
                            let path = mount.block(u64::from(writer) * 16 + i);
                            let file = fs::File::options().write(true).open(path);
                            file.is_ok_and(|file| file.write_all_at(&[round; 4096], 0).is_ok())
                        });
                        if !done {
                            break;
                        }
                        last = round;
                    }
                    last
                })
            })
            .collect();
        wait_until("writing is under way", || {
            blocks::read(&image)[63 * 65_536] >= 3
        });
        mount.signal(Signal::SIGTERM);
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect::<Vec<u8>>()
    });
    mount.wait_for_end();
    let image = blocks::read(&image);
    for (index, block) in image.chunks(65_536).enumerate() {
        assert!(
            block[4095] >= written[index / 16],
            "block {index}: an acknowledged write is lost"
        );
        assert!(
            block[..4096].iter().all(|byte| *byte == block[0]),
            "block {index}: a write is torn"
        );
        assert!(
            block[4096..].iter().all(|byte| *byte == 0),
            "block {index}: a byte that nobody wrote"
        );
    }
}
