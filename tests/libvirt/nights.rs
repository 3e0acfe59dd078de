//! One night after the other.

use std::fs;

use crate::support::blocks::names;
use crate::support::scene::Scene;

use super::rig::{DISKS, Rig, files};

#[test]
fn p35_only_what_changed_is_read_and_copied() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    let first = rig.sync();
    let blocks: u64 = DISKS.iter().map(|(_, blocks)| blocks).sum();
    assert_eq!(first.files.len() as u64, blocks + 1);
    assert!(
        first.said.contains("sda is left out: an empty drive"),
        "{}",
        first.said
    );
    assert!(
        first.said.contains("vdc: of such a disk nobody can tell"),
        "{}",
        first.said
    );
    let quiet = rig.sync();
    assert_eq!(quiet.files, [""; 0]);
    for target in ["vda", "vdb"] {
        let told = format!("{target}: 0 bytes may have changed since 'bmapfs-");
        assert!(quiet.said.contains(&told), "{}", quiet.said);
    }
    // Written during the backup: that is the next night's.
    rig.write("vda", &[3, 4, 5, 300]);
    rig.write("vdb", &[199]);
    rig.write("vdc", &[7]);
    let changed = [
        files("vda", &[3, 4, 5, 300]),
        files("vdb", &[199]),
        files("vdc", &[7]),
    ]
    .concat();
    let night = rig.sync();
    assert_eq!(night.files, changed);
    assert!(
        night.said.contains("vda: 262144 bytes may have changed"),
        "{}",
        night.said
    );
    rig.expect_backup_at_end();
}

#[test]
fn p35_the_backup_is_the_moment() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.sync();
    rig.write("vda", &[1, 2]);
    let paused = rig.paused("rsync -a --inplace --delete \"$1/\" \"$2/\"");
    // What the backup is of has moved on by the time that it is read.
    rig.write("vda", &[1, 50, 51]);
    rig.write("vdb", &[10]);
    rig.write("vdc", &[11]);
    assert!(paused.go().success());
    rig.expect_nothing_left(1);
    let next = rig.sync();
    let written = [
        files("vda", &[1, 50, 51]),
        files("vdb", &[10]),
        files("vdc", &[11]),
    ]
    .concat();
    assert_eq!(next.files, written);
    rig.expect_backup_at_end();
}

#[test]
fn p35_the_definition_is_part_of_it() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    assert!(rig.sync().files.contains(&"domain.xml".to_owned()));
    let definition = fs::read_to_string(rig.backup.join("domain.xml")).unwrap();
    assert_eq!(definition, rig.virsh("dumpxml --inactive").ok());
    assert!(!definition.contains("a-secret"), "{definition}");
    // As long as it was, in the same minute: its time tells.
    rig.virsh("desc --config --new-desc one").ok();
    assert_eq!(rig.sync().files, ["domain.xml"]);
    rig.virsh("desc --config --new-desc two").ok();
    assert_eq!(rig.sync().files, ["domain.xml"]);
    assert_eq!(rig.sync().files, [""; 0]);
    let definition = fs::read_to_string(rig.backup.join("domain.xml")).unwrap();
    assert!(definition.contains("two"), "{definition}");
}

#[test]
fn p35_frozen_for_a_moment() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    let log = scene.path("log");
    let say = |word: &str| {
        format!(
            "echo {word} >>'{}'; virsh -q backup-dumpxml {} >&2 || true",
            log.display(),
            rig.name
        )
    };
    let run = rig
        .bmapfs("run")
        .arg("--freeze")
        .arg(say("frozen"))
        .arg("--thaw")
        .arg(say("thawed"));
    let said = run
        .words("-- sh -c")
        .arg(format!("echo command >>'{}'", log.display()))
        .run();
    let (before, after) = said.stderr.split_once("<domainbackup").unwrap();
    assert!(before.contains("no domain backup job present"), "{before}");
    assert!(after.contains("; frozen for "), "{after}");
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        "frozen\nthawed\ncommand\n"
    );
    said.ok();
}

#[test]
fn p35_one_disk_without_an_index() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    let source = format!("libvirt:{}/vdb", rig.name);
    let command = ["rsync", "-a", "{}/"];
    let run = scene.bmapfs().words("run -b 64K -o strict").arg(&source);
    let ended = run.arg("--").args(command).arg(&rig.backup).run();
    assert!(!ended.stderr.contains("written meanwhile"), "{ended:?}");
    ended.ok();
    assert_eq!(names(&rig.backup), ["domain.xml", "vdb"]);
    rig.expect_nothing_left(0);
    let wrong = scene
        .bmapfs()
        .arg("run")
        .arg(source + "x")
        .words("-- true")
        .fails(32);
    assert!(wrong.contains("it has no disk vdbx"), "{wrong}");
    rig.virsh("destroy").ok();
    rig.expect_backup("vdb", &rig.content("vdb"));
}

#[test]
fn p35_scan_reads_what_the_run_need_not() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    let dry: serde_json::Value =
        serde_json::from_str(&rig.bmapfs("scan").arg("--json").ok()).unwrap();
    let counts = &dry["sources"][0];
    assert_eq!(
        (&counts["name"], &counts["new"]),
        (&"vda".into(), &640.into()),
        "{dry}"
    );
    rig.expect_nothing_left(1);
    let first = rig.sync();
    assert!(
        first.said.contains("vda: 0 bytes may have changed"),
        "{}",
        first.said
    );
    rig.write("vda", &[7]);
    let before = rig.checkpoints();
    let listed = rig.bmapfs("scan").words("--dry-run -v").ok();
    assert!(listed.contains("7\n"), "{listed}");
    // No index was saved: the old checkpoint is needed still, and no other.
    assert_eq!(rig.checkpoints(), before);
    assert_eq!(rig.sync().files, files("vda", &[7]));
}

#[test]
fn p35_off_and_on_again() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.sync();
    rig.write("vda", &[9]);
    rig.virsh("destroy").ok();
    let off = rig.sync();
    assert_eq!(off.files, files("vda", &[9]));
    rig.expect_backup_is_content();
    assert_eq!(rig.sync().files, [""; 0]);
    rig.virsh("start").ok();
    rig.write("vdb", &[8]);
    assert_eq!(rig.sync().files, files("vdb", &[8]));
    rig.expect_backup_at_end();
}
