//! One source with one index: what its stamps are, and what rsync makes of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::blocks;
use crate::support::command::{Outcome, Tool, tool};
use crate::support::mounted::Mount;
use crate::support::pattern::assert_same;
use crate::support::scene::Scene;
use crate::support::wait_until;

/// The block size of all rigs unless they say otherwise, in bytes.
pub(super) const BLOCK: u64 = 65_536;

/// A source, and the index that is used for it.
#[derive(Debug)]
pub(super) struct Rig<'a> {
    scene: &'a Scene,
    pub(super) source: PathBuf,
    pub(super) index: PathBuf,
    block: &'static str,
}

/// What a sync with rsync did.
#[derive(Debug)]
pub(super) struct Synced {
    /// The blocks that were transferred.
    pub(super) blocks: Vec<u64>,
    /// What bmapfs said.
    pub(super) said: String,
}

impl<'a> Rig<'a> {
    pub(super) fn new(scene: &'a Scene, source: &Path) -> Self {
        Self {
            scene,
            source: source.to_owned(),
            index: scene.path("a.index"),
            block: "64K",
        }
    }

    pub(super) fn with_blocks(self, block: &'static str) -> Self {
        Self { block, ..self }
    }

    pub(super) fn with_index(self, index: PathBuf) -> Self {
        Self { index, ..self }
    }

    fn options(&self) -> [String; 3] {
        let index = format!("--index={}", self.index.display());
        ["-b".to_owned(), self.block.to_owned(), index]
    }

    /// `bmapfs run` up to the `--`.
    pub(super) fn run(&self, options: &str) -> Tool {
        let tool = self.scene.bmapfs().arg("run").args(self.options());
        tool.words(options).arg(&self.source).arg("--")
    }

    /// `bmapfs scan`.
    pub(super) fn scan(&self, options: &str) -> Tool {
        self.face("scan", options)
    }

    /// A command that takes SRC and ends.
    pub(super) fn face(&self, name: &str, options: &str) -> Tool {
        let tool = self.scene.bmapfs().arg(name).args(self.options());
        tool.words(options).arg(&self.source)
    }

    /// The counts of a scan.
    pub(super) fn counts(&self, options: &str) -> BTreeMap<String, u64> {
        let text = self.scan(options).arg("--json").ok();
        assert_eq!(text.lines().count(), 1, "one object: {text}");
        whole_numbers(&text)
    }

    /// A mount that stays.
    pub(super) fn mount(&self, options: &str) -> Mount<'a> {
        let own = self.options().join(" ");
        self.scene.mount(&self.source).with(&own).with(options)
    }

    /// Every block's stamp, by name, as nanoseconds show it.
    pub(super) fn stamps(&self) -> BTreeMap<u64, i64> {
        stamps_in(
            &self
                .run("-q")
                .args([
                    "sh",
                    "-c",
                    "cd \"$1\" && cat -- * > /dev/null && stat -c '%n %.9Y' *",
                    "sh",
                    "{}",
                ])
                .ok(),
        )
    }

    /// The usual sync.
    pub(super) fn rsync(&self, options: &str, backup: &Path) -> Tool {
        self.run(options)
            .words("rsync -a --inplace --itemize-changes {}/")
            .arg(backup)
    }

    /// The usual sync.
    pub(super) fn sync(&self, backup: &Path) -> Synced {
        synced(self.rsync("", backup).run())
    }

    /// The same, for a source that nobody writes: the backup must be equal to it.
    pub(super) fn sync_well(&self, backup: &Path) -> Vec<u64> {
        let synced = self.sync(backup);
        assert!(!synced.said.contains("skipped"), "{}", synced.said);
        self.same(backup);
        synced.blocks
    }

    /// Expects that a backup is the source, byte by byte.
    pub(super) fn same(&self, backup: &Path) {
        assert_same(
            "the backup and the image",
            &blocks::concatenated(backup),
            &blocks::read(&self.source),
        );
    }

    /// Writes into the middle of a block, and makes it durable.
    pub(super) fn change(&self, block: u64, bytes: &[u8]) {
        change(&self.source, block * BLOCK + 1000, bytes);
    }

    /// Waits until the source's timestamps are old enough to be believed (P23).
    pub(super) fn wait_until_old(&self) {
        wait_until_old(&self.source);
    }
}

/// Writes, and makes it durable.
pub(super) fn change(path: &Path, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

/// Waits until a file's timestamps are old enough to be believed (P23).
pub(super) fn wait_until_old(file: &Path) {
    let stat = fs::metadata(file).unwrap();
    let newest = stat.mtime().max(stat.ctime());
    wait_until("the file's times are old", || now() > newest + 2);
}

/// The whole numbers of a flat JSON object, by name.
pub(crate) fn whole_numbers(object: &str) -> BTreeMap<String, u64> {
    let inner = object.trim().strip_prefix('{').unwrap();
    let inner = inner.strip_suffix('}').unwrap();
    let pair = |field: &str| {
        let (name, value) = field.split_once(':')?;
        let name = name.trim().strip_prefix('"')?.strip_suffix('"')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    inner.split(',').filter_map(pair).collect()
}

/// What rsync said it transferred.
pub(super) fn synced(outcome: Outcome) -> Synced {
    let said = outcome.stderr.clone();
    let blocks = transferred(&outcome.ok());
    Synced { blocks, said }
}

/// The blocks that `rsync --itemize-changes` transferred.
pub(super) fn transferred(itemized: &str) -> Vec<u64> {
    let files = itemized.lines().filter(|line| line.starts_with(">f"));
    let mut blocks: Vec<u64> = files
        .map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
        .collect();
    blocks.sort_unstable();
    blocks
}

/// Lines of a block's name and its time with nanoseconds; those must be 0.
pub(super) fn stamps_in(text: &str) -> BTreeMap<u64, i64> {
    let parse = |line: &str| {
        let (name, time) = line.split_once(' ').unwrap();
        let seconds = time.strip_suffix(".000000000");
        let seconds = seconds.unwrap_or_else(|| panic!("not a whole second: {line}"));
        (name.parse().unwrap(), seconds.parse().unwrap())
    };
    text.lines().map(parse).collect()
}

/// The stamps in a mount that is there.
pub(super) fn stamps_at(point: &Path) -> BTreeMap<u64, i64> {
    stamps_in(
        &tool("sh")
            .args(["-c", "stat -c '%n %.9Y' *"])
            .within(point)
            .ok(),
    )
}

/// The time, in seconds.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}
