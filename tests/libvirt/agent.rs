//! `--freeze` alone: the guest agent freezes the file systems for the moment, and thaws them whatever happens.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::support::command::{Tool, tool};
use crate::support::mounted::one_line;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::guest::Guest;

#[test]
fn p35_the_guest_agent_freezes_for_the_moment() {
    let scene = Scene::new();
    let guest = Guest::new(&scene);
    let rig = &guest.rig;
    guest.expect_it_writes();
    rig.sync();
    for disk in guest.backed_up() {
        assert!(disk.needs_recovery, "it is in use: {disk:?}");
    }
    for _ in 0..2 {
        let run = rig
            .bmapfs("run")
            .words("--freeze -- rsync -a --inplace --delete {}/");
        let outcome = run.arg(&rig.backup).run();
        let said = outcome.stderr.clone();
        outcome.ok();
        assert!(said.contains("; frozen for "), "{said}");
        assert!(!guest.is_frozen());
        guest.expect_it_writes();
        rig.expect_nothing_left(1);
        let [a, b] = guest.backed_up();
        assert!(!a.needs_recovery && !b.needs_recovery, "{a:?} {b:?}");
        // The guest may have been between its two writes.
        assert!(
            b.count > 0 && [0, 1].contains(&(a.count - b.count)),
            "{a:?} {b:?}"
        );
    }
}

/// virsh, for bmapfs: it notes what freezes, begins and thaws; and then fails, or waits for the file `go`.
struct Noting<'a, 's> {
    guest: &'a Guest<'s>,
    log: PathBuf,
    /// Whether the one that is to wait has done its work.
    done: PathBuf,
    go: PathBuf,
}

const STEPS: [&str; 3] = ["domfsfreeze", "backup-begin", "domfsthaw"];

impl<'a, 's> Noting<'a, 's> {
    fn new(guest: &'a Guest<'s>) -> Self {
        let scene = guest.rig.scene;
        Self {
            guest,
            log: scene.path("steps"),
            done: scene.path("done"),
            go: scene.path("go-on"),
        }
    }

    /// `bmapfs run`, up to the command; `then` is what virsh does at this step.
    fn run(&self, step: &str, then: &str) -> Tool {
        let rig = &self.guest.rig;
        for old in [&self.log, &self.done, &self.go] {
            fs::remove_file(old).ok();
        }
        let search = |path: &str| {
            std::env::split_paths(path)
                .map(|place| place.join("virsh"))
                .find(|file| file.exists())
        };
        let real = search(&std::env::var("PATH").unwrap()).unwrap();
        let script = format!(
            "real() {{ '{}' \"$@\"; }}\n\
             case \" $* \" in {}\n*) real \"$@\"; exit ;; esac\n\
             echo $step >>'{}'\n\
             if [ $step = '{step}' ]; then {then}; else real \"$@\"; fi",
            real.display(),
            STEPS
                .map(|step| format!("*' {step} '*) step={step} ;;"))
                .join(" "),
            self.log.display(),
        );
        let virsh = rig.scene.script("wrapped", "virsh", &script);
        let first = virsh.parent().unwrap().display();
        let path = format!("{first}:/usr/sbin:/usr/bin:/sbin:/bin");
        rig.bmapfs("run").words("-q --freeze --").env("PATH", path)
    }

    /// What virsh does at a step that waits; it also ends with the test.
    fn wait(&self) -> String {
        let (done, go) = (self.done.display(), self.go.display());
        format!(
            "real \"$@\"; touch '{done}'; while [ -e '{done}' ] && [ ! -e '{go}' ]; do sleep 0.02; done"
        )
    }

    fn noted(&self) -> Vec<String> {
        let noted = fs::read_to_string(&self.log).unwrap_or_default();
        noted.lines().map(str::to_owned).collect()
    }
}

#[test]
fn p35_a_signal_while_the_agent_has_frozen() {
    use Signal::*;
    let scene = Scene::new();
    let guest = Guest::new(&scene);
    let noting = Noting::new(&guest);
    let said = scene.path("said");
    // Those that end bmapfs in order, and those that would end it at once.
    for (signal, code) in [(SIGTERM, Some(8)), (SIGQUIT, None), (SIGUSR1, None)] {
        for step in STEPS {
            let what = format!("{signal} at {step}");
            let run = noting.run(step, &noting.wait()).arg("true").log_to(&said);
            let running = run.spawn();
            wait_until("it waits", || noting.done.exists());
            assert_eq!(guest.is_frozen(), step != "domfsthaw", "{what}");
            running.signal(signal);
            if code.is_some() && step == "domfsfreeze" {
                // It is passed on: the answer is lost.
                wait_until("it is thawed", || noting.noted().len() == 2);
            }
            fs::write(&noting.go, b"").unwrap();
            let status = running.finish();
            let said = fs::read_to_string(&said).unwrap();
            assert!(!guest.is_frozen(), "{what}: {said}");
            if code.is_some() {
                assert_eq!(status.code(), code, "{what}: {said}");
                assert!(one_line(&said).contains("interrupted"), "{what}: {said}");
                guest.rig.expect_nothing_left(0);
            } else {
                assert!(!status.success(), "{what}: {said}");
            }
            let expected: &[&str] = match (step, code) {
                ("domfsfreeze", Some(_)) => &["domfsfreeze", "domfsthaw"],
                _ => &STEPS,
            };
            assert_eq!(noting.noted(), expected, "{what}: {said}");
        }
    }
    // What a signal that is not served has left goes with the next run.
    guest.rig.sync();
    guest.expect_it_writes();
}

#[test]
fn p35_a_freeze_by_the_agent_that_fails() {
    let scene = Scene::new();
    let guest = Guest::new(&scene);
    let noting = Noting::new(&guest);
    let rig = &guest.rig;
    let marker = scene.path("marker");
    let failing = "echo error: no luck >&2; exit 1";
    // The answer may be lost, and what was asked for done.
    let lost = format!("real \"$@\"; {failing}");
    for (step, then, steps) in [
        ("domfsfreeze", &*lost, vec![STEPS[0], STEPS[2]]),
        (
            "backup-begin",
            failing,
            vec![STEPS[0], STEPS[1], STEPS[1], STEPS[2]],
        ),
    ] {
        let said = noting.run(step, then).arg("touch").arg(&marker).fails(32);
        assert!(one_line(&said).contains("no luck"), "{said}");
        assert!(!guest.is_frozen(), "{step}");
        assert_eq!(noting.noted(), steps);
        assert!(!marker.exists(), "nothing is copied");
        rig.expect_nothing_left(0);
    }
    // The command runs, and all of it is said.
    let said = noting
        .run("domfsthaw", failing)
        .arg("touch")
        .arg(&marker)
        .fails(32);
    assert!(
        said.contains("virsh domfsthaw: no luck: what was frozen may be so still; thaw it by hand"),
        "{said}"
    );
    assert!(marker.exists() && guest.is_frozen());
    assert_eq!(noting.noted(), STEPS);
    tool("virsh")
        .words("-c qemu:///system domfsthaw")
        .arg(&rig.name)
        .ok();
    // It was thawed by somebody else.
    noting
        .run("domfsthaw", "real \"$@\"; real \"$@\"")
        .arg("true")
        .ok();
    guest.expect_it_writes();
    // Nobody was asked: nothing is frozen.
    guest.kill_agent();
    let said = noting.run("", ":").arg("true").fails(32);
    let said = one_line(&said);
    assert!(
        said.ends_with("QEMU guest agent is not connected: nothing is copied"),
        "{said}"
    );
    assert_eq!(noting.noted(), STEPS[..1]);
}
