//! P33: several sources through one rsync, there and back, and each as if it were alone.

use std::fs;

use crate::support::blocks;
use crate::support::command::{Tool, tool};
use crate::support::devices::LoopDevice;
use crate::support::pattern::assert_same;
use crate::support::scene::Scene;

use super::rig::{Many, image, places, transferred};

#[test]
fn p33_two_images_and_a_device_there_and_back() {
    let scene = Scene::new();
    let device = LoopDevice::new(&scene.file("c.img", &image(3, 100)));
    let many = Many::new(&scene)
        .with("a", &scene.file("a.img", &image(1, 100)))
        .with("b", &scene.file("b.img", &image(2, 150)))
        .with("c", device.path());
    assert_eq!(many.sync().len(), 350);
    assert_eq!(many.sync(), []);
    for (name, block) in places("a:3 b:7 b:149 c:50") {
        many.change(&name, block, b"changed");
    }
    assert_eq!(many.sync(), places("a:3 b:7 b:149 c:50"));
    assert_eq!(many.sync(), []);
    // Alone, with the same index, it is as if nothing else had ever been.
    let alone = |name: &str| {
        let run = scene.bmapfs().words("run -b 64K").arg(many.index_option());
        let run = run.arg(&many.sources[name]).arg("--");
        let outcome = run
            .words("rsync -a --inplace --itemize-changes {}/")
            .arg(many.backup.join(name))
            .run();
        let listed = outcome.ok();
        listed.lines().filter(|line| line.starts_with(">f")).count()
    };
    assert_eq!([alone("a"), alone("b"), alone("c")], [0; 3]);
    many.change("b", 9, b"alone");
    many.change("c", 9, b"together");
    assert_eq!(alone("b"), 1);
    assert_eq!(many.sync(), places("c:9"));
    assert_eq!(many.without("a").sync(), []);
    // All of them back, over what somebody has spoilt.
    for name in ["a", "b", "c"] {
        for block in [0, 42, 98] {
            many.change(name, block, b"spoilt");
        }
    }
    let restore = |options: &str| {
        let run = many
            .run("-w -o strict")
            .words("rsync -a --inplace --itemize-changes");
        let source = format!("{}/", many.backup.display());
        transferred(run.words(options).arg(source).arg("{}/").run())
    };
    // What was changed since the last scan has another time.
    let spoilt = places("a:0 a:42 a:98 b:0 b:42 b:98 c:0 c:42 c:98");
    assert_eq!(restore(""), spoilt);
    many.same();
    assert_eq!(restore("--delete"), []);
    assert_eq!(many.sync(), []);
}

#[test]
fn p33_the_whole_of_it_in_both_directions_with_delete() {
    let scene = Scene::new();
    let (a, b) = (image(1, 5), image(2, 6));
    let many = Many::new(&scene)
        .with("a", &scene.file("a.img", &a))
        .with("b", &scene.file("b.img", &b));
    // The target has what the mount does not have: blocks, directories, files at the top.
    fs::create_dir_all(many.backup.join("a/below")).unwrap();
    fs::create_dir_all(many.backup.join("gone")).unwrap();
    for name in ["a/00000017", "gone/00000000", "file", "b"] {
        fs::write(many.backup.join(name), b"x").unwrap();
    }
    many.run("")
        .words("rsync -a --delete {}/")
        .arg(&many.backup)
        .ok();
    many.same();
    assert_eq!(blocks::names(&many.backup), ["a", "b"]);
    // Back, also without --inplace, and with the times of the top.
    fs::write(many.sources["a"].as_path(), vec![0; a.len()]).unwrap();
    let back = || {
        let run = many.run("-w").words("rsync -a --delete --itemize-changes");
        run.arg(format!("{}/", many.backup.display())).arg("{}/")
    };
    assert_eq!(transferred(back().run()).len(), 5);
    many.same();
    assert_eq!(back().ok(), "", "not even an attribute");
    // What the mounts do not have is not made there.
    fs::create_dir(many.backup.join("c")).unwrap();
    fs::write(many.backup.join("c/00000000"), b"x").unwrap();
    assert_eq!(back().run().code(), 23);
    many.same();
}

#[test]
fn p33_the_end_tells_of_each_and_of_all() {
    let scene = Scene::new();
    let many = Many::new(&scene)
        .with("a", &scene.file("a.img", &image(1, 5)))
        .with("b", &scene.file("b.img", &image(2, 6)));
    let report = scene.path("report");
    let run = |options: &str, command: &str| {
        let options = format!("{options} --report {}", report.display());
        let run = many.run(&options).args(["sh", "-c", command, "sh", "{}"]);
        run.arg(&many.backup).run()
    };
    let field = |name: &str| -> Vec<u64> {
        let text = fs::read_to_string(&report).unwrap();
        let key = format!("\"{name}\":");
        let all = text.split(&key).skip(1);
        all.map(|rest| rest.split([',', '}']).next().unwrap().parse().unwrap())
            .collect()
    };
    // P26: a command that leaves one source alone.
    let outcome = run("-o strict", "rsync -a \"$1\"/a \"$2\"");
    assert_eq!(outcome.code(), 9, "{outcome:?}");
    let b = many.sources["b"].display();
    assert!(
        outcome
            .stderr
            .contains(&format!("{b}: the command skipped 6 of 6")),
        "{outcome:?}"
    );
    assert_eq!(outcome.stderr.matches("the command skipped").count(), 1);
    let last = outcome
        .stderr
        .lines()
        .find(|line| line.contains("2 sources, "));
    let last = last.unwrap();
    assert!(
        last.contains("11 blocks") && last.contains("6 skipped"),
        "{last}"
    );
    // The sums, then each.
    assert_eq!(field("blocks"), [11, 5, 6]);
    assert_eq!(field("skipped"), [6, 0, 6]);
    assert_eq!(field("status"), [9]);
    let text = fs::read_to_string(&report).unwrap();
    for word in [
        "\"sources\":[{\"name\":\"a\",",
        "a.img+1\"",
        "\"frozen_seconds\":null",
    ] {
        assert!(text.contains(word), "{text}");
    }
    // The other command's status is as good as ever.
    assert_eq!(run("", "exit 5").code(), 5);
    assert_eq!(run("-o strict", "rsync -a \"$1\"/ \"$2\"").code(), 0);
    many.same();
    // A scan of both: a line each, or one object.
    many.change("b", 3, b"changed");
    let json = many.face("scan", "--json").ok();
    let counts: Vec<&str> = json.split("\"changed\":").skip(1).collect();
    assert!(
        counts[0].starts_with("0,") && counts[1].starts_with("1,"),
        "{json}"
    );
    many.change("b", 4, b"changed");
    let dry = many.face("scan", "--dry-run -v").ok();
    let wanted = format!("{}: 5 blocks: 0 changed", many.sources["a"].display());
    assert!(
        dry.starts_with(&wanted) && dry.contains(&format!("{b}:\n4\n6 blocks: 1 changed")),
        "{dry}"
    );
    assert_eq!(many.face("scan", "-v").ok().lines().nth(2), Some("4"));
    assert_eq!(
        transferred(run("", "rsync -a -i \"$1\"/ \"$2\"")),
        places("b:3 b:4")
    );
}

#[test]
fn p33_backup_programs_know_each_file_when_a_source_is_added() {
    let scene = Scene::new();
    let many = Many::new(&scene)
        .with("a", &scene.file("a.img", &image(1, 10)))
        .with("c", &scene.file("c.img", &image(2, 12)));
    let env = |tool: Tool| {
        tool.env("RESTIC_PASSWORD", "secret")
            .env("RESTIC_REPOSITORY", scene.path("restic"))
            .env("RESTIC_CACHE_DIR", scene.path("cache"))
    };
    env(tool("restic").words("init -q")).ok();
    let backup = |many: &Many<'_>| {
        let text = env(many.run("").words("restic backup --json {}")).ok();
        let summary = crate::index::rig::whole_numbers(text.lines().last().unwrap());
        ["files_new", "files_changed", "files_unmodified"].map(|key| summary[key])
    };
    assert_eq!(backup(&many), [22, 0, 0]);
    let more = many.without("a");
    let more = more.with("a", &many.sources["a"]);
    let more = more.with("b", &scene.file("b.img", &image(3, 5)));
    assert_eq!(backup(&more), [5, 0, 22]);
    more.change("c", 4, b"changed");
    assert_eq!(backup(&more), [0, 1, 26]);
    assert_eq!(backup(&many), [0, 0, 22]);
    env(tool("restic")
        .words("restore latest -q --target")
        .arg(scene.path("back")))
    .ok();
    for name in ["a", "c"] {
        let found = tool("find")
            .arg(scene.path("back"))
            .args(["-type", "d", "-name", name])
            .ok();
        let restored = blocks::concatenated(found.trim_end().as_ref());
        assert_same(name, &restored, &blocks::read(&many.sources[name]));
    }
}

#[test]
fn p33_borg_reads_what_changed_of_each_and_at_most_the_newest_again() {
    let scene = Scene::new();
    let many = Many::new(&scene)
        .with("a.img", &scene.file("a.img", &image(1, 10)))
        .with("b.img", &scene.file("b.img", &image(2, 12)));
    let borg = |tool: Tool| {
        tool.env("BORG_BASE_DIR", scene.path("borg-base"))
            .env("BORG_REPO", scene.path("borg"))
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
    };
    borg(tool("borg").words("init -e none")).ok();
    // By ctime, size and inode it knows a file again; U is one that it skipped.
    let backup = |many: &Many<'_>, name: &str| {
        let create = many.run("").words("borg create --list --filter AMCEU");
        let outcome = borg(create.arg(format!("::{name}")).arg("{}")).run();
        let said = outcome.stderr.clone();
        outcome.ok();
        let (mut read, mut skipped) = (Vec::new(), 0);
        for line in said.lines() {
            let mut names = line.rsplit('/');
            let Some(block) = names.next().and_then(|name| name.parse().ok()) else {
                continue;
            };
            match line.get(..2) {
                Some("U ") => skipped += 1,
                Some("A " | "M " | "C ") => read.push((names.next().unwrap().to_owned(), block)),
                _ => panic!("{line}"),
            }
        }
        read.sort();
        (read, skipped)
    };
    let (read, skipped) = backup(&many, "one");
    assert_eq!((read.len(), skipped), (22, 0));
    // It forgets those that are as new as the newest of all.
    let (newest, skipped) = backup(&many, "two");
    assert!(newest.len() <= 2, "unchanged, but read: {newest:?}");
    assert_eq!(newest.len() + skipped, 22);
    many.change("a.img", 3, b"changed");
    many.change("b.img", 7, b"changed");
    let (mut read, _) = backup(&many, "three");
    read.retain(|block| !newest.contains(block));
    assert_eq!(read, places("a.img:3 b.img:7"));
    // Another source is new, and nothing else.
    let more = many.with("c.img", &scene.file("c.img", &image(3, 5)));
    let (read, skipped) = backup(&more, "four");
    let new = read.iter().filter(|(name, _)| name == "c.img");
    assert_eq!(new.count(), 5);
    assert!(read.len() <= 7 && skipped >= 20, "{read:?}");
    let target = scene.dir("restored");
    borg(tool("borg").words("extract ::four").within(&target)).ok();
    for (name, source) in &more.sources {
        let found = tool("find")
            .arg(&target)
            .args(["-type", "d", "-name", name]);
        let restored = blocks::concatenated(found.ok().trim_end().as_ref());
        assert_same(name, &restored, &blocks::read(source));
    }
}

#[test]
fn p33_inode_numbers_stay_when_the_source_keeps_its_id() {
    let scene = Scene::new();
    let inodes = |name: &str, options: &str| {
        let path = scene.file(name, &image(1, 3));
        let many = Many::new(&scene).with("web", &path);
        let stat = ["stat", "--format=%i", "{}/web", "{}/web/00000002"];
        many.run(options).args(stat).ok()
    };
    let monday = inodes("monday", "-o id=web");
    assert_eq!(inodes("tuesday", "-o id=web"), monday);
    assert_ne!(inodes("tuesday", "-o id=mail"), monday);
    assert_ne!(inodes("monday", ""), monday);
}
