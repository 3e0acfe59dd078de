//! Comparing a block directory with what an index knows of its image (promise P28).
//!
//! Invariants: nothing is changed. A block is right if its file was read just now and has the content and the time that
//! the index has. It is damaged only if nobody can copy it again by its time: what the index says of a stamp holds for
//! ever, also in an index that is older than the backup.

mod report;

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::exit::{Failure, Result, Status};
use crate::geometry::{BlockIndex, BlockSize, Geometry, Part};
use crate::image::{Image, Source};
use crate::index::{Known, KnownBlock};
use crate::reverse::{Directory, warn_of_strangers};
use crate::scan::{Digest, Hasher, Tally};
use crate::threads;
use crate::volume::inode::parse_block_name;

pub(crate) use report::{Blocks, Report};

/// A worker takes blocks of at least this many bytes at a time.
const BATCH: u64 = 1 << 20;
/// How often a file that changes while it is read is read again.
const TRIES: u32 = 3;

/// What is to be compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// What the index knows.
    pub known: &'a Known,
    /// The block directory.
    pub backup: &'a Path,
    /// Blocks of zeros need no file.
    pub sparse: bool,
    /// Which blocks.
    pub part: Part,
}

/// A comparison that can begin.
#[derive(Debug)]
pub(crate) struct Verification<'a> {
    request: Request<'a>,
    directory: Directory,
    /// Block files of the part that the image has, sorted.
    present: Vec<BlockIndex>,
    /// Those past the image's end.
    surplus: Blocks,
    /// A file that cannot be read was told of.
    told: AtomicBool,
}

/// What a block's file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Verdict {
    /// As the index has it.
    Right,
    /// The index does not know.
    Unknown,
    /// There is none any more.
    Missing,
    /// Other content with the same time.
    Damaged,
    /// It cannot be read, and may hold what it should.
    Unreadable,
    /// Another time, with the same content or that of a time before.
    Older,
    /// Other content with a time that the block never had.
    Newer,
}

impl Verdict {
    fn from_number(number: u8) -> Option<Self> {
        use Verdict::{Damaged, Missing, Newer, Older, Right, Unknown, Unreadable};
        let all = [Right, Unknown, Missing, Damaged, Unreadable, Older, Newer];
        all.into_iter().find(|verdict| *verdict as u8 == number)
    }

    /// What a file is, from its time in seconds and from whether it has the content that the index has.
    fn of(known: &KnownBlock, same: bool, time: i64) -> Self {
        match (same, time == known.stamp) {
            (true, true) => Self::Right,
            (false, true) => Self::Damaged,
            (false, false) if time > known.latest => Self::Newer,
            (_, false) => Self::Older,
        }
    }
}

impl<'a> Verification<'a> {
    /// Looks at the names in the directory.
    ///
    /// # Errors
    /// It cannot be read, or is no block directory, or is one of another block size.
    pub(crate) fn begin(request: Request<'a>) -> Result<Self> {
        let path = request.backup;
        let (known, part) = (request.known, request.part);
        let opening = |e: &io::Error| refused(path, e);
        let directory = Directory::open(path).map_err(|e| opening(&e))?;
        let (mut blocks, mut strangers) = (Vec::new(), Vec::new());
        for name in directory.names().map_err(|e| opening(&e))? {
            match parse_block_name(&name) {
                Some(block) => blocks.push(block),
                None => strangers.push(name),
            }
        }
        blocks.sort_unstable();
        strangers.sort_unstable();
        if blocks.is_empty() && !strangers.is_empty() {
            return Err(Failure::usage(format!(
                "{}: no file in it has the name of a block (eight digits): name the directory that block files were \
                 copied to",
                path.display()
            )));
        }
        let geometry = known.geometry();
        if let Some(other) = other_block_size(&directory, &blocks, geometry) {
            return Err(Failure::usage(format!(
                "{}: its block files are of {other}, and the index is for blocks of {}: use -b {other}, and the index \
                 that it was made with",
                path.display(),
                geometry.block_size()
            )));
        }
        warn_of_strangers(path, &strangers);
        let mut surplus = Blocks::default();
        let mut present = Vec::new();
        for block in blocks.into_iter().filter(|block| part.has(*block)) {
            if geometry.has(block) {
                present.push(block);
            } else {
                surplus.add(block);
            }
        }
        Ok(Self {
            request,
            directory,
            present,
            surplus,
            told: AtomicBool::new(false),
        })
    }

    /// How much there is to read, in bytes.
    #[must_use]
    pub(crate) fn bytes(&self) -> u64 {
        let geometry = self.request.known.geometry();
        let lengths = self.present.iter().map(|block| geometry.span(*block).len());
        lengths.sum()
    }

    /// Reads the block files on as many threads as are `wanted`.
    ///
    /// # Errors
    /// Ended early, or the system does not let them be read, which says nothing of the files.
    pub(crate) fn run(&self, wanted: usize, tally: &Tally) -> Result<Report> {
        let verdicts: Vec<AtomicU8> = self
            .present
            .iter()
            .map(|_| AtomicU8::new(Verdict::Unknown as u8))
            .collect();
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(None);
        let work = || {
            if let Err(failure) = self.work(&next, &verdicts, tally) {
                // The others need not go on, and one reason is enough.
                next.store(self.present.len(), Relaxed);
                lock(&failed).get_or_insert(failure);
            }
        };
        thread::scope(|scope| {
            for _ in 1..wanted.max(1) {
                if threads::begin(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        if let Some(failure) = lock(&failed).take() {
            return Err(failure);
        }
        Ok(Report {
            bytes_read: tally.read.load(Relaxed),
            ..self.collect(&verdicts)
        })
    }

    fn work(&self, next: &AtomicUsize, verdicts: &[AtomicU8], tally: &Tally) -> Result<()> {
        let geometry = self.request.known.geometry();
        let batch = (BATCH / geometry.block_size().bytes()).max(1);
        let batch = usize::try_from(batch).unwrap_or(1);
        loop {
            let first = next.fetch_add(batch, Relaxed).min(self.present.len());
            let end = (first + batch).min(self.present.len());
            if first == end {
                return Ok(());
            }
            for (block, slot) in self.present[first..end].iter().zip(&verdicts[first..end]) {
                if tally.cancel.load(Relaxed) {
                    return Err(Failure::new(
                        Status::Interrupted,
                        "interrupted before all was read",
                    ));
                }
                slot.store(self.look_at(*block, tally)? as u8, Relaxed);
                let len = geometry.span(*block).len();
                tally.done.fetch_add(len, Relaxed);
            }
        }
    }

    fn look_at(&self, block: BlockIndex, tally: &Tally) -> Result<Verdict> {
        let Some(known) = self.request.known.block(block) else {
            return Ok(Verdict::Unknown);
        };
        match self.compare(block, &known, tally) {
            Ok(verdict) => Ok(verdict),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Verdict::Missing),
            Err(e) => {
                let file = self.request.backup.join(block.to_string());
                let file = file.display();
                if !tells_of_the_file(&e) {
                    return Err(Failure::new(
                        status_of(&e),
                        format!("reading {file}: {e}; nothing is said of the backup"),
                    ));
                }
                if !self.told.swap(true, Relaxed) {
                    log::warn!("{file}: {e}; it counts as unreadable, as do others like it");
                }
                Ok(Verdict::Unreadable)
            }
        }
    }

    fn compare(&self, block: BlockIndex, known: &KnownBlock, tally: &Tally) -> io::Result<Verdict> {
        let len = self.request.known.geometry().span(block).len();
        for _ in 0..TRIES {
            let source = Source::regular(self.directory.open_block(block, false)?, true)?;
            let before = source.metadata()?;
            let same = if before.len() == len {
                self.digest(&source, &before, tally)
                    .map(|digest| digest == known.digest)
            } else {
                Ok(false)
            };
            let verdict = same.map(|same| Verdict::of(known, same, before.mtime()));
            let after = source.metadata()?;
            let state = |stat: &Metadata| (stat.len(), stat.ctime(), stat.ctime_nsec());
            if matches!(verdict, Ok(Verdict::Right)) || state(&before) == state(&after) {
                return verdict;
            }
        }
        // Somebody writes to it all the time.
        Ok(Verdict::Newer)
    }

    /// Of what lies on the disk of a file that is not empty. As a scan reads: holes not, and without pushing pages of others
    /// out of the cache.
    fn digest(&self, source: &Source, stat: &Metadata, tally: &Tally) -> io::Result<Digest> {
        let known = self.request.known;
        // What it tells of holes holds after that, too. Each by itself: one syncfs for all would wait for what others write
        // on that file system, would tell errors of their files, and none from before the call, and says nothing of a file
        // that is being written.
        source.flush()?;
        source.drop_cached();
        let geometry = Geometry::new(stat.len(), known.geometry().block_size());
        let geometry = geometry.map_err(io::Error::other)?;
        let whole = geometry.last().ok_or(io::ErrorKind::InvalidInput)?;
        Hasher::new(source, geometry, known.zeros()).hash(whole, &tally.read)
    }

    /// All blocks of the part, also those without a file.
    fn collect(&self, verdicts: &[AtomicU8]) -> Report {
        let Request {
            known,
            sparse,
            part,
            ..
        } = self.request;
        let mut report = Report {
            surplus: self.surplus.clone(),
            ..Report::default()
        };
        let geometry = known.geometry();
        let mut present = self.present.iter().zip(verdicts).peekable();
        for block in (0..geometry.blocks()).filter_map(BlockIndex::new) {
            if !part.has(block) {
                continue;
            }
            report.blocks += 1;
            let found = present.next_if(|(there, _)| **there == block);
            let verdict = found
                .and_then(|(_, verdict)| Verdict::from_number(verdict.load(Relaxed)))
                .unwrap_or(Verdict::Missing);
            // Without a file it may be zeros.
            let verdict = match (verdict, known.block(block)) {
                (Verdict::Missing, None) if sparse => Verdict::Unknown,
                (Verdict::Missing, Some(certain)) if sparse && !known.has_file(block, &certain) => {
                    Verdict::Right
                }
                (verdict, _) => verdict,
            };
            match verdict {
                Verdict::Right => report.right += 1,
                Verdict::Unknown => report.unknown.add(block),
                Verdict::Missing => report.missing.add(block),
                Verdict::Damaged => report.damaged.add(block),
                Verdict::Unreadable => report.unreadable.add(block),
                Verdict::Older => report.older.add(block),
                Verdict::Newer => report.newer.add(block),
            }
        }
        report
    }
}

/// The block size that the directory was made with, if it certainly is another one: then all files but the last have that
/// length, and there is no file for a part of the image, or more than the image has blocks.
fn other_block_size(
    directory: &Directory,
    blocks: &[BlockIndex],
    geometry: Geometry,
) -> Option<BlockSize> {
    let len = |block: &BlockIndex| u64::try_from(directory.stat(*block).ok()?.st_size).ok();
    let (first, last) = (blocks.first()?, blocks.last()?);
    let found = BlockSize::from_bytes(len(first)?)?;
    let second = blocks.get(1).filter(|second| *second != last);
    let is_other = first.get() == 0
        && found != geometry.block_size()
        && found.bytes() != geometry.span(*first).len()
        && second.is_none_or(|second| len(second) == Some(found.bytes()))
        && len(last)? <= found.bytes()
        && (found > geometry.block_size() || !geometry.has(*last));
    is_other.then_some(found)
}

/// Whether an error is about one file and not about everything: a bad sector, a bad checksum, something in the place of
/// the file; it was written and there was no room for it on the disk. Any other, like a lost connection or a missing
/// permission, would make all files look unreadable.
fn tells_of_the_file(error: &io::Error) -> bool {
    let Some(number) = error.raw_os_error() else {
        return false;
    };
    [
        libc::EIO,
        libc::ENODATA,
        libc::EREMOTEIO,
        libc::EILSEQ,
        libc::EBADMSG,
        libc::EUCLEAN,
        libc::ELOOP,
        libc::ENXIO,
        libc::ENOSPC,
        libc::EDQUOT,
    ]
    .contains(&number)
}

fn status_of(error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Status::Usage,
        _ => Status::System,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The directory cannot be opened or listed.
fn refused(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Failure::usage(format!(
            "{path}: {error}: BACKUP must be the directory that block files were copied to"
        )),
        _ => Failure::new(status_of(error), format!("opening {path}: {error}")),
    }
}

#[cfg(test)]
mod tests;
