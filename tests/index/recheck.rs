//! P29: what is taken on the word of others is read all the same, a part each time.

use std::fs;

use crate::support::command::tool;
use crate::support::filesystem::Filesystem;
use crate::support::pattern::pattern;
use crate::support::scene::{Scene, poke};

use super::rig::{BLOCK, Rig, wait_until_old, whole_numbers};

/// So many that the 64 that are chosen at random seldom are the wrong one.
const BLOCKS: usize = 3000;

#[test]
fn p29_a_block_that_a_list_lacks_is_found_within_as_many_runs_as_there_are_parts() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(1, BLOCKS * 4096));
    for (parts, lacked) in [(32, 2999), (5, 4), (1, 1500)] {
        let index = scene.path(format!("{parts}.index"));
        let rig = Rig::new(&scene, &image).with_blocks("4K").with_index(index);
        rig.scan("--as n0").ok();
        poke(&image, lacked * 4096 + 7, b"changed");
        let nothing = scene.file("map", b"# nothing\n");
        let found = (0..parts).position(|night| {
            let (then, now) = (format!("n{night}"), format!("n{}", night + 1));
            let options = format!("--since {then} --as {now} -o recheck={parts}");
            let tool = rig.scan(&options).arg("--json").arg("--changed").arg(&nothing);
            let outcome = tool.run();
            let said = outcome.stderr.clone();
            let counts = whole_numbers(&outcome.ok());
            if counts["changed"] == 0 {
                let least = (BLOCKS / parts) as u64 * 4096;
                assert!(counts["rechecked"] >= least, "{counts:?}");
                assert_eq!(counts["rechecked"], counts["bytes_read"]);
                return false;
            }
            let error = format!(
                "block {lacked:08} is not what it was, although the list of changes does not name it; everything is read"
            );
            assert!(said.contains(&error), "{said}");
            assert_eq!((counts["changed"], counts["unchanged"]), (1, BLOCKS as u64 - 1));
            true
        });
        assert!(found.is_some(), "{parts} runs have not found it");
    }
}

#[test]
fn p29_an_image_that_was_not_written_is_read_once_in_as_many_runs() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(1, 10 * 65_536 + 500));
    let rig = Rig::new(&scene, &image);
    rig.wait_until_old();
    rig.scan("").ok();
    assert_eq!(rig.counts("")["rechecked"], 0, "not by default");
    let counts = [(); 4].map(|()| rig.counts("-o recheck=4"));
    let read: Vec<u64> = counts.iter().map(|counts| counts["rechecked"]).collect();
    // Blocks 0, 4 and 8; 1, 5 and 9; 2, 6 and the short one; 3 and 7.
    let all = [3 * BLOCK, 3 * BLOCK, 2 * BLOCK + 500, 2 * BLOCK];
    assert_eq!(read, all);
    assert!(
        counts
            .iter()
            .all(|counts| counts["bytes_read"] == counts["rechecked"])
    );
    assert_eq!(
        rig.counts("-o recheck=4")["rechecked"],
        all[0],
        "from the start"
    );
    // A dry run has no part: it is the next one's.
    assert_eq!(rig.counts("--dry-run -o recheck=4")["unchanged"], 11);
    assert_eq!(rig.counts("-o recheck=4")["rechecked"], all[1]);
    assert_eq!(rig.counts("-o recheck=0")["rechecked"], 0);
}

#[test]
fn p29_what_changed_below_the_file_system_is_found() {
    let scene = Scene::new();
    let filesystem = Filesystem::new(&scene, "ext4");
    let image = filesystem.path("a.img");
    fs::write(&image, pattern(1, 10 * 65_536)).unwrap();
    tool("sync").arg("-f").arg(&image).ok();
    wait_until_old(&image);
    let rig = Rig::new(&scene, &image);
    rig.scan("").ok();
    assert_eq!(rig.counts("")["bytes_read"], 0);
    // A disk that forgets: a bit of block 6, and no time moves.
    filesystem.corrupt(&image, 6 * BLOCK + 10);
    let read = tool("dd").arg(format!("if={}", image.display()));
    read.words("iflag=nocache count=0 status=none").ok();
    let nights = (0..4).map(|_| rig.scan("-o recheck=4").run());
    let said: String = nights.map(|night| night.stderr).collect();
    let error = "block 00000006 is not what it was, although nothing shows that the image was written; everything is read";
    assert_eq!(said.matches(error).count(), 1, "{said}");
    assert_eq!(rig.counts("-o rescan")["changed"], 0, "it has a new time");
}

#[test]
fn p29_a_list_that_tells_of_more_than_there_is_is_not_trusted() {
    let scene = Scene::new();
    let image = scene.file("a.img", &pattern(1, 4 * 65_536));
    let rig = Rig::new(&scene, &image);
    rig.scan("--as n1").ok();
    rig.change(2, b"changed");
    let delta = "<superblock data_block_size=\"128\"><diff><different begin=\"4\" length=\"1\"/></diff></superblock>";
    for (map, byte, state) in [
        (format!("{} 512\n", 4 * BLOCK), 262_655, 1),
        (delta.to_owned(), 327_679, 2),
    ] {
        let map = scene.file("map", map.as_bytes());
        let options = format!(
            "--changed {} --since n{state} --as n{}",
            map.display(),
            state + 1
        );
        let outcome = rig.run(&options).arg("true").run();
        let said = outcome.stderr.clone();
        outcome.ok();
        let warning = format!("tells of byte {byte}, and the image has 262144 bytes");
        assert!(
            said.contains("warning") && said.contains(&warning),
            "{said}"
        );
        assert!(
            said.contains("everything is read") && said.contains(" 262144 bytes read"),
            "{said}"
        );
    }
    // The state has its name all the same.
    rig.change(3, b"changed");
    let map = scene.file("map", format!("{} {BLOCK}\n", 3 * BLOCK).as_bytes());
    let counts = rig.counts(&format!("--changed {} --since n3 --as n4", map.display()));
    assert_eq!(counts["changed"], 1);
    assert!(counts["bytes_read"] <= 4 * BLOCK);
}
