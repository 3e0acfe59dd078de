//! P34: FREEZE, clones, THAW. Whatever happens, THAW is run once, and nothing is left.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::command::{Outcome, Running, Tool, send_signal, tool};
use crate::support::filesystem::Filesystem;
use crate::support::mounted::one_line;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{Many, clones, four_images};

/// Four images, and the log of what FREEZE and THAW have done.
struct Frozen<'a> {
    many: Many<'a>,
    filesystem: Filesystem,
    log: PathBuf,
}

impl<'a> Frozen<'a> {
    fn new(scene: &'a Scene, kind: &str) -> Self {
        let filesystem = Filesystem::new(scene, kind);
        Self {
            many: four_images(scene, &filesystem),
            filesystem,
            log: scene.path("freeze.log"),
        }
    }

    /// `bmapfs WORD` with commands that note that they were run, and then do this.
    fn face(&self, word: &str, options: &str, freeze: &str, thaw: &str) -> Tool {
        fs::write(&self.log, "").unwrap();
        let noting =
            |letter: &str, then: &str| format!("echo {letter} >> {}; {then}", self.log.display());
        let tool = self.many.scene.bmapfs().words(word);
        let tool = tool.words("-b 64K --snapshot").words(options);
        let tool = tool.arg("--freeze").arg(noting("F", freeze));
        let tool = tool.arg("--thaw").arg(noting("T", thaw));
        tool.args(self.many.typed())
    }

    fn indexed(&self) -> String {
        self.many.index_option()
    }

    /// What was done, a letter each.
    fn noted(&self) -> String {
        fs::read_to_string(&self.log).unwrap().replace('\n', "")
    }

    /// FREEZE and THAW were run once each, and no clone is left.
    fn expect_thawed(&self, outcome: &Outcome, what: &str) {
        assert_eq!(self.noted(), "FT", "{what}: {outcome:?}");
        assert_eq!(clones(&self.filesystem), [""; 0], "{what}: {outcome:?}");
    }
}

#[test]
fn p34_failing_commands() {
    let scene = Scene::new();
    let frozen = Frozen::new(&scene, "xfs");
    let marker = scene.path("marker");
    let touch = format!("-- touch {}", marker.display());
    for (freeze, said) in [
        ("exit 3", "it ended with status 3"),
        ("kill -KILL $$", "signal 9 ended it"),
        ("no-such-program-anywhere", "status 127"),
    ] {
        let outcome = frozen.face("run", "", freeze, ":").words(&touch).run();
        assert_eq!(outcome.code(), 32, "{outcome:?}");
        let last = outcome.stderr.lines().last().unwrap();
        assert!(last.contains("--freeze") && last.contains(said), "{last}");
        frozen.expect_thawed(&outcome, freeze);
        assert!(!marker.exists(), "nothing is copied");
    }
    // The command runs, and all of it is said.
    let report = scene.path("report");
    let options = format!("--report {}", report.display());
    let run = frozen.face("run", &options, ":", "exit 3");
    let outcome = run.words(&touch).run();
    assert_eq!(outcome.code(), 32, "{outcome:?}");
    assert!(outcome.stderr.contains("thaw it by hand"), "{outcome:?}");
    assert!(marker.exists());
    frozen.expect_thawed(&outcome, "thaw");
    let told = fs::read_to_string(&report).unwrap();
    for field in [
        "\"command_status\":0,\"status\":32",
        "\"frozen_seconds\":0.",
    ] {
        assert!(told.contains(field), "{told}");
    }
    // A command that fails itself is no excuse.
    let outcome = frozen
        .face("run", "", ":", "exit 3")
        .words("-- false")
        .run();
    assert_eq!(outcome.code(), 32, "{outcome:?}");
    // Nothing is mounted, and no process is left.
    let point = scene.dir("mnt");
    let outcome = frozen.face("", "", ":", "exit 3").arg(&point).run();
    assert_eq!(outcome.code(), 32, "{outcome:?}");
    assert!(crate::support::machine::mounts_at(&point).is_empty());
    frozen.expect_thawed(&outcome, "a mount");
    let outcome = frozen.face("scan", &frozen.indexed(), ":", "exit 3").run();
    assert_eq!(outcome.code(), 32, "{outcome:?}");
    // The indexes name their clones, and those go when they are forgotten.
    assert_eq!(clones(&frozen.filesystem).len(), 4);
    frozen.many.face("scan", "").ok();
    frozen.expect_thawed(&outcome, "a scan");
}

/// Starts a run whose FREEZE or THAW waits for the file `go`, and waits until it does.
fn waiting_at(frozen: &Frozen<'_>, scene: &Scene, letter: &str, options: &str) -> Running {
    let go = scene.path("go");
    fs::remove_file(&go).ok();
    // The signal that is passed on ends the shell, unless that is done with.
    let wait = format!(
        "trap '' HUP; while [ ! -e {} ]; do sleep 0.01; done",
        go.display()
    );
    let (freeze, thaw) = if letter == "F" {
        (&*wait, ":")
    } else {
        (":", &*wait)
    };
    let tool = frozen.face("run", options, freeze, thaw).words("-- true");
    let running = tool.log_to(&scene.path("said")).spawn();
    wait_until("it waits", || frozen.noted().ends_with(letter));
    running
}

#[test]
fn p34_signals_while_it_is_frozen() {
    use Signal::*;
    let scene = Scene::new();
    let frozen = Frozen::new(&scene, "xfs");
    // Those that end bmapfs in order, and those that would end it at once.
    for (signal, code) in [
        (SIGTERM, Some(8)),
        (SIGINT, Some(8)),
        (SIGHUP, Some(8)),
        (SIGQUIT, None),
        (SIGUSR1, None),
        (SIGALRM, None),
    ] {
        for letter in ["F", "T"] {
            let what = format!("{signal} at {letter}");
            let running = waiting_at(&frozen, &scene, letter, "-q");
            running.signal(signal);
            fs::write(scene.path("go"), b"").unwrap();
            let status = running.finish();
            let said = fs::read_to_string(scene.path("said")).unwrap();
            assert_eq!(frozen.noted(), "FT", "{what}: {said}");
            if code.is_some() {
                assert_eq!(status.code(), code, "{what}: {said}");
                assert!(one_line(&said).contains("interrupted"), "{what}: {said}");
                assert_eq!(clones(&frozen.filesystem), [""; 0], "{what}");
            } else {
                assert!(!status.success(), "{what}: {said}");
            }
        }
    }
    // What a signal that is not served has left goes with the next run.
    let outcome = frozen.face("run", "", ":", ":").words("-- true").run();
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    frozen.expect_thawed(&outcome, "afterwards");
}

#[test]
fn p34_a_freeze_that_was_stopped_ends_with_the_run() {
    let scene = Scene::new();
    let frozen = Frozen::new(&scene, "xfs");
    // As the terminal does it to one that asks for a password.
    let tool = frozen.face("run", "-q", "kill -STOP $$", ":");
    let running = tool.words("-- true").log_to(&scene.path("said")).spawn();
    let stopped = || {
        let children = format!("/proc/{0}/task/{0}/children", running.pid());
        let children = fs::read_to_string(children).unwrap_or_default();
        children.split_whitespace().any(|child| {
            let status = fs::read_to_string(format!("/proc/{child}/status"));
            status.is_ok_and(|status| status.contains("(stopped)"))
        })
    };
    wait_until("FREEZE is stopped", stopped);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.finish().code(), Some(8));
    assert_eq!(frozen.noted(), "FT");
}

#[test]
fn p34_killed_at_each_step_it_is_frozen_still_and_else_thawed() {
    let scene = Scene::new();
    let frozen = Frozen::new(&scene, "xfs");
    for letter in ["F", "T"] {
        let running = waiting_at(&frozen, &scene, letter, &frozen.indexed());
        running.signal(Signal::SIGKILL);
        fs::write(scene.path("go"), b"").unwrap();
        running.finish();
        wait_until("the shell has ended", || frozen.noted().starts_with('F'));
        // The next one is as if there had been none, and what the dead one has left goes.
        assert_eq!(frozen.many.sync().len() % 16, 0);
        assert_eq!(clones(&frozen.filesystem), [""; 0], "killed at {letter}");
    }
}

/// Runs it with this error at this call of clone or fsync, in the thread that makes the clones.
fn with_fault(frozen: &Frozen<'_>, call: &str, error: &str, number: u32) -> Outcome {
    let face = frozen.face("run", "-q", ":", ":");
    let (traced, inject) = (
        format!("trace={call}"),
        format!("inject={call}:{error}:when={number}"),
    );
    let strace = ["-f", "-qq", "-o", "/dev/null", "-e", &traced, "-e", &inject];
    face.words("-- true").below("strace", &strace).run()
}

#[test]
fn p34_a_clone_that_fails() {
    // Most of a run is waiting for a second to end, so all are tried at once.
    let each = [
        ("fsync", "error=EIO", 2),
        ("ioctl", "error=ENOSPC", 2),
        ("fsync", "signal=QUIT", 131),
    ];
    std::thread::scope(|threads| {
        for (calls, error, code) in each {
            threads.spawn(move || {
                let scene = Scene::new();
                let frozen = Frozen::new(&scene, "xfs");
                let mut while_frozen = 0;
                // Before the first clone, and at each.
                for number in [1, 5, 6, 8, 9, 11, 12] {
                    let outcome = with_fault(&frozen, calls, error, number);
                    let what = format!("{calls} {number}: {error}");
                    assert!([code, 0].contains(&outcome.code()), "{what}: {outcome:?}");
                    let noted = frozen.noted();
                    assert!(["", "FT"].contains(&&*noted), "{what}: {outcome:?}");
                    while_frozen += usize::from(outcome.code() == code && noted == "FT");
                    if !error.contains("QUIT") {
                        assert_eq!(clones(&frozen.filesystem), [""; 0], "{what}");
                    }
                }
                assert!(while_frozen > 2, "{calls} {error}: {while_frozen}");
            });
        }
    });
}

/// Which of the first thread's ioctls make clones, by the log of strace.
fn clone_calls(log: &str) -> Vec<usize> {
    let first = log.split_whitespace().next();
    let calls = log
        .lines()
        .filter(|line| line.split_whitespace().next() == first);
    let clones = (1..)
        .zip(calls)
        .filter(|(_, line)| line.contains("FICLONE"));
    clones.map(|(number, _)| number).collect()
}

#[test]
fn p34_a_signal_between_two_clones() {
    let scene = Scene::new();
    let frozen = Frozen::new(&scene, "xfs");
    let (log, pid) = (scene.path("calls"), scene.path("pid"));
    let note = format!("echo $PPID > {}", pid.display());
    let traced = |options: &str, inject: &[&str]| {
        let out = log.to_str().unwrap();
        let strace = ["-f", "-qq", "-e", "trace=ioctl", "-o", out];
        let face = frozen.face("run", options, &note, ":").words("-- true");
        face.below("strace", &[&strace, inject].concat())
    };
    for options in ["-q", &format!("-q {}", frozen.indexed())] {
        traced(options, &[]).ok();
        let calls = clone_calls(&fs::read_to_string(&log).unwrap());
        assert_eq!(calls.len(), 4);
        let before = clones(&frozen.filesystem);
        // It takes so long, in seconds, before the second: on a busy machine the signal may come late.
        let between = [1, 10, 60].into_iter().any(|delay| {
            fs::write(&log, b"").unwrap();
            let delay = format!("inject=ioctl:delay_enter={delay}s:when={}", calls[1]);
            let running = traced(options, &["-e", &delay]);
            let running = running.log_to(&scene.path("said")).spawn();
            let calls = || clone_calls(&fs::read_to_string(&log).unwrap_or_default()).len();
            wait_until("the first clone is made", || calls() > 0);
            let bmapfs = fs::read_to_string(&pid).unwrap();
            send_signal(bmapfs.trim_end().parse().unwrap(), Signal::SIGTERM);
            let status = running.finish();
            let said = fs::read_to_string(scene.path("said")).unwrap();
            assert_eq!(status.code(), Some(8), "{said}");
            assert!(one_line(&said).contains("interrupted"), "{said}");
            assert_eq!(frozen.noted(), "FT", "{said}");
            assert_eq!(clones(&frozen.filesystem), before, "{said}");
            calls() < 4
        });
        assert!(between, "{options}");
    }
}

#[test]
fn p34_no_limit_on_open_files_keeps_it_frozen() {
    let scene = Scene::new();
    let frozen = Frozen::new(&scene, "xfs");
    let mut frozen_once = 0;
    for limit in 8..48 {
        let face = frozen.face("run", &format!("-q {}", frozen.indexed()), ":", ":");
        let nofile = format!("--nofile={limit}:{limit}");
        let outcome = face.words("-- true").below("prlimit", &[&nofile]).run();
        let noted = frozen.noted();
        assert!(
            ["", "FT"].contains(&&*noted),
            "{limit}: {noted} {outcome:?}"
        );
        if outcome.code() == 0 {
            break;
        }
        frozen_once += usize::from(noted == "FT");
    }
    assert!(
        frozen_once > 2,
        "it failed while it was frozen: {frozen_once}"
    );
}

#[test]
fn p34_without_an_index_it_waits_before_it_is_frozen() {
    let scene = Scene::new();
    let frozen = Frozen::new(&scene, "btrfs");
    let moment = |name: &str| format!("date +%s.%N > {}", scene.path(name).display());
    let seconds = |path: &Path| -> f64 {
        let text = fs::read_to_string(path).unwrap();
        text.trim().parse().unwrap()
    };
    for _ in 0..2 {
        let began = scene.path("began");
        tool("sh").args(["-c", &moment("began")]).ok();
        let tool = frozen.face("run", "", &moment("freeze"), ":");
        let outcome = tool.words("-- true").run();
        let last = outcome.stderr.lines().last().unwrap().to_owned();
        frozen.expect_thawed(&outcome, "waits");
        outcome.ok();
        // Another second than the one that it was started in, and the wait is not counted.
        let freeze = seconds(&scene.path("freeze"));
        assert!(freeze.floor() > seconds(&began).floor());
        let (_, told) = last.split_once("; frozen for ").unwrap();
        let (told, _) = told.split_once(" seconds").unwrap();
        let lasted: f64 = told.parse().unwrap();
        assert!(lasted > 0.0, "{last}");
    }
}
