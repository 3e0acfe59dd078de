//! Ends that nobody wished for: one clear line, the right status, and nothing left behind.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::command::tool;
use crate::support::filesystem::Filesystem;
use crate::support::mounted::one_line;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{Rig, files};

pub(super) const COPY: &str = "rsync -a --inplace --delete \"$1/\" \"$2/\"";

#[test]
fn p35_a_command_that_fails() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.run().words("sh -c").arg("exit 5").fails(5);
    rig.expect_nothing_left(1);
    rig.run().arg("no-such-command").fails(127);
    rig.expect_nothing_left(1);
    assert_eq!(rig.sync().files.len(), 941);
    rig.expect_backup_at_end();
}

#[test]
fn p35_signals() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.sync();
    rig.write("vda", &[1, 2]);
    let paused = rig.paused(COPY);
    paused.run.signal(Signal::SIGTERM);
    assert!(!paused.run.finish().success());
    rig.expect_nothing_left(1);
    // Killed, it leaves the job and a checkpoint; nobody serves any more.
    let paused = rig.paused(COPY);
    paused.run.signal(Signal::SIGKILL);
    paused.go();
    assert!(rig.has_job());
    assert_eq!(rig.checkpoints().len(), 2);
    assert!(rig.scratch().exists());
    let night = rig.sync();
    assert!(
        night.files.starts_with(&files("vda", &[0, 1, 2])),
        "{:?}",
        night.files
    );
    assert_eq!(rig.sync().files, [""; 0]);
    rig.expect_backup_at_end();
}

#[test]
fn p35_another_job() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.sync();
    let paused = rig.paused(COPY);
    let said = rig.rsync().fails(32);
    assert!(
        said.trim_end()
            .ends_with("another bmapfs is working on it: wait for its end"),
        "{said}"
    );
    assert!(paused.go().success());
    let theirs = scene.file("theirs.xml", b"<domainbackup mode='pull'><server transport='unix' socket='/var/lib/libvirt/qemu/x'/></domainbackup>");
    rig.virsh("backup-begin").arg(theirs).run();
    if rig.has_job() {
        let said = rig.rsync().fails(32);
        assert!(
            said.contains("it has another backup job: wait for its end"),
            "{said}"
        );
        assert!(rig.has_job());
    }
    rig.virsh("domjobabort").ok();
    wait_until("their job has ended", || !rig.has_job());
    rig.expect_nothing_left(1);
}

#[test]
fn p35_no_room_for_what_the_guest_overwrites() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    rig.sync();
    let small = Filesystem::new(&scene, "ext4");
    tool("chmod").arg("755").arg(small.path("")).ok();
    let room = tool("df")
        .words("--output=avail -B 1")
        .arg(small.path(""))
        .ok();
    let room: u64 = room.lines().last().unwrap().trim().parse().unwrap();
    let full = small.path("full");
    tool("fallocate")
        .arg("-l")
        .arg((room - 3 * (1 << 20)).to_string())
        .arg(&full)
        .ok();
    let content = scene.path("seen");
    let script = format!("cat \"$1\"/vda/* >'{}' || exit 77", content.display());
    let run = rig.script_with_tmpdir(&script, &small.path(""));
    // All of it is overwritten while it is read.
    let paused = run;
    rig.try_write_all("vda");
    let status = paused.go();
    if status.success() {
        rig.expect_backup("vda", &fs::read(&content).unwrap());
    } else {
        assert_eq!(status.code(), Some(77));
    }
    assert!(!rig.has_job());
    assert_eq!(fs::read_dir(small.path("")).unwrap().count(), 2);
}

#[test]
fn p35_what_is_missing_is_told() {
    let scene = Scene::new();
    let rig = Rig::new(&scene);
    let empty = scene.dir("empty");
    for (there, missing) in [
        ("", "virsh"),
        ("virsh", "nbdinfo"),
        ("virsh nbdinfo", "nbdfuse"),
    ] {
        for name in there.split_whitespace() {
            let link = empty.join(name);
            fs::remove_file(&link).ok();
            std::os::unix::fs::symlink(format!("/usr/bin/{name}"), link).unwrap();
        }
        let said = rig.bmapfs("scan").env("PATH", &empty).fails(2);
        assert!(
            said.contains(&format!(
                "needs {missing}, and it is not there: install lib"
            )),
            "{said}"
        );
    }
    let said = scene
        .bmapfs()
        .words("scan libvirt:no-such-domain")
        .fails(32);
    assert!(said.contains("libvirt:no-such-domain: virsh: "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let said = rig.bmapfs("run").words("-q --freeze -- true").fails(32);
    // Nobody was asked: nothing is frozen.
    let without = "QEMU guest agent is not configured: nothing is copied";
    assert!(one_line(&said).ends_with(without), "{said}");
    rig.expect_nothing_left(0);
}
