//! What is no map, or not one of this image: one line, and nothing is done.

use std::fs;

use crate::support::mounted::one_line;
use crate::support::scene::Scene;

use super::{BLOCK, Nights};

#[test]
fn a_map_that_is_not_right_changes_nothing() {
    let scene = Scene::new();
    let nights = Nights::new(&scene, 4, 0);
    let rig = &nights.rig;
    let saved = fs::read(&rig.index).unwrap();
    let ran = scene.path("ran");
    let delta = |inside: &str| {
        format!("<superblock data_block_size=\"128\"><diff>{inside}</diff></superblock>")
    };
    let nbd = format!(
        "{{\"offset\":0,\"length\":{},\"type\":0,\"description\":",
        4 * BLOCK
    );
    for (text, reason) in [
        (String::new(), "it is empty"),
        (
            "thin_delta: no such device\n".to_owned(),
            "must be what thin_delta",
        ),
        ("0 512".to_owned(), "line 1: it has no end of line"),
        ("0 100\n".to_owned(), "100 is not a multiple of 512"),
        (
            "512 512\n0 512\n".to_owned(),
            "line 2: the range at 0 begins before",
        ),
        (
            "0 1024\n512 512\n".to_owned(),
            "line 2: the range at 512 begins before",
        ),
        ("0 0\n".to_owned(), "line 1: the range at 0 is empty"),
        (
            "<superblock data_block_size=\"128\"><diff><same".to_owned(),
            "cut off",
        ),
        (
            delta("").replace("</superblock>", ""),
            "line 1: the map is cut off",
        ),
        ("<blocks></blocks>".to_owned(), "use -o era-block-size=SIZE"),
        ("[{\"offset\":0,".to_owned(), "the map is cut off"),
        (format!("[{nbd}\"data\"}}]"), "is not of a dirty bitmap"),
        (
            format!("[{nbd}\"clean\"}}]").replace("262144", "131072"),
            "it ends at byte 131072",
        ),
    ] {
        let map = scene.file("map", text.as_bytes());
        let options = format!("--changed {} --since n1 --as n2", map.display());
        let run = rig.run(&options).arg("touch").arg(&ran).fails(32);
        let said = one_line(&run);
        let expected = format!("bmapfs: reading what changed: {}: ", map.display());
        assert!(
            said.starts_with(&expected) && said.contains(reason),
            "{text}: {said}"
        );
        let scan = one_line(&rig.scan(&options).fails(32));
        assert_eq!(scan, said);
        let mount = rig.mount(&options).refused(32);
        assert_eq!(mount, said);
        assert_eq!(fs::read(&rig.index).unwrap(), saved, "{text}");
    }
    assert!(!ran.exists());
    for (map, reason) in [("missing", "No such file"), ("backup", "Is a directory")] {
        let options = format!("--changed {} --since n1", scene.path(map).display());
        let said = one_line(&rig.scan(&options).fails(32));
        assert!(said.contains(reason), "{said}");
    }
    let map = scene.file("map", b"# nothing\n");
    let options = format!(
        "-o era-block-size=64K --changed {} --since n1",
        map.display()
    );
    let said = one_line(&rig.scan(&options).fails(32));
    assert!(said.contains("era-block-size has no meaning"), "{said}");
    let said = one_line(&rig.run("-w --as n2").arg("true").fails(1));
    assert!(said.contains("--as n2 and -w exclude each other"), "{said}");
    // A directory of blocks has no states.
    let index = format!("--index={}", scene.path("b.index").display());
    let reverse = scene.bmapfs().arg("run").args([&index, "--as", "n1"]);
    let said = one_line(&reverse.arg(&nights.backup).words("-- true").fails(1));
    assert!(said.contains("SRC is a directory of block files"), "{said}");
}
