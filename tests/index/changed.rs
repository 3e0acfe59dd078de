//! Maps of changes that other programs make: `--changed`, `--since`, `--as`.

mod nights;
mod refused;
mod tools;

use std::path::Path;

use crate::support::command::tool;
use crate::support::pattern::pattern;
use crate::support::scene::Scene;

use super::rig::{BLOCK, Rig, Synced, synced};

/// Others that are read to check a map.
const CHECKS: u64 = 64;

/// A rig with an image of so many blocks, all data, and `extra` bytes; its index is of state n1, and the backup has
/// it.
struct Nights<'a> {
    rig: Rig<'a>,
    backup: std::path::PathBuf,
}

impl<'a> Nights<'a> {
    fn new(scene: &'a Scene, blocks: u64, extra: u64) -> Self {
        let len = usize::try_from(blocks * BLOCK + extra).unwrap();
        let image = scene.file("a.img", &pattern(1, len));
        let rig = Rig::new(scene, &image);
        let backup = scene.dir("backup");
        let nights = Self { rig, backup };
        let first = nights.sync("--as n1");
        let all = blocks + u64::from(extra > 0);
        assert_eq!(first.blocks.len() as u64, all);
        assert_eq!(bytes_read(&first), 0, "the copy was the one pass");
        nights
    }

    /// The usual sync; the backup must be equal to the image.
    fn sync(&self, options: &str) -> Synced {
        let synced = synced(self.rig.rsync(options, &self.backup).run());
        self.rig.same(&self.backup);
        synced
    }

    /// A sync that is told of exactly what changed: these blocks and no others are read and transferred.
    fn sync_told(&self, options: &str, blocks: &[u64]) {
        let synced = self.sync(options);
        assert_eq!(synced.blocks, blocks, "{}", synced.said);
        let read = blocks.len() as u64 + CHECKS;
        let size = std::fs::metadata(&self.rig.source).unwrap().len();
        let short = (BLOCK - size % BLOCK) % BLOCK;
        // The last block may be among those that were read, and be short.
        let whole = read * BLOCK;
        let bytes = bytes_read(&synced);
        assert!(bytes == whole || bytes == whole - short, "{}", synced.said);
        assert!(!synced.said.contains("everything is read"));
    }
}

/// What the line that a run ends with says.
fn bytes_read(synced: &Synced) -> u64 {
    let (before, _) = synced
        .said
        .split_once(" bytes read")
        .unwrap_or_else(|| panic!("{}", synced.said));
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

/// A map in lines: all of these blocks.
fn lines(blocks: &[u64]) -> String {
    let line = |block: &u64| format!("{} {BLOCK}\n", block * BLOCK);
    "# blocks\n".to_owned() + &blocks.iter().map(line).collect::<String>()
}

/// The standard output of a program, as a file of the scene.
fn output(scene: &Scene, name: &str, program: &str, words: &str, file: &Path) -> String {
    let text = tool(program).words(words).arg(file).ok();
    let path = scene.file(name, text.as_bytes());
    path.display().to_string()
}
