//! P19: a mount is usable when bmapfs returns, and ends in order however it is ended.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::blocks::{self, open_rw};
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::machine::{Identity, mounts_at};
use crate::support::namespace::Namespace;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::{DEADLINE, comes_true, wait_until};

#[test]
fn p19_when_bmapfs_returns_the_mount_can_be_used() {
    let scene = Scene::new();
    let content = pattern(1, 10_000);
    let image = scene.file("a.img", &content);
    for _ in 0..30 {
        let mount = scene.mount(&image).up();
        assert_eq!(mounts_at(mount.point()).len(), 1);
        assert_same("at once", &blocks::read(&mount.block(0)), &content);
        mount.unmount();
    }
}

/// A field of a process's status.
fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap().trim().to_owned()
}

#[test]
fn p19_the_daemon_is_a_daemon() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 10_000);
    let mount = scene.mount(&image).with("-rw").up();
    let process = Path::new("/proc").join(mount.pid().to_string());
    assert_eq!(fs::read_link(process.join("cwd")).unwrap(), Path::new("/"));
    for fd in ["0", "1", "2"] {
        assert_eq!(
            fs::read_link(process.join("fd").join(fd)).unwrap(),
            Path::new("/dev/null"),
            "descriptor {fd}"
        );
    }
    assert_ne!(status(mount.pid(), "PPid"), std::process::id().to_string());
    let stat = fs::read_to_string(process.join("stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    assert_ne!(
        fields[3],
        fs::read_to_string("/proc/self/stat")
            .unwrap()
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(3)
            .unwrap(),
        "a session of its own"
    );
}

#[test]
fn p19_a_writing_daemon_asks_not_to_be_waited_for_by_write_back() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 10_000);
    let (trace, point) = (scene.path("trace"), scene.dir("mnt"));
    // Whether the kernel grants it depends on a capability that root may not have in a container.
    let strace = tool("strace")
        .args(["-f", "-e", "trace=prctl", "-o"])
        .arg(&trace);
    let strace = strace
        .arg(scene.program())
        .args(["-f", "-q", "-rw"])
        .args([&image, &point])
        .spawn();
    wait_until("the mount is there", || mounts_at(&point).len() == 1);
    tool("umount").arg(&point).ok();
    assert!(strace.finish().success());
    let trace = fs::read_to_string(trace).unwrap();
    assert!(trace.contains("prctl(PR_SET_IO_FLUSHER, 1"), "{trace}");
}

#[test]
fn p19_threads_are_as_many_as_told() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 10_000);
    for count in [1, 2, 9, 20] {
        let mount = scene.mount(&image).with(&format!("--threads {count}")).up();
        let threads = || {
            fs::read_dir(format!("/proc/{}/task", mount.pid()))
                .unwrap()
                .count()
        };
        // Beside the workers there are a few that wait for the end.
        wait_until("all workers are there", || {
            (count + 1..count + 6).contains(&threads())
        });
        mount.unmount();
    }
}

#[test]
fn p19_an_error_and_its_status_come_through_the_daemon() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 10_000);
    scene.file("mnt", b"not a directory");
    for options in ["", "-f"] {
        let said = scene.mount(&image).with(options).refused(32);
        assert!(
            said.starts_with("bmapfs: ") && said.contains("mnt") && said.contains("irectory"),
            "{said}"
        );
    }
}

#[test]
fn p19_in_the_foreground_it_logs_to_stderr_and_ends_with_success() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(2, 10_000));
    let mount = scene.mount(&image).up_in_foreground();
    blocks::read(&mount.block(0));
    let log = mount.unmount_for_log();
    assert!(log.contains("mnt"), "it says what it mounted: {log}");
    let quiet = scene.mount(&image).with("-q").up_in_foreground();
    blocks::read(&quiet.block(0));
    assert_eq!(quiet.unmount_for_log(), "");
}

#[test]
fn p19_debug_logs_one_line_an_operation() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(3, 10_000));
    let mount = scene.mount(&image).with("-d -rw -b 4K").up_in_foreground();
    blocks::read(&mount.block(2));
    open_rw(mount.block(1)).write_all_at(b"x", 17).unwrap();
    let log = mount.unmount_for_log().to_lowercase();
    for operation in ["read", "write", "open", "lookup"] {
        assert!(log.contains(operation), "{operation} in {log}");
    }
}

#[test]
fn p19_an_answer_for_which_nobody_waits_is_no_error() {
    let scene = Scene::new();
    let image = scene.sparse("a.img", 64 << 20);
    let mount = scene.mount(&image).with("-d -b 64M").up_in_foreground();
    // dd(1) says how far it is at that signal, which interrupts what it reads.
    let script = "while [ -e \"$2\" ]; do \
         dd if=\"$1\" of=/dev/null bs=1M 2> /dev/null & i=0; \
         while [ $i -lt 100 ]; do kill -USR1 $!; i=$((i + 1)); done; wait; done";
    let reading = scene.file("reading", b"");
    let running = tool("sh")
        .args(["-c", script, "sh"])
        .args([&mount.block(0), &reading])
        .log_to(&scene.path("log"))
        .spawn();
    let found = comes_true(DEADLINE / 4, || {
        mount
            .log()
            .contains("Failed to send FUSE reply: No such file")
    });
    fs::remove_file(reading).unwrap();
    running.finish();
    let log = mount.unmount_for_log();
    assert!(found, "no answer came too late");
    assert!(!log.contains("error: "), "{log}");
}

#[test]
fn p19_pending_writes_are_on_the_device_when_the_daemon_has_ended() {
    let scene = Scene::new();
    let backing = scene.file("a.img", &pattern(4, 8 << 20));
    let device = LoopDevice::new(&backing);
    for (round, way) in ["umount", "TERM", "INT", "umount -l", "fusermount3 -u"]
        .into_iter()
        .enumerate()
    {
        let content = pattern(50 + u64::try_from(round).unwrap(), 8 << 20);
        let mount = scene.mount(device.path()).with("-rw -b 1M").up();
        for (index, part) in (0..8).zip(content.chunks(1 << 20)) {
            // No fsync.
            open_rw(mount.block(index)).write_all_at(part, 0).unwrap();
        }
        match way {
            "TERM" | "INT" => drop(
                tool("kill")
                    .args(["-s", way, &mount.pid().to_string()])
                    .ok(),
            ),
            _ => drop(
                tool(way.split(' ').next().unwrap())
                    .args(way.split(' ').skip(1))
                    .arg(mount.point())
                    .ok(),
            ),
        }
        let point = mount.point().to_owned();
        mount.wait_for_end();
        assert!(mounts_at(&point).is_empty(), "{way}");
        assert_same(way, &fs::read(&backing).unwrap(), &content);
    }
}

#[test]
fn p19_a_busy_mount_is_not_unmounted_and_goes_on() {
    let scene = Scene::new();
    let content = pattern(5, 300_000);
    let image = scene.file("a.img", &content);
    let mount = scene.mount(&image).with("-rw -b 64K").up();
    let open = open_rw(mount.block(1));
    let said = tool("umount").arg(mount.point()).fails(32);
    assert!(said.contains("busy"), "{said}");
    open.write_all_at(b"still there", 5).unwrap();
    assert_eq!(&fs::read(&image).unwrap()[65_541..65_552], b"still there");
    drop(open);
    mount.unmount();
}

#[test]
fn p19_a_lazily_unmounted_mount_serves_its_open_files_to_the_end() {
    let scene = Scene::new();
    let content = pattern(6, 300_000);
    let image = scene.file("a.img", &content);
    let mount = scene.mount(&image).with("-rw -b 64K").up();
    let open = open_rw(mount.block(1));
    mount.detach();
    assert!(mounts_at(mount.point()).is_empty());
    let mut bytes = vec![0; 65_536];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert_same("read after umount -l", &bytes, &content[65_536..131_072]);
    open.write_all_at(b"written", 0).unwrap();
    assert!(mount.daemon_lives());
    open.sync_all().unwrap();
    drop(open);
    mount.wait_for_end();
    assert_eq!(&fs::read(&image).unwrap()[65_536..65_543], b"written");
}

#[test]
fn p19_a_killed_daemon_leaves_a_mount_that_umount_removes() {
    let scene = Scene::new();
    let content = pattern(7, 300_000);
    let image = scene.file("a.img", &content);
    for who in [Identity::Root, Identity::User] {
        Identity::User.own(&image);
        let mut mount = scene
            .mount(&image)
            .with("-rw -b 64K")
            .by(who)
            .at(&format!("mnt-{who:?}"))
            .up();
        mount.kill();
        assert_eq!(mounts_at(mount.point()).len(), 1);
        if who == Identity::Root {
            wait_until("the kernel says that nobody is there", || {
                let error = File::open(mount.block(0)).unwrap_err();
                error.raw_os_error() == Some(libc::ENOTCONN)
            });
        }
        tool("umount").identity(who).arg(mount.point()).ok();
        assert!(mounts_at(mount.point()).is_empty());
        // The locks ended with the daemon.
        let again = scene
            .mount(&image)
            .with("-rw -b 64K")
            .by(who)
            .at(&format!("mnt-{who:?}"))
            .up();
        again.unmount();
        mount.wait_for_end();
    }
    assert_same("the image", &fs::read(&image).unwrap(), &content);
}

#[test]
fn p19_a_mount_point_whose_directory_is_removed_elsewhere_ends_the_mount_in_order() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(8, 10_000));
    let mount = scene.mount(&image).up();
    // Where nothing is mounted on it, it can be removed; the kernel then detaches the mount everywhere.
    let namespace = Namespace::bare(&scene);
    namespace.tool("umount").arg(mount.point()).ok();
    namespace.tool("rmdir").arg(mount.point()).ok();
    wait_until("the mount is gone", || mounts_at(mount.point()).is_empty());
    mount.wait_for_end();
}
