//! What nobody can vouch for is read.

use std::fs;

use crate::support::command::tool;
use crate::support::scene::Scene;

use super::host::Host;
use super::rig::{Rig, files};

const ALL: &str = "everything is read";

#[test]
fn p35_a_checkpoint_that_somebody_deleted() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.sync();
    let ours = rig.checkpoints().remove(0);
    rig.virsh("checkpoint-delete").arg(&ours).ok();
    rig.write("vda", &[1]);
    let night = rig.sync();
    assert!(
        night
            .said
            .contains(&format!("the checkpoint {ours} is gone: {ALL}")),
        "{}",
        night.said
    );
    assert_eq!(night.files, files("vda", &[1]));
    let quiet = rig.sync();
    assert!(!quiet.said.contains(ALL), "{}", quiet.said);
}

#[test]
fn p35_an_image_that_was_replaced_or_put_back() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.sync();
    let stale = rig.checkpoints().remove(0);
    rig.virsh("destroy").ok();
    // With the bitmaps of that night.
    let old = scene.path("old.qcow2");
    fs::copy(rig.image("vda"), &old).unwrap();
    rig.virsh("start").ok();
    rig.write("vda", &[1, 2]);
    rig.sync();
    assert_ne!(rig.checkpoints(), [stale]);
    rig.virsh("destroy").ok();
    fs::copy(&old, rig.image("vda")).unwrap();
    // Off and on: libvirt knows a checkpoint that the image does not.
    let off = rig.sync();
    assert!(off.said.contains(ALL), "{}", off.said);
    assert_eq!(off.files, files("vda", &[1, 2]));
    rig.virsh("start").ok();
    rig.write("vda", &[4]);
    let on = Rig::synced(rig.rsync().run());
    assert_eq!(on.files, files("vda", &[4]));
    // And all is well again.
    rig.write("vda", &[5]);
    let next = rig.sync();
    assert!(!next.said.contains(ALL), "{}", next.said);
    assert_eq!(next.files, files("vda", &[5]));
    rig.expect_backup_at_end();
}

#[test]
fn p35_an_image_that_was_put_back_under_a_checkpoint() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.sync();
    rig.virsh("destroy").ok();
    let old = scene.path("old.qcow2");
    fs::copy(rig.image("vda"), &old).unwrap();
    rig.virsh("start").ok();
    rig.write("vda", &[1, 2]);
    rig.write("vdb", &[3]);
    rig.sync();
    rig.virsh("destroy").ok();
    fs::copy(&old, rig.image("vda")).unwrap();
    rig.virsh("start").ok();
    let night = rig.sync();
    assert!(night.said.contains(ALL), "{}", night.said);
    assert_eq!(night.files, files("vda", &[1, 2]));
    rig.expect_backup_at_end();
}

#[test]
fn p35_an_image_that_was_put_back_after_nights_when_it_was_off() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.sync();
    rig.virsh("destroy").ok();
    // What was written until this copy was made is in its bitmap; what came later is in none.
    let old = scene.path("old.qcow2");
    fs::copy(rig.image("vda"), &old).unwrap();
    rig.virsh("start").ok();
    rig.write("vda", &[1]);
    rig.virsh("destroy").ok();
    assert_eq!(rig.sync().files, files("vda", &[1]));
    fs::copy(&old, rig.image("vda")).unwrap();
    assert_eq!(rig.sync().files, files("vda", &[1]));
    rig.expect_backup_is_content();
}

/// qemu-nbd would tell of what was written to the overlay only.
#[test]
fn p35_an_image_that_rests_on_another_when_it_is_off() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.sync();
    rig.write("vda", &[1]);
    let overlay = rig.image("vda").with_extension("overlay");
    rig.virsh("snapshot-create-as")
        .words("later --disk-only --no-metadata --diskspec vdb,snapshot=no --diskspec vdc,snapshot=no --diskspec")
        .arg(format!("vda,file={}", overlay.display()))
        .ok();
    rig.write("vda", &[2]);
    rig.virsh("destroy").ok();
    let night = rig.sync();
    // It names the overlay now.
    let mut expected = vec!["domain.xml".to_owned()];
    expected.extend(files("vda", &[1, 2]));
    assert_eq!(night.files, expected);
    assert!(night.said.contains("rests on another"), "{}", night.said);
}

#[test]
fn p35_a_checkpoint_that_is_gone_while_it_is_off() {
    let scene = Scene::new();
    let host = Host::new(&scene, "a");
    let rig = Rig::on(&scene, &host);
    rig.sync();
    rig.virsh("destroy").ok();
    rig.virsh("checkpoint-delete --metadata")
        .args(rig.checkpoints())
        .ok();
    let night = Rig::synced(rig.rsync().run());
    assert_eq!(night.files, [""; 0]);
    for target in ["vda", "vdb"] {
        let line = night.said.lines().find(|line| line.contains(target));
        assert!(
            line.unwrap().contains(" is gone: everything is read"),
            "{}",
            night.said
        );
    }
}

#[test]
fn p35_checkpoints_of_others_stay() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    let theirs = scene.file(
        "theirs.xml",
        b"<domaincheckpoint><name>bmapfs-of-others</name><disks><disk name='vda' checkpoint='bitmap'/>\
          <disk name='vdb' checkpoint='no'/><disk name='vdc' checkpoint='no'/></disks></domaincheckpoint>",
    );
    rig.virsh("checkpoint-create").arg(theirs).ok();
    for _ in 0..2 {
        rig.rsync().ok();
        rig.expect_nothing_left(2);
        assert!(rig.checkpoints().contains(&"bmapfs-of-others".to_owned()));
    }
    // Nor does a backup into another place with an index of its own take the checkpoint of the first.
    let other = format!("--index={}/", scene.dir("other").display());
    let source = format!("libvirt:{}", rig.name);
    let again = || {
        scene
            .bmapfs()
            .arg("run")
            .arg(&other)
            .arg(&source)
            .words("-- sh -c")
            .arg("cat {}/*/* >/dev/null")
    };
    again().ok();
    again().ok();
    rig.expect_nothing_left(3);
    rig.write("vdb", &[3]);
    let night = Rig::synced(rig.rsync().run());
    assert_eq!(night.files, files("vdb", &[3]));
    assert!(!night.said.contains(ALL), "{}", night.said);
}

#[test]
fn p35_an_image_that_can_have_no_bitmap() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.virsh("destroy").ok();
    tool("qemu-img")
        .words("amend -f qcow2 -o compat=0.10")
        .arg(rig.image("vda"))
        .ok();
    rig.virsh("start").ok();
    let said = Rig::synced(rig.rsync().run()).said;
    assert!(said.contains("no checkpoint can be made"), "{said}");
    rig.expect_nothing_left(0);
    rig.write("vda", &[4]);
    assert_eq!(Rig::synced(rig.rsync().run()).files, files("vda", &[4]));
}
