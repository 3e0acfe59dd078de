//! What a scan is measured against: every byte of a file through pread and BLAKE3, on all processors, and nothing
//! else. `bare-hash FILE [THREADS]` prints bytes and seconds. Not installed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

/// A worker hashes this many bytes as one, like a block.
const BLOCK: u64 = 4 << 20;
/// It reads this many at a time.
const PIECE: usize = 256 << 10;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let path = arguments
        .next()
        .ok_or_else(|| io::Error::other("usage: bare-hash FILE [THREADS]"))?;
    let threads = match arguments.next() {
        Some(number) => number.to_string_lossy().parse().map_err(io::Error::other)?,
        None => thread::available_parallelism()?.get(),
    };
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let start = Instant::now();
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| hash(&file, size, &next)))
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .map_err(|_| io::Error::other("a worker panicked"))?
        })
    })?;
    println!("{size} {:.6}", start.elapsed().as_secs_f64());
    Ok(())
}

fn hash(file: &File, size: u64, next: &AtomicU64) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let start = next.fetch_add(BLOCK, Relaxed);
        if start >= size {
            return Ok(());
        }
        let end = size.min(start + BLOCK);
        let mut hasher = blake3::Hasher::new();
        let mut at = start;
        while at < end {
            let want = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
            let got = file.read_at(&mut piece[..want], at)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hasher.update(&piece[..got]);
            at += got as u64;
        }
        std::hint::black_box(hasher.finalize());
    }
}
