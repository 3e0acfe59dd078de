//! Several sources, their indexes in one directory, and what rsync makes of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::support::blocks;
use crate::support::command::{Outcome, Tool};
use crate::support::filesystem::Filesystem;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;

/// The block size of all rigs, in bytes.
pub(super) const BLOCK: u64 = 65_536;

/// The name of a source's directory, and a block.
pub(super) type Place = (String, u64);

/// Sources that are mounted together.
#[derive(Debug)]
pub(super) struct Many<'a> {
    pub(super) scene: &'a Scene,
    /// By the names of their directories.
    pub(super) sources: BTreeMap<String, PathBuf>,
    /// Where their indexes are.
    pub(super) indexes: PathBuf,
    pub(super) backup: PathBuf,
}

impl<'a> Many<'a> {
    pub(super) fn new(scene: &'a Scene) -> Self {
        Self {
            scene,
            sources: BTreeMap::new(),
            indexes: scene.dir("indexes"),
            backup: scene.dir("backup"),
        }
    }

    /// One more.
    pub(super) fn with(mut self, name: &str, source: &Path) -> Self {
        self.sources.insert(name.to_owned(), source.to_owned());
        self
    }

    /// Without one of them.
    pub(super) fn without(&self, name: &str) -> Many<'a> {
        let mut sources = self.sources.clone();
        sources.remove(name).unwrap();
        Many {
            sources,
            indexes: self.indexes.clone(),
            backup: self.backup.clone(),
            ..*self
        }
    }

    /// NAME=SRC of each.
    pub(super) fn typed(&self) -> Vec<OsString> {
        let typed = self.sources.iter().map(|(name, source)| {
            let mut typed = OsString::from(format!("{name}="));
            typed.push(source);
            typed
        });
        typed.collect()
    }

    pub(super) fn index_option(&self) -> String {
        format!("--index={}/", self.indexes.display())
    }

    /// `bmapfs WORD`, with the indexes, up to the sources.
    pub(super) fn face(&self, word: &str, options: &str) -> Tool {
        let tool = self.scene.bmapfs().words(word).words("-b 64K");
        let tool = tool.arg(self.index_option()).words(options);
        tool.args(self.typed())
    }

    /// `bmapfs run` up to the command.
    pub(super) fn run(&self, options: &str) -> Tool {
        self.face("run", options).arg("--")
    }

    pub(super) fn rsync(&self, options: &str) -> Tool {
        self.run(options)
            .words("rsync -a --inplace --itemize-changes {}/")
            .arg(&self.backup)
    }

    /// Syncs, expects that each backup is its source then, and gives the blocks that were transferred.
    pub(super) fn sync(&self) -> Vec<Place> {
        let outcome = self.rsync("").run();
        assert!(!outcome.stderr.contains("skipped"), "{}", outcome.stderr);
        let places = transferred(outcome);
        self.same();
        places
    }

    /// Expects that each backup is its source.
    pub(super) fn same(&self) {
        for (name, source) in &self.sources {
            assert_same(
                name,
                &blocks::concatenated(&self.backup.join(name)),
                &blocks::read(source),
            );
        }
    }

    /// Writes into the middle of a block, and makes it durable.
    pub(super) fn change(&self, name: &str, block: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(&self.sources[name]);
        let file = file.unwrap();
        file.write_all_at(bytes, block * BLOCK + 1000).unwrap();
        file.sync_all().unwrap();
    }
}

/// An image without a zero block, the last of them shorter.
pub(super) fn image(seed: u64, count: u64) -> Vec<u8> {
    pattern(seed, usize::try_from(count * BLOCK - 3000).unwrap())
}

/// Four images in a file system with reflinks: a, b, c, d.
pub(super) fn four_images<'a>(scene: &'a Scene, filesystem: &Filesystem) -> Many<'a> {
    let names = ["a", "b", "c", "d"];
    names
        .iter()
        .zip(1..)
        .fold(Many::new(scene), |many, (name, seed)| {
            let path = filesystem.path(&format!("{name}.img"));
            fs::write(&path, image(seed, 4)).unwrap();
            File::open(&path).unwrap().sync_all().unwrap();
            many.with(name, &path)
        })
}

/// The names of all clones in a file system.
pub(super) fn clones(filesystem: &Filesystem) -> Vec<String> {
    let entries = fs::read_dir(filesystem.point()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(".bmapfs-")).collect()
}

/// The files that `rsync --itemize-changes` transferred.
pub(super) fn transferred(outcome: Outcome) -> Vec<Place> {
    let listed = outcome.ok();
    let files = listed.lines().filter(|line| line.starts_with(">f"));
    let mut places: Vec<Place> = files
        .map(|line| {
            let path = line.split_whitespace().nth(1).unwrap();
            let (name, block) = path.split_once('/').unwrap();
            (name.to_owned(), block.parse().unwrap())
        })
        .collect();
    places.sort();
    places
}

/// Places from a text like `a:1 b:20`.
pub(super) fn places(text: &str) -> Vec<Place> {
    let place = |word: &str| {
        let (name, block) = word.split_once(':').unwrap();
        (name.to_owned(), block.parse().unwrap())
    };
    text.split_whitespace().map(place).collect()
}
