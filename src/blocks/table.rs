//! Two small containers: handles by number, and a value for every block that costs nothing until it is used.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use crate::geometry::{BlockIndex, MAX_BLOCKS};
use crate::volume::Handle;

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
}

/// Blocks that share one lock and one allocation.
const PAGE: usize = 1024;
/// Pages for as many blocks as an image can ever have.
const PAGES: usize = 100_000_000_usize.div_ceil(PAGE);
const _: () = assert!(PAGES as u64 * PAGE as u64 >= MAX_BLOCKS);

type Page<T> = Mutex<Box<[T]>>;

/// A `T` for every block, starting as `T::default()`; memory comes with the first use of a page of blocks.
#[derive(Debug)]
pub(crate) struct PerBlock<T> {
    pages: Box<[OnceLock<Page<T>>]>,
}

impl<T: Default + Clone> PerBlock<T> {
    pub(crate) fn new() -> Self {
        Self {
            pages: (0..PAGES).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Works on the value of one block, alone.
    pub(crate) fn with<R>(&self, block: BlockIndex, work: impl FnOnce(&mut T) -> R) -> R {
        let index = block.as_usize();
        let page = self.pages[index / PAGE]
            .get_or_init(|| Mutex::new(vec![T::default(); PAGE].into_boxed_slice()));
        work(&mut lock(page)[index % PAGE])
    }

    /// All values that were ever used, and some that were not, a page at a time.
    pub(crate) fn for_each(&self, mut work: impl FnMut(&T)) {
        for page in self.pages.iter().filter_map(OnceLock::get) {
            lock(page).iter().for_each(&mut work);
        }
    }
}

fn lock<T>(page: &Page<T>) -> MutexGuard<'_, Box<[T]>> {
    page.lock().unwrap_or_else(PoisonError::into_inner)
}
