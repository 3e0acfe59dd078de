//! mount(8) and umount(8), as root and as a user, through the installed helpers: P16 and P19.

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::blocks::{self, open_rw};
use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::machine::{Identity, daemons_with};
use crate::support::mounted::one_line;
use crate::support::namespace::Namespace;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

const FAILED: i32 = 32;

/// An installed bmapfs, an image, and a mount point in a namespace.
struct Installed {
    namespace: Namespace,
    image: PathBuf,
    content: Vec<u8>,
    point: PathBuf,
    scene: Scene,
}

impl Installed {
    fn new() -> Self {
        let scene = Scene::new();
        let content = pattern(1, 300_000);
        let (image, point) = (scene.file("a.img", &content), scene.dir("mnt"));
        Self {
            namespace: Namespace::new(&scene),
            image,
            content,
            point,
            scene,
        }
    }

    /// `mount -t TYPE OPTIONS SRC MNT`, and what it said on standard error.
    fn mount(&self, kind: &str, options: &str) -> String {
        let tool = self
            .namespace
            .tool("mount")
            .args(["-t", kind])
            .words(options);
        let outcome = tool.args([&self.image, &self.point]).run();
        let said = outcome.stderr.clone();
        outcome.ok();
        said
    }

    /// Expects one usable mount, writable or not.
    fn is_mounted(&self, writable: bool) {
        let mounts = self.namespace.mounts_at(&self.point);
        assert_eq!(mounts.len(), 1);
        assert_eq!(
            (mounts[0].kind.as_str(), Path::new(&mounts[0].source)),
            ("fuse.bmapfs", &*self.image)
        );
        let word = if writable { "rw" } else { "ro" };
        assert!(mounts[0].options.iter().any(|o| o == word), "{mounts:?}");
        let seen = blocks::concatenated(&self.namespace.outside(&self.point));
        assert_same("through the mount", &seen, &self.content);
    }

    /// `umount WHAT`, after which nothing is mounted and the daemon has ended.
    fn umount(&self, what: &Path) {
        self.namespace.tool("umount").arg(what).ok();
        self.is_gone();
    }

    fn is_gone(&self) {
        assert_eq!(self.namespace.mounts_at(&self.point).len(), 0);
        assert!(
            daemons_with(self.point.as_os_str()).is_empty(),
            "umount(8) returned before the daemon had ended"
        );
    }
}

#[test]
fn p19_mount_by_both_names_read_only_unless_write_is_given() {
    let test = Installed::new();
    for kind in ["bmapfs", "fuse.bmapfs"] {
        for (options, writable) in [
            ("", false),
            ("-o ro", false),
            ("-r", false),
            ("-o rw", false),
            ("-w", false),
            ("-o write", true),
            ("-o rw,write", true),
        ] {
            let said = test.mount(kind, options);
            test.is_mounted(writable);
            let explicit = ["-o ro", "-r"].contains(&options) || writable;
            if explicit {
                assert_eq!(said, "", "{kind} {options}");
            } else if kind == "bmapfs" {
                assert!(
                    one_line(&said).contains("read-only"),
                    "{kind} {options}: {said}"
                );
                assert!(said.contains("write"), "it says how to get more: {said}");
            }
            test.umount(&test.point);
        }
    }
}

#[test]
fn p19_the_options_of_mount_itself() {
    let test = Installed::new();
    // -f only pretends.
    test.mount("bmapfs", "-f");
    test.is_gone();
    test.mount("bmapfs", "-f -v -o write,bs=64K");
    test.is_gone();
    let outcome = test
        .namespace
        .tool("mount")
        .words("-t bmapfs -f /nowhere")
        .arg(&test.point)
        .run();
    assert!(outcome.stderr.lines().count() <= 1, "{outcome:#?}");
    // -s lets unknown options pass, -n and -v and -N change nothing.
    for options in [
        "-s -o ro,nonsense",
        "-n -o ro",
        "-v -o ro",
        "-o ro,bs=64K --no-canonicalize",
    ] {
        test.mount("bmapfs", options);
        test.is_mounted(false);
        test.umount(&test.point);
    }
    let tool = test
        .namespace
        .tool("mount")
        .words("-t bmapfs -o nonsense=7")
        .args([&test.image, &test.point]);
    assert!(one_line(&tool.fails(1)).contains("nonsense"));
    test.is_gone();
}

#[test]
fn p19_what_mount_and_systemd_and_fuse_users_pass_is_taken() {
    let test = Installed::new();
    let words = "defaults,noauto,nofail,_netdev,user,users,owner,group,x-systemd.automount,x-gvfs-show,X-mount.mkdir,\
                 comment=text,relatime,norelatime,strictatime,nostrictatime,lazytime,nolazytime,atime,diratime,nodiratime,\
                 silent,loud,iversion,mand,nomand,nonempty,noatime,nodev,nosuid,noexec,dev,suid,exec,async,allow_other";
    test.mount("bmapfs", &format!("-o ro,{words}"));
    test.is_mounted(false);
    let options = &test.namespace.mounts_at(&test.point)[0].options;
    assert!(options.iter().any(|o| o == "allow_other"), "{options:?}");
    test.umount(&test.point);
    // Each alone, in case one hides another.
    for word in words.split(',').map(str::trim) {
        test.mount("bmapfs", &format!("-o ro,{word}"));
        test.umount(&test.point);
    }
}

#[test]
fn p16_an_fstab_line_mounts_once_and_umount_knows_the_source() {
    let test = Installed::new();
    let line = |kind: &str, options: &str| {
        format!(
            "{} {} {kind} {options} 0 0\n",
            test.image.display(),
            test.point.display()
        )
    };
    for (kind, options, writable) in [
        ("bmapfs", "ro,nofail,x-systemd.automount", false),
        ("bmapfs", "write,bs=64K", true),
        ("fuse.bmapfs", "ro", false),
    ] {
        test.namespace.set_etc("fstab", &line(kind, options));
        test.namespace.tool("mount").arg(&test.point).ok();
        test.is_mounted(writable);
        test.umount(&test.point);
        test.namespace.tool("mount").arg(&test.image).ok();
        test.is_mounted(writable);
        test.umount(&test.image);
        for _ in 0..2 {
            test.namespace.tool("mount").words("-a -t").arg(kind).ok();
            test.is_mounted(writable);
        }
        let target = test
            .namespace
            .tool("findmnt")
            .words("-n -o TARGET --source")
            .arg(&test.image)
            .ok();
        assert_eq!(Path::new(target.trim()), test.point);
        test.umount(&test.image);
        test.namespace.tool("umount").arg("/etc").ok();
    }
}

#[test]
fn p16_an_fstab_line_with_user_lets_users_mount_and_umount() {
    let test = Installed::new();
    Identity::User.own(&test.point);
    tool("chmod").arg("644").arg(&test.image).ok();
    let line = format!(
        "{} {} bmapfs ro,noauto,user 0 0\n",
        test.image.display(),
        test.point.display()
    );
    test.namespace.set_etc("fstab", &line);
    test.namespace.user_tool("mount").arg(&test.point).ok();
    let mounts = test.namespace.mounts_at(&test.point);
    assert_eq!(mounts.len(), 1);
    assert_eq!(mounts[0].kind, "fuse.bmapfs");
    let seen = test
        .namespace
        .user_tool("cat")
        .arg(test.point.join("00000000"))
        .run();
    assert_eq!(seen.code(), 0, "{seen:#?}");
    test.namespace.user_tool("umount").arg(&test.point).ok();
    assert_eq!(test.namespace.mounts_at(&test.point).len(), 0);
}

#[test]
fn p19_mount_fails_with_the_reason_and_the_status() {
    let test = Installed::new();
    let mount = |source: &Path, point: &Path, options: &str, code: i32| {
        let tool = test
            .namespace
            .tool("mount")
            .words("-t bmapfs")
            .words(options)
            .args([source, point]);
        one_line(&tool.fails(code))
    };
    let said = mount(&test.scene.path("missing"), &test.point, "-o ro", FAILED);
    assert!(
        said.contains("missing") && said.contains("No such file"),
        "{said}"
    );
    let said = mount(&test.image, &test.scene.path("nowhere"), "-o ro", FAILED);
    assert!(said.contains("nowhere"), "{said}");
    let said = mount(&test.image, &test.point, "-o ro,bs=3000", 1);
    assert!(said.contains("3000"), "{said}");
    test.mount("bmapfs", "-o write");
    let second = test.scene.dir("second");
    let said = mount(&test.image, &second, "-o write", FAILED);
    assert!(said.contains("bmapfs"), "names the holder: {said}");
    test.umount(&test.point);
}

#[test]
fn p19_umount_returns_when_everything_is_on_disk() {
    let test = Installed::new();
    for round in 0..5 {
        let content = pattern(50 + round, 8 << 20);
        let backing = test.scene.file("b.img", &pattern(2, 8 << 20));
        let device = LoopDevice::new(&backing);
        let tool = test
            .namespace
            .tool("mount")
            .words("-t bmapfs -o write,bs=1M")
            .arg(device.path());
        tool.arg(&test.point).ok();
        let mounted = test.namespace.outside(&test.point);
        for (index, part) in (0..).zip(content.chunks(1 << 20)) {
            open_rw(mounted.join(blocks::name(index)))
                .write_all_at(part, 0)
                .unwrap();
        }
        // At once, without waiting for anything else: nobody holds the device, and the file behind it is written.
        test.umount(if round % 2 == 0 {
            &test.point
        } else {
            device.path()
        });
        assert_same("behind the device", &fs::read(&backing).unwrap(), &content);
        device.detach();
    }
}

#[test]
fn p19_umount_of_a_busy_mount_names_who_uses_it() {
    let test = Installed::new();
    test.mount("bmapfs", "-o ro,bs=64K");
    let holder =
        test.namespace
            .tool("sh")
            .args(["-c", "exec 3< \"$1\"; echo there; read line", "sh"]);
    let mut holder = holder.arg(test.point.join("00000001")).spawn_talking();
    let mut there = [0; 6];
    std::io::Read::read_exact(holder.child().stdout.as_mut().unwrap(), &mut there).unwrap();
    let said = test.namespace.tool("umount").arg(&test.point).fails(FAILED);
    assert!(
        said.contains("busy") && said.contains(&test.point.display().to_string()),
        "{said}"
    );
    test.is_mounted(false);
    // Lazily it goes at once, and the daemon when the last user has gone.
    test.namespace
        .tool("umount")
        .arg("-l")
        .arg(&test.point)
        .ok();
    assert_eq!(test.namespace.mounts_at(&test.point).len(), 0);
    assert_eq!(daemons_with(test.point.as_os_str()).len(), 1);
    drop(holder);
    crate::support::wait_until("the daemon has ended", || {
        daemons_with(test.point.as_os_str()).is_empty()
    });
}

#[test]
fn p19_umount_removes_the_mount_of_a_killed_daemon() {
    let test = Installed::new();
    test.mount("bmapfs", "-o write");
    for pid in daemons_with(test.point.as_os_str()) {
        crate::support::command::send_signal(pid, nix::sys::signal::Signal::SIGKILL);
    }
    crate::support::wait_until("the daemon is gone", || {
        daemons_with(test.point.as_os_str()).is_empty()
    });
    test.umount(&test.point);
    test.mount("bmapfs", "-o write");
    test.is_mounted(true);
    test.umount(&test.point);
}

#[test]
fn p19_a_remount_is_refused_with_a_reason() {
    let test = Installed::new();
    test.mount("bmapfs", "-o ro");
    let tool = test
        .namespace
        .tool("mount")
        .words("-o remount,write")
        .arg(&test.point);
    let outcome = tool.run();
    assert!(outcome.code() != 0, "{outcome:#?}");
    assert!(outcome.stderr.contains("remount"), "{outcome:#?}");
    test.is_mounted(false);
    test.umount(&test.point);
}

#[test]
fn p19_a_daemon_logs_to_syslog() {
    let test = Installed::new();
    let dev = test.scene.dir("dev");
    // A /dev of our own, so that the log can be read.
    for node in ["null", "zero", "urandom", "fuse"] {
        let file = test.scene.file(format!("dev/{node}"), b"");
        test.namespace
            .tool("mount")
            .arg("--bind")
            .args([Path::new("/dev").join(node), file])
            .ok();
    }
    let log = UnixDatagram::bind(dev.join("log")).unwrap();
    log.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    test.namespace
        .tool("mount")
        .arg("--rbind")
        .args([dev.as_path(), Path::new("/dev")])
        .ok();
    test.mount("bmapfs", "-o write");
    test.umount(&test.point);
    let mut lines = Vec::new();
    // One for the mount, one for its end.
    while lines.len() < 2 {
        let mut buffer = [0; 4096];
        let len = log.recv(&mut buffer).expect("a line in the log");
        lines.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
    }
    assert!(
        lines
            .iter()
            .all(|line| line.contains("bmapfs") && line.contains("a.img")),
        "{lines:?}"
    );
    assert!(lines[1].contains("unmounted"), "{lines:?}");
}
