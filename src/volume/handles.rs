//! Open files by number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use super::{Errno, Handle, Result};

/// How many independent maps the handles are spread over, so that threads seldom meet.
const SHARDS: usize = 16;
/// Handles at once: each costs some hundred bytes, and any user may open as many files as the kernel lets him.
const MOST: usize = if cfg!(test) { 1 << 10 } else { 1 << 17 };

/// Open files by handle number. Numbers are never used twice.
#[derive(Debug)]
pub(crate) struct Handles<T> {
    shards: [RwLock<HashMap<u64, Arc<T>>>; SHARDS],
    next: AtomicU64,
    open: AtomicUsize,
}

impl<T> Handles<T> {
    pub(crate) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            next: AtomicU64::new(1),
            open: AtomicUsize::new(0),
        }
    }

    fn shard(&self, number: u64) -> &RwLock<HashMap<u64, Arc<T>>> {
        let index = usize::try_from(number % SHARDS as u64).unwrap_or(0);
        &self.shards[index]
    }

    /// Keeps what `open` makes. ENFILE: too many are open, and nothing was made.
    pub(crate) fn insert(&self, open: impl FnOnce() -> T) -> Result<Handle> {
        if self.open.fetch_add(1, Relaxed) >= MOST {
            self.open.fetch_sub(1, Relaxed);
            return Err(Errno::ENFILE);
        }
        let number = self.next.fetch_add(1, Relaxed);
        let value = Arc::new(open());
        let mut shard = self
            .shard(number)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        shard.insert(number, value);
        Ok(Handle(number))
    }

    pub(crate) fn get(&self, handle: Handle) -> Option<Arc<T>> {
        let shard = self
            .shard(handle.0)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        shard.get(&handle.0).cloned()
    }

    pub(crate) fn remove(&self, handle: Handle) -> Option<Arc<T>> {
        let mut shard = self
            .shard(handle.0)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let removed = shard.remove(&handle.0);
        self.open.fetch_sub(usize::from(removed.is_some()), Relaxed);
        removed
    }

    /// Every handle that is open.
    pub(crate) fn for_each(&self, work: impl Fn(&T)) {
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.values().for_each(|value| work(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_a_limit_are_open_and_numbers_are_not_used_again() {
        let handles = Handles::new();
        let opened: Vec<_> = (0..MOST).map(|_| handles.insert(|| ()).unwrap()).collect();
        assert_eq!(handles.insert(|| ()), Err(Errno::ENFILE));
        assert!(handles.remove(opened[7]).is_some());
        assert!(handles.remove(opened[7]).is_none());
        let new = handles.insert(|| ()).unwrap();
        assert!(!opened.contains(&new));
        assert_eq!(handles.insert(|| ()), Err(Errno::ENFILE));
    }
}
