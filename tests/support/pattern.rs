//! Content: bytes that look random, are the same each time, and differ from seed to seed.

/// A small generator of numbers that look random (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number below `end`, as a position in a slice.
    pub(crate) fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(u64::try_from(end).unwrap())).unwrap()
    }
}

/// `len` bytes that no compression and no run of zeros makes shorter.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// `len` bytes of a disk: random runs and runs of zeros in turn, of lengths that fit no block.
pub(crate) fn disk_like(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = pattern(seed, len);
    let mut at = random.index(70_000);
    while at < len {
        let end = (at + 1 + random.index(150_000)).min(len);
        bytes[at..end].fill(0);
        at = end + random.index(150_000);
    }
    bytes
}

/// Expects two byte strings to be the same; a failure shows where they differ instead of showing them.
pub(crate) fn assert_same(what: &str, left: &[u8], right: &[u8]) {
    assert_eq!(left.len(), right.len(), "{what}: lengths");
    if left != right {
        let differing = || (0..left.len()).filter(|&i| left[i] != right[i]);
        let (first, count) = (differing().next().unwrap(), differing().count());
        panic!(
            "{what}: {count} bytes differ, the first at {first}: {:#x} and {:#x}",
            left[first], right[first]
        );
    }
}
