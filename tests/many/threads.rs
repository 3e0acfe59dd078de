//! P33: where there can be no more threads, the work is done by those that there are.

use std::os::unix::fs::chown;
use std::{fs, process};

use crate::support::command::{Tool, tool};
use crate::support::machine::{Identity, daemons_with};
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::rig::{BLOCK, Many, image};

const NO_MORE: &str = "makes no more threads";

/// Has it run by a user of its own, who may have so many threads.
fn limited(threads: u32, tool: Tool) -> Tool {
    let user = user();
    let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
    let tool = tool.below("prlimit", &[&format!("--nproc={threads}:")]);
    tool.below("setpriv", &[&uid, &gid, "--clear-groups"])
}

/// Root has no such limit, and the users of other tests have threads. A container may know of no more than 65,536 users.
fn user() -> u32 {
    20_000 + process::id() % 40_000
}

#[test]
fn p33_a_user_who_may_have_no_more_threads() {
    let scene = Scene::new();
    let names = ["a", "b", "c"];
    let many = names
        .iter()
        .zip(1..)
        .fold(Many::new(&scene), |many, (name, seed)| {
            let backup = scene.dir(&format!("backup/{name}"));
            let (content, path) = (image(seed, 40), scene.path(name));
            fs::write(&path, &content).unwrap();
            for (number, block) in content.chunks(usize::try_from(BLOCK).unwrap()).enumerate() {
                fs::write(backup.join(format!("{number:08}")), block).unwrap();
            }
            many.with(name, &path)
        });
    chown(&many.indexes, Some(user()), Some(user())).unwrap();
    let sums = || {
        names.map(|name| {
            let tool = scene.bmapfs().words("sums -b 64K").arg(many.index_option());
            tool.arg(&many.sources[name]).ok()
        })
    };
    let scan = |threads| limited(threads, many.face("scan", "-q --threads=3 -o rescan"));
    // Not even one that takes signals.
    let said = scan(1).fails(2);
    assert!(said.contains("starting a thread"), "{said}");
    let mut first = None;
    // From two, the least, to more than there are to be: one for signals, one a source, and three that read.
    for threads in [2, 3, 9] {
        let outcome = scan(threads).run();
        let told = outcome.stderr.matches(NO_MORE).count();
        assert!(told == 1 || told == 0 && threads > 2, "{outcome:?}");
        let text = outcome.ok();
        assert_eq!(text.matches("40 blocks: ").count(), 3, "{text}");
        let expected = first.get_or_insert_with(sums);
        assert!(*expected == sums(), "{threads}");
        let verify = scene.bmapfs().words("verify -q -b 64K --threads 3");
        let verify = verify.arg(many.index_option()).arg(&many.sources["a"]);
        let outcome = limited(threads, verify.arg(many.backup.join("a"))).run();
        assert!(
            outcome.stderr.contains(NO_MORE) || threads > 2,
            "{outcome:?}"
        );
        // All but their times is right.
        assert!(
            outcome.stdout.contains("40 older") || outcome.stdout.contains("40 right"),
            "{outcome:?}"
        );
    }
}

#[test]
fn p33_a_mount_that_may_have_no_more_threads() {
    let scene = Scene::new();
    let [a, b] = ["a", "b"].map(|name| {
        let path = scene.file(name, &image(1, 3));
        Identity::User.own(&path);
        path
    });
    let indexes = scene.dir_of("indexes", Identity::User);
    let options = format!(
        "-b 64K --threads 2 --index={}/ {}",
        indexes.display(),
        a.display()
    );
    let mount = scene.mount(&b).with(&options).by(Identity::User);
    let mount = mount.up_in_foreground();
    let pid = mount.pid().to_string();
    wait_until("it serves", || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")));
        let serving = |name: &String| name.starts_with("fuser-");
        names.flatten().filter(serving).count() == 2
    });
    let limit = tool("prlimit").args(["--pid", &pid, "--nproc=1:"]);
    limit.identity(Identity::User).ok();
    for name in ["a", "b"] {
        let read = tool("sh").args(["-c", "cat $1/*", "sh"]);
        let read = read.arg(mount.point().join(name));
        let outcome = read.identity(Identity::User).run();
        assert!(!outcome.ok().is_empty(), "{name}");
    }
    let log = mount.log();
    assert_eq!(log.matches(NO_MORE).count(), 1, "{log}");
    let log = mount.unmount_for_log();
    assert!(log.contains("2 sources, 6 blocks"), "{log}");
    wait_until("it has ended", || {
        daemons_with(scene.path("").as_os_str()).is_empty()
    });
    // Both were saved.
    let scan = scene
        .bmapfs()
        .words("scan -b 64K --dry-run")
        .arg(format!("--index={}/", indexes.display()));
    let text = scan.args([&a, &b]).ok();
    assert_eq!(text.matches("3 unchanged").count(), 2, "{text}");
}
