//! P33: if one source cannot be used nothing is mounted or run, it is named, and nothing has happened to the others.

use std::fs::{self, File};

use crate::support::command::tool;
use crate::support::devices::LoopDevice;
use crate::support::mounted::one_line;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{BLOCK, Many, image, places};

#[test]
fn p33_one_that_is_refused() {
    let scene = Scene::new();
    let device = LoopDevice::new(&scene.file("c.img", &image(3, 10)));
    let b = scene.file("b.img", &image(2, 10));
    let many = Many::new(&scene)
        .with("a", &scene.file("a.img", &image(1, 10)))
        .with("b", &b)
        .with("c", device.path());
    many.sync();
    let content = fs::read(&b).unwrap();
    let others = many.without("b");
    let marker = scene.path("marker");
    // The others may have been scanned already when it is refused.
    let refused = |code: i32, what: &str, options: &str, words: &str| {
        for (name, block) in places("a:4 c:5") {
            many.change(&name, block, what.as_bytes());
        }
        let outcome = many.run(options).arg("touch").arg(&marker).run();
        assert_eq!(outcome.code(), code, "{what}: {outcome:?}");
        let line = one_line(&outcome.stderr);
        assert!(
            line.contains("b.img") && line.contains(words),
            "{what}: {line}"
        );
        assert!(!marker.exists(), "{what}");
        assert_eq!(others.sync(), places("a:4 c:5"), "{what}");
    };
    let resize = |len: u64| {
        File::options()
            .write(true)
            .open(&b)
            .unwrap()
            .set_len(len)
            .unwrap();
    };
    resize(5 * BLOCK);
    refused(32, "shrunk", "-q", "-o shrunk");
    resize(0);
    refused(32, "empty", "-q", "-o shrunk");
    fs::remove_file(&b).unwrap();
    refused(32, "gone", "-q", "No such file");
    fs::create_dir(&b).unwrap();
    refused(1, "a directory", "-q", "directories of block files");
    fs::remove_dir(&b).unwrap();
    fs::write(&b, &content).unwrap();
    // It is there again, though its index does not know that it is the same.
    assert!(many.sync().iter().all(|(name, _)| name == "b"));
    let lock = File::open(&b).unwrap();
    nix::fcntl::Flock::lock(lock.try_clone().unwrap(), nix::fcntl::FlockArg::LockShared)
        .map(std::mem::forget)
        .unwrap();
    refused(32, "locked by flock", "-q -w", "");
    let unlocked = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::Unlock);
    drop(unlocked);
    let mut qemu = tool("qemu-io").args(["-f", "raw"]).arg(&b).spawn_talking();
    let locks = || fs::read_to_string("/proc/locks").unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&b).unwrap());
    wait_until("QEMU has its lock", || {
        locks().contains(&format!(":{inode} "))
    });
    refused(32, "locked by QEMU", "-q -w", "");
    drop(qemu.child().stdin.take());
    assert!(qemu.finish().success());
    assert_eq!(many.sync(), []);
}

#[test]
fn p33_one_that_is_there_twice() {
    let scene = Scene::new();
    let many = Many::new(&scene)
        .with("a", &scene.file("a.img", &image(1, 5)))
        .with("b", &scene.file("b.img", &image(2, 5)));
    many.sync();
    let marker = scene.path("marker");
    let link = scene.path("link.img");
    fs::hard_link(&many.sources["a"], &link).unwrap();
    let twice = [
        (vec!["a.img", "b.img", "sub/a.img"], "both be called a.img"),
        (vec!["x=a.img", "y=b.img", "x=a.img"], "both be called x"),
        (
            vec!["a.img", "b.img", "link.img"],
            "are the same file or device",
        ),
        (
            vec!["a.img", "b.img", "again=a.img"],
            "are the same file or device",
        ),
    ];
    fs::create_dir(scene.path("sub")).unwrap();
    fs::write(scene.path("sub/a.img"), b"x").unwrap();
    for (sources, words) in twice {
        let run = scene
            .bmapfs()
            .words("run -q -b 64K")
            .arg(many.index_option());
        let run = run.args(&sources).args(["--", "touch"]).arg(&marker);
        let said = one_line(&run.within(&scene.path("")).fails(1));
        assert!(said.contains(words), "{said}");
        assert!(!marker.exists());
    }
    assert_eq!(many.sync(), []);
}
