//! What happens to a domain, and to libvirt, while it is backed up.

use std::fs;
use std::path::Path;

use crate::support::blocks::names;
use crate::support::pattern::assert_same;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::endings::COPY;
use super::host::Host;
use super::rig::{BLOCK, Paused, Rig, files};

/// Copies what can be read, and ends with 77 if that is not all.
fn each_block(got: &Path) -> String {
    format!(
        "all=0; cd \"$1/vda\"; for name in *; do cat $name >'{0}'/$name || {{ rm '{0}'/$name; all=77; }}; done; exit $all",
        got.display()
    )
}

/// What could be read is what was there, and never zeros.
fn expect_nothing_wrong(rig: &Rig, got: &Path) {
    let content = rig.content("vda");
    for name in names(got) {
        let start = name.parse::<usize>().unwrap() * usize::try_from(BLOCK).unwrap();
        let read = fs::read(got.join(&name)).unwrap();
        assert_same(&name, &read, &content[start..start + read.len()]);
    }
}

/// Goes on when the job has ended: not all can be read, which is told.
fn expect_cut_off(paused: Paused) -> String {
    let said = paused.said.clone();
    assert_eq!(paused.go().code(), Some(77));
    let said = fs::read_to_string(said).unwrap();
    assert!(
        said.contains("its backup job ended before bmapfs ended it"),
        "{said}"
    );
    said
}

fn is_off(rig: &Rig) -> bool {
    rig.virsh("domstate").ok().trim() == "shut off"
}

/// While nothing was read yet.
fn ends_in_the_middle(scene: &Scene, rig: &Rig, end: impl FnOnce()) {
    rig.sync();
    let before = rig.checkpoints();
    rig.write("vda", &[1, 2]);
    let got = scene.dir("got");
    let paused = rig.paused(&each_block(&got));
    end();
    wait_until("it is off", || is_off(rig));
    let said = expect_cut_off(paused);
    expect_nothing_wrong(rig, &got);
    assert!(!said.contains("cannot be ended"), "{said}");
    assert!(!rig.scratch().exists());
    assert!(
        before.iter().all(|name| rig.checkpoints().contains(name)) || rig.checkpoints().len() == 1
    );
    // Off, and on again.
    assert_eq!(rig.rsync().run().code(), 0);
    rig.expect_backup_is_content();
    rig.virsh("start").ok();
    rig.write("vdb", &[3]);
    assert_eq!(rig.sync().files, files("vdb", &[3]));
    rig.expect_backup_at_end();
}

#[test]
fn p35_a_domain_that_is_destroyed_in_the_middle() {
    let scene = Scene::new();
    let host = Host::new(&scene, "a");
    let rig = Rig::on(&scene, &host);
    ends_in_the_middle(&scene, &rig, || {
        rig.virsh("destroy").ok();
    });
}

#[test]
fn p35_a_qemu_that_crashes_in_the_middle() {
    let scene = Scene::new();
    let host = Host::new(&scene, "a");
    let rig = Rig::on(&scene, &host);
    ends_in_the_middle(&scene, &rig, || host.crash(&rig.name));
}

/// In 16-bit mode: waits for a key, and powers off by ACPI.
fn boot_sector() -> Vec<u8> {
    let mut sector = vec![
        0x31, 0xc0, // xor ax, ax
        0xcd, 0x16, // int 16h
        0xb8, 0x00, 0x20, // mov ax, sleep as deep as can be
        0xba, 0x04, 0xb0, // mov dx, the control register of power management
        0xef, // out dx, ax
        0xba, 0x04, 0x06, // mov dx, where newer firmware puts it
        0xef, // out dx, ax
        0xf4, // hlt
        0xeb, 0xfd, // jmp to the hlt
    ];
    sector.resize(510, 0x5a);
    sector.extend([0x55, 0xaa]);
    sector
}

#[test]
fn p35_a_guest_that_powers_off_in_the_middle() {
    let scene = Scene::new();
    let host = Host::new(&scene, "a");
    let rig = Rig::on(&scene, &host);
    rig.virsh("destroy").ok();
    rig.boots(&boot_sector());
    rig.virsh("start").ok();
    ends_in_the_middle(&scene, &rig, || {
        wait_until("it has powered off", || {
            rig.virsh("send-key KEY_ENTER").run();
            is_off(&rig)
        });
    });
}

#[test]
fn p35_a_job_that_somebody_ends() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.sync();
    rig.write("vda", &[1]);
    let got = scene.dir("got");
    let paused = rig.paused(&each_block(&got));
    rig.virsh("domjobabort").ok();
    expect_cut_off(paused);
    rig.expect_nothing_left(1);
    rig.sync();
    rig.expect_backup_at_end();
}

#[test]
fn p35_libvirt_is_started_again_in_the_middle() {
    let scene = Scene::new();
    let host = Host::new(&scene, "a");
    let rig = Rig::on(&scene, &host);
    rig.sync();
    rig.write("vda", &[1, 2]);
    let paused = rig.paused(COPY);
    host.kill();
    host.start();
    rig.write("vda", &[3]);
    let said = paused.said.clone();
    assert!(paused.go().success());
    let said = fs::read_to_string(said).unwrap();
    assert!(
        !said.contains("warning") && !said.contains("error"),
        "{said}"
    );
    rig.expect_nothing_left(1);
    assert_eq!(rig.sync().files, files("vda", &[3]));
    // It is not there when the run ends.
    rig.write("vda", &[4]);
    let paused = rig.paused(COPY);
    host.kill();
    let said = paused.said.clone();
    assert!(paused.go().success());
    let said = fs::read_to_string(said).unwrap();
    let lines = said.lines().filter(|line| line.contains("virsh"));
    let lines: Vec<_> = lines.collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(
        lines[0].contains(": its backup job cannot be ended: virsh: failed to connect"),
        "{said}"
    );
    host.start();
    assert!(rig.has_job());
    assert_eq!(rig.sync().files, [""; 0]);
    rig.expect_backup_at_end();
}

/// A directory with a virsh that does what this script says.
fn virsh_that(scene: &Scene, script: &str) -> String {
    let virsh = scene.script("virsh", "virsh", script);
    let first = virsh.parent().unwrap().display();
    format!("{first}:{}", std::env::var("PATH").unwrap())
}

#[test]
fn p35_an_answer_of_libvirt_that_is_lost() {
    let scene = Scene::new();
    let host = Host::new(&scene, "a");
    let rig = Rig::on(&scene, &host);
    rig.sync();
    let path = virsh_that(
        &scene,
        "/usr/bin/virsh \"$@\" || exit; case $4 in backup-begin) echo error: lost >&2; exit 1;; esac",
    );
    let said = rig.rsync().env("PATH", path).fails(32);
    assert!(said.ends_with("virsh: lost\n"), "{said}");
    rig.expect_nothing_left(1);
    assert_eq!(rig.sync().files, [""; 0]);
}

#[test]
fn p35_a_libvirt_that_cannot_tell_of_jobs() {
    let scene = Scene::new();
    let host = Host::new(&scene, "a");
    let rig = Rig::on(&scene, &host);
    rig.sync();
    let mute = scene.path("mute");
    let script = format!(
        "case $4 in $(cat '{}')) echo error: no idea >&2; exit 1;; esac; exec /usr/bin/virsh \"$@\"",
        mute.display()
    );
    let path = virsh_that(&scene, &script);
    // It may have a job, or may be moving.
    for command in ["backup-dumpxml", "domjobinfo", "checkpoint-list"] {
        fs::write(&mute, command).unwrap();
        let said = rig.rsync().env("PATH", &path).fails(32);
        let expected = format!("bmapfs: libvirt:{}: virsh: no idea\n", rig.name);
        assert_eq!(said, expected);
        rig.expect_nothing_left(1);
    }
    // In the end it is tried all the same.
    fs::write(&mute, "").unwrap();
    let script = format!("echo backup-dumpxml > '{}'", mute.display());
    let ended = rig.script(&script).env("PATH", &path).run();
    assert!(
        ended
            .stderr
            .contains(": its backup job cannot be ended: virsh: no idea: "),
        "{ended:?}"
    );
    ended.ok();
    wait_until("the job has ended", || !rig.has_job());
    rig.sync();
}

/// libvirt knows nothing of it when it has ended.
#[test]
fn p35_a_transient_domain() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.virsh("undefine").ok();
    rig.sync();
    rig.write("vda", &[4]);
    assert_eq!(rig.sync().files, files("vda", &[4]));
    let got = scene.dir("got");
    let paused = rig.paused(&each_block(&got));
    let scratch = rig.scratch();
    rig.virsh("destroy").ok();
    let said = expect_cut_off(paused);
    assert!(!said.contains("cannot be ended"), "{said}");
    let unread = format!("error: libvirt:{}/vda: block 00000000: ", rig.name);
    assert!(said.contains(&unread), "{said}");
    expect_nothing_wrong(&rig, &got);
    assert!(!scratch.exists());
}
