//! A domain that goes elsewhere, or comes up, at the wrong time.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::support::command::Tool;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::endings::COPY;
use super::host::Host;
use super::rig::{Rig, files};

/// Moves it to another host, with the same images.
fn migrate(rig: &Rig, to: &Host) -> Tool {
    let socket = rig.scene.dir("migration");
    // QEMU runs as another user.
    fs::set_permissions(&socket, Permissions::from_mode(0o777)).unwrap();
    rig.virsh("migrate --live --p2p --persistent --unsafe --desturi")
        .arg(to.uri())
        .arg("--migrateuri")
        .arg(format!("unix://{}/socket", socket.display()))
}

#[test]
fn p35_a_domain_that_moves() {
    let scene = Scene::new();
    let (a, b) = (Host::new(&scene, "a"), Host::new(&scene, "b"));
    let rig = Rig::on(&scene, &a);
    rig.sync();
    // It comes to a halt there, and so is under way for as long as is wanted.
    b.signal(Signal::SIGSTOP);
    let moving = migrate(&rig, &b).arg("--undefinesource").spawn();
    wait_until("it is moving", || {
        rig.virsh("domjobinfo").ok().contains("Outgoing migration")
    });
    let said = rig.rsync().fails(32);
    let expected = format!(
        "bmapfs: libvirt:{}: it is busy with something else (Outgoing migration): wait for its end\n",
        rig.name
    );
    assert_eq!(said, expected);
    b.signal(Signal::SIGCONT);
    assert!(moving.finish().success());
    rig.is_on(&b);
    // What libvirt knows of checkpoints does not move.
    rig.write("vda", &[1]);
    let night = rig.sync();
    assert_eq!(night.files, files("vda", &[1]));
    assert!(
        night.said.contains(" is gone: everything is read"),
        "{}",
        night.said
    );
    // There and back: QEMU's bitmaps have moved with it.
    migrate(&rig, &a).ok();
    rig.is_on(&a);
    rig.write("vda", &[2]);
    migrate(&rig, &b).ok();
    rig.is_on(&b);
    rig.write("vdb", &[3]);
    let night = rig.sync();
    assert_eq!(
        night.files,
        [files("vda", &[2]), files("vdb", &[3])].concat()
    );
    rig.virsh("destroy").ok();
    rig.expect_backup_is_content();
}

/// libvirt waits half a minute for the job, and gives up.
#[test]
fn p35_nothing_moves_while_it_is_read() {
    let scene = Scene::new();
    let (a, b) = (Host::new(&scene, "a"), Host::new(&scene, "b"));
    let rig = Rig::on(&scene, &a);
    rig.sync();
    rig.write("vda", &[1]);
    let paused = rig.paused(COPY);
    let saved = scene.path("saved");
    let others = [
        migrate(&rig, &b),
        rig.virsh("save").arg(&saved),
        rig.virsh("managedsave"),
        rig.virsh("dump").arg(scene.path("dump")),
    ];
    std::thread::scope(|scope| {
        for other in others {
            scope.spawn(|| {
                let said = other.fails(1);
                assert!(said.contains("cannot acquire state change lock"), "{said}");
            });
        }
    });
    assert!(paused.go().success());
    rig.expect_nothing_left(1);
    assert_eq!(rig.sync().files, [""; 0]);
    rig.virsh("destroy").ok();
    rig.expect_backup_is_content();
}

#[test]
fn p35_a_domain_that_is_saved() {
    let scene = Scene::new();
    let host = Host::new(&scene, "a");
    let rig = Rig::on(&scene, &host);
    rig.sync();
    rig.write("vda", &[1]);
    rig.virsh("managedsave").ok();
    let night = Rig::synced(rig.rsync().run());
    assert_eq!(night.files, files("vda", &[1]));
    rig.expect_backup_is_content();
    rig.virsh("start").ok();
    rig.write("vdb", &[2]);
    assert_eq!(rig.sync().files, files("vdb", &[2]));
    rig.virsh("destroy").ok();
    rig.expect_backup_is_content();
}
