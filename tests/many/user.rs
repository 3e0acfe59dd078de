//! P33: an ordinary user's runs, which all mount at one place.

use std::fs;
use std::path::Path;

use crate::support::command::Tool;
use crate::support::machine::{Identity, mounts_at};
use crate::support::mounted::one_line;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::image;

#[test]
fn p33_two_runs_of_one_user_at_once() {
    let scene = Scene::new();
    let images = ["a", "b", "c", "d"].map(|name| {
        let path = scene.file(name, &image(1, 3));
        Identity::User.own(&path);
        path
    });
    let runtime = scene.dir_of("runtime", Identity::User);
    let run = |sources: &[&Path]| -> Tool {
        let tool = scene.bmapfs().words("run -q -b 64K").args(sources);
        let tool = tool.identity(Identity::User).within(&runtime);
        tool.env("XDG_RUNTIME_DIR", &runtime).arg("--")
    };
    let [a, b, c, d] = images.each_ref().map(std::path::PathBuf::as_path);
    let place = runtime.join("bmapfs/images");
    let (told, go) = (scene.dir_of("told", Identity::User), scene.path("go"));
    let script = "mkdir $1/ready; while [ -e $1 -a ! -e $2 ]; do sleep 0.01; done; cat {}/a/* {}/b/* > $1/copy; ls {}";
    let first = run(&[a, b]).args(["sh", "-ec", script, "sh"]);
    let mut first = first.args([&told, &go]).spawn_talking();
    wait_until("it runs", || told.join("ready").exists());
    // Whichever sources the other one has.
    for others in [&[c, d][..], &[a, b], &[b, a], &[a, b, c]] {
        let said = run(others).args(["touch", "marker"]).fails(32);
        let line = one_line(&said);
        assert!(line.contains(place.to_str().unwrap()), "{line}");
        assert!(!runtime.join("marker").exists());
        assert_eq!(mounts_at(&place).len(), 1);
    }
    // One without a name has a place of its own.
    run(&[c]).arg("true").ok();
    fs::write(&go, b"").unwrap();
    let mut listed = String::new();
    let out = first.child().stdout.take();
    std::io::Read::read_to_string(&mut out.unwrap(), &mut listed).unwrap();
    assert!(first.finish().success());
    assert_eq!(listed, "a\nb\n");
    let both = [fs::read(a).unwrap(), fs::read(b).unwrap()].concat();
    assert!(fs::read(told.join("copy")).unwrap() == both);
    assert!(!place.exists() && mounts_at(&place).is_empty());
    // The next one is free to go.
    assert_eq!(run(&[c, d]).args(["ls", "{}"]).ok(), "c\nd\n");
}

#[test]
fn p33_what_a_killed_run_of_a_user_has_left_is_no_obstacle() {
    let scene = Scene::new();
    let runtime = scene.dir_of("runtime", Identity::User);
    for name in ["a", "b"] {
        Identity::User.own(&scene.file(name, &image(1, 3)));
    }
    let run = || {
        let tool = scene.bmapfs().words("run -q -b 64K");
        let tool = tool.args([scene.path("a"), scene.path("b")]);
        let tool = tool.identity(Identity::User).within(&runtime);
        tool.env("XDG_RUNTIME_DIR", &runtime).arg("--")
    };
    let script = "echo $$ > pid.new; mv pid.new pid; exec sleep 600";
    let running = run().args(["sh", "-ec", script]).spawn();
    let pid = runtime.join("pid");
    wait_until("it runs", || pid.exists());
    running.signal(nix::sys::signal::Signal::SIGKILL);
    running.finish();
    let command: u32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    crate::support::command::send_signal(command, nix::sys::signal::Signal::SIGKILL);
    assert_eq!(mounts_at(&runtime.join("bmapfs/images")).len(), 1, "left");
    assert_eq!(run().args(["ls", "{}"]).ok(), "a\nb\n");
    assert!(!runtime.join("bmapfs/images").exists());
}
