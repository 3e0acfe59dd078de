//! How `bmapfs run` ends when something does not: signals, a command that is killed, processes left behind.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::command::{Running, Tool, send_signal};
use crate::support::machine::{self, Identity};
use crate::support::pattern::disk_like;
use crate::support::scene::Scene;
use crate::support::wait_until;

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
        wait_until("the command runs", || self.told.exists());
        let text = fs::read_to_string(&self.told).unwrap();
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
    crate::support::command::tool("umount")
        .arg("-l")
        .arg(&place)
        .ok();
    wait_until("it is noticed", || {
        case.log().contains("was unmounted while")
    });
    send_signal(process, Signal::SIGTERM);
    assert_eq!(running.finish().code(), Some(143), "{}", case.log());

    case.is_clean(&place);
}
