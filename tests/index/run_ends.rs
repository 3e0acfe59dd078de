//! How `bmapfs run` ends when something does not: signals, a command that is killed, processes left behind.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::command::{Running, Tool, send_signal, tool};
use crate::support::filesystem::Filesystem;
use crate::support::machine::{self, Identity};
use crate::support::pattern::disk_like;
use crate::support::scene::Scene;
use crate::support::{DEADLINE, comes_true, wait_until};

use super::rig::Rig;

/// A run as some user, whose command tells its process and its mount point before it does what it does, and then
/// goes on until it is ended or the scene is gone.
struct Case<'a> {
    scene: &'a Scene,
    rig: Rig<'a>,
    identity: Identity,
    told: PathBuf,
}

impl<'a> Case<'a> {
    fn new(scene: &'a Scene, identity: Identity) -> Self {
        let dir = scene.dir_of(&format!("{identity:?}"), identity);
        let image = dir.join("a.img");
        fs::write(&image, disk_like(1, 8 * 65_536)).unwrap();
        identity.own(&image);
        let rig = Rig::new(scene, &image).with_index(dir.join("a.index"));
        let told = dir.join("told");
        Self {
            scene,
            rig,
            identity,
            told,
        }
    }

    fn tool(&self, script: &str) -> Tool {
        fs::remove_file(&self.told).ok();
        let script = format!(
            "echo \"$$ $BMAPFS_MOUNT\" > \"$1.new\"; {script}; mv \"$1.new\" \"$1\"; while [ -e \"$1\" ]; do sleep 0.01; done"
        );
        self.prepare(&script)
    }

    fn prepare(&self, script: &str) -> Tool {
        let runtime = self.scene.dir_of("runtime", self.identity);
        let tool = self.rig.run("").identity(self.identity);
        tool.env("XDG_RUNTIME_DIR", runtime)
            .args(["sh", "-c", script, "sh"])
            .arg(&self.told)
    }

    /// The command's process, and the mount point, once it runs.
    fn wait(&self) -> (u32, PathBuf) {
        let mut text = String::new();
        // The file is there before its line is.
        wait_until("the command runs", || {
            text = fs::read_to_string(&self.told).unwrap_or_default();
            text.ends_with('\n')
        });
        let (process, place) = text.trim_end().split_once(' ').unwrap();
        (process.parse().unwrap(), place.into())
    }

    fn start(&self, script: &str) -> (Running, u32, PathBuf) {
        let running = self.tool(script).log_to(&self.scene.path("log")).spawn();
        let (process, place) = self.wait();
        (running, process, place)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scene.path("log")).unwrap()
    }

    /// Expects that nothing is left, and that the next run is like any other.
    fn is_clean(&self, place: &Path) {
        assert!(machine::mounts_at(place).is_empty());
        assert!(!place.exists(), "the directory is left");
        let text = self.prepare("ls \"$BMAPFS_MOUNT\"").ok();
        assert_eq!(text.lines().count(), 8);
    }
}

const BOTH: [Identity; 2] = [Identity::Root, Identity::User];

fn lives(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[test]
fn the_command_gets_the_signal_and_everything_is_cleaned_up() {
    for identity in BOTH {
        let scene = Scene::new();
        let case = Case::new(&scene, identity);
        for (signal, plain) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
            let (running, process, place) = case.start(":");
            running.signal(signal);
            let status = running.finish();
            assert_eq!(status.code(), Some(plain), "{signal}: {}", case.log());
            assert!(!lives(process));
            case.is_clean(&place);
            // A command that ends in its own way has its own status.
            let trap = "trap 'exit 5' TERM INT HUP";
            let (running, _, place) = case.start(trap);
            running.signal(signal);
            assert_eq!(running.finish().code(), Some(5), "{signal}: {}", case.log());
            assert!(
                case.log().contains("8 blocks"),
                "the summary: {}",
                case.log()
            );
            case.is_clean(&place);
        }
    }
}

/// As under nohup(1), where rsync, too, would take a HUP that is passed on: it does not ask whether it was ignored.
#[test]
fn an_ignored_signal_is_not_passed_on() {
    let scene = Scene::new();
    let case = Case::new(&scene, Identity::Root);
    for (ignored, sent) in [("HUP", Signal::SIGHUP), ("INT", Signal::SIGINT)] {
        let script = "echo \"$$ {}\" > \"$1.new\"; trap 'exit 7' HUP INT; trap 'exit 5' TERM; mv \"$1.new\" \"$1\"; \
                      while [ -e \"$1\" ]; do sleep 0.01; done";
        fs::remove_file(&case.told).ok();
        let tool = case.rig.run("").words("env --default-signal sh -c");
        let tool = tool.arg(script).arg("sh").arg(&case.told).ignoring(ignored);
        let running = tool.log_to(&scene.path("log")).spawn();
        let (_, place) = case.wait();
        // Of two that wait, the one with the lower number comes first.
        running.signal(sent);
        running.signal(Signal::SIGTERM);
        assert_eq!(
            running.finish().code(),
            Some(5),
            "{ignored}: {}",
            case.log()
        );
        case.is_clean(&place);
    }
}

#[test]
fn a_killed_command() {
    for identity in BOTH {
        let scene = Scene::new();
        let case = Case::new(&scene, identity);
        let (running, process, place) = case.start(":");
        send_signal(process, Signal::SIGKILL);
        assert_eq!(running.finish().code(), Some(137), "{}", case.log());
        case.is_clean(&place);
    }
}

#[test]
fn a_process_left_behind_that_uses_the_mount() {
    for identity in BOTH {
        for hold in ["exec 3< \"$BMAPFS_MOUNT/00000001\"", "cd \"$BMAPFS_MOUNT\""] {
            let scene = Scene::new();
            let case = Case::new(&scene, identity);
            // Its process is told when it has the mount in use, and not before.
            let script = format!(
                "({hold}; echo \"$(sh -c 'echo $PPID') $BMAPFS_MOUNT\" > \"$1\"; \
                 while [ -e \"$1\" ]; do sleep 0.05; done) > /dev/null 2>&1 < /dev/null & \
                 while [ ! -s \"$1\" ]; do sleep 0.01; done"
            );
            let outcome = case.prepare(&script).run();
            let (left, place) = case.wait();
            assert_eq!(outcome.code(), 0, "{outcome:?}");
            assert!(
                outcome.stderr.contains("still in use"),
                "{}",
                outcome.stderr
            );
            assert!(lives(left), "the harness");
            case.is_clean(&place);
            send_signal(left, Signal::SIGKILL);
            wait_until("it is gone", || !lives(left));
        }
    }
}

#[test]
fn a_killed_bmapfs_leaves_nothing_that_stops_the_next_run() {
    for identity in BOTH {
        let scene = Scene::new();
        let case = Case::new(&scene, identity);
        let (running, process, place) = case.start(":");
        running.signal(Signal::SIGKILL);
        running.finish();
        send_signal(process, Signal::SIGKILL);
        wait_until("the command is gone", || !lives(process));
        let text = case.prepare("ls \"$BMAPFS_MOUNT\"").run();
        assert_eq!(text.code(), 0, "{text:?}");
        assert_eq!(text.stdout.lines().count(), 8);
        case.is_clean(&place);
    }
}

#[test]
fn unmounted_while_the_command_runs() {
    let scene = Scene::new();
    let case = Case::new(&scene, Identity::User);
    let (running, process, place) = case.start(":");
    tool("umount").arg("-l").arg(&place).ok();
    wait_until("it is noticed", || {
        case.log().contains("was unmounted while")
    });
    send_signal(process, Signal::SIGTERM);
    assert_eq!(running.finish().code(), Some(143), "{}", case.log());

    case.is_clean(&place);
}

#[test]
fn a_mount_that_is_taken_away_while_the_command_runs() {
    let abort = "mkdir \"$1.d\" && mount -t fusectl none \"$1.d\" && \
                 echo 1 > \"$1.d/$(mountpoint -d \"$BMAPFS_MOUNT\" | cut -d: -f2)/abort\"";
    for way in [
        abort,
        "umount -i -f \"$BMAPFS_MOUNT\"",
        "umount -i -l \"$BMAPFS_MOUNT\"",
    ] {
        for (ends_with, expected) in [(5, 5), (0, 2)] {
            let scene = Scene::new();
            let case = Case::new(&scene, Identity::Root);
            let log = scene.path("log");
            let script = format!(
                "echo \"$$ $BMAPFS_MOUNT\" > \"$1\"; {way}; \
                 until grep -q 'was unmounted while' \"$1.log\"; do sleep 0.01; done; exit {ends_with}"
            );
            std::os::unix::fs::symlink(&log, case.told.with_extension("log")).unwrap();
            let status = case.prepare(&script).log_to(&log).spawn().finish();
            let (_, place) = case.wait();
            assert_eq!(status.code(), Some(expected), "{way}: {}", case.log());
            assert!(case.log().contains("8 blocks, "), "{}", case.log());
            case.is_clean(&place);
        }
    }
}

/// What the command leaves behind: a process with a mount namespace of its own, which keeps the mount.
const ELSEWHERE: &str = "unshare --mount sh -c 'echo \"$$ $BMAPFS_MOUNT\" > \"$1\"; \
     while [ -e \"$1\" ]; do sleep 0.05; done' sh \"$1\" > /dev/null 2>&1 < /dev/null & \
     while [ ! -s \"$1\" ]; do sleep 0.01; done";

#[test]
fn a_process_left_behind_that_holds_the_mount_in_another_namespace() {
    let scene = Scene::new();
    let case = Case::new(&scene, Identity::Root);
    let outcome = case.prepare(ELSEWHERE).run();
    let (left, place) = case.wait();
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    assert!(
        outcome.stderr.contains("still in use elsewhere"),
        "{}",
        outcome.stderr
    );
    assert!(lives(left), "the harness");
    case.is_clean(&place);
    send_signal(left, Signal::SIGKILL);
    wait_until("it is gone", || !lives(left));
}

#[test]
fn a_signal_when_the_command_has_ended() {
    let scene = Scene::new();
    let case = Case::new(&scene, Identity::Root);
    let mut running = case.prepare(ELSEWHERE).log_to(&scene.path("log")).spawn();
    let (left, place) = case.wait();
    // The first may still be for the command.
    wait_until("it has ended", || {
        running.signal(Signal::SIGTERM);
        running.child().try_wait().unwrap().is_some()
    });
    assert!(
        case.log().contains("SIGTERM: ending although"),
        "{}",
        case.log()
    );
    assert!(case.log().contains("8 blocks, "), "saved: {}", case.log());
    send_signal(left, Signal::SIGKILL);
    wait_until("it is gone", || !lives(left));
    case.is_clean(&place);
}

#[test]
fn what_is_read_when_the_index_was_closed_is_refused() {
    let scene = Scene::new();
    let filesystem = Filesystem::sized(&scene, "ext4", 64 << 20);
    let mut case = Case::new(&scene, Identity::Root);
    case.rig = Rig::new(&scene, &case.rig.source.clone()).with_index(filesystem.path("a.index"));
    // Saving waits for a file system that is frozen; meanwhile what was left behind reads on.
    let script = "(cd \"$BMAPFS_MOUNT\"; echo \"$(sh -c 'echo $PPID') $BMAPFS_MOUNT\" > \"$1\"; \
         while cat 00000001 > /dev/null; do sleep 0.01; done; echo refused > \"$1.end\") \
         > /dev/null 2>&1 < /dev/null & \
         while [ ! -s \"$1\" ]; do sleep 0.01; done; fsfreeze -f \"$2\"";
    let running = case
        .prepare(script)
        .arg(filesystem.point())
        .log_to(&scene.path("log"))
        .spawn();
    let (_, place) = case.wait();
    let end = case.told.with_extension("end");
    let refused = comes_true(DEADLINE / 4, || end.exists());
    let saved = case.log().contains("8 blocks, ");
    tool("fsfreeze").arg("-u").arg(filesystem.point()).ok();
    assert!(refused, "it read on: {}", case.log());
    assert!(!saved, "the harness");
    assert!(running.finish().success(), "{}", case.log());
    case.is_clean(&place);
}
