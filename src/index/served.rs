//! What one handle was served: whether it was the whole block, each byte once, with the digest of the index (P24).
//!
//! Hashing goes on after the reply, so that the client does not wait for it.

use std::collections::BTreeMap;

use crate::budget::Share;
use crate::scan::Digest;

/// Pieces that arrive before the one they follow are kept up to this many; more is no reading in order.
const MOST_EARLY: usize = 64;
/// What a piece that is kept costs beside its bytes, about.
const PIECE_COST: u64 = 64;

/// What a handle was served so far, as a digest in the making.
#[derive(Debug)]
pub(crate) struct Served {
    /// Something was served.
    any: bool,
    /// Something was served twice or too far ahead, or there was no memory for it.
    broken: bool,
    /// From the first byte that was served until it is broken.
    progress: Option<Box<Progress>>,
    /// The memory for that.
    share: Share,
}

#[derive(Debug, Default)]
struct Progress {
    hasher: blake3::Hasher,
    /// How many bytes from the start were hashed.
    hashed: u64,
    /// Served, but what comes before them was not hashed yet: threads overtake each other.
    early: BTreeMap<u64, Vec<u8>>,
}

impl Served {
    /// Nothing was served yet. What has to be kept is taken from `share`; without, the digest is not known.
    pub(crate) fn new(share: Share) -> Self {
        Self {
            any: false,
            broken: false,
            progress: None,
            share,
        }
    }

    /// Notes that `len` bytes are about to be served. `false`: they need not be hashed.
    pub(crate) fn note_served(&mut self, len: usize) -> bool {
        self.any |= len > 0;
        len > 0 && !self.broken
    }

    /// Hashes what was served.
    pub(crate) fn hash(&mut self, offset: u64, bytes: &[u8]) {
        if !self.broken && !self.add(offset, bytes) {
            self.broken = true;
            self.progress = None;
            self.share.give_back_all();
        }
    }

    /// `false`: the digest can no longer be told.
    fn add(&mut self, offset: u64, bytes: &[u8]) -> bool {
        if self.progress.is_none() && !self.share.take(size_of::<Progress>() as u64) {
            return false;
        }
        let progress = self.progress.get_or_insert_default();
        if offset != progress.hashed {
            return offset > progress.hashed
                && progress.early.len() < MOST_EARLY
                && self.share.take(cost(bytes))
                && progress.early.insert(offset, bytes.to_vec()).is_none();
        }
        progress.hasher.update(bytes);
        progress.hashed += bytes.len() as u64;
        while let Some(next) = progress.early.remove(&progress.hashed) {
            progress.hasher.update(&next);
            progress.hashed += next.len() as u64;
            self.share.give_back(cost(&next));
        }
        true
    }

    /// Whether anything was served.
    pub(crate) fn any(&self) -> bool {
        self.any
    }

    /// The digest of the block, if all `len` bytes of it were served in order.
    pub(crate) fn digest(&self, len: u64) -> Option<Digest> {
        let progress = self.progress.as_ref()?;
        (progress.early.is_empty() && progress.hashed == len)
            .then(|| *progress.hasher.finalize().as_bytes())
    }
}

fn cost(piece: &[u8]) -> u64 {
    piece.len() as u64 + PIECE_COST
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use std::sync::Arc;

    fn serve(pieces: &[(u64, &[u8])]) -> Served {
        let mut served = Served::new(Share::new(&Arc::new(Budget::new(1 << 20))));
        for (offset, bytes) in pieces {
            served.note_served(bytes.len());
            served.hash(*offset, bytes);
        }
        served
    }

    #[test]
    fn p24_only_the_whole_block_in_order_has_a_digest() {
        let whole = *blake3::hash(b"abcdef").as_bytes();
        assert_eq!(serve(&[(0, b"abc"), (3, b"def")]).digest(6), Some(whole));
        assert_eq!(serve(&[(0, b"abcdef")]).digest(6), Some(whole));
        assert_eq!(serve(&[(0, b"abc")]).digest(6), None, "not whole");
        assert_eq!(
            serve(&[(3, b"def"), (0, b"abc")]).digest(6),
            Some(whole),
            "threads that overtake each other serve the same bytes"
        );
        assert_eq!(
            serve(&[(3, b"def"), (3, b"dEf"), (0, b"abc")]).digest(6),
            None
        );
        assert_eq!(
            serve(&[(0, b"abc"), (0, b"abc"), (3, b"def")]).digest(6),
            None,
            "one piece twice"
        );
        assert_eq!(serve(&[(0, b"abc"), (4, b"ef")]).digest(6), None, "a gap");
        assert!(!serve(&[]).any());
        assert!(serve(&[(3, b"x")]).any());
    }

    #[test]
    fn p24_early_pieces_of_all_handles_are_bounded_and_freed_at_once() {
        const PIECE: usize = 1000;
        let budget = Arc::new(Budget::new(100_000));
        let mut handles: Vec<_> = (0..10).map(|_| Served::new(Share::new(&budget))).collect();
        // Out of order, as many as a handle keeps and more.
        for piece in (1..=MOST_EARLY + 1).rev() {
            for served in &mut handles {
                served.hash((piece * PIECE) as u64, &[7; PIECE]);
            }
            let kept = |served: &Served| {
                let pieces = served.progress.iter().flat_map(|p| p.early.values());
                pieces.map(Vec::capacity).sum::<usize>()
            };
            assert!(handles.iter().map(kept).sum::<usize>() <= 100_000);
        }
        assert_eq!(budget.used(), 0, "all have given up");
        for served in &mut handles {
            served.hash(0, &[7; PIECE]);
            assert_eq!(served.digest(PIECE as u64), None);
        }
        // One that is alone has what it needs.
        let mut served = Served::new(Share::new(&budget));
        for piece in (0..50).rev() {
            served.hash(piece * PIECE as u64, &[7; PIECE]);
        }
        let whole = *blake3::hash(&vec![7; 50 * PIECE]).as_bytes();
        assert_eq!(served.digest(50 * PIECE as u64), Some(whole));
        served.hash(51 * PIECE as u64, &[7; PIECE]);
        assert!(budget.used() > PIECE as u64);
        drop(served);
        assert_eq!(budget.used(), 0, "it was closed");
    }
}
