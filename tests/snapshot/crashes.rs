//! Killed between any two steps: the next run is right, and nothing piles up.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::command::tool;
use crate::support::pattern::Random;
use crate::support::scene::Scene;

use super::rig::{KINDS, Rig};

/// Most of a run is waiting for a second to end, so several are tried at once, each with a rig of its own: killed at
/// every one of these system calls that steps end with, or every second, third... from one on.
const JOBS: [(&str, u64, usize); 11] = [
    ("ioctl", 1, 5),
    ("ioctl", 2, 5),
    ("ioctl", 3, 5),
    ("ioctl", 4, 5),
    ("ioctl", 5, 5),
    ("fsync", 1, 2),
    ("fsync", 2, 2),
    ("flock", 1, 2),
    ("flock", 2, 2),
    ("fchmod utimensat", 1, 1),
    ("unlinkat renameat", 1, 1),
];

/// Scans, killed at this one of its calls. `false`: it made fewer, and was not killed.
fn scan_killed_at(call: &str, number: u64, rig: &Rig<'_>) -> bool {
    let traced = format!("trace={call}");
    let inject = format!("inject={call}:signal=KILL:when={number}");
    let outcome = tool("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &traced, "-e", &inject])
        .arg(rig.scene.program())
        .words("scan --snapshot -b 64K")
        .arg(format!("--index={}", rig.index.display()))
        .arg(&rig.image)
        .run();
    assert!([0, 137].contains(&outcome.code()), "{outcome:?}");
    outcome.code() == 137
}

/// How often it was killed.
fn killed_at_steps(kind: &str, calls: &str, first: u64, by: usize) -> u64 {
    let scene = Scene::new();
    let rig = Rig::new(&scene, kind);
    rig.sync();
    let mut random = Random::new(first);
    let mut killed = 0;
    for call in calls.split_whitespace() {
        for number in (first..).step_by(by) {
            rig.change(&[random.below(100)]);
            if !scan_killed_at(call, number, &rig) {
                break;
            }
            killed += 1;
            let clones = rig.clones();
            assert!(clones.len() <= 2, "{kind}, {call} {number}: {clones:?}");
            if random.below(2) == 0 {
                rig.change(&[random.below(100)]);
            }
            // The backup is checked by this, and that one clone is there.
            rig.sync();
        }
    }
    killed
}

#[test]
fn killed_at_each_step() {
    thread::scope(|threads| {
        let all: Vec<_> = JOBS
            .iter()
            .zip(KINDS.iter().cycle())
            .map(|((calls, first, by), kind)| {
                threads.spawn(move || killed_at_steps(kind, calls, *first, *by))
            })
            .collect();
        let killed: u64 = all.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(killed >= 25, "it was killed {killed} times only");
    });
}

fn ended_at_any_time(signal: Signal, seed: u64) {
    let scene = Scene::new();
    let rig = Rig::new(&scene, KINDS[usize::try_from(seed % 2).unwrap()]);
    rig.sync();
    let mut random = Random::new(seed);
    for _ in 0..4 {
        rig.change(&[random.below(100), random.below(100)]);
        let running = rig.scan("-o rescan").log_to(&scene.path("log")).spawn();
        thread::sleep(Duration::from_micros(random.below(60_000)));
        running.signal(signal);
        running.finish();
        let most = if signal == Signal::SIGTERM { 1 } else { 2 };
        assert!(
            (1..=most).contains(&rig.clones().len()),
            "{:?}",
            rig.clones()
        );
        rig.sync();
    }
}

#[test]
fn killed_and_ended_at_any_time() {
    thread::scope(|threads| {
        for seed in 0..4 {
            let signal = if seed < 2 {
                Signal::SIGKILL
            } else {
                Signal::SIGTERM
            };
            threads.spawn(move || ended_at_any_time(signal, seed));
        }
    });
}
