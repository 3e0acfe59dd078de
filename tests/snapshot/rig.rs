//! One image on a file system with reflinks, its index and its backup.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use bmapfs::changes::{ChangeSource, ImageState};
use bmapfs::geometry::Span;
use bmapfs::snapshot::{Purpose, Snapshot};

use crate::support::command::Tool;
use crate::support::filesystem::Filesystem;
use crate::support::mounted::Mount;
use crate::support::pattern::{assert_same, pattern};
use crate::support::scene::Scene;
use crate::support::wait_until;

/// Bytes of a block.
pub(super) const BLOCK: u64 = 65_536;
/// Blocks of the image, none of which is zeros.
pub(super) const BLOCKS: u64 = 100;

/// File systems with reflinks.
pub(super) const KINDS: [&str; 2] = ["xfs", "btrfs"];

/// Does the same on each of them, at the same time: most of a run is waiting for a second to end.
pub(super) fn on_each_kind(test: impl Fn(&str) + Sync) {
    thread::scope(|threads| {
        for kind in KINDS {
            let test = &test;
            threads.spawn(move || test(kind));
        }
    });
}

#[derive(Debug)]
pub(super) struct Rig<'a> {
    pub(super) scene: &'a Scene,
    pub(super) filesystem: Filesystem,
    pub(super) image: PathBuf,
    pub(super) index: PathBuf,
    pub(super) backup: PathBuf,
    /// How many so far.
    changes: Cell<u64>,
}

/// What a sync did.
#[derive(Debug, PartialEq)]
pub(super) struct Synced {
    /// The blocks that rsync transferred.
    pub(super) blocks: Vec<u64>,
    /// Bytes that bmapfs read of the image.
    pub(super) read: u64,
    /// What it said.
    pub(super) said: String,
}

impl<'a> Rig<'a> {
    pub(super) fn new(scene: &'a Scene, kind: &str) -> Self {
        let filesystem = Filesystem::new(scene, kind);
        let image = filesystem.path("a.img");
        fs::write(&image, pattern(5, usize::try_from(BLOCKS * BLOCK).unwrap())).unwrap();
        File::open(&image).unwrap().sync_all().unwrap();
        Self {
            index: scene.path("a.index"),
            backup: scene.dir("backup"),
            changes: Cell::new(1000),
            filesystem,
            image,
            scene,
        }
    }

    /// The whole image, in bytes.
    pub(super) fn all() -> u64 {
        BLOCKS * BLOCK
    }

    /// `bmapfs WORD --snapshot` with these options, up to the image.
    fn bmapfs(&self, word: &str, options: &str) -> Tool {
        self.scene
            .bmapfs()
            .words(word)
            .words("--snapshot -b 64K")
            .arg(format!("--index={}", self.index.display()))
            .words(options)
            .arg(&self.image)
    }

    /// `bmapfs run`, up to the command.
    pub(super) fn run(&self, options: &str) -> Tool {
        self.bmapfs("run", options).arg("--")
    }

    pub(super) fn scan(&self, options: &str) -> Tool {
        self.bmapfs("scan", options)
    }

    pub(super) fn rsync(&self, options: &str) -> Tool {
        self.run(options)
            .words("rsync -a --inplace --itemize-changes {}/")
            .arg(&self.backup)
    }

    /// A mount of the image by its index.
    pub(super) fn mount(&self, options: &str) -> Mount<'_> {
        let index = format!(
            "--snapshot -b 64K --index={} {options}",
            self.index.display()
        );
        self.scene.mount(&self.image).with(&index)
    }

    /// Syncs, and expects that the backup is the image then, and that one clone is there.
    pub(super) fn sync(&self) -> Synced {
        let synced = self.sync_with("");
        assert_eq!(self.clones().len(), 1, "{:?}", self.clones());
        synced
    }

    pub(super) fn sync_with(&self, options: &str) -> Synced {
        let outcome = self.rsync(options).run();
        let said = outcome.stderr.clone();
        let listed = outcome.ok();
        let mut blocks: Vec<u64> = listed
            .lines()
            .filter(|line| line.starts_with(">f"))
            .map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
            .collect();
        blocks.sort_unstable();
        let content = fs::read(&self.image).unwrap();
        assert_same(
            "the backup",
            &crate::support::blocks::concatenated(&self.backup),
            &content,
        );
        let summary = said.lines().last().unwrap();
        let (before, _) = summary.split_once(" bytes read").unwrap();
        let read = before.rsplit(' ').next().unwrap().parse().unwrap();
        Synced { blocks, read, said }
    }

    /// Changes a few bytes of each of these blocks, each time to others.
    pub(super) fn change(&self, blocks: &[u64]) {
        let file = File::options().write(true).open(&self.image).unwrap();
        for block in blocks {
            self.changes.set(self.changes.get() + 1);
            let bytes = pattern(self.changes.get(), 300);
            file.write_all_at(&bytes, block * BLOCK + 12_345).unwrap();
        }
    }

    /// A snapshot for this index, without the program around it.
    pub(super) fn take_for(&self, index: &Path) -> Snapshot {
        let source = File::open(&self.image).unwrap();
        Snapshot::take(&source, &self.image, Some(index), Purpose::Keep).unwrap()
    }

    /// What an index says after this snapshot has become its reference.
    pub(super) fn keep(&self, snapshot: &Snapshot) -> ImageState {
        self.keep_beside(snapshot, 0)
    }

    /// The same, beside as many of this index that are in use.
    pub(super) fn keep_beside(&self, snapshot: &Snapshot, used: usize) -> ImageState {
        let state = snapshot.now().unwrap();
        let ImageState::Clone(identity) = &state else {
            panic!("{state:?}");
        };
        let of_index = &identity.name[..identity.name.len() - 8];
        // A process that another test is just starting has all open files of this one for a moment, and so its locks.
        wait_until("the last clone is removed", || {
            snapshot.saved();
            let clones = self.clones();
            let files = clones.iter().filter(|name| {
                let path = self.image.with_file_name(name);
                name.starts_with(of_index)
                    && path.symlink_metadata().is_ok_and(|stat| stat.is_file())
            });
            files.count() == 1 + used
        });
        state
    }

    /// The blocks that are read if a snapshot is taken now, and `then` was the last. `None`: all.
    pub(super) fn since(&self, index: &Path, then: &ImageState) -> Option<Vec<u64>> {
        let changes = self.take_for(index).since(Some(then))?;
        let touched = |block: &u64| {
            let start = block * BLOCK;
            changes.ranges.touch(Span::new(start, start + BLOCK))
        };
        Some((0..BLOCKS).filter(touched).collect())
    }

    /// The names of all clones beside the image.
    pub(super) fn clones(&self) -> Vec<String> {
        let entries = fs::read_dir(self.image.parent().unwrap()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".bmapfs-")).collect()
    }

    /// The path of the only clone.
    pub(super) fn clone(&self) -> PathBuf {
        let clones = self.clones();
        assert_eq!(clones.len(), 1, "{clones:?}");
        self.image.with_file_name(&clones[0])
    }
}
