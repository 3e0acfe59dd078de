//! Backups night after night: with a map each, with one that failed, with a map that is wrong.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::blocks;
use crate::support::command::tool;
use crate::support::scene::Scene;
use crate::support::wait_until;

use super::{BLOCK, CHECKS, Nights, Rig, assert_read, bytes_read, lines};
use crate::index::rig::{change, whole_numbers};

#[test]
fn only_what_changed_is_read_and_copied() {
    let scene = Scene::new();
    let nights = Nights::new(&scene, 200, 1000);
    let rig = &nights.rig;
    for block in [3, 4, 150] {
        rig.change(block, b"changed");
    }
    let told = [3, 4, 77, 150];
    let map = scene.file("map", lines(&told).as_bytes());
    let options = format!("--changed {} --since n1 --as n2", map.display());

    // First only told what would be done.
    let saved = fs::read(&rig.index).unwrap();
    let plan = rig.scan(&format!("{options} --dry-run -v")).ok();
    let would =
        "4 of 201 blocks would be read, 262144 bytes with their holes, and 71 others to recheck";
    assert_eq!(plan, format!("3-4\n77\n150\n{would}\n"));
    let brief = rig.scan(&format!("{options} --dry-run")).ok();
    assert_eq!(brief, format!("{would}\n"));
    let object = rig.scan(&format!("{options} --dry-run --json")).ok();
    let ranges = "\"ranges\":[[3,4],[77,77],[150,150]]";
    assert!(object.contains(ranges), "{object}");
    let counts = whole_numbers(&object.replace(&format!(",{ranges}"), ""));
    for (key, expected) in [
        ("blocks", 201),
        ("read", 4),
        ("bytes", 4 * BLOCK),
        ("checked", CHECKS + 7),
    ] {
        assert_eq!(counts[key], expected, "{key}");
    }
    let other = rig
        .scan(&format!("{} --dry-run", options.replace("n1", "n0")))
        .run();
    assert!(
        other
            .stderr
            .contains("since 'n0', and the index is of 'n1'")
    );
    assert!(other.ok().starts_with("201 of 201 blocks would be read"));
    assert_eq!(
        fs::read(&rig.index).unwrap(),
        saved,
        "a dry run saves nothing"
    );

    let synced = nights.sync(&options);
    assert_eq!(synced.blocks, [3, 4, 150]);
    assert_read(&synced, 4 + CHECKS, 201);

    // A night in which nothing happened, and one in which only the end changed.
    let nothing = scene.file("map", b"# nothing\n");
    let options = format!("--changed {} --since n2 --as n3", nothing.display());
    nights.sync_told(&options, &[]);
    change(&rig.source, 200 * BLOCK + 10, b"the end");
    let end = format!("{} 1000\n", 200 * BLOCK);
    let map = scene.file("map", end.as_bytes());
    let options = format!("--changed {} --since n3 --as n4", map.display());
    let synced = nights.sync(&options);
    assert_eq!(synced.blocks, [200]);
    assert_read(&synced, 1 + CHECKS, 201);

    // The same by bmapfs scan; and a mount of another day reads nothing more.
    rig.change(9, b"changed");
    let map = scene.file("map", lines(&[9]).as_bytes());
    let options = format!("--changed {} --since n4 --as n5", map.display());
    let counts = rig.counts(&options);
    assert_eq!((counts["changed"], counts["unchanged"]), (1, 200));
    let nothing = scene.file("nothing", b"# nothing\n");
    let options = format!("--changed {} --since n5 --as n6", nothing.display());
    let synced = nights.sync(&options);
    assert_eq!(synced.blocks, [9], "what the scan found");
    assert_read(&synced, CHECKS, 201);
}

#[test]
fn a_night_that_failed_hides_nothing() {
    let scene = Scene::new();
    let nights = Nights::new(&scene, 100, 0);
    let rig = &nights.rig;
    // The second night bmapfs was never run: its state is that of no index.
    rig.change(5, b"second night");
    rig.change(6, b"third night");
    let map = scene.file("map", lines(&[6]).as_bytes());
    let third = format!("--changed {} --since n2 --as n3", map.display());
    let synced = nights.sync(&third);
    assert_eq!(synced.blocks, [5, 6]);
    assert_eq!(bytes_read(&synced), 100 * BLOCK);
    let said = "the changes are those since 'n2', and the index is of 'n1': everything is read";
    assert!(synced.said.contains(said), "{}", synced.said);

    // The fourth night the backup failed after bmapfs had looked: the fifth has the blocks of both.
    rig.change(7, b"fourth night");
    let map = scene.file("map", lines(&[7]).as_bytes());
    let fourth = format!("--changed {} --since n3 --as n4", map.display());
    assert_eq!(rig.run(&fourth).arg("false").run().code(), 1);
    rig.change(8, b"fifth night");
    let map = scene.file("map", lines(&[8]).as_bytes());
    let synced = nights.sync(&format!("--changed {} --since n4 --as n5", map.display()));
    assert_eq!(synced.blocks, [7, 8]);

    // The sixth night it was killed while the backup ran.
    rig.change(9, b"sixth night");
    let map = scene.file("map", lines(&[9]).as_bytes());
    let sixth = format!("--changed {} --since n5 --as n6", map.display());
    // It ends with its standard input.
    let mut running = rig
        .run(&sixth)
        .arg("cat")
        .log_to(&scene.path("log"))
        .spawn();
    wait_until("the index is of the sixth night", || {
        let index = fs::read(&rig.index).unwrap();
        index.windows(4).any(|word| word == b"\"n6\"")
    });
    running.child().kill().unwrap();
    drop(running);
    rig.change(10, b"seventh night");
    let map = scene.file("map", lines(&[10]).as_bytes());
    let synced = nights.sync(&format!("--changed {} --since n6 --as n7", map.display()));
    assert!(synced.blocks.contains(&9) && synced.blocks.contains(&10));
}

#[test]
fn a_wrong_map_is_an_error_in_the_log_and_everything_is_read() {
    let scene = Scene::new();
    let nights = Nights::new(&scene, 60, 0);
    nights.rig.change(5, b"changed");
    nights.rig.change(50, b"not told");
    let map = scene.file("map", lines(&[5]).as_bytes());
    let synced = nights.sync(&format!("--changed {} --since n1 --as n2", map.display()));
    assert_eq!(synced.blocks, [5, 50]);
    let said = "error: ";
    assert!(synced.said.contains(said), "{}", synced.said);
    let said = "block 00000050 is not what it was, although the list of changes does not name it";
    assert!(synced.said.contains(said), "{}", synced.said);
    // Block 5, up to 59 others to check, and then everything.
    let read = bytes_read(&synced);
    assert!((61 * BLOCK..=(59 + 60) * BLOCK).contains(&read), "{read}");
    // The state that was read has its name all the same.
    nights.rig.change(6, b"changed");
    let map = scene.file("map", lines(&[6]).as_bytes());
    let synced = nights.sync(&format!("--changed {} --since n2 --as n3", map.display()));
    assert_eq!(synced.blocks, [6]);
    assert_eq!(bytes_read(&synced), 60 * BLOCK);
}

#[test]
fn what_has_no_name_is_read_in_full() {
    let scene = Scene::new();
    let nights = Nights::new(&scene, 80, 0);
    let rig = &nights.rig;
    let map = scene.file("map", lines(&[5]).as_bytes());
    let options = format!("--changed {} --since n1 --as n2", map.display());
    let would_read = |blocks: u64, said: &str| {
        // Or nothing would be read, by its times.
        rig.change(5, b"changed");
        let outcome = rig.scan(&format!("{options} --dry-run")).run();
        assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
        let plan = outcome.ok();
        let expected = format!("{blocks} of 80 blocks would be read");
        assert!(plan.starts_with(&expected), "{plan}");
    };
    let named = || {
        rig.run("--as n1 -o rescan").arg("true").ok();
        would_read(1, "65536 bytes may have changed since 'n1'");
    };
    let nameless = "the index is of a state without a name: everything is read";
    // A mount, a writer or a scan that was told no name.
    for (command, words) in [("run", "-o rescan"), ("run", "-w"), ("scan", "-o rescan")] {
        named();
        match command {
            "run" => rig.run(words).arg("true").ok(),
            _ => rig.scan(words).ok(),
        };
        would_read(80, nameless);
    }
    // One that looked again.
    let mounted = rig.mount("--as n1 -o rescan").up_in_foreground();
    mounted.signal(Signal::SIGHUP);
    wait_until("it looked again", || {
        mounted.log().contains("looked at again")
    });
    mounted.unmount();
    would_read(80, nameless);
    // The image was written while it was mounted: nobody knows what state was read.
    let write = format!("printf x >> {}", rig.source.display());
    let outcome = rig.run("--as n1").args(["sh", "-c", &write]).run();
    let said = "written since the scan began: the next one reads everything";
    assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
    let outcome = rig.scan(&format!("{options} --dry-run")).run();
    assert!(outcome.stderr.contains(nameless), "{}", outcome.stderr);
    assert!(outcome.ok().starts_with("81 of 81 blocks"));
    // -o rescan reads it all in any case.
    named_by_scan(rig);
    let outcome = rig.scan(&format!("{options} -o rescan --json")).ok();
    assert_eq!(whole_numbers(&outcome)["bytes_read"], 80 * BLOCK + 1);
}

/// A scan gives a name, too.
fn named_by_scan(rig: &Rig<'_>) {
    rig.scan("--as n1 -o rescan").ok();
    let index = fs::read(&rig.index).unwrap();
    assert!(index.windows(4).any(|word| word == b"\"n1\""));
}

#[test]
fn a_map_comes_from_anywhere() {
    let scene = Scene::new();
    let nights = Nights::new(&scene, 80, 0);
    let rig = &nights.rig;
    let here = scene.dir("here");
    for (number, file) in [(1, "-"), (2, "map"), (3, "/dev/stdin")] {
        let (since, now) = (format!("n{number}"), format!("n{}", number + 1));
        rig.change(number, b"changed");
        let map = lines(&[number]);
        fs::write(here.join("map"), &map).unwrap();
        // In the background, where stdin and the directory are others.
        let point = scene.dir("mnt");
        let mount = scene
            .bmapfs()
            .words("-b 64K")
            .arg(format!("--index={}", rig.index.display()))
            .args(["--changed", file, "--since", &since, "--as", &now])
            .args([&rig.source, &point])
            .within(&here);
        let said = if file == "map" {
            mount.run()
        } else {
            mount.input(map.as_bytes()).run()
        };
        assert!(said.stderr.contains("65536 bytes may have changed"));
        said.ok();
        let out = tool("rsync")
            .words("-a --inplace --itemize-changes")
            .arg(format!("{}/", point.display()))
            .arg(&nights.backup)
            .ok();
        assert_eq!(crate::index::rig::transferred(&out), [number]);
        wait_until("it is unmounted", || {
            tool("umount").arg(&point).run().code() == 0
        });
        wait_until("the daemon is gone", || {
            blocks::names(&point).is_empty() && rig.scan("--dry-run -q").run().code() == 0
        });
        rig.same(&nights.backup);
    }
}
