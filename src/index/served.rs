//! What one handle was served: whether it was the whole block, each byte once, with the digest of the index (P24).
//!
//! Hashing goes on after the reply, so that the client does not wait for it.

use std::collections::BTreeMap;

use crate::scan::Digest;

/// Pieces that arrive before the one they follow are kept up to this many; more is no reading in order.
const MOST_EARLY: usize = 64;

/// The bytes that a handle was served so far, as a digest in the making.
#[derive(Debug, Default)]
pub(crate) struct Served {
    hasher: blake3::Hasher,
    /// How many bytes from the start were hashed.
    hashed: u64,
    /// Served, but what comes before them was not hashed yet: threads overtake each other.
    early: BTreeMap<u64, Vec<u8>>,
    /// Something was served.
    any: bool,
    /// Something was served twice, or too far ahead.
    broken: bool,
}

impl Served {
    /// Notes that `len` bytes are about to be served. `false`: they need not be hashed.
    pub(crate) fn note_served(&mut self, len: usize) -> bool {
        self.any |= len > 0;
        len > 0 && !self.broken
    }

    /// Hashes what was served.
    pub(crate) fn hash(&mut self, offset: u64, bytes: &[u8]) {
        if self.broken {
            return;
        }
        if offset != self.hashed {
            let again = offset < self.hashed || self.early.insert(offset, bytes.to_vec()).is_some();
            self.broken = again || self.early.len() > MOST_EARLY;
            return;
        }
        self.hasher.update(bytes);
        self.hashed += bytes.len() as u64;
        while let Some(next) = self.early.remove(&self.hashed) {
            self.hasher.update(&next);
            self.hashed += next.len() as u64;
        }
    }

    /// Whether anything was served.
    pub(crate) fn any(&self) -> bool {
        self.any
    }

    /// The digest of the block, if all `len` bytes of it were served in order.
    pub(crate) fn digest(&self, len: u64) -> Option<Digest> {
        (!self.broken && self.early.is_empty() && self.hashed == len)
            .then(|| *self.hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(pieces: &[(u64, &[u8])]) -> Served {
        let mut served = Served::default();
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
        assert!(!Served::default().any());
        assert!(serve(&[(3, b"x")]).any());
    }
}
