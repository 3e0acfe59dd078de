//! What a mount gives its blocks: how many stamps, and the newest.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};

use super::Stamp;
use crate::order::{Ordered, Rank};

/// The stamps that the blocks of a mount were given.
#[derive(Debug)]
pub(crate) struct Given {
    touched: AtomicU64,
    made: AtomicI64,
    /// The newest stamp, until a block that may have had it was given another: then all must be looked at.
    newest: Ordered<Option<i64>>,
}

impl Given {
    pub(crate) fn new() -> Self {
        Self {
            touched: AtomicU64::new(0),
            made: AtomicI64::new(0),
            newest: Ordered::new(Rank::Newest, Some(i64::MIN)),
        }
    }

    /// The block of this stamp is written or given a time.
    pub(crate) fn touch(&self, stamp: &mut Stamp) {
        self.touched.fetch_add(u64::from(stamp.touch()), SeqCst);
    }

    /// How many blocks were written or given a time.
    pub(crate) fn touched(&self) -> u64 {
        self.touched.load(SeqCst)
    }

    /// A block that was written has this stamp; `new`: it was made for that.
    pub(crate) fn written(&self, stamp: i64, new: bool) {
        self.made.fetch_add(i64::from(new), SeqCst);
        self.newest
            .with(|newest| *newest = newest.map(|newest| newest.max(stamp)));
    }

    /// How many stamps were made for blocks that were written.
    pub(crate) fn made(&self) -> i64 {
        self.made.load(SeqCst)
    }

    /// A client has set a block's time from `replaced` to `stamp`.
    pub(crate) fn set(&self, replaced: Option<i64>, stamp: i64) {
        self.newest.with(|newest| {
            // Looked for only when somebody asks: a restore sets back the newest of all with every block.
            let stays = |newest: &i64| {
                stamp >= *newest || replaced.is_none_or(|replaced| replaced < *newest)
            };
            *newest = newest.filter(stays).map(|newest| newest.max(stamp));
        });
    }

    /// The newest stamp; `find` looks at all blocks, which is done only if it must be.
    pub(crate) fn newest(&self, find: impl FnOnce() -> i64) -> i64 {
        self.newest.with(|newest| *newest.get_or_insert_with(find))
    }

    /// Other blocks than those that were told of here may have new stamps.
    pub(crate) fn forget_newest(&self) {
        self.newest.with(|newest| *newest = None);
    }
}
