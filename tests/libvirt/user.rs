//! An ordinary user's domains, with nothing of root's.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::support::blocks::concatenated;
use crate::support::command::{send_signal, tool};
use crate::support::machine::Identity;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{BLOCK, files};
use super::session::{Session, in_file};

const BLOCKS: usize = 40;

/// A domain with a qcow2 disk and a raw one.
fn web(session: &Session<'_>) -> [PathBuf; 2] {
    let content = |seed| pattern(seed, BLOCKS * usize::try_from(BLOCK).unwrap());
    let images = [
        session.image("a.qcow2", "qcow2", &content(1)),
        session.image("b.raw", "raw", &content(2)),
    ];
    let disks = [
        in_file("qcow2", &images[0], "vda"),
        in_file("raw", &images[1], "vdb"),
    ];
    session.start("web", &disks);
    images
}

fn expect_backup_is_content(session: &Session<'_>, images: &[PathBuf; 2]) {
    let raw = session.scene.path("content");
    for (target, image) in ["vda", "vdb"].iter().zip(images) {
        tool("qemu-img")
            .words("convert -O raw")
            .arg(image)
            .arg(&raw)
            .ok();
        let backup = concatenated(&session.backup().join(target));
        assert_same(target, &backup, &fs::read(&raw).unwrap());
    }
}

#[test]
fn p35_an_ordinary_user() {
    let scene = Scene::new();
    let session = Session::new(&scene);
    let images = web(&session);
    assert_eq!(session.sync("web").files.len(), 2 * BLOCKS + 1);
    session.expect_nothing_left("web", 1);
    let quiet = session.sync("web");
    assert_eq!(quiet.files, [""; 0]);
    assert!(
        quiet.said.contains("vda: 0 bytes may have changed"),
        "{}",
        quiet.said
    );
    session.write("web", "vda", 3, 1);
    session.write("web", "vdb", 7, 2);
    let changed = [files("vda", &[3]), files("vdb", &[7])].concat();
    assert_eq!(session.sync("web").files, changed);
    session.expect_nothing_left("web", 1);
    session.write("web", "vda", 5, 1);
    session.destroy("web");
    assert_eq!(session.sync("web").files, files("vda", &[5]));
    session.expect_nothing_left("web", 1);
    expect_backup_is_content(&session, &images);
}

/// The processes of this program that have `text` in their command line.
fn pids_of(program: &str, text: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.starts_with(program) && line.contains(text)
    };
    pids.filter(is).collect()
}

#[test]
fn p35_an_ordinary_user_s_bmapfs_is_killed() {
    let scene = Scene::new();
    let session = Session::new(&scene);
    let images = web(&session);
    session.sync("web");
    let uuid = session.uuid("web");
    let (running, go) = (scene.path("home/running"), scene.path("home/go"));
    let wait = format!(
        "touch '{}'; while [ ! -e '{}' ]; do sleep 0.02; done",
        running.display(),
        go.display()
    );
    let place = scene.path("run/bmapfs-libvirt").join(&uuid);
    let exports = || {
        let mounts = session.mounts();
        mounts.iter().filter(|at| at.starts_with(&place)).count()
    };
    let kill = |servers_too: bool, disks: usize| {
        for old in [&running, &go] {
            fs::remove_file(old).ok();
        }
        let run = session.bmapfs("run", "web").words("-- sh -c").arg(&wait);
        let run = run.log_to(&scene.path("said")).spawn();
        wait_until("the command runs", || running.exists());
        assert_eq!(exports(), disks);
        if servers_too {
            for pid in pids_of("nbdfuse", &uuid) {
                send_signal(pid, Signal::SIGKILL);
            }
        }
        run.signal(Signal::SIGKILL);
        assert!(!run.finish().success());
        fs::write(&go, b"").unwrap();
        let ended =
            || pids_of("nbdfuse", &uuid).is_empty() && pids_of("qemu-nbd", &uuid).is_empty();
        wait_until("its servers have ended", ended);
    };
    for (byte, servers_too) in [(1, false), (2, true)] {
        session.write("web", "vda", 3, byte);
        kill(servers_too, 2);
        let night = session.sync("web");
        let changed = files("vda", &[3]);
        assert!(
            changed.iter().all(|file| night.files.contains(file)),
            "{night:?}"
        );
        session.expect_nothing_left("web", 1);
    }
    assert_eq!(session.sync("web").files, [""; 0]);
    session.destroy("web");
    kill(true, 1);
    session.sync("web");
    session.expect_nothing_left("web", 1);
    expect_backup_is_content(&session, &images);
}

#[test]
fn p35_an_ordinary_user_cannot_have_the_hosts_domains() {
    let scene = Scene::new();
    let said = scene.bmapfs().identity(Identity::User);
    let said = said.words("scan libvirt:web").fails(32);
    let told = "libvirt:web: only root can read the disks of qemu:///system: of an ordinary user it needs --connect qemu:///session";
    assert!(said.contains(told), "{said}");
}
