//! A value for every block of an image, which costs nothing until it is used; and a set of blocks.

mod block_set;

use std::sync::OnceLock;

use crate::geometry::{BlockIndex, MAX_BLOCKS};
use crate::order::{Ordered, Rank};

pub(crate) use block_set::BlockSet;

/// Blocks that share one lock and one allocation. Unit tests make thousands of small images.
const PAGE: usize = if cfg!(test) { 32 } else { 1024 };
/// Pages that share a list. A mount may have hundreds of images.
const LISTED: usize = if cfg!(test) { 32 } else { 512 };
/// Lists for as many blocks as an image can ever have.
const LISTS: usize = if cfg!(test) {
    16
} else {
    100_000_000_usize.div_ceil(PAGE * LISTED)
};
const _: () = assert!(cfg!(test) || (LISTS * LISTED * PAGE) as u64 >= MAX_BLOCKS);

type Page<T> = Ordered<Box<[T]>>;
type Lazy<T> = Box<[OnceLock<T>]>;

/// A `T` for every block, starting as `T::default()`; memory comes with the first use of a page of blocks.
#[derive(Debug)]
pub(crate) struct PerBlock<T> {
    lists: Lazy<Lazy<Page<T>>>,
}

fn lazy<T>(len: usize) -> Lazy<T> {
    (0..len).map(|_| OnceLock::new()).collect()
}

impl<T: Default + Clone> PerBlock<T> {
    /// No memory but a list of lists of pages.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self { lists: lazy(LISTS) }
    }

    /// Works on the value of one block, alone.
    pub(crate) fn with<R>(&self, block: BlockIndex, work: impl FnOnce(&mut T) -> R) -> R {
        let index = block.as_usize();
        let pages = self.lists[index / PAGE / LISTED].get_or_init(|| lazy(LISTED));
        let page = pages[index / PAGE % LISTED]
            .get_or_init(|| Ordered::new(Rank::Page, vec![T::default(); PAGE].into()));
        page.with(|page| work(&mut page[index % PAGE]))
    }

    /// The value of one block, if its page was ever used.
    #[must_use]
    pub(crate) fn peek(&self, block: BlockIndex) -> Option<T> {
        let index = block.as_usize();
        let page = self.page(index / PAGE)?;
        Some(page.with(|page| page[index % PAGE].clone()))
    }

    fn page(&self, number: usize) -> Option<&Page<T>> {
        self.lists[number / LISTED].get()?[number % LISTED].get()
    }

    /// All values that were ever used, and some that were not, a page at a time.
    pub(crate) fn for_each(&self, mut work: impl FnMut(&mut T)) {
        let lists = self.lists.iter().filter_map(OnceLock::get);
        for page in lists.flatten().filter_map(OnceLock::get) {
            page.with(|page| page.iter_mut().for_each(&mut work));
        }
    }

    /// The values of the first `count` blocks in order, in runs; a page that was never used comes as
    /// `None` with its length. No lock is held while `work` has them.
    pub(crate) fn runs<E>(
        &self,
        count: usize,
        mut work: impl FnMut(Option<&[T]>, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        for start in (0..count).step_by(PAGE) {
            let len = PAGE.min(count - start);
            match self.page(start / PAGE) {
                Some(page) => {
                    let run = page.with(|page| page[..len].to_vec());
                    work(Some(&run), len)?;
                }
                None => work(None, len)?,
            }
        }
        Ok(())
    }
}

impl<T: Default + Clone> Default for PerBlock<T> {
    fn default() -> Self {
        Self::new()
    }
}
