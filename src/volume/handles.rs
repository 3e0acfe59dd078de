//! Open files by number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use super::Handle;

/// How many independent maps the handles are spread over, so that threads seldom meet.
const SHARDS: usize = 16;

/// Open files by handle number. Numbers are never used twice.
#[derive(Debug)]
pub(crate) struct Handles<T> {
    shards: [RwLock<HashMap<u64, Arc<T>>>; SHARDS],
    next: AtomicU64,
}

impl<T> Handles<T> {
    pub(crate) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            next: AtomicU64::new(1),
        }
    }

    fn shard(&self, number: u64) -> &RwLock<HashMap<u64, Arc<T>>> {
        let index = usize::try_from(number % SHARDS as u64).unwrap_or(0);
        &self.shards[index]
    }

    pub(crate) fn insert(&self, value: T) -> Handle {
        let number = self.next.fetch_add(1, Relaxed);
        let mut shard = self
            .shard(number)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        shard.insert(number, Arc::new(value));
        Handle(number)
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
        shard.remove(&handle.0)
    }

    /// Every handle that is open.
    pub(crate) fn for_each(&self, work: impl Fn(&T)) {
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.values().for_each(|value| work(value));
        }
    }
}
