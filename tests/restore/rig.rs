//! What the restore tests share: the tools, content with holes, and a comparison that sees holes.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::support::blocks;
use crate::support::command::{Outcome, Tool, tool};
use crate::support::pattern::pattern;
use crate::support::scene::Scene;

/// Length of a block, in bytes.
pub(crate) const BLOCK: usize = 256 << 10;
/// The option that says so.
pub(crate) const UNITS: &str = "-b 256K";

/// A way to copy all block files of a directory into a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Rsync(&'static str),
    Rclone,
    Restic,
    Borg,
    Cp(&'static str),
    Tar(&'static str),
    Dd,
    Install,
}

/// Those that write in place or to a temporary name: no file is removed.
pub(crate) const IN_PLACE: [Way; 11] = [
    Way::Rsync("-a"),
    Way::Rsync("-a --inplace"),
    Way::Rsync("-a --fsync"),
    Way::Rsync("-a --whole-file --partial"),
    Way::Rclone,
    Way::Restic,
    Way::Borg,
    Way::Cp("-p"),
    Way::Cp("--sparse=never --no-preserve=all"),
    Way::Tar("--overwrite"),
    Way::Dd,
];

/// Those that remove a file before they make it again.
pub(crate) const REMOVING: [Way; 4] = [
    Way::Tar(""),
    Way::Tar("--unlink-first"),
    Way::Cp("-p --remove-destination"),
    Way::Install,
];

impl Way {
    /// Copies what `from` holds to `to`; both are directories. Archives and repositories are kept in the scene.
    pub(crate) fn copy(self, scene: &Scene, from: &Path, to: &Path) -> Outcome {
        let files = || {
            blocks::names(from)
                .into_iter()
                .map(|name| from.join(name))
                .collect::<Vec<_>>()
        };
        match self {
            Self::Rsync(options) => tool("rsync")
                .words(options)
                .args([&from.join("."), to])
                .run(),
            Self::Rclone => tool("rclone")
                .words("--config /dev/null copy --transfers 4 --ignore-times")
                .args([from, to])
                .run(),
            Self::Restic => restic(scene, from, to),
            Self::Borg => borg(scene, from, to),
            Self::Cp(options) => tool("cp").words(options).args(files()).arg(to).run(),
            Self::Install => tool("install").words("-m 600").args(files()).arg(to).run(),
            Self::Tar(options) => {
                let archive = scene.path("archive.tar");
                tool("tar")
                    .arg("-cf")
                    .arg(&archive)
                    .arg("-C")
                    .arg(from)
                    .args(blocks::names(from))
                    .ok();
                tool("tar")
                    .arg("-xf")
                    .arg(&archive)
                    .words(options)
                    .arg("-C")
                    .arg(to)
                    .run()
            }
            Self::Dd => {
                let mut last = tool("true").run();
                for name in blocks::names(from) {
                    last = tool("dd")
                        .words("bs=100K conv=notrunc status=none")
                        .arg(format!("if={}", from.join(&name).display()))
                        .arg(format!("of={}", to.join(&name).display()))
                        .run();
                    if last.code() != 0 {
                        break;
                    }
                }
                last
            }
        }
    }
}

/// An empty repository, made once and kept among the build's files: restic takes its time to make the key slow to
/// guess.
static EMPTY_REPOSITORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("restic-empty");
    if !kept.exists() {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        restic_at(dir.path()).arg("init").ok();
        fs::rename(dir.keep(), &kept).unwrap();
    }
    kept
});

fn restic_at(repository: &Path) -> Tool {
    tool("restic")
        .env("RESTIC_PASSWORD", "secret")
        .env("HOME", repository)
        .words("--no-cache --quiet -r")
        .arg(repository)
}

fn restic(scene: &Scene, from: &Path, to: &Path) -> Outcome {
    let repository = scene.path("restic");
    tool("cp")
        .args([Path::new("-r"), &EMPTY_REPOSITORY, &repository])
        .ok();
    restic_at(&repository).words("backup .").within(from).ok();
    restic_at(&repository)
        .words("restore latest --target")
        .arg(to)
        .run()
}

fn borg(scene: &Scene, from: &Path, to: &Path) -> Outcome {
    let repository = scene.path("borg");
    let borg = || -> Tool {
        tool("borg")
            .env("BORG_BASE_DIR", scene.path(""))
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
    };
    borg().words("init -e none").arg(&repository).ok();
    let archive = format!("{}::all", repository.display());
    borg().args(["create", &archive, "."]).within(from).ok();
    borg().args(["extract", &archive]).within(to).run()
}

/// How many cases are worked on at the same time.
const AT_ONCE: usize = 16;

/// Works on all cases, some at the same time, each in a scene of its own: most of what a writable mount takes is the
/// wait for the second that its blocks show.
pub(crate) fn at_once<T: Send>(
    cases: impl IntoIterator<Item = T, IntoIter: Send>,
    work: impl Fn(&Scene, T) + Sync,
) {
    let cases = Mutex::new(cases.into_iter());
    let next = || cases.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = next() {
                    work(&Scene::new(), case);
                }
            });
        }
    });
}

/// `len` bytes of which every third block is nothing but zeros, and every fourth is zeros from its middle on.
pub(crate) fn with_gaps(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = pattern(seed, len);
    let blocks = len.div_ceil(BLOCK);
    for (index, block) in bytes.chunks_mut(BLOCK).enumerate() {
        if index % 3 == 2 && index + 1 < blocks {
            block.fill(0);
        } else if index % 4 == 3 {
            let middle = block.len() / 2;
            block[middle..].fill(0);
        }
    }
    bytes
}

/// Writes `content` to a new file so that each 4 KiB of zeros is a hole.
pub(crate) fn write_thin(path: &Path, content: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(content.len().try_into().unwrap()).unwrap();
    for (index, piece) in content.chunks(4096).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            let at = u64::try_from(index * 4096).unwrap();
            file.write_all_at(piece, at).unwrap();
        }
    }
    file.sync_all().unwrap();
}

/// The data ranges of a file, after it has reached the disk.
pub(crate) fn extents(path: &Path) -> Vec<(i64, i64)> {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    blocks::data_ranges(&file)
}

/// How many bytes a file takes.
pub(crate) fn space(path: &Path) -> u64 {
    File::open(path).unwrap().sync_all().unwrap();
    fs::metadata(path).unwrap().blocks() * 512
}

/// How many bytes du says that a file or a directory takes.
pub(crate) fn disk_usage(path: &Path) -> u64 {
    let said = tool("du")
        .words("--summarize --block-size=1")
        .arg(path)
        .ok();
    said.split_whitespace().next().unwrap().parse().unwrap()
}
