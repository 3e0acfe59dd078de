//! P33: two hundred sources cost about as much as one that is as large as all of them.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::support::scene::Scene;

use super::rig::{BLOCK, Many};

const COUNT: u64 = 200;
/// Blocks of each.
const BLOCKS: u64 = 40;

/// Two hundred images of which everything is data, of one file that has all of it.
fn crowd(scene: &Scene) -> Many<'_> {
    let directory = scene.dir("images");
    (0..COUNT).fold(Many::new(scene), |many, number| {
        let path = directory.join(format!("{number:03}.img"));
        let file = fs::File::create(&path).unwrap();
        let content = vec![1 + u8::try_from(number).unwrap(); 65_536];
        for block in 0..BLOCKS {
            file.write_all_at(&content, block * BLOCK).unwrap();
        }
        many.with(&format!("{number:03}"), &path)
    })
}

/// Prints the largest resident set that the bmapfs has had whose command this is, in KiB.
const STATUS: &str = "sed -n 's/VmHWM:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$PPID/status";

fn peak(text: &str) -> u64 {
    text.trim_end().lines().last().unwrap().parse().unwrap()
}

#[test]
fn p33_two_hundred_sources() {
    let scene = Scene::new();
    let many = crowd(&scene);
    // What most systems allow, unless it is asked for more.
    let nofile = "--nofile=1024:";
    let script = format!("ulimit -n; ls $1; cat $1/*/* | wc -c; {STATUS}");
    let run = |options: &str| {
        let tool = many.run(options).args(["sh", "-ec", &script, "sh", "{}"]);
        tool.below("prlimit", &[nofile]).run()
    };
    // All of it is read before the command is started.
    for (options, read) in [("-o rescan", COUNT * BLOCKS * BLOCK), ("", 0)] {
        let outcome = run(options);
        let last = outcome.stderr.lines().last().unwrap();
        let blocks = COUNT * BLOCKS;
        assert!(
            last.contains(&format!("{COUNT} sources, {blocks} blocks, ")),
            "{last}"
        );
        assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
        if read > 0 {
            assert!(last.contains(&format!(" {read} bytes read")), "{last}");
        }
        let text = outcome.ok();
        let mut lines = text.lines();
        assert_eq!(
            lines.next(),
            Some("1024"),
            "the command's limit is the caller's"
        );
        let names: Vec<&str> = lines.by_ref().take(200).collect();
        assert!(names.iter().copied().eq(many.sources.keys()), "{names:?}");
        assert_eq!(lines.next(), Some(&*(blocks * BLOCK).to_string()));
        let most = 64 << 10;
        assert!(peak(&text) < most, "{options}: {} KiB", peak(&text));
    }
}
