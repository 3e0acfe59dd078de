//! Hashing an image: every block's digest, read once, in parallel, holes without reading (promise P22).
//!
//! Knows digests and no stamps: what a digest means is the index's business.

mod bmap;
mod turns;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::buffer::with_scratch;
use crate::geometry::{BlockIndex, Geometry, Span};
use crate::image::Image;
use crate::threads;

pub(crate) use bmap::BlockMap;
use bmap::Part;
use turns::{Share, Ticket, Turns};

/// BLAKE3 of a block's content.
pub(crate) type Digest = [u8; 32];

/// How much is read and hashed at a time, in bytes, if it is cached: what fits the second-level cache...
const NEAR_PIECE: u64 = 256 << 10;
/// ... and if it comes from a disk, which then works at full speed without read-ahead.
const FAR_PIECE: u64 = 1 << 20;
/// Slower than this, in bytes a microsecond, it comes from a disk.
const NEAR_SPEED: u128 = 4000;
/// A worker takes blocks of at least this many bytes at a time.
const BATCH: u64 = 1 << 20;
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// What a scan found of one block.
#[derive(Debug)]
pub(crate) enum Found {
    /// Its digest.
    Digest(Digest),
    /// It cannot be read.
    Unreadable(io::Error),
}

/// The progress of a scan: written by the workers, read by whoever shows it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Bytes that are done, holes included, of all images that are scanned together.
    pub done: Arc<AtomicU64>,
    /// Bytes that were read of this image.
    pub read: AtomicU64,
    /// How long its scans took, in microseconds, without the wait for their first turn.
    pub taken: AtomicU64,
    /// Set it to end the scan of all of them early.
    pub cancel: Arc<AtomicBool>,
    /// Who of them reads next.
    turns: Arc<Turns>,
}

impl Tally {
    /// For another image that is scanned at the same time.
    pub(crate) fn beside(&self) -> Self {
        Self {
            done: Arc::clone(&self.done),
            read: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            cancel: Arc::clone(&self.cancel),
            turns: Arc::clone(&self.turns),
        }
    }

    /// How long the scans of this image took that came after `taken`.
    pub(crate) fn seconds_since(&self, taken: u64) -> f64 {
        Duration::from_micros(self.taken.load(Relaxed) - taken).as_secs_f64()
    }
}

/// The scan was ended early: what was found until then is not all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Cancelled;

/// Hashes blocks of one image.
#[derive(Debug)]
pub(crate) struct Hasher<'a> {
    image: &'a dyn Image,
    geometry: Geometry,
    zeros: &'a ZeroDigests,
    /// Is made along with the digests.
    map: Option<&'a BlockMap>,
    /// How much to read next: as the last read was.
    piece: AtomicU64,
}

/// The digests of blocks of zeros.
#[derive(Debug)]
pub(crate) struct ZeroDigests {
    block: u64,
    full: OnceLock<Digest>,
}

impl ZeroDigests {
    /// For blocks of `block` bytes.
    #[must_use]
    pub(crate) fn new(block: u64) -> Self {
        Self {
            block,
            full: OnceLock::new(),
        }
    }

    /// The digest of `len` zeros. That of a full block is computed once.
    #[must_use]
    pub(crate) fn of(&self, len: u64) -> Digest {
        if len == self.block {
            return *self.full.get_or_init(|| hash_zeros(len));
        }
        hash_zeros(len)
    }
}

fn hash_zeros(len: u64) -> Digest {
    let mut hasher = blake3::Hasher::new();
    update_zeros(&mut hasher, len);
    *hasher.finalize().as_bytes()
}

fn update_zeros(hasher: &mut blake3::Hasher, len: u64) {
    let mut left = len;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
        hasher.update(&ZEROS[..piece]);
        left -= piece as u64;
    }
}

impl<'a> Hasher<'a> {
    /// For `image`, cut as `geometry` says.
    #[must_use]
    pub(crate) fn new(image: &'a dyn Image, geometry: Geometry, zeros: &'a ZeroDigests) -> Self {
        Self {
            image,
            geometry,
            zeros,
            map: None,
            piece: AtomicU64::new(NEAR_PIECE),
        }
    }

    /// A scan of all blocks makes this map, too.
    #[must_use]
    pub(crate) fn mapping(self, map: Option<&'a BlockMap>) -> Self {
        Self { map, ..self }
    }

    /// The digest of a block as it is now. Adds to `read` what had to be read. An image that ends early is an
    /// error, never zeros.
    pub(crate) fn hash(&self, block: BlockIndex, read: &AtomicU64) -> io::Result<Digest> {
        self.hash_mapping(block, read, &mut None)
    }

    fn hash_mapping(
        &self,
        block: BlockIndex,
        read: &AtomicU64,
        map: &mut Option<Part>,
    ) -> io::Result<Digest> {
        let span = self.geometry.span(block);
        let mut hasher = None;
        let mut from = span.start;
        while from < span.end {
            let data = self
                .image
                .next_data(from)?
                .map_or(span.end, |data| data.min(span.end));
            if data > from && self.image.size()? < span.end {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            if let Some(map) = map {
                map.hole(data - from);
            }
            if from == span.start && data == span.end {
                return Ok(self.zeros.of(span.len()));
            }
            let hasher = hasher.get_or_insert_with(blake3::Hasher::new);
            update_zeros(hasher, data - from);
            if data == span.end {
                break;
            }
            let end = self.image.next_hole(data)?.clamp(data + 1, span.end);
            self.read_into(hasher, map, Span::new(data, end))?;
            read.fetch_add(end - data, Relaxed);
            from = end;
        }
        Ok(*hasher.unwrap_or_default().finalize().as_bytes())
    }

    fn read_into(
        &self,
        hasher: &mut blake3::Hasher,
        map: &mut Option<Part>,
        span: Span,
    ) -> io::Result<()> {
        let mut offset = span.start;
        while offset < span.end {
            let piece = self.piece.load(Relaxed);
            let len = usize::try_from(piece.min(span.end - offset)).map_err(io::Error::other)?;
            let (got, near) = with_scratch(len, |piece| {
                loop {
                    let start = Instant::now();
                    match self.image.read_once(piece, offset) {
                        Ok(0) => return Err(io::Error::from_raw_os_error(libc::EIO)),
                        Ok(got) => {
                            let near = got as u128 >= start.elapsed().as_micros() * NEAR_SPEED;
                            hasher.update(&piece[..got]);
                            if let Some(map) = map {
                                map.data(&piece[..got]);
                            }
                            return Ok((got, near));
                        }
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e),
                    }
                }
            })?;
            self.piece
                .store(if near { NEAR_PIECE } else { FAR_PIECE }, Relaxed);
            offset += got as u64;
        }
        Ok(())
    }

    /// Hashes every block for which `wanted` is true, on `threads` threads, and gives each to `sink`, in no order.
    pub(crate) fn scan(
        &self,
        threads: usize,
        tally: &Tally,
        wanted: &(dyn Fn(BlockIndex) -> bool + Sync),
        sink: &(dyn Fn(BlockIndex, Found) + Sync),
    ) -> Result<(), Cancelled> {
        let share = tally.turns.begin(self.geometry.image_size(), threads);
        let job = Job {
            next: AtomicU64::new(0),
            batch: (BATCH / self.geometry.block_size().bytes()).max(1),
            tally,
            wanted,
            sink,
            share: &share,
            alone: AtomicBool::new(false),
            begun: OnceLock::new(),
        };
        // Not on this thread, whose memory would stay, for as many images as there are; unless there is no other.
        std::thread::scope(|scope| {
            let (job, ticket) = (&job, share.ticket());
            if threads::begin(scope, move || self.work(scope, job, ticket)).is_err() {
                job.alone.store(true, Relaxed);
                self.work(scope, job, share.ticket());
            }
        });
        let taken = job
            .begun
            .get()
            .map_or(0, |begun| begun.elapsed().as_micros());
        let taken = u64::try_from(taken).unwrap_or(u64::MAX);
        tally.taken.fetch_add(taken, Relaxed);
        if tally.cancel.load(Relaxed) {
            Err(Cancelled)
        } else {
            Ok(())
        }
    }

    fn work<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        job: &'scope Job<'_>,
        ticket: Ticket<'scope>,
    ) {
        let mut turn = ticket.turn();
        job.begun.get_or_init(Instant::now);
        loop {
            let first = job.next.fetch_add(job.batch, Relaxed);
            if first >= self.geometry.blocks() {
                return;
            }
            // What cannot be had is not asked for again with each batch.
            let alone = job.alone.load(Relaxed);
            let spare = if alone { None } else { job.share.spare() };
            let begun =
                spare.map(|ticket| threads::begin(scope, move || self.work(scope, job, ticket)));
            if matches!(begun, Some(Err(_))) {
                job.alone.store(true, Relaxed);
            }
            match self.hash_batch(job, first) {
                Some(false) => {}
                Some(true) => turn = turn.again(),
                None => return,
            }
        }
    }

    /// Hashes what is wanted of the blocks from `first` on. Whether it was any; `None`: the scan is to end early.
    fn hash_batch(&self, job: &Job<'_>, first: u64) -> Option<bool> {
        let tally = job.tally;
        let start = first * self.geometry.block_size().bytes();
        let mut part = self.map.map(|_| Part::new(start));
        let mut any = false;
        let blocks = (first..first + job.batch).map_while(|number| self.geometry.block(number));
        for block in blocks {
            if tally.cancel.load(Relaxed) {
                return None;
            }
            if (job.wanted)(block) {
                any = true;
                let found = self.hash_mapping(block, &tally.read, &mut part);
                if let (Some(map), Err(_)) = (self.map, &found) {
                    map.fail(block);
                    part = None;
                }
                (job.sink)(block, found.map_or_else(Found::Unreadable, Found::Digest));
            }
            tally
                .done
                .fetch_add(self.geometry.span(block).len(), Relaxed);
        }
        if let (Some(map), Some(part)) = (self.map, part) {
            map.add(part);
        }
        Some(any)
    }
}

/// What the threads of one scan share.
struct Job<'a> {
    /// The first block that nobody has taken.
    next: AtomicU64,
    /// So many blocks are taken at a time.
    batch: u64,
    tally: &'a Tally,
    wanted: &'a (dyn Fn(BlockIndex) -> bool + Sync),
    sink: &'a (dyn Fn(BlockIndex, Found) + Sync),
    share: &'a Share<'a>,
    /// There can be no more threads.
    alone: AtomicBool,
    /// When the first of them began.
    begun: OnceLock<Instant>,
}

#[cfg(test)]
mod tests;
