//! A domain that goes elsewhere, or comes up, at the wrong time.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::command::Tool;
use crate::support::devices::LoopDevice;
use crate::support::pattern::pattern;
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
    rig.expect_backup_at_end();
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
    rig.expect_backup_at_end();
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
    rig.expect_backup_at_end();
}

#[test]
fn p35_a_domain_that_is_started_while_it_is_copied() {
    let scene = Scene::new();
    let device = LoopDevice::new(&scene.file("device", &pattern(9, 40 * 65_536)));
    let host = Host::new(&scene, "a");
    let rig = Rig::on(&scene, &host);
    rig.virsh("destroy").ok();
    let run = |disk: &str, script: &str| {
        let name = &rig.name;
        let script = format!(
            "v() {{ virsh -q -c qemu:///system $1 {name}; }}; {script}; cat \"$1\"/*/* >/dev/null"
        );
        rig.bmapfs_of("run", disk)
            .args(["--", "sh", "-c", &script, "sh", "{}"])
            .run()
    };
    let two_moments = |disk: &str, script: &str| {
        let ended = run(disk, script);
        assert_eq!(ended.code(), 9, "{ended:?}");
        let said = ended.stderr;
        let lines = said
            .lines()
            .filter(|line| line.contains("it was started, or"));
        assert_eq!(lines.count(), 1, "{said}");
    };
    // qemu-nbd's lock keeps it from being started.
    run("/vda", "v start && exit 7; true").ok();
    // Nothing keeps it where all is raw.
    two_moments("/vdc", "v start");
    rig.virsh("destroy").ok();
    two_moments("/vdc", "v start && v destroy");
    run("/vdc", "true").ok();
    // A device, of which is only known whether this machine has written it; and then not even that.
    rig.virsh("attach-disk")
        .arg(device.path())
        .words("vdd --config --sourcetype block --subdriver raw")
        .ok();
    let write = "virsh -q -c qemu:///system qemu-monitor-command --hmp";
    let drive = "/machine/peripheral/virtio-disk3/virtio-backend";
    let write = format!(
        "v start && {write} {} 'qemu-io -d {drive} \"write 0 64k\"'",
        rig.name
    );
    two_moments("/vdd", &write);
    rig.virsh("destroy").ok();
    let _uncounted = Uncounted::new(&device);
    run("/vdd", "true").ok();
    two_moments("/vdd", "v start");
}

/// A device whose writes are not counted, until this is dropped.
struct Uncounted(PathBuf);

impl Uncounted {
    fn new(device: &LoopDevice) -> Self {
        let name = device.path().file_name().unwrap();
        let counts = Path::new("/sys/block").join(name).join("queue/iostats");
        fs::write(&counts, "0").unwrap();
        Self(counts)
    }
}

impl Drop for Uncounted {
    fn drop(&mut self) {
        fs::write(&self.0, "1").ok();
    }
}
