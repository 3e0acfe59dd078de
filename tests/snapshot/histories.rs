//! Random histories of an image between two snapshots: what is declared unchanged is compared with the truth, byte
//! by byte. `BMAPFS_HISTORIES` is how many there are on each file system, for a longer run.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use bmapfs::changes::{ChangeSource, ImageState};
use bmapfs::geometry::Span;
use bmapfs::snapshot::{Purpose, Snapshot};

use crate::support::command::{Running, tool};
use crate::support::devices::LoopDevice;
use crate::support::filesystem::Filesystem;
use crate::support::pattern::{Random, assert_same, pattern};
use crate::support::scene::Scene;

/// Histories on each file system, unless the environment says otherwise.
const HISTORIES: u64 = 120;
const UNIT: u64 = 4096;
const LARGEST: u64 = 512 << 10;

/// Where histories happen.
struct Stage<'a> {
    scene: &'a Scene,
    filesystem: Filesystem,
    image: PathBuf,
    index: PathBuf,
    is_btrfs: bool,
    random: Random,
}

/// An earlier state: what the index would know of it, where its clone is, and its bytes.
struct Then {
    state: ImageState,
    clone: PathBuf,
    content: Vec<u8>,
}

/// What came of some histories, in bytes.
#[derive(Debug, Default)]
struct Tally {
    histories: u64,
    differing: u64,
    declared: u64,
    all: u64,
}

impl<'a> Stage<'a> {
    fn new(scene: &'a Scene, kind: &str, seed: u64) -> Self {
        let filesystem = Filesystem::new(scene, kind);
        Self {
            image: filesystem.path("a.img"),
            index: scene.path("a.index"),
            filesystem,
            scene,
            is_btrfs: kind == "btrfs",
            random: Random::new(seed),
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random.below(end)
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn size(&self) -> u64 {
        fs::metadata(&self.image).unwrap().len()
    }

    /// A new image in place of the old one; with holes, or compressible, or neither.
    fn make_image(&mut self) {
        fs::remove_file(&self.image).ok();
        let size = self.below(LARGEST) + u64::from(!self.chance(8));
        let size = if self.chance(2) {
            size / UNIT * UNIT
        } else {
            size
        };
        let mut bytes = pattern(self.random.next(), usize::try_from(size).unwrap());
        for piece in bytes.chunks_mut(32_768) {
            match self.random.below(4) {
                0 => piece.fill(0),
                1 => piece.fill(7),
                _ => {}
            }
        }
        File::create(&self.image).unwrap();
        if self.is_btrfs && self.chance(3) {
            tool("chattr").arg("+C").arg(&self.image).ok();
        }
        let source = self.scene.file("content", &bytes);
        let sparse = format!(
            "--sparse={}",
            if self.chance(2) { "always" } else { "never" }
        );
        tool("cp")
            .args(["--reflink=never", &sparse])
            .arg(source)
            .arg(&self.image)
            .ok();
    }

    /// A part of the image, on whole units or not, as arguments of `xfs_io`; `len` at least 1.
    fn part(&mut self, aligned: bool) -> (u64, u64) {
        let size = self.size().max(1);
        let (start, len) = (self.below(size + size / 8 + 1), 1 + self.below(100_000));
        if aligned || self.chance(2) {
            (start / UNIT * UNIT, len.next_multiple_of(UNIT))
        } else {
            (start, len)
        }
    }

    /// One operation, as commands of `xfs_io`. What the file system refuses is not done.
    fn operation(&mut self, clone: &Path) -> Vec<String> {
        let byte = 1 + self.below(255);
        let size = self.size();
        let choice = self.below(18);
        let (at, len) = self.part(matches!(choice, 6..=13));
        let (other, _) = self.part(true);
        let (image, clone) = (self.image.display().to_string(), clone.display());
        match choice {
            0..=2 => vec![format!("pwrite -S {byte} {at} {len}")],
            3 => vec![format!("pwrite -S {byte} {at} {len}"), "fsync".to_owned()],
            4 => {
                let end = size.min(at + len);
                let map = format!("mmap -rw 0 {size}");
                let write = format!("mwrite -S {byte} {at} {}", end.saturating_sub(at));
                vec![map, write, "munmap".to_owned()]
            }
            5 => vec![format!("fpunch {at} {len}")],
            6 => vec![format!("falloc -k {at} {len}")],
            7 => vec![format!(
                "falloc {at} {}",
                len.min(LARGEST.saturating_sub(at))
            )],
            8 => vec![format!("fzero -k {at} {len}")],
            9 => vec![format!("fcollapse {at} {len}")],
            10 if size < LARGEST => vec![format!("finsert {at} {len}")],
            11 => vec![format!("reflink {image} {other} {at} {len}")],
            12 => vec![format!("reflink {clone} {other} {at} {len}")],
            13 => {
                let twice = |at| format!("pwrite -S {byte} {at} {len}");
                let dedupe = format!("dedupe {image} {at} {other} {len}");
                vec![twice(at), twice(other), "fsync".to_owned(), dedupe]
            }
            14 => vec![format!("dedupe {clone} {at} {at} {len}")],
            15 => vec![format!("truncate {}", self.below(size + 1))],
            16 => vec![format!("truncate {}", self.below(LARGEST))],
            _ => vec!["fsync".to_owned()],
        }
    }

    fn write(&mut self, clone: &Path) {
        let mut commands = Vec::new();
        for _ in 0..=self.below(6) {
            commands.extend(self.operation(clone));
        }
        self.xfs_io("", &commands);
        if self.chance(4) {
            let (at, len) = self.part(true);
            let byte = 1 + self.below(255);
            self.xfs_io("-d", &[format!("pwrite -S {byte} {at} {len}")]);
        }
    }

    fn xfs_io(&self, flags: &str, commands: &[String]) {
        let arguments = commands.iter().flat_map(|command| ["-c", command]);
        let io = tool("xfs_io").words(flags).args(arguments);
        // Some of what is tried the file system refuses.
        io.arg(&self.image).run();
    }

    /// What only some file systems have, or what takes longer.
    fn rearrange(&mut self, clone: &Path) {
        let file = if self.chance(2) {
            clone.to_owned()
        } else {
            self.image.clone()
        };
        if !self.is_btrfs {
            tool("xfs_fsr").arg(&file).run();
            return;
        }
        let compress = if self.chance(2) { "-czstd" } else { "-f" };
        match self.below(3) {
            0 => tool("btrfs")
                .words("balance start --full-balance")
                .arg(self.filesystem.point()),
            _ => tool("btrfs")
                .words("filesystem defragment -f")
                .arg(compress)
                .arg(&file),
        }
        .ok();
    }

    /// Ways to write that need a set-up of their own.
    fn write_otherwise(&mut self) {
        let byte = 1 + self.below(255);
        if self.chance(2) {
            let device = LoopDevice::new(&self.image);
            let (at, len) = self.part(true);
            let write = format!("pwrite -S {byte} {at} {len}");
            tool("xfs_io").args(["-c", &write]).arg(device.path()).run();
            // Without a sync; what the device has not written yet is not in the image.
            return;
        }
        let size = self.size() / UNIT * UNIT;
        if size == 0 {
            return;
        }
        let job = format!(
            "--filename={} --size={size} --randseed={byte}",
            self.image.display()
        );
        tool("fio")
            .words("--name=x --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --io_size=64k --iodepth=8")
            .words("--overwrite=1 --fallocate=none")
            .words(&job)
            .ok();
    }

    /// A snapshot as it is now, with its bytes.
    fn take(&self) -> (Snapshot, Vec<u8>) {
        let source = File::open(&self.image).unwrap();
        let snapshot =
            Snapshot::take(&source, &self.image, Some(&self.index), Purpose::Keep).unwrap();
        let mut content = Vec::new();
        snapshot.file().unwrap().read_to_end(&mut content).unwrap();
        (snapshot, content)
    }

    fn keep(&self, snapshot: &Snapshot, content: Vec<u8>) -> Then {
        snapshot.saved();
        let state = snapshot.now().unwrap();
        let ImageState::Clone(clone) = &state else {
            panic!("{state:?}");
        };
        Then {
            clone: self.filesystem.path(&clone.name),
            state,
            content,
        }
    }

    /// Something that goes on while a snapshot is taken and compared.
    fn disturb(&mut self, clone: &Path) -> Option<Storm> {
        let (image, clone) = (self.image.display(), clone.display());
        let byte = 1 + self.random.below(255);
        let work = match self.random.below(8) {
            0 => format!("xfs_io -c 'pwrite -S {byte} 0 64k' -c 'pwrite -S 9 8k 4k' {image}"),
            1 => format!("xfs_io -d -c 'pwrite -S {byte} 16k 64k' -c 'fpunch 32k 64k' {image}"),
            2 if self.is_btrfs => format!("btrfs filesystem defragment -f {clone} {image}"),
            2 => format!("xfs_fsr {clone}; xfs_fsr {image}"),
            _ => return None,
        };
        let marker = self.scene.file("storm", b"");
        let script = format!("while [ -e {} ]; do {work}; done", marker.display());
        let log = self.scene.path("log");
        let process = tool("sh").args(["-c", &script]).log_to(&log).spawn();
        Some(Storm {
            process: Some(process),
            marker,
        })
    }
}

/// Something that goes on until this is dropped.
struct Storm {
    process: Option<Running>,
    marker: PathBuf,
}

impl Drop for Storm {
    fn drop(&mut self) {
        fs::remove_file(&self.marker).ok();
        if let Some(process) = self.process.take() {
            process.finish();
        }
    }
}

/// Every byte outside of what `now` says may have changed must be what it was.
fn check(then: &Then, snapshot: &Snapshot, content: &[u8], tally: &mut Tally, what: &str) {
    let Some(changes) = snapshot.since(Some(&then.state)) else {
        tally.declared += u64::try_from(content.len()).unwrap();
        return;
    };
    assert_eq!(changes.checks, 0);
    for (number, piece) in content.chunks(512).enumerate() {
        let start = number * 512;
        let end = start + piece.len();
        let span = Span::new(u64::try_from(start).unwrap(), u64::try_from(end).unwrap());
        let same = then.content.get(start..end) == Some(piece);
        tally.differing += if same { 0 } else { span.len() };
        if same || changes.ranges.touch(span) {
            continue;
        }
        // Exactly which of them.
        for at in span.start..span.end {
            let index = usize::try_from(at).unwrap();
            let byte = Span::new(at, at + 1);
            let same = then.content.get(index) == Some(&content[index]);
            assert!(
                same || changes.ranges.touch(byte),
                "{what}: byte {at} changed; said to differ: {changes:?}"
            );
        }
    }
    tally.declared += changes.ranges.bytes();
}

fn histories(stage: &mut Stage<'_>, count: u64) -> Tally {
    let mut tally = Tally::default();
    stage.make_image();
    let (snapshot, content) = stage.take();
    let mut then = stage.keep(&snapshot, content);
    drop(snapshot);
    for number in 0..count {
        if stage.chance(6) {
            stage.make_image();
        }
        let clone = then.clone.clone();
        stage.write(&clone);
        if stage.chance(12) {
            stage.rearrange(&clone);
        }
        if stage.chance(25) {
            stage.write_otherwise();
        }
        let storm = stage.disturb(&clone);
        let quiet = storm.is_none();
        let (snapshot, content) = stage.take();
        if quiet {
            assert_same(
                &format!("history {number}"),
                &content,
                &fs::read(&stage.image).unwrap(),
            );
        }
        check(
            &then,
            &snapshot,
            &content,
            &mut tally,
            &format!("history {number}"),
        );
        drop(storm);
        tally.histories += 1;
        tally.all += u64::try_from(content.len()).unwrap();
        then = stage.keep(&snapshot, content);
    }
    println!("{tally:?}");
    tally
}

fn count() -> u64 {
    let wanted = std::env::var("BMAPFS_HISTORIES").ok();
    wanted.map_or(HISTORIES, |count| count.parse().unwrap())
}

fn seed() -> u64 {
    let wanted = std::env::var("BMAPFS_HISTORIES_SEED").ok();
    wanted.map_or(1, |seed| seed.parse().unwrap())
}

/// Not everything is declared to differ, or nothing would be shown here.
fn expect_some_unchanged(tally: &Tally) {
    assert!(tally.differing * 4 > tally.all / 4, "{tally:?}");
    assert!(tally.declared * 10 < tally.all * 9, "{tally:?}");
}

#[test]
fn on_xfs() {
    let scene = Scene::new();
    let mut stage = Stage::new(&scene, "xfs", seed());
    expect_some_unchanged(&histories(&mut stage, count()));
}

#[test]
fn on_btrfs() {
    let scene = Scene::new();
    let mut stage = Stage::new(&scene, "btrfs", seed());
    expect_some_unchanged(&histories(&mut stage, count()));
}

#[test]
fn on_btrfs_with_compression() {
    let scene = Scene::new();
    let mut stage = Stage::new(&scene, "btrfs", seed());
    tool("mount")
        .words("-o remount,compress=zstd")
        .arg(stage.filesystem.point())
        .ok();
    histories(&mut stage, count());
}
